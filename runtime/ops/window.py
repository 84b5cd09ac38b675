"""Sliding windows: kernel, strides, dilations and pads of convolutions and pools, for symbolic sizes and for arrays."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product as cartesian
from typing import Any

import numpy as np

from headrace.runtime.errors import GraphError
from headrace.runtime.ops.axes import ceildiv
from headrace.runtime.ops.base import Attr
from headrace.runtime.shapes import Dim, maximum, minimum

AUTO_PAD = Attr("string", "NOTSET", ("NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"))


@dataclass(frozen=True)
class Window:
    """One window per spatial axis. `pads` is None while auto_pad SAME leaves it to the sizes."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begin: tuple[int, ...]
    end: tuple[int, ...]
    auto_pad: str = "NOTSET"
    ceil: bool = False

    @staticmethod
    def of(attributes: Mapping[str, Any], kernel: Sequence[int]) -> Window:
        """From an operator's attributes. GraphError where their lengths or values do not fit."""
        rank = len(kernel)

        def per_axis(name: str, default: int, least: int) -> tuple[int, ...]:
            given = attributes.get(name)
            values = (default,) * rank if given is None else tuple(int(item) for item in given)
            if len(values) != rank or any(item < least for item in values):
                raise GraphError(f"{name} is {list(values)}; allowed: {rank} integers, each at least {least}")
            return values

        strides, dilations = per_axis("strides", 1, 1), per_axis("dilations", 1, 1)
        auto_pad = attributes.get("auto_pad") or "NOTSET"
        pads = attributes.get("pads")
        pads = (0,) * 2 * rank if pads is None or auto_pad != "NOTSET" else tuple(int(item) for item in pads)
        if len(pads) != 2 * rank:
            raise GraphError(f"pads is {list(pads)}; allowed: {2 * rank} integers")
        if any(size < 1 for size in kernel):
            raise GraphError(f"the kernel is {list(kernel)}; every size must be at least 1")
        ceil = bool(attributes.get("ceil_mode", 0))
        return Window(tuple(int(size) for size in kernel), strides, dilations, pads[:rank], pads[rank:], auto_pad, ceil)

    @property
    def extents(self) -> tuple[int, ...]:
        """How many positions a window spans, dilation included."""
        return tuple((k - 1) * d + 1 for k, d in zip(self.kernel, self.dilations))

    def output(self, sizes: Sequence[Dim]) -> tuple[Dim, ...]:
        """Output sizes. GraphError where an input is smaller than its window allows."""
        return tuple(self._output(axis, size) for axis, size in enumerate(sizes))

    def _output(self, axis: int, size: Dim) -> Dim:
        stride, extent = self.strides[axis], self.extents[axis]
        if self.auto_pad.startswith("SAME"):
            return ceildiv(size, stride)
        begin, end = self.begin[axis], self.end[axis]
        span = size + (begin + end - extent)
        if not self.ceil:
            count = span // stride + 1
        else:  # a window that would begin in the padding behind the data is left out
            count = minimum(ceildiv(span, stride) + 1, (size + (begin - 1)) // stride + 1)
        if (isinstance(count, int) and count < 0) or (isinstance(span, int) and span < 0 and span <= -stride):
            raise GraphError(
                f"spatial axis {axis} has size {size}, padded by {begin} and {end}: too small for a window of {extent}"
            )
        return count

    def resolve(self, sizes: Sequence[int]) -> Window:
        """The same windows with explicit pads, for arrays of these sizes; `ceil` becomes padding behind."""
        begin, end = list(self.begin), list(self.end)
        for axis, size in enumerate(sizes):
            if self.auto_pad.startswith("SAME"):
                out = -(-size // self.strides[axis])
                total = max(0, (out - 1) * self.strides[axis] + self.extents[axis] - size)
                small, large = total // 2, total - total // 2
                begin[axis], end[axis] = (large, small) if self.auto_pad == "SAME_LOWER" else (small, large)
        return Window(self.kernel, self.strides, self.dilations, tuple(begin), tuple(end), "NOTSET", self.ceil)

    def pad(self, x: np.ndarray, fill: Any, counts: Sequence[int]) -> np.ndarray:
        """`x` [N, C, *sizes] with `fill` around it, so that `counts` windows fit on every axis."""
        widths = [(0, 0), (0, 0)]
        for axis, size in enumerate(x.shape[2:]):
            needed = (counts[axis] - 1) * self.strides[axis] + self.extents[axis]
            widths.append((self.begin[axis], max(0, needed - size - self.begin[axis])))
        if min((min(width) for width in widths), default=0) < 0:  # negative pads crop
            x = x[tuple(slice(max(0, -before), None) for before, _ in widths)]
            widths = [(max(0, before), after) for before, after in widths]
        return x if not any(map(any, widths)) else np.pad(x, widths, constant_values=fill)

    def taps(self, counts: Sequence[int]) -> Iterator[tuple[tuple[int, ...], tuple[slice, ...]]]:
        """For each kernel position: its offsets in the padded array, and the slices that pick its element of all windows."""
        for place in cartesian(*(range(k) for k in self.kernel)):
            offsets = tuple(p * d for p, d in zip(place, self.dilations))
            yield (
                offsets,
                tuple(
                    slice(o, o + (count - 1) * stride + 1, stride) if count else slice(0, 0)
                    for o, count, stride in zip(offsets, counts, self.strides)
                ),
            )


def patches(padded: np.ndarray, window: Window, counts: Sequence[int]) -> np.ndarray:
    """A view [N, C, *kernel, *counts] of the padded array [N, C, *sizes]."""
    spatial = padded.strides[2:]
    shape = (*padded.shape[:2], *window.kernel, *counts)
    strides = (
        *padded.strides[:2],
        *(s * d for s, d in zip(spatial, window.dilations)),
        *(s * t for s, t in zip(spatial, window.strides)),
    )
    return np.lib.stride_tricks.as_strided(padded, shape, strides, writeable=False)


def scatter(columns: np.ndarray, window: Window, sizes: Sequence[int], counts: Sequence[int]) -> np.ndarray:
    """The opposite of `patches`: columns [N, C, *kernel, *counts] summed into [N, C, *sizes]; pads fall away."""
    padded = tuple(max((c - 1) * s + e, b + size) if c else b + size
                   for c, s, e, b, size in zip(counts, window.strides, window.extents, map(_positive, window.begin), sizes))  # fmt: skip
    shifts = tuple(max(0, -b) for b in window.begin)  # negative pads: the columns do not reach the first elements
    total = np.zeros((*columns.shape[:2], *(p + s for p, s in zip(padded, shifts))), columns.dtype)
    places = cartesian(*(range(k) for k in window.kernel))
    for place, (_, slices) in zip(places, window.taps(counts)):
        moved: Any = tuple(slice(s.start + shift, s.stop + shift, s.step) for s, shift in zip(slices, shifts))
        total[(slice(None), slice(None), *moved)] += columns[np.index_exp[:, :] + place]
    crop = tuple(slice(max(0, b), max(0, b) + size) for b, size in zip(window.begin, sizes))
    return total[(slice(None), slice(None), *crop)]


def _positive(value: int) -> int:
    return max(0, value)


def nonnegative(size: Dim) -> Dim:
    """A size that is never below 0."""
    return maximum(size, 0)
