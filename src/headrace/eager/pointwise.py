"""Arithmetic and functions element by element."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from headrace.eager.registry import KERNELS, Kernel, kernel, wide_only
from headrace.runtime.ops.elementwise.unary import sigmoid
from headrace.runtime.ops.loss.binary import cross_entropy


def _one(function: Callable[..., Any]) -> Kernel:
    return lambda inputs, attributes, n: (function(inputs[0]),)


def _two(function: Callable[..., Any]) -> Kernel:
    return lambda inputs, attributes, n: (function(inputs[0], inputs[1]),)


KERNELS["Not"] = _one(np.logical_not)
_BINARY: dict[str, Callable[..., Any]] = {
    "Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Equal": np.equal, "Less": np.less, "Greater": np.greater,
    "LessOrEqual": np.less_equal, "GreaterOrEqual": np.greater_equal, "And": np.logical_and, "Or": np.logical_or,
}  # fmt: skip
for _kind, _function in _BINARY.items():
    KERNELS[_kind] = _two(_function)


def _relu(x: Any) -> Any:
    return np.maximum(x, 0)


def _reciprocal(x: Any) -> Any:
    return 1 / x


_WIDE_UNARY: dict[str, Callable[..., Any]] = {
    "Neg": np.negative, "Abs": np.absolute, "Exp": np.exp, "Log": np.log, "Sqrt": np.sqrt, "Tanh": np.tanh, "Sin": np.sin, "Cos": np.cos,
    "Reciprocal": _reciprocal, "Relu": _relu, "Sigmoid": sigmoid,
}  # fmt: skip
_WIDE_BINARY: dict[str, Callable[..., Any]] = {"Div": np.divide, "headrace.BinaryCrossEntropy": cross_entropy}
for _kind, _function in _WIDE_UNARY.items():
    wide_only(_kind, _one(_function))
for _kind, _function in _WIDE_BINARY.items():
    wide_only(_kind, _two(_function))


@kernel("Where")
def where(inputs: list[Any], attributes: Mapping[str, Any], n: int) -> Sequence[Any]:
    return (np.where(inputs[0], inputs[1], inputs[2]),)
