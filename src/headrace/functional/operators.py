"""Python's operators on tensors."""

from __future__ import annotations

from typing import Any

import numpy as np

from headrace.functional.arithmetic import add, div, floor_divide, mul, neg, positive, pow_, remainder, sub
from headrace.functional.base import (
    FUNCTIONS,
    METHODS,
    is_symbolic,
)
from headrace.functional.logic import bitwise_not
from headrace.functional.unary import abs_
from headrace.tensors import Tensor


def _python_operator(name: str, call: Any, swap: bool = False) -> None:
    def dunder(self: Tensor, other: Any) -> Any:
        if not isinstance(other, Tensor | bool | int | float | complex | np.ndarray | np.generic) and not is_symbolic(
            other
        ):
            return NotImplemented
        return call(other, self) if swap else call(self, other)

    dunder.__name__ = dunder.__qualname__ = name
    METHODS[name] = dunder


def _matmul(a: Any, b: Any) -> Tensor:
    from headrace.functional.linear import matmul

    return matmul(a, b)


for _name, _call in {
    "add": add, "sub": sub, "mul": mul, "truediv": div, "floordiv": floor_divide, "mod": remainder, "pow": pow_, "matmul": _matmul,
    "and": FUNCTIONS["bitwise_and"], "or": FUNCTIONS["bitwise_or"], "xor": FUNCTIONS["bitwise_xor"],
    "lshift": FUNCTIONS["bitwise_left_shift"], "rshift": FUNCTIONS["bitwise_right_shift"],
}.items():  # fmt: skip
    _python_operator(f"__{_name}__", _call)
    _python_operator(f"__r{_name}__", _call, swap=True)
for _name in ("eq", "ne", "lt", "le", "gt", "ge"):
    _python_operator(f"__{_name}__", FUNCTIONS[_name])
METHODS["__rdiv__"] = METHODS["__rtruediv__"]
for _name, _method in {
    "add": "add_", "sub": "sub_", "mul": "mul_", "truediv": "div_", "mod": "remainder_", "pow": "pow_",
    "and": "bitwise_and_", "or": "bitwise_or_", "xor": "bitwise_xor_", "lshift": "bitwise_left_shift_", "rshift": "bitwise_right_shift_",
}.items():  # fmt: skip
    METHODS[f"__i{_name}__"] = METHODS[_method]
METHODS["__neg__"] = neg
METHODS["__pos__"] = positive
METHODS["__abs__"] = abs_
METHODS["__invert__"] = bitwise_not
