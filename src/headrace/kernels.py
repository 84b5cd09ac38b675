"""Fast NumPy kernels of the operators that training calls most, and the view operators.

Each answers exactly what the operator's reference answers (tests/core/test_kernels.py runs both on the operator's own
samples), with less work around it. An operator that is not here runs its reference. A kernel is called as
`kernel(inputs, attributes, n_outputs)` and answers a list of results.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from headrace.runtime.ops.base import Operator

Kernel = Callable[[list[Any], Mapping[str, Any], int], Sequence[Any]]
KERNELS: dict[str, Kernel] = {}

# Operators whose result shows the memory of input 0.
VIEWS = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Expand", "Slice", "Split", "Identity", "headrace.Diagonal"})


def find(operator: Operator) -> Kernel | None:
    """The fast kernel of an operator, if there is one."""
    return KERNELS.get(operator.kind)


def kernel(kind: str) -> Callable[[Kernel], Kernel]:
    def register(function: Kernel) -> Kernel:
        KERNELS[kind] = function
        return function

    return register


def _ufunc(function: Any) -> Kernel:
    return lambda inputs, attributes, n: (function(inputs[0]),)


def _ufunc2(function: Any) -> Kernel:
    return lambda inputs, attributes, n: (function(inputs[0], inputs[1]),)


for _kind, _function in {"Neg": np.negative, "Abs": np.absolute, "Not": np.logical_not}.items():
    KERNELS[_kind] = _ufunc(_function)
for _kind, _function in {
    "Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Equal": np.equal, "Less": np.less, "Greater": np.greater,
    "LessOrEqual": np.less_equal, "GreaterOrEqual": np.greater_equal, "And": np.logical_and, "Or": np.logical_or,
}.items():  # fmt: skip
    KERNELS[_kind] = _ufunc2(_function)

_PLAIN = (np.dtype(np.float32), np.dtype(np.float64))


def _float_only(kind: str, function: Callable[..., Any]) -> None:
    """A kernel for float32 and float64; other types go to the reference."""
    reference: list[Kernel] = []

    def run(inputs: list[Any], attributes: Mapping[str, Any], n: int) -> Sequence[Any]:
        if inputs[0].dtype in _PLAIN:
            return (function(*inputs),)
        if not reference:
            from headrace.runtime.ops import find as find_operator

            operator = find_operator(kind)
            assert operator is not None
            reference.append(operator.reference)
        return reference[0](inputs, attributes, n)

    KERNELS[kind] = run


for _kind, _function in {
    "Div": np.divide, "Exp": np.exp, "Log": np.log, "Sqrt": np.sqrt, "Tanh": np.tanh, "Sin": np.sin, "Cos": np.cos,
    "Reciprocal": lambda x: 1 / x, "Relu": lambda x: np.maximum(x, 0),
}.items():  # fmt: skip
    _float_only(_kind, _function)


@kernel("Where")
def where(inputs: list[Any], attributes: Mapping[str, Any], n: int) -> Sequence[Any]:
    return (np.where(inputs[0], inputs[1], inputs[2]),)


@kernel("headrace.SumTo")
def sum_to(inputs: list[Any], attributes: Mapping[str, Any], n: int) -> Sequence[Any]:
    """Sum input 0 over its broadcast dimensions, down to the shape of input 1."""
    x, shape = inputs[0], inputs[1].shape
    if x.shape == shape:
        return (x,)
    extra = x.ndim - len(shape)
    axes = tuple(range(extra)) + tuple(i + extra for i, d in enumerate(shape) if d == 1 and x.shape[i + extra] != 1)
    if x.dtype.kind == "V" or x.dtype.itemsize == 2:
        return (x.astype(np.float32).sum(axis=axes).reshape(shape).astype(x.dtype),)
    return (x.sum(axis=axes, dtype=x.dtype).reshape(shape),)


@kernel("Gemm")
def gemm(inputs: list[Any], attributes: Mapping[str, Any], n: int) -> Sequence[Any]:
    a, b = inputs[0], inputs[1]
    if attributes["transA"]:
        a = a.T
    if attributes["transB"]:
        b = b.T
    if a.dtype.itemsize == 2:
        return _gemm_narrow(a, b, inputs, attributes)
    y = a @ b
    if attributes["alpha"] != 1.0:
        y = (y * attributes["alpha"]).astype(a.dtype, copy=False)
    if len(inputs) > 2 and inputs[2] is not None:
        beta = attributes["beta"]
        c = inputs[2] if beta == 1.0 else (inputs[2] * beta).astype(a.dtype, copy=False)
        y = np.add(y, c, out=y) if y.ndim == 2 else y + c
    return (y,)


def _gemm_narrow(a: Any, b: Any, inputs: list[Any], attributes: Mapping[str, Any]) -> Sequence[Any]:
    y = attributes["alpha"] * (a.astype(np.float32) @ b.astype(np.float32))
    if len(inputs) > 2 and inputs[2] is not None:
        y = y + attributes["beta"] * inputs[2].astype(np.float32)
    return (y.astype(a.dtype),)


@kernel("MatMul")
def matmul(inputs: list[Any], attributes: Mapping[str, Any], n: int) -> Sequence[Any]:
    a, b = inputs
    if a.dtype.itemsize == 2 and a.dtype.kind in "fV":
        return (np.matmul(a.astype(np.float32), b.astype(np.float32)).astype(a.dtype),)
    return (np.matmul(a, b),)


# -------------------------------------------------------------------- views


@kernel("Identity")
def identity(inputs: list[Any], attributes: Mapping[str, Any], n: int) -> Sequence[Any]:
    return (inputs[0],)


@kernel("Reshape")
def reshape(inputs: list[Any], attributes: Mapping[str, Any], n: int) -> Sequence[Any]:
    x, wanted = inputs[0], inputs[1].tolist()
    if not attributes["allowzero"] and 0 in wanted:
        wanted = [x.shape[i] if d == 0 else d for i, d in enumerate(wanted)]
    return (x.reshape(wanted),)


@kernel("Flatten")
def flatten(inputs: list[Any], attributes: Mapping[str, Any], n: int) -> Sequence[Any]:
    x, axis = inputs[0], attributes["axis"]
    axis = axis + x.ndim if axis < 0 else axis
    rows = int(np.prod(x.shape[:axis], dtype=np.int64))
    return (x.reshape(rows, int(np.prod(x.shape[axis:], dtype=np.int64))),)


@kernel("Transpose")
def transpose(inputs: list[Any], attributes: Mapping[str, Any], n: int) -> Sequence[Any]:
    return (inputs[0].transpose(attributes["perm"] or None),)


@kernel("Expand")
def expand(inputs: list[Any], attributes: Mapping[str, Any], n: int) -> Sequence[Any]:
    x = inputs[0]
    return (np.broadcast_to(x, np.broadcast_shapes(x.shape, tuple(inputs[1].tolist()))),)


@kernel("Squeeze")
def squeeze(inputs: list[Any], attributes: Mapping[str, Any], n: int) -> Sequence[Any]:
    axes = tuple(inputs[1].tolist()) if len(inputs) > 1 and inputs[1] is not None else None
    return (inputs[0].squeeze(axes),)


@kernel("Unsqueeze")
def unsqueeze(inputs: list[Any], attributes: Mapping[str, Any], n: int) -> Sequence[Any]:
    return (np.expand_dims(inputs[0], tuple(inputs[1].tolist())),)


@kernel("Slice")
def slice_(inputs: list[Any], attributes: Mapping[str, Any], n: int) -> Sequence[Any]:
    x = inputs[0]
    starts, ends = inputs[1].tolist(), inputs[2].tolist()
    axes = inputs[3].tolist() if len(inputs) > 3 and inputs[3] is not None else range(len(starts))
    steps = inputs[4].tolist() if len(inputs) > 4 and inputs[4] is not None else [1] * len(starts)
    index = [slice(None)] * x.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps):
        if step < 0:  # past the front means "to the end" for Slice, and "from the back" for Python
            size = x.shape[axis]
            start = min(start + size if start < 0 else start, size - 1)
            end = end + size if end < 0 else end
            index[axis] = slice(start if start >= 0 else 0, None if end < 0 else end, step) if start >= 0 else slice(0, 0)
        else:
            index[axis] = slice(start, end, step)
    return (x[tuple(index)],)


@kernel("Split")
def split(inputs: list[Any], attributes: Mapping[str, Any], n: int) -> Sequence[Any]:
    x, axis = inputs[0], attributes["axis"]
    if len(inputs) > 1 and inputs[1] is not None:
        sizes = inputs[1].tolist()
    else:
        each = -(-x.shape[axis] // n)
        sizes = [min(each, x.shape[axis] - i * each) for i in range(n)]
    index: list[Any] = [slice(None)] * x.ndim
    parts, start = [], 0
    for size in sizes:
        index[axis] = slice(start, start + size)
        parts.append(x[tuple(index)])
        start += size
    return parts
