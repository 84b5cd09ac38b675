"""Convolutions and pools (csrc/conv_*.cu, csrc/pool.cu) over one or two spatial axes, in either layout."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from headrace.runtime.cuda.interface import Arg, Array, Device
from headrace.runtime.cuda.kernels._launch import ceil_div, each, ints, longs, pointers, structure
from headrace.runtime.cuda.kernels.gemm import F32_SHARED, F32_TILE, SIGN, TILES
from headrace.runtime.cuda.kernels.requantize import Epilogue
from headrace.runtime.cuda.sources import codes

WINDOW = np.dtype(
    [(name, np.int64) for name in ("x_n", "x_c", "x_h", "x_w", "y_n", "y_c", "y_h", "y_w")]
    + [
        (name, np.int32)
        for name in (
            "n", "c", "h", "w", "features", "out_h", "out_w", "kernel_h", "kernel_w", "stride_h", "stride_w", "pad_h", "pad_w",
            "end_h", "end_w", "dilation_h", "dilation_w", "group",
        )
    ]
)  # fmt: skip
OUTSIDE = 16  # bytes of x's zero point that integer convolutions read beyond the image


@dataclass(frozen=True)
class Window:
    """x [n, c, h, w] (sizes; stored channels last where x_last) -> y [n, features, *counts] (y_last). One spatial axis is a
    height of 1. begin, end: padding."""

    n: int
    c: int
    sizes: tuple[int, int]
    features: int
    counts: tuple[int, int]
    kernel: tuple[int, int]
    strides: tuple[int, int] = (1, 1)
    begin: tuple[int, int] = (0, 0)
    end: tuple[int, int] = (0, 0)
    dilations: tuple[int, int] = (1, 1)
    group: int = 1
    x_last: bool = False
    y_last: bool = False

    @classmethod
    def of(
        cls, x_shape: Sequence[int], features: int, counts: Sequence[int], window: Any, group: int = 1, **layouts: bool
    ) -> Window:
        """From the sizes [n, c, *spatial], the output's spatial sizes and a resolved `ops.window.Window`. ValueError beyond two
        spatial axes."""
        axes = len(x_shape) - 2
        if axes not in (1, 2):
            raise ValueError(f"windows over {axes} axes; allowed: 1 or 2")

        def pair(values: Sequence[int], first: int) -> tuple[int, int]:
            return (first, int(values[0])) if axes == 1 else (int(values[0]), int(values[1]))

        return cls(
            x_shape[0], x_shape[1], pair(x_shape[2:], 1), features, pair(counts, 1), pair(window.kernel, 1),
            pair(window.strides, 1), pair(window.begin, 0), pair(window.end, 0), pair(window.dilations, 1), group, **layouts,
        )  # fmt: skip

    def __post_init__(self) -> None:
        if self.pixels >= 2**31:
            raise ValueError(f"{self.pixels} output pixels; allowed: below 2^31")

    @property
    def pixels(self) -> int:
        return self.n * self.counts[0] * self.counts[1]

    @property
    def depth(self) -> int:
        """Taps times channels of a group."""
        return self.kernel[0] * self.kernel[1] * (self.c // self.group)

    def packed(self) -> Array:
        def layout(channels: int, sizes: tuple[int, int], last: bool) -> tuple[int, int, int, int]:
            h, w = sizes
            return (h * w * channels, 1, w * channels, channels) if last else (channels * h * w, h * w, w, 1)

        x, y = layout(self.c, self.sizes, self.x_last), layout(self.features, self.counts, self.y_last)
        pairs = {
            "": self.sizes, "out_": self.counts, "kernel_": self.kernel, "stride_": self.strides, "pad_": self.begin,
            "end_": self.end, "dilation_": self.dilations,
        }  # fmt: skip
        fields = {f"{name}{axis}": value for name, both in pairs.items() for axis, value in zip("hw", both)}
        fields |= {f"{name}_{axis}": step for name, steps in (("x", x), ("y", y)) for axis, step in zip("nchw", steps)}
        return structure(WINDOW, n=self.n, c=self.c, features=self.features, group=self.group, **fields)


def pack_conv_weights(w: Any, multiple: int = 16) -> tuple[Array, Array]:
    """[features, c of a group, *kernel] int8 or uint8 -> ([features, depth rounded up] int8 in the order (tap, channel), zero
    beyond; int32 sums [features]). Unsigned weights are shifted by 128, their zero point is to be lowered by it too."""
    w = np.asarray(w)
    signed = (w.astype(np.int16) - 128).astype(np.int8) if w.dtype == np.uint8 else w
    matrix = np.moveaxis(signed, 1, -1).reshape(w.shape[0], -1)
    packed = np.zeros((w.shape[0], -(-matrix.shape[1] // multiple) * multiple), np.int8)
    packed[:, : matrix.shape[1]] = matrix
    return packed, matrix.sum(1, dtype=np.int32)


def conv_s8(
    device: Device,
    x_dtype: str,
    x: int,
    w: int,
    y: int,
    outside: int,
    window: Window,
    epilogue: Epilogue,
    ldw: int,
    tile: str | None = None,
) -> None:
    """y = epilogue(conv(x, w)): x uint8 or int8, w by pack_conv_weights with rows of ldw, `outside` OUTSIDE bytes of x's zero
    point. The residual has the layout of y. Tensor cores where x is channels last and a group's channels are a multiple of 16."""
    features = window.features // window.group
    if not (window.pixels and features):
        return
    channels = window.c // window.group
    good = window.x_last and not any(value % 16 for value in (x, w, outside, ldw, channels, window.c))
    tile = tile or ("mma64" if good else "dp4a")
    size, threads, shared = TILES[tile]
    grid = (ceil_div(window.pixels, size), ceil_div(features, size), window.group)
    args: list[Arg] = [*pointers(x, w, y, outside), window.packed(), epilogue.packed(), *longs(ldw)]
    device.launch(f"conv_{SIGN[x_dtype]}s8_{tile}", grid, (threads, 1, 1), shared, args)


