"""Padding."""

from __future__ import annotations

from typing import Any

from headrace.autograd.tape import ops
from headrace.functional.base import axes_input, is_symbolic, scalar
from headrace.functional.exports import exported
from headrace.functional.shape import slice_axes
from headrace.tensors import Tensor

_MODES = {"constant": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}


def pad(input: Tensor, pad: Any, mode: str = "constant", value: float | None = None) -> Tensor:
    """Elements put around the last dimensions: (left, right, top, bottom, ...); negative numbers cut off."""
    given = [int(p) for p in pad]
    rank = input._data.ndim
    if len(given) % 2:
        raise RuntimeError("Padding length must be divisible by 2")
    count = len(given) // 2
    if count > rank:
        raise RuntimeError(
            f"Padding length should be less than or equal to two times the input dimension but got padding length {len(given)} and input of dimension {rank}"
        )
    if mode not in _MODES:
        raise NotImplementedError(f"Unrecognised padding mode {mode}")
    if mode != "constant":
        if value not in (None, 0):
            raise ValueError(f'Padding mode "{mode}" doesn\'t take in value argument')
        if rank not in (count + 1, count + 2):
            raise NotImplementedError(
                f"Only 2D, 3D, 4D, 5D padding with non-constant padding are supported for now; got padding of length {len(given)} and input of dimension {rank}"
            )
    begin, end = [0] * rank, [0] * rank
    for i in range(count):
        begin[rank - 1 - i], end[rank - 1 - i] = given[2 * i], given[2 * i + 1]
    _check_sizes(input, begin, end, mode)
    cuts = any(p < 0 for p in given)
    late = cuts and mode in ("replicate", "reflect")  # what is cut off on one side is still seen on the other
    if cuts and not late:
        input = _cut(input, begin, end)
    before, after = ([max(0, p) for p in side] for side in (begin, end))
    if any(before) or any(after):
        fill = (scalar(0 if value is None else value, input),) if mode == "constant" else ()
        padded = ops.Pad(input, axes_input((*before, *after)), *fill, mode=_MODES[mode])
    else:
        padded = input.clone()
    return _cut(padded, begin, end) if late else padded


def _check_sizes(x: Tensor, begin: list[int], end: list[int], mode: str) -> None:
    for axis, (b, e, size) in enumerate(zip(begin, end, x._data.shape)):
        if is_symbolic(size):
            continue
        if size + b + e < 0:
            raise RuntimeError(
                f"The input size {size}, plus negative padding {b} and {e} resulted in a negative output size, which is invalid. Check dimension {axis} of your input."
            )
        if mode == "reflect" and (b >= size or e >= size) and (b or e):
            raise RuntimeError(
                f"Padding size should be less than the corresponding input dimension, but got: padding ({b}, {e}) at dimension {axis} of input {list(x.shape)}"
            )
        if mode == "circular" and (b > size or e > size):
            raise RuntimeError("Padding value causes wrapping around more than once.")


def _cut(x: Tensor, begin: list[int], end: list[int]) -> Tensor:
    parts = []
    for axis, (b, e) in enumerate(zip(begin, end)):
        if b < 0 or e < 0:
            size = x._data.shape[axis]
            parts.append((axis, max(0, -b), size + e if e < 0 else None, 1))
    return slice_axes(x, parts)


__all__ = exported(globals())
