"""Axes and rows: checks that many operators share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from headrace.runtime.errors import GraphError
from headrace.runtime.ops.base import MIXED, Context
from headrace.runtime.shapes import Dim, Expr, Shape, product, substitute


def axis_of(axis: int, rank: int, what: str = "axis") -> int:
    """The axis counted from the front. GraphError where it is outside of the rank."""
    axis = int(axis)
    if not -rank <= axis < rank:
        raise GraphError(f"{what} is {axis}; allowed for rank {rank}: {-rank} to {rank - 1}")
    return axis % rank


def axes_of(axes: Iterable[int], rank: int, what: str = "axes") -> tuple[int, ...]:
    """Several axes, each counted from the front. GraphError where one is outside of the rank or given twice."""
    found = tuple(axis_of(axis, rank, what) for axis in axes)
    if len(set(found)) != len(found):
        raise GraphError(f"{what} {list(found)} name an axis twice")
    return found


def known_shape(context: Context, index: int = 0, ranks: Sequence[int] | None = None, least: int = 0) -> Shape | None:
    """The shape of an input; GraphError where its rank is not allowed."""
    shape = context.shape(index)
    if shape is not None and ((ranks is not None and len(shape) not in ranks) or len(shape) < least):
        allowed = f"at least {least}" if ranks is None else " or ".join(map(str, ranks))
        raise GraphError(f"input {index} has rank {len(shape)}; allowed: {allowed}")
    return shape


def fresh_shape(context: Context, rank: int, hint: str) -> Shape:
    """A shape of known rank whose sizes depend on data."""
    return tuple(context.fresh(hint) for _ in range(rank))


def length_of(context: Context, index: int) -> int | None:
    """The number of elements of a rank-1 input, where it is known as an integer."""
    shape = context.shape(index)
    return shape[0] if shape is not None and len(shape) == 1 and isinstance(shape[0], int) else None


def integers(context: Context, index: int) -> tuple[int, ...] | None:
    """The elements of an integer input of rank 0 or 1, where all are known integers."""
    known = context.value(index) if context.has(index) else None
    if known is None:
        return None
    flat = known if isinstance(known, tuple) else (known,)
    return tuple(flat) if all(isinstance(item, int) for item in flat) else None  # type: ignore[arg-type]


def kept_rows(tags: Sequence[int | None], blocked: Iterable[int] | None = (), outputs: int = 1) -> list[int | None]:
    """Rows of an operator that keeps the axes of input 0: its tag, unless another input carries the batch or the batch
    lies on an axis of `blocked` (None: not known, so any)."""
    tag = tags[0]
    if all(item is None for item in tags):
        return [None] * outputs
    if (
        tag is None
        or tag == MIXED
        or any(item is not None for item in tags[1:])
        or blocked is None
        or tag in set(blocked)
    ):
        return [MIXED] * outputs
    return [tag] * outputs


def batch_first(tags: Sequence[int | None], outputs: int = 1) -> list[int | None]:
    """Rows of layers that work on axis 1 and later, with weights that do not carry the batch."""
    if all(tag is None for tag in tags):
        return [None] * outputs
    return [0 if tags[0] == 0 and all(tag is None for tag in tags[1:]) else MIXED] * outputs


def joint_rows(tags: Sequence[int | None], axis: int | None = 0, outputs: int = 1) -> list[int | None]:
    """Rows of an operator whose inputs all carry the batch along one and the same axis (None: whichever it is)."""
    if all(tag is None for tag in tags):
        return [None] * outputs
    first = tags[0] if axis is None else axis
    return [first if first is not None and all(tag == first for tag in tags) else MIXED] * outputs


def reshaped_axis(before: Shape, after: Shape, axis: int) -> int:
    """Where an axis goes when a tensor takes another shape: the place with the same size and as many elements in front;
    MIXED where there is none for certain."""
    ahead = product(before[:axis])
    for place, size in enumerate(after):
        if size == before[axis] and product(after[:place]) == ahead:
            return place
    return MIXED


def multiple(size: Dim, unit: Dim | None) -> int | None:
    """k where a size is k times the symbol `unit`, whatever that is; None where there is no such k."""
    if not isinstance(unit, Expr) or unit.name is None:
        return None
    count = substitute(size, {unit.name: 1})
    return count if isinstance(count, int) and count > 0 and size == unit * count else None


def uniform_axis(shape: Shape, candidates: Iterable[int]) -> int | None:
    """The one axis among `candidates` with a symbolic size; MIXED for several, None for none. For tensors that are the
    same all along these axes: each row may count as a row of the batch."""
    found = [axis for axis in candidates if isinstance(shape[axis], Expr)]
    return None if not found else found[0] if len(found) == 1 else MIXED


def ceildiv(left: Dim, right: int) -> Dim:
    """left / right, rounded up."""
    return (left + (right - 1)) // right


def sizes_of(shape: Iterable[Dim]) -> tuple[int, ...]:
    """A shape whose sizes are all known, as integers."""
    return tuple(int(size) for size in shape)  # type: ignore[arg-type]


def count_of(shape: Iterable[Dim]) -> int:
    """The number of elements of a shape whose sizes are all known."""
    return int(product(shape))  # type: ignore[arg-type]


def int64(*values: int) -> Any:
    """A rank-1 array, as axes and shapes are given."""
    return np.array(values, np.int64)


def drop(node: Any, *names: str) -> None:
    """Remove attributes that newer versions no longer have."""
    for name in names:
        node.attributes.pop(name, None)


def attribute_to_input(node: Any, builder: Any, name: str, index: int, dtype: Any = np.int64) -> None:
    """Turn an attribute of an older version into the input that it is now."""
    value = node.attributes.pop(name, None)
    if value is None or (len(node.inputs) > index and node.inputs[index] is not None):
        return
    node.inputs += [None] * (index + 1 - len(node.inputs))
    node.inputs[index] = builder.constant(np.asarray(value, dtype), name)
