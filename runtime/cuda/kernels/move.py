"""Moving items (csrc/move.cu): everything that copies without computing is one walk by two strides."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from headrace.runtime.cuda.interface import Device
from headrace.runtime.cuda.kernels._launch import contiguous_steps, each, longs, merge_dimensions, pointers, structure

RANK = 8
WALK = np.dtype(
    [("n", np.int64), ("rank", np.int32), ("unused", np.int32)]
    + [(name, np.int64, RANK) for name in ("shape", "x", "y")]
)


def copy(
    device: Device,
    itemsize: int,
    x: int,
    y: int,
    shape: Sequence[int],
    x_strides: Sequence[int],
    y_strides: Sequence[int] | None = None,
) -> None:
    """y[i . y_strides] = x[i . x_strides] for every index i below `shape`. Items of 1, 2, 4 or 8 bytes, strides in items, x
    and y the addresses of item 0; y_strides None: contiguous. ValueError where more than eight dimensions remain after
    merging."""
    y_strides = contiguous_steps(shape) if y_strides is None else y_strides
    sizes, (x_steps, y_steps) = merge_dimensions(shape, [x_strides, y_strides], f"sizes {list(shape)}", RANK)
    lead = next((i for i, size in enumerate(sizes) if size != 1), RANK)
    walk = structure(WALK, n=prod(shape), rank=RANK - lead)
    for name, values in (("shape", sizes), ("x", x_steps), ("y", y_steps)):
        walk[name][: RANK - lead] = values[lead:]
    each(device, f"copy_{itemsize}", prod(shape), [*pointers(x, y), walk])


def transpose(device: Device, itemsize: int, x: int, y: int, shape: Sequence[int], order: Sequence[int]) -> None:
    """y = transpose(x [shape], order), contiguous."""
    steps = contiguous_steps(shape)
    copy(device, itemsize, x, y, [shape[axis] for axis in order], [steps[axis] for axis in order])


def slice_(
    device: Device,
    itemsize: int,
    x: int,
    y: int,
    shape: Sequence[int],
    starts: Sequence[int],
    counts: Sequence[int],
    steps: Sequence[int],
) -> None:
    """y [counts] = x [shape] from `starts` (within it) by `steps`, which may be negative; one value an axis."""
    own = contiguous_steps(shape)
    first = sum(start * step for start, step in zip(starts, own))
    copy(device, itemsize, x + first * itemsize, y, counts, [step * stride for step, stride in zip(steps, own)])


def concat(device: Device, itemsize: int, parts: Sequence[tuple[int, Sequence[int]]], y: int, axis: int) -> None:
    """y = the parts (address, shape) along `axis`, one launch each."""
    whole = list(parts[0][1])
    whole[axis] = sum(shape[axis] for _, shape in parts)
    steps = contiguous_steps(whole)
    at = y
    for address, shape in parts:
        copy(device, itemsize, address, at, shape, contiguous_steps(shape), steps)
        at += shape[axis] * steps[axis] * itemsize


def split(
    device: Device, itemsize: int, x: int, shape: Sequence[int], parts: Sequence[tuple[int, int]], axis: int
) -> None:
    """The parts (address, size along `axis`) of x [shape], one launch each."""
    steps = contiguous_steps(shape)
    for address, size in parts:
        sizes = [size if i == axis else whole for i, whole in enumerate(shape)]
        copy(device, itemsize, x, address, sizes, steps)
        x += size * steps[axis] * itemsize


def gather(
    device: Device,
    itemsize: int,
    data: int,
    indices: int,
    y: int,
    outer: int,
    size: int,
    count: int,
    inner: int,
    status: int = 0,
) -> None:
    """y [outer, count, inner] = data [outer, size, inner] at int64 indices [count] of the middle axis. An index that lies
    outside gives zero and sets the int32 at `status` (0: nowhere) to 1."""
    n = outer * count * inner
    each(
        device, f"gather_{itemsize}", n, [*pointers(data, indices, y), *longs(n, size, count, inner), *pointers(status)]
    )
