"""Arithmetic of Python numbers in a graph: Python's rules, on tensors of rank 0."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import numpy as np

import headrace.functional as F
from headrace import scalar_types
from headrace.autograd.mode import MODE
from headrace.functional.base import cast
from headrace.jit.script.values import DTYPES, KINDS, ORDER, Number
from headrace.jit.sizes import SymInt
from headrace.runtime.shapes import bounds, equal
from headrace.tensors import _CATEGORY, Tensor, wrap


def kind_of(value: Any) -> str | None:
    """ "bool", "int" or "float" of a number; None for everything else."""
    if isinstance(value, Number):
        return value.kind
    return "int" if isinstance(value, SymInt) else KINDS.get(type(value))


def tensor_of(value: Any, kind: str | None = None) -> Tensor:
    """A number as a tensor of rank 0, in the dtype of a kind."""
    dtype = scalar_types.of(np.dtype(DTYPES[kind or kind_of(value) or "float"]))
    if isinstance(value, Number):
        return cast(value.tensor, dtype)
    if isinstance(value, SymInt):
        return cast(MODE.tracer.size_tensor(value), dtype)
    return wrap(np.asarray(value, dtype.numpy))


def number_of(tensor: Tensor) -> Any:
    """The only element of a tensor as a number: one of Python's where the value is known."""
    if type(tensor._data) is np.ndarray:
        return tensor.item()
    kind = ORDER[min(_CATEGORY[tensor._data.dtype], 2)]
    if tensor._data.ndim:
        tensor = F.reshape(tensor, ())
    return Number(kind, cast(tensor, scalar_types.of(np.dtype(DTYPES[kind]))))


def weak(value: Any, beside: Tensor) -> Any:
    """A number as operand beside a tensor: it takes the tensor's dtype where its kind allows, as Python's do."""
    if not isinstance(value, Number):
        return value
    wanted = beside.dtype
    if ORDER.index(value.kind) > _CATEGORY[beside._data.dtype]:
        wanted = scalar_types.get_default_dtype() if value.kind == "float" else scalar_types.of(np.dtype("int64"))
    return cast(value.tensor, wanted)


def argument(value: Any) -> Any:
    """A number as argument of a function of the library: floats in the default dtype, so that they promote nothing."""
    if not isinstance(value, Number):
        return value
    return cast(value.tensor, scalar_types.get_default_dtype()) if value.kind == "float" else value.tensor


# -------------------------------------------------------------------- operators

Operation = Callable[[Any, Any], Any]


def binary(operation: Operation, left: Any, right: Any) -> Any:
    """An arithmetic operator on any two values."""
    if isinstance(left, Tensor):
        return operation(left, weak(right, left))
    if isinstance(right, Tensor):
        return operation(weak(left, right), right)
    if not isinstance(left, Number) and not isinstance(right, Number):
        return operation(left, right)
    kinds = kind_of(left), kind_of(right)
    if None in kinds:
        return operation(left, right)
    kind = max(("int", *kinds), key=lambda k: ORDER.index(k or "bool"))  # truth values compute as whole numbers
    assert kind is not None
    if operation is operator.truediv or (operation is operator.pow and not _whole_power(right)):
        kind = "float"
    if operation in _BITS and set(kinds) == {"bool"}:
        kind = "bool"
    return Number(kind, operation(tensor_of(left, kind), tensor_of(right, kind)))


_BITS = {operator.and_, operator.or_, operator.xor}


def _whole_power(power: Any) -> bool:
    return kind_of(power) == "int" and not (isinstance(power, int) and power < 0)


_SIGNS = {operator.lt: "<", operator.gt: ">", operator.le: ">", operator.ge: "<"}


