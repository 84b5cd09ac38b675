"""Between float32 and 8 bits (csrc/quant.cu)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from headrace.runtime.cuda.interface import Arg, Device
from headrace.runtime.cuda.kernels._launch import BLOCK, each, ints, longs, pointers, structure
from headrace.runtime.cuda.kernels.elementwise import broadcast
from headrace.runtime.cuda.kernels.requantize import level_bounds

SUM = np.dtype(
    [(name, np.float32) for name in ("a_scale", "b_scale", "lo", "hi")]
    + [(name, np.int32) for name in ("a_signed", "b_signed", "a_zero", "b_zero", "zero", "unused")]
)
REDUCE_SHARED = 64
SUFFIX = {"uint8": "u8", "int8": "s8", "int32": "i32"}


def quantize(
    device: Device, dtype: str, x: int, y: int, scale: int, zero: int, n: int, inner: int = 1, channels: int = 1
) -> None:
    """n floats to uint8 or int8. scale float32 [channels], zero [channels] of y's type (0: none); element i belongs to channel
    i / inner % channels."""
    each(device, f"quantize_{SUFFIX[dtype]}", n, [*pointers(x, y, scale, zero), *longs(n, inner), *ints(channels)])


def dequantize(
    device: Device, dtype: str, x: int, y: int, scale: int, zero: int, n: int, inner: int = 1, channels: int = 1
) -> None:
    """n of uint8, int8 or int32 to float32; as quantize."""
    each(device, f"dequantize_{SUFFIX[dtype]}", n, [*pointers(x, y, scale, zero), *longs(n, inner), *ints(channels)])


def quantize_rows(device: Device, x: int, y: int, scale: int, zero: int, shift: int, rows: int, k: int) -> None:
    """x [rows, k] -> y uint8, scale float32 [rows], zero uint8 [rows] and shift int32 [rows] = -zero (0: not wanted). One row:
    DynamicQuantizeLinear."""
    if rows:
        args: list[Arg] = [*pointers(x, y, scale, zero, shift), *longs(k)]
        device.launch("quantize_rows", (rows, 1, 1), (BLOCK, 1, 1), REDUCE_SHARED, args)


def row_sums(device: Device, dtype: str, x: int, y: int, rows: int, k: int, ld: int | None = None) -> None:
    """y int32 [rows] = sums of the rows of x [rows, ld], first k of each."""
    if rows:
        args: list[Arg] = [*pointers(x, y), *ints(k), *longs(k if ld is None else ld)]
        device.launch(f"row_sums_{SUFFIX[dtype]}", (rows, 1, 1), (BLOCK, 1, 1), REDUCE_SHARED, args)


@dataclass(frozen=True)
class Levels:
    """A quantized operand: address, shape, dtype, zero point, and its scale over the result's (float32)."""

    at: int
    shape: Sequence[int]
    dtype: str
    zero: int
    scale: float


def add_levels(
    device: Device, a: Levels, b: Levels, y: int, y_dtype: str, zero: int, lo: float = -np.inf, hi: float = np.inf
) -> None:
    """QAdd: y = rint(clamp((a - a_zero) * a_scale + (b - b_zero) * b_scale)) + zero, broadcast, saturated."""
    layout = broadcast(a.shape, b.shape)
    low, high = level_bounds(y_dtype, zero, lo, hi)
    total = structure(
        SUM, a_scale=a.scale, b_scale=b.scale, lo=low, hi=high, a_signed=a.dtype == "int8", b_signed=b.dtype == "int8",
        a_zero=a.zero, b_zero=b.zero, zero=zero,
    )  # fmt: skip
    each(device, "add_levels", int(layout["n"]), [*pointers(a.at, b.at, y), layout, total])


def lookup(device: Device, x: int, table: int, y: int, n: int) -> None:
    """y = table[x], n bytes; table of 256."""
    each(device, "lookup", n, [*pointers(x, table, y), *longs(n)])
