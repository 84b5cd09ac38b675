"""What many operators share: computing in the right width, broadcasting rules of types, rows, gradients and samples."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from headrace.runtime import dtypes
from headrace.runtime.errors import GraphError
from headrace.runtime.ops.base import MIXED, Context
from headrace.runtime.shapes import Dim, Shape, broadcast

Array = np.ndarray

# Element types narrower than float32: references compute them in float32 and round once at the end.
NARROW = frozenset({"float16", "bfloat16", "float4_e2m1fn"}) | dtypes.FLOAT8


def numpy_dtype(name: str) -> np.dtype:
    """The NumPy dtype of an element type's name."""
    return dtypes.of(name).numpy


def widen(array: Any) -> Any:
    """Narrow floats as float32; everything else as it is."""
    if isinstance(array, np.ndarray) and dtypes.of(array).name in NARROW:
        return array.astype(np.float32)
    return array


def compute(function: Callable[..., Any], arrays: Sequence[Any], dtype: np.dtype, **attributes: Any) -> Array:
    """function(*arrays) with narrow floats computed in float32, rounded once to `dtype`."""
    with np.errstate(all="ignore"):
        return np.asarray(function(*map(widen, arrays), **attributes)).astype(dtype, copy=False)


def scalar(F: Any, value: float, like: Any) -> Any:
    """A constant of rank 0 in the dtype of `like`."""
    return F.constant(np.asarray(value, numpy_dtype(F.dtype(like))))


_DIFFERENTIABLE = dtypes.FLOAT | dtypes.COMPLEX


def is_float(F: Any, value: Any) -> bool:
    """Whether gradients flow into this value."""
    return value is not None and F.dtype(value) in _DIFFERENTIABLE


def unbroadcast(F: Any, gradient: Any, like: Any) -> Any:
    """Sum a gradient down to the shape of the input that was broadcast; None for inputs that are no floats."""
    if gradient is None or not is_float(F, like):
        return None
    shape = F.type(like).shape
    if shape is not None and shape == F.type(gradient).shape:
        return gradient
    return F.SumTo(gradient, like)


def code_of(name: str) -> int:
    """The ONNX code of an element type, as attributes such as `to` hold it."""
    return dtypes.BY_NAME[name].onnx


def name_of(code: int) -> str:
    """The element type behind an ONNX code. GraphError where there is none."""
    row = dtypes.BY_ONNX.get(code)
    if row is None:
        raise GraphError(
            f"{code} is no element type; allowed: {', '.join(f'{c} ({r.name})' for c, r in dtypes.BY_ONNX.items())}"
        )
    return row.name


def broadcast_shapes(context: Context) -> Shape | None:
    """The broadcast of all inputs' shapes; None where one rank is unknown."""
    result: Shape = ()
    for index in range(len(context.inputs)):
        if not context.has(index):
            continue
        shape = context.shape(index)
        if shape is None:
            return None
        result = broadcast(result, shape)
    return result


def broadcast_rows(tags: Sequence[int | None], shapes: Sequence[Shape | None]) -> int | None:
    """The row tag of an elementwise result.

    All values that carry the batch must have it on one axis, counted from the right; a value that does not carry it must
    be stretched along that axis, or rows would depend on their position.
    """
    if all(tag is None for tag in tags):
        return None
    if MIXED in tags or any(shape is None for shape in shapes):
        return MIXED
    rank = max(len(shape) for shape in shapes if shape is not None)
    axes = {tag + rank - len(shape) for tag, shape in zip(tags, shapes) if tag is not None and shape is not None}
    if len(axes) > 1:
        return MIXED
    (axis,) = axes
    for tag, shape in zip(tags, shapes):
        place = axis - (rank - len(shape))  # type: ignore[arg-type]
        if tag is None and place >= 0 and shape[place] != 1:  # type: ignore[index]
            return MIXED
    return axis


def zip_values(function: Callable[..., Dim | None], *values: Any) -> Any:
    """Apply shape arithmetic to symbolic values (a Dim or a tuple of Dims), broadcasting; None where it is unknown."""
    if any(value is None for value in values):
        return None
    lengths = {len(value) for value in values if isinstance(value, tuple)} - {1}
    if len(lengths) > 1:
        return None
    if not any(isinstance(value, tuple) for value in values):
        return function(*values)
    length = lengths.pop() if lengths else 1
    columns = [
        (value if len(value) == length else value * length) if isinstance(value, tuple) else (value,) * length
        for value in values
    ]
    found = tuple(function(*row) for row in zip(*columns))
    return None if any(item is None for item in found) else found


def replacement(
    builder: Any, node: Any, inputs: Sequence[Any], attributes: Mapping[str, Any] | None = None
) -> list[Any]:
    """What `upgrade` answers where one newer node takes the place of an older one: the same operator and output names."""
    names = [None if value is None else value.name for value in node.outputs]
    found: list[Any] = builder.node(
        node.operator, inputs, attributes, domain=node.domain, outputs=names, name=node.name, path=node.path
    )
    return found


# Shapes that find mistakes: usual, odd, scalar, empty, of size 1.
SHAPES: tuple[tuple[int, ...], ...] = ((2, 3), (17,), (), (0, 3), (1, 1), (2, 1, 5))
# Pairs that broadcast.
PAIRS: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...] = (
    ((2, 3), (2, 3)), ((3, 1), (1, 4)), ((), (2, 2)), ((5,), ()), ((2, 3, 4), (4,)), ((0, 3), (1, 3)), ((1,), (33,)),
)  # fmt: skip


def extremes(dtype: str) -> Array:
    """Zeros of both signs, infinities, NaN, denormals, the largest and smallest values."""
    kind = dtypes.of(dtype)
    if kind.kind == "f":
        import ml_dtypes

        info: Any = ml_dtypes.finfo(kind.numpy)  # type: ignore[no-untyped-call]
        values = [0.0, -0.0, np.inf, -np.inf, np.nan, float(info.tiny), -float(info.tiny), float(info.max), float(info.min),
                  float(info.smallest_subnormal), float(info.eps), 1.0, -1.0, 0.5, 2.5, -2.5, 87.0, -87.0]  # fmt: skip
        return np.array(values, np.float64).astype(kind.numpy)
    if kind.kind == "b":
        return np.array([True, False])
    bounds = np.iinfo(kind.numpy)
    return np.array([0, 1, 2, bounds.min, bounds.max, bounds.min + 1, bounds.max - 1, 7], kind.numpy)


def draw(rng: np.random.Generator, shape: Sequence[int], dtype: str, low: float = -3.0, high: float = 3.0) -> Array:
    """Random values in [low, high) of any element type."""
    kind = dtypes.of(dtype)
    if kind.kind == "b":
        return np.asarray(rng.random(tuple(shape)) < 0.5)
    if kind.kind == "s":
        words = np.array(["", "a", "headrace", "ß", "weir"], object)
        return np.asarray(words[rng.integers(0, len(words), tuple(shape))], object)
    if kind.kind in "iu":
        low, high = (max(0, np.ceil(low)) if kind.kind == "u" else np.ceil(low)), high
        return np.asarray(rng.integers(int(low), max(int(low) + 1, int(high) + 1), tuple(shape)), kind.numpy)
    return np.asarray(rng.uniform(low, high, tuple(shape))).astype(kind.numpy)


def ordered(names: frozenset[str] | set[str]) -> Iterator[str]:
    """Element types in the order of the table, so that samples are the same in every run."""
    return (row.name for row in dtypes.TABLE if row.name in names)