def compare(operation: Operation, left: Any, right: Any) -> Any:
    """A comparison; sizes are compared for all sizes where that can be decided, and in the graph where not."""
    if isinstance(left, Tensor):
        return operation(left, weak(right, left))
    if isinstance(right, Tensor):
        return operation(weak(left, right), right)
    kinds = kind_of(left), kind_of(right)
    if None in kinds:
        return operation(left, right)
    if isinstance(left, Number) or isinstance(right, Number):
        kind = max(kinds, key=lambda k: ORDER.index(k or "bool"))
    elif isinstance(left, SymInt) or isinstance(right, SymInt):
        decided = _decide(operation, left, right)
        if decided is not None:
            return decided
        kind = max(kinds, key=lambda k: ORDER.index(k or "bool"))
    else:
        return operation(left, right)
    return Number("bool", operation(tensor_of(left, kind), tensor_of(right, kind)))


def _decide(operation: Operation, left: Any, right: Any) -> bool | None:
    """The answer for all sizes; None where it depends on them."""
    a, b = getattr(left, "expr", left), getattr(right, "expr", right)
    if isinstance(a, float) or isinstance(b, float):
        return None
    if operation in (operator.eq, operator.ne):
        same = equal(a, b)
        return same if same is None or operation is operator.eq else not same
    low, high = bounds(a - b) if _SIGNS[operation] == "<" else bounds(b - a)
    if high < 0 or low >= 0:
        return (high < 0) == (operation in (operator.lt, operator.gt))
    return None


def truth(value: Any) -> Any:
    """What `if` asks of a value: a bool, or a Number of kind bool."""
    if isinstance(value, Tensor):
        value = number_of(value)
    if isinstance(value, SymInt):
        value = compare(operator.ne, value, 0)
    if isinstance(value, Number):
        return value if value.kind == "bool" else compare(operator.ne, value, 0)
    return bool(value)


def negate(value: Any) -> Any:
    """`not value`."""
    value = truth(value)
    if not isinstance(value, Number):
        return not value
    if value.opposite is not None:
        return value.opposite
    negated = MODE.tracer.negated  # what is known where the tracer stands
    if id(value) not in negated:
        found = Number("bool", F.logical_not(value.tensor))
        found.opposite = value
        negated[id(value)] = value, found
    return negated[id(value)][1]


def convert(kind: str, value: Any) -> Any:
    """int(value), float(value), bool(value)."""
    if isinstance(value, Tensor):
        value = number_of(value)
    if kind == "bool":
        return truth(value)
    if isinstance(value, SymInt) and kind == "int":
        return value
    return Number(kind, tensor_of(value, kind))  # a float loses its fraction toward 0, as Python's does


def extreme(name: str, values: list[Any]) -> Any:
    """min or max of several numbers."""
    kind = max((kind_of(v) or "bool" for v in values), key=ORDER.index)
    total = tensor_of(values[0], kind)
    for value in values[1:]:
        total = getattr(F, f"{name}imum")(total, tensor_of(value, kind))
    return Number(kind, total)


def absolute(value: Number) -> Number:
    """abs() of a number."""
    kind = "int" if value.kind == "bool" else value.kind
    return Number(kind, F.abs(tensor_of(value, kind)))


# math.* on numbers: the function of tensors, and whether the answer is a whole number.
_MATH: dict[Any, tuple[str, str]] = {
    getattr(math, name): (name, "float")
    for name in ("sqrt", "exp", "log", "log2", "log10", "log1p", "expm1", "sin", "cos", "tan", "tanh", "sinh", "cosh",
                 "asin", "acos", "atan", "erf")
}  # fmt: skip
_MATH |= {math.floor: ("floor", "int"), math.ceil: ("ceil", "int"), math.trunc: ("trunc", "int")}
_MATH |= {math.fabs: ("abs", "float"), math.isnan: ("isnan", "bool"), math.isinf: ("isinf", "bool")}


def is_math(function: Any) -> bool:
    try:
        return function in _MATH
    except TypeError:
        return False


def mathematics(function: Any, value: Any) -> Number:
    """A function of the module math on a number."""
    name, kind = _MATH[function]
    result = getattr(F, name)(tensor_of(number_of(value) if isinstance(value, Tensor) else value, "float"))
    return Number(kind, cast(result, scalar_types.of(np.dtype(DTYPES[kind]))))
