"""Types of values that come out of blocks: what two branches, or two trips of a loop, have in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from headrace.runtime import dtypes
from headrace.runtime.errors import GraphError, RunError
from headrace.runtime.shapes import Dim
from headrace.runtime.types import OptionalType, SequenceType, TensorType, Type

MAX_TRIPS = 1 << 26  # of one Loop; a body whose condition never ends would hold its thread for ever
MAX_SCANNED = 1 << 36  # bytes of one scanned output


def merged(left: Type | None, right: Type | None, fresh: Callable[[str], Dim], what: str) -> Type | None:
    """The type that both fit: sizes that differ become fresh symbols, ranks that differ become unknown."""
    if left is None or right is None:
        return left if right is None else right
    if isinstance(left, OptionalType) != isinstance(right, OptionalType):  # a value where the other may have none
        inner = [type.element if isinstance(type, OptionalType) else type for type in (left, right)]
        found = merged(inner[0], inner[1], fresh, what)
        return None if found is None else OptionalType(found)
    if isinstance(left, SequenceType | OptionalType) and type(left) is type(right):
        found = merged(left.element, right.element, fresh, what)
        return None if found is None else type(left)(found)
    if not isinstance(left, TensorType) or not isinstance(right, TensorType):
        if left == right:
            return left
        raise GraphError(f"{what} is {left} on one way and {right} on the other")
    if left.dtype != right.dtype:
        raise GraphError(f"{what} is {left.dtype} on one way and {right.dtype} on the other")
    if left.shape is None or right.shape is None or len(left.shape) != len(right.shape):
        return TensorType(left.dtype)
    sizes = tuple(a if a == b else fresh("branch") for a, b in zip(left.shape, right.shape))
    return TensorType(left.dtype, sizes)


def settled(
    infer: Callable[[Sequence[Type | None]], list[Type | None]],
    initial: Sequence[Type | None],
    fresh: Callable[[str], Dim],
) -> tuple[list[Type | None], list[Type | None]]:
    """Types of loop-carried values that hold on every trip: (all outputs of the last look at the body, final types).

    `infer` answers the body's outputs, of which the first len(initial) are the carried ones. A size that changes becomes
    a symbol of its own in every trip; a rank that changes becomes unknown.
    """
    current = list(initial)
    varying: list[set[int]] = [set() for _ in initial]
    while True:
        outputs = infer(current)
        wider = [_wider(a, b, seen, fresh) for a, b, seen in zip(current, outputs, varying)]
        if all(a is b for a, b in zip(wider, current)):
            break
        current = wider
    final = [_renamed(type, seen, fresh) for type, seen in zip(current, varying)]
    return outputs, final


def _wider(before: Type | None, after: Type | None, varying: set[int], fresh: Callable[[str], Dim]) -> Type | None:
    if not isinstance(before, TensorType) or not isinstance(after, TensorType):
        return before
    if before.dtype != after.dtype:
        raise GraphError(f"a loop-carried value begins as {before.dtype} and comes back as {after.dtype}")
    if before.shape is None:
        return before
    if after.shape is None or len(after.shape) != len(before.shape):
        return TensorType(before.dtype)
    changed = {axis for axis, (a, b) in enumerate(zip(before.shape, after.shape)) if a != b} - varying
    if not changed:
        return before
    varying |= changed
    return TensorType(
        before.dtype, tuple(fresh("trip") if axis in changed else size for axis, size in enumerate(before.shape))
    )


def _renamed(type: Type | None, varying: set[int], fresh: Callable[[str], Dim]) -> Type | None:
    """What leaves the loop: a changing size is none of the symbols inside it."""
    if not varying or not isinstance(type, TensorType) or type.shape is None:
        return type
    return TensorType(
        type.dtype, tuple(fresh("looped") if axis in varying else size for axis, size in enumerate(type.shape))
    )


def stacked(parts: Sequence[Any], axis: int, type: Type | None) -> Any:
    """Scan outputs of all trips as one array. With no trip at all, sizes that are not known are 0."""
    if parts:
        if len(parts) * np.asarray(parts[0]).nbytes > MAX_SCANNED:
            raise RunError(f"a scanned output would be larger than {MAX_SCANNED} bytes")
        if len(shapes := {np.shape(part) for part in parts}) > 1:
            first, other = (list(shape) for shape in sorted(shapes)[:2])
            raise RunError(f"the trips give scanned values of shapes {first} and {other}; all must be the same")
        return np.stack([np.asarray(part) for part in parts], axis=axis)
    if not isinstance(type, TensorType):
        return np.zeros((0,), np.float32)
    sizes = known_sizes(type)
    sizes.insert(axis if axis >= 0 else len(sizes) + 1 + axis, 0)
    return np.zeros(sizes, dtypes.of(type.dtype).numpy)


def known_sizes(type: TensorType) -> list[int]:
    """The dimensions of a scanned value that no trip has made: what is not known is 0."""
    return [size if isinstance(size, int) else 0 for size in type.shape or ()]
