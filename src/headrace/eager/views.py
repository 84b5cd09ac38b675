"""Views: results in the memory of the input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from headrace.eager.registry import kernel


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
            index[axis] = (
                slice(start if start >= 0 else 0, None if end < 0 else end, step) if start >= 0 else slice(0, 0)
            )
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
