"""What the pools share: attributes, shapes, samples, sums over windows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from headrace.runtime.errors import GraphError
from headrace.runtime.ops.axes import known_shape, sizes_of
from headrace.runtime.ops.base import REQUIRED, Attr, Context
from headrace.runtime.ops.window import AUTO_PAD, Window
from headrace.runtime.shapes import Shape as Dims

INT64 = frozenset({"int64"})
POOL = {
    "auto_pad": AUTO_PAD,
    "ceil_mode": Attr("int", 0, (0, 1)),
    "dilations": Attr("ints"),
    "kernel_shape": Attr("ints", REQUIRED),
    "pads": Attr("ints"),
    "strides": Attr("ints"),
}
# (shape, attributes) that find mistakes: every attribute, odd sizes, ranks 1 to 3.
CASES: tuple[tuple[tuple[int, ...], dict[str, Any]], ...] = (
    ((2, 3, 8, 7), {"kernel_shape": (2, 2), "strides": (2, 2)}),
    ((1, 2, 7, 6), {"kernel_shape": (3, 3), "strides": (2, 2), "pads": (1, 1, 1, 1)}),
    ((1, 2, 7, 8), {"kernel_shape": (3, 2), "strides": (2, 3), "ceil_mode": 1}),
    ((1, 2, 6, 6), {"kernel_shape": (3, 3), "strides": (2, 2), "pads": (1, 0, 1, 1), "ceil_mode": 1}),
    ((1, 1, 9), {"kernel_shape": (3,), "dilations": (2,)}),
    ((1, 2, 4, 5, 4), {"kernel_shape": (2, 3, 2), "strides": (1, 2, 2)}),
    ((1, 2, 6, 5), {"kernel_shape": (3, 2), "auto_pad": "SAME_UPPER", "strides": (2, 2)}),
    ((1, 2, 6, 5), {"kernel_shape": (2, 2), "auto_pad": "SAME_LOWER"}),
    ((1, 2, 6, 5), {"kernel_shape": (2, 2), "auto_pad": "VALID"}),
)


def pool_shape(context: Context, index: int = 0) -> Dims | None:
    """The output shape of a pool over input `index`."""
    shape = known_shape(context, index, least=3)
    if shape is None:
        return None
    kernel = context.attributes["kernel_shape"]
    if len(kernel) != len(shape) - 2:
        raise GraphError(f"kernel_shape is {list(kernel)}; allowed for rank {len(shape)}: {len(shape) - 2} integers")
    return (*shape[:2], *Window.of(context.attributes, kernel).output(shape[2:]))


def arranged(attributes: Mapping[str, Any], sizes: Sequence[int]) -> tuple[Window, tuple[int, ...]]:
    """The windows with explicit pads, and how many there are on each axis."""
    window = Window.of(attributes, attributes["kernel_shape"])
    counts = sizes_of(window.output(sizes))
    return window.resolve(sizes), counts


def passed(attributes: Mapping[str, Any], names: Mapping[str, Any] = POOL) -> dict[str, Any]:
    return {key: attributes[key] for key in names if attributes.get(key) is not None}


def window_sum(x: Any, window: Window, counts: Sequence[int]) -> Any:
    """The sum of each window, padding counted as zero."""
    padded = window.pad(x, 0, counts)
    total = np.zeros((*x.shape[:2], *counts), x.dtype)
    for _, slices in window.taps(counts):
        total += padded[(slice(None), slice(None), *slices)]
    return total
