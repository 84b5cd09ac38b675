"""Resizing, sampling, and the exchange of channels and space."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from headrace.autograd.tape import ops
from headrace.functional.exports import exported
from headrace.tensors import Tensor


def interpolate(
    input: Tensor, size: Any = None, scale_factor: Any = None, mode: str = "nearest", align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None, antialias: bool = False,
) -> Tensor:  # fmt: skip
    """[N, C, *sizes] resized to `size` or by `scale_factor`."""
    n = input._data.ndim - 2
    modes = {
        "nearest": (1, 2, 3),
        "nearest-exact": (1, 2, 3),
        "area": (1, 2, 3),
        "linear": (1,),
        "bilinear": (2,),
        "bicubic": (2,),
        "trilinear": (3,),
    }
    if mode not in modes or n not in modes[mode]:
        raise NotImplementedError(
            f"Input Error: Only 3D, 4D and 5D input Tensors supported (got {input._data.ndim}D) for the modes: nearest | linear | bilinear | bicubic | trilinear | area | nearest-exact (got {mode})"
        )
    if mode in ("nearest", "area", "nearest-exact") and align_corners is not None:
        raise ValueError(
            "align_corners option can only be set with the interpolating modes: linear | bilinear | bicubic | trilinear"
        )
    if (size is None) == (scale_factor is None):
        raise ValueError(
            "only one of size or scale_factor should be defined"
            if size is not None
            else "either size or scale_factor should be defined"
        )
    sizes = input._data.shape[2:]
    factors: Any = None
    if scale_factor is not None:
        factors = tuple(
            float(f) for f in (scale_factor if isinstance(scale_factor, tuple | list) else (scale_factor,) * n)
        )
        if len(factors) != n:
            raise ValueError(
                f"Input and scale_factor must have the same number of spatial dimensions, but got input with spatial dimensions of {list(sizes)} and scale_factor of shape {list(factors)}."
            )
        wanted = tuple(math.floor(s * f) for s, f in zip(sizes, factors))
        if recompute_scale_factor:
            factors = None
    else:
        wanted = tuple(size) if isinstance(size, tuple | list) else (size,) * n
        if len(wanted) != n:
            raise ValueError(
                f"Input and output must have the same number of spatial dimensions, but got input with spatial dimensions of {list(sizes)} and output size of {list(wanted)}."
            )
    if any(w < 1 for w in wanted):
        raise RuntimeError(
            f"Input and output sizes should be greater than 0, but got input {list(sizes)} output {list(wanted)}"
        )
    if mode == "area":
        from headrace.nn.functional import pooling

        return getattr(pooling, f"adaptive_avg_pool{n}d")(input, wanted)
    return _resize(input, wanted, factors, mode, bool(align_corners), antialias)


def _resize(x: Tensor, wanted: tuple[int, ...], factors: Any, mode: str, align: bool, antialias: bool) -> Tensor:
    """Resize as torch does it, by one matrix (or one choice of places) an axis."""
    for axis, w in enumerate(wanted):
        size = x._data.shape[axis + 2]
        scale = size / w if factors is None else 1.0 / factors[axis]
        if mode in ("nearest", "nearest-exact"):
            centre = 0.5 if mode == "nearest-exact" else 0.0
            places = np.minimum(np.floor((np.arange(w) + centre) * np.float32(scale)).astype(np.int64), size - 1)
            x = ops.Gather(x, places, axis=axis + 2)
        elif size != w or not align:
            x = _apply(x, axis + 2, _weights(size, w, scale, mode, align, antialias).astype(x._data.dtype))
    return x


def _apply(x: Tensor, axis: int, matrix: np.ndarray) -> Tensor:
    from headrace.functional.shape import transpose

    if axis == x._data.ndim - 1:
        return ops.MatMul(x, matrix)
    return transpose(ops.MatMul(transpose(x, axis, -1), matrix), axis, -1)


def _weights(size: int, wanted: int, scale: float, mode: str, align: bool, antialias: bool) -> np.ndarray:
    """The matrix [size, wanted] of a linear or cubic resize along one axis."""
    steps = np.arange(wanted, dtype=np.float64)
    cubic = mode == "bicubic"
    if align:
        centre = steps * ((size - 1) / (wanted - 1) if wanted > 1 else 0.0)
    else:
        centre = (steps + 0.5) * scale - 0.5
        if not cubic and not antialias:
            centre = np.maximum(centre, 0)
    matrix = np.zeros((size, wanted))
    if antialias:
        stretch = max(scale, 1.0) if not align else max((size - 1) / max(wanted - 1, 1), 1.0)
        reach = (2.0 if cubic else 1.0) * stretch
        for j, c in enumerate(centre + 0.5):
            low, high = max(int(c - reach + 0.5), 0), min(int(c + reach + 0.5), size)
            gap = np.abs((np.arange(low, high) - c + 0.5) / stretch)
            values = _cubic(gap, -0.5) if cubic else np.maximum(0, 1 - gap)
            matrix[low:high, j] = values / values.sum()
        return matrix
    first = np.floor(centre).astype(np.int64)
    for offset in range(-1, 3) if cubic else range(2):
        gap = np.abs(centre - (first + offset))
        values = _cubic(gap, -0.75) if cubic else np.maximum(0, 1 - gap)
        np.add.at(matrix, (np.clip(first + offset, 0, size - 1), np.arange(wanted)), values)
    return matrix


def _cubic(gap: np.ndarray, a: float) -> np.ndarray:
    near = ((a + 2) * gap - (a + 3)) * gap * gap + 1
    far = ((a * gap - 5 * a) * gap + 8 * a) * gap - 4 * a
    return np.where(gap <= 1, near, np.where(gap < 2, far, 0))


def upsample(
    input: Tensor, size: Any = None, scale_factor: Any = None, mode: str = "nearest", align_corners: bool | None = None
) -> Tensor:
    """interpolate under its older name."""
    return interpolate(input, size, scale_factor, mode, align_corners)


def upsample_nearest(input: Tensor, size: Any = None, scale_factor: Any = None) -> Tensor:
    """Nearest neighbours."""
    return interpolate(input, size, scale_factor, "nearest")


def upsample_bilinear(input: Tensor, size: Any = None, scale_factor: Any = None) -> Tensor:
    """Bilinear with aligned corners."""
    return interpolate(input, size, scale_factor, "bilinear", align_corners=True)


def pixel_shuffle(input: Tensor, upscale_factor: int) -> Tensor:
    """[*, C * r², H, W] to [*, C, H * r, W * r]."""
    if input._data.ndim < 3:
        raise RuntimeError(
            f"pixel_shuffle expects input to have at least 3 dimensions, but got input with {input._data.ndim} dimension(s)"
        )
    r = upscale_factor
    if r <= 0:
        raise RuntimeError(f"pixel_shuffle expects a positive upscale_factor, but got {r}")
    *lead, c, h, w = input.shape
    if c % (r * r):
        raise RuntimeError(
            f"pixel_shuffle expects its input's 'channel' dimension to be divisible by the square of upscale_factor, but input.size(-3)={c} is not divisible by {r * r}"
        )
    if len(lead) == 1:
        return ops.DepthToSpace(input, blocksize=r, mode="CRD")
    split = input.reshape(*lead, c // (r * r), r, r, h, w)
    k = len(lead)
    return split.permute(*range(k), k, k + 3, k + 1, k + 4, k + 2).reshape(*lead, c // (r * r), h * r, w * r)


def pixel_unshuffle(input: Tensor, downscale_factor: int) -> Tensor:
    """[*, C, H * r, W * r] to [*, C * r², H, W]."""
    if input._data.ndim < 3:
        raise RuntimeError(
            f"pixel_unshuffle expects input to have at least 3 dimensions, but got input with {input._data.ndim} dimension(s)"
        )
    r = downscale_factor
    if r <= 0:
        raise RuntimeError(f"pixel_unshuffle expects a positive downscale_factor, but got {r}")
    *lead, c, h, w = input.shape
    if h % r or w % r:
        raise RuntimeError(
            f"pixel_unshuffle expects height and width to be divisible by downscale_factor, but got {h} and {w} with {r}"
        )
    k = len(lead)
    split = input.reshape(*lead, c, h // r, r, w // r, r)
    return split.permute(*range(k), k, k + 2, k + 4, k + 1, k + 3).reshape(*lead, c * r * r, h // r, w // r)


def channel_shuffle(input: Tensor, groups: int) -> Tensor:
    """Channels dealt out over groups."""
    n, c, *rest = input.shape
    return input.reshape(n, groups, c // groups, *rest).transpose(1, 2).reshape(n, c, *rest)


def grid_sample(
    input: Tensor, grid: Tensor, mode: str = "bilinear", padding_mode: str = "zeros", align_corners: bool | None = None
) -> Tensor:
    """input [N, C, H, W] read at the places grid [N, h, w, 2] (x, y in [-1, 1]) names."""
    if mode not in ("bilinear", "nearest", "bicubic"):
        raise ValueError(
            f"nn.functional.grid_sample(): expected mode to be 'bilinear', 'nearest' or 'bicubic', but got: '{mode}'"
        )
    if padding_mode not in ("zeros", "border", "reflection"):
        raise ValueError(
            f"nn.functional.grid_sample(): expected padding_mode to be 'zeros', 'border', or 'reflection', but got: '{padding_mode}'"
        )
    names = {"bilinear": "linear", "bicubic": "cubic", "nearest": "nearest"}
    return ops.GridSample(
        input, grid, mode=names[mode], padding_mode=padding_mode, align_corners=int(bool(align_corners))
    )


def affine_grid(theta: Tensor, size: Any, align_corners: bool | None = None) -> Tensor:
    """The grid of an affine map, for grid_sample."""
    return ops.AffineGrid(theta, np.array(list(size), np.int64), align_corners=int(bool(align_corners)))


__all__ = exported(globals())
