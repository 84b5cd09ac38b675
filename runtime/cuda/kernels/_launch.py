"""What the launch functions share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from headrace.runtime.cuda.interface import Arg, Array, Device, Ptr

BLOCK = 256


def ceil_div(n: int, by: int) -> int:
    return -(-n // by)


def each(device: Device, kernel: str, n: int, args: Sequence[Arg]) -> None:
    """One thread for each of n elements."""
    if n:
        device.launch(kernel, (ceil_div(n, BLOCK), 1, 1), (BLOCK, 1, 1), 0, args)


def structure(dtype: np.dtype[Any], **fields: Any) -> Array:
    """A parameter structure; fields not named are zero."""
    value = np.zeros((), dtype)
    for name, field in fields.items():
        value[name] = field
    return value


def longs(*values: int) -> list[np.int64]:
    return [np.int64(value) for value in values]


def ints(*values: int) -> list[np.int32]:
    return [np.int32(value) for value in values]


def pointers(*addresses: int) -> list[Ptr]:
    return [Ptr(address) for address in addresses]


def contiguous_steps(shape: Sequence[int], item: int = 1) -> list[int]:
    """Strides of a C-contiguous array whose elements are `item` apart."""
    steps = [item] * len(shape)
    for axis in range(len(shape) - 2, -1, -1):
        steps[axis] = steps[axis + 1] * shape[axis + 1]
    return steps


def broadcast_steps(shape: Sequence[int], rank: int, item: int = 1) -> list[int]:
    """Strides with which a contiguous array is walked over `rank` dimensions: 0 where it is repeated."""
    own = [step if size != 1 else 0 for size, step in zip(shape, contiguous_steps(shape, item))]
    return [0] * (rank - len(shape)) + own


def merge_dimensions(
    shape: Sequence[int], strides: Sequence[Sequence[int]], what: str, limit: int
) -> tuple[list[int], list[list[int]]]:
    """`shape` walked by several strides, with neighbouring dimensions merged where every walk allows it: exactly `limit`
    sizes, outermost first and filled up by ones, and the strides of each walk. ValueError where more remain."""
    merged: list[list[int]] = []  # [size, *steps], innermost first
    for axis in reversed(range(len(shape))):
        steps = [walk[axis] for walk in strides]
        if shape[axis] == 1:
            continue
        if merged and all(step == merged[-1][0] * before for step, before in zip(steps, merged[-1][1:])):
            merged[-1][0] *= shape[axis]
        else:
            merged.append([shape[axis], *steps])
    if len(merged) > limit:
        raise ValueError(f"{what} need {len(merged)} dimensions after merging; allowed: {limit}")
    merged += [[1] + [0] * len(strides)] * (limit - len(merged))
    merged.reverse()
    return [m[0] for m in merged], [[m[1 + i] for m in merged] for i in range(len(strides))]