def conv_depthwise_s8(
    device: Device, x_dtype: str, x: int, w: int, y: int, x_zero: int, window: Window, epilogue: Epilogue
) -> None:
    """As conv_s8 for group == c: w int8 [taps, features]; zero points are subtracted in the sum, so the epilogue's col holds
    the bias alone and w_zero needs no row sums."""
    args: list[Arg] = [*pointers(x, w, y), *ints(x_zero), window.packed(), epilogue.packed()]
    each(device, f"conv_depthwise_{SIGN[x_dtype]}", window.pixels * window.features, args)


def conv_f32(
    device: Device,
    x: int,
    w: int,
    bias: int,
    r: int,
    y: int,
    window: Window,
    function: str = "identity",
    a: float = 0.0,
    b: float = 0.0,
) -> None:
    """y = function(conv(x, w) + bias + r): w [features, c of a group, *kernel] as ONNX has it; bias [features] and r (in y's
    layout) may be 0."""
    features = window.features // window.group
    if not (window.pixels and features):
        return
    grid = (ceil_div(window.pixels, F32_TILE), ceil_div(features, F32_TILE), window.group)
    args: list[Arg] = [
        *pointers(x, w, bias, r, y),
        window.packed(),
        *ints(codes("Unary")[function]),
        np.float32(a),
        np.float32(b),
    ]
    device.launch("conv_f32", grid, (256, 1, 1), F32_SHARED, args)


def conv_transpose_f32(
    device: Device,
    x: int,
    w: int,
    bias: int,
    y: int,
    window: Window,
    function: str = "identity",
    a: float = 0.0,
    b: float = 0.0,
) -> None:
    """y = function(conv_transpose(x, w) + bias): w [c, features of a group, *kernel]; the window is that of the convolution
    from y to x."""
    args: list[Arg] = [
        *pointers(x, w, bias, y),
        window.packed(),
        *ints(codes("Unary")[function]),
        np.float32(a),
        np.float32(b),
    ]
    each(device, "conv_transpose_f32", window.pixels * window.features, args)


def max_pool(device: Device, dtype: str, x: int, y: int, window: Window) -> None:
    """float32, uint8 or int8."""
    suffix = {"float32": "f32", **SIGN}[dtype]
    each(device, f"max_pool_{suffix}", window.pixels * window.c, [*pointers(x, y), window.packed()])


def average_pool(device: Device, x: int, y: int, window: Window, include_pad: bool = False) -> None:
    each(device, "average_pool_f32", window.pixels * window.c, [*pointers(x, y), window.packed(), *ints(include_pad)])
