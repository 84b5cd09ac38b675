"""Kernels over rows (csrc/norm.cu). `rows` counts rows of k elements that are `inner` apart: for a reduced axis of a C-ordered
array, inner is the product of the sizes behind it."""

from __future__ import annotations

import numpy as np

from headrace.runtime.cuda.interface import Arg, Device
from headrace.runtime.cuda.kernels._launch import BLOCK, each, ints, longs, pointers
from headrace.runtime.cuda.kernels.quant import REDUCE_SHARED
from headrace.runtime.cuda.sources import codes


def _rows(device: Device, kernel: str, rows: int, args: list[Arg]) -> None:
    if rows:
        device.launch(kernel, (rows, 1, 1), (BLOCK, 1, 1), REDUCE_SHARED, args)


def layer_norm(
    device: Device,
    x: int,
    scale: int,
    bias: int,
    y: int,
    rows: int,
    k: int,
    epsilon: float,
    mean: int = 0,
    inverse: int = 0,
    centred: bool = True,
) -> None:
    """Contiguous rows. bias, mean, inverse (float32 [rows]) may be 0. Without `centred`: RMSNormalization."""
    args: list[Arg] = [*pointers(x, scale, bias, y, mean, inverse), *longs(k), np.float32(epsilon), *ints(centred)]
    _rows(device, "layer_norm", rows, args)


def softmax(device: Device, x: int, y: int, rows: int, k: int, inner: int = 1, log: bool = False) -> None:
    """y of x's shape: softmax, or its logarithm."""
    _rows(device, "softmax", rows, [*pointers(x, y), *longs(k, inner), *ints(log)])


def reduce(device: Device, function: str, x: int, y: int, rows: int, k: int, inner: int = 1) -> None:
    """y [rows]: sum, mean, max, min, prod, l1, l2 or sum_square of each row."""
    _rows(
        device,
        "reduce",
        rows,
        [*pointers(x, y), *longs(k, inner), *ints(codes("Reduce", "norm.cu")[f"reduce_{function}"])],
    )


def arg_extreme(
    device: Device, x: int, y: int, rows: int, k: int, inner: int = 1, least: bool = False, last: bool = False
) -> None:
    """y int64 [rows]: where the largest (least: smallest) element of each row is; of equals the first, or the last."""
    _rows(device, "arg_extreme", rows, [*pointers(x, y), *longs(k, inner), *ints(least, last)])


def lp_normalize(device: Device, x: int, y: int, rows: int, k: int, inner: int = 1, p: int = 2) -> None:
    """Each row divided by its norm of order 1 or 2; a row of zeros stays."""
    _rows(device, "lp_normalize", rows, [*pointers(x, y), *longs(k, inner), *ints(p)])


def scale_shift(
    device: Device, x: int, y: int, mean: int, factor: int, bias: int, n: int, inner: int, channels: int
) -> None:
    """(x - mean) * factor + bias over n elements, each of channel i / inner % channels: batch normalisation, with
    factor = scale / sqrt(variance + epsilon)."""
    each(device, "scale_shift", n, [*pointers(x, y, mean, factor, bias), *longs(n, inner), *ints(channels)])
