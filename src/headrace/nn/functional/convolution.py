"""Convolutions over 1, 2 and 3 spatial dimensions, and their transposes; unfold and fold."""

from __future__ import annotations

from typing import Any

import numpy as np

from headrace.autograd.tape import ops
from headrace.functional.base import axes_input, is_symbolic
from headrace.functional.exports import exported
from headrace.tensors import Tensor


def ntuple(value: Any, n: int, name: str = "argument") -> tuple[int, ...]:
    """One number for each spatial dimension. RuntimeError for another count."""
    if isinstance(value, tuple | list):
        if len(value) == 1:
            return (int(value[0]),) * n
        if len(value) != n:
            raise RuntimeError(
                f"expected {name} to be a single integer value or a list of {n} values to match the convolution dimensions, but got {name}={list(value)}"
            )
        return tuple(int(v) for v in value)
    return (int(value),) * n


def _conv(
    n: int, input: Tensor, weight: Tensor, bias: Tensor | None, stride: Any, padding: Any, dilation: Any, groups: int
) -> Tensor:
    unbatched = _check(n, input, weight, bias, groups, transposed=False)
    strides, dilations = ntuple(stride, n, "stride"), ntuple(dilation, n, "dilation")
    if min(strides) < 1 or min(dilations) < 1:
        raise RuntimeError("non-positive stride or dilation is not supported")
    if isinstance(padding, str):
        pads = _named_padding(padding, weight._data.shape[2:], strides, dilations)
    else:
        around = ntuple(padding, n, "padding")
        if min(around) < 0:
            raise RuntimeError("negative padding is not supported")
        pads = around + around
    x = input.unsqueeze(0) if unbatched else input
    for size, k, s, d in zip(x._data.shape[2:], weight._data.shape[2:], zip(pads[:n], pads[n:]), dilations):
        if not is_symbolic(size) and size + sum(s) < d * (k - 1) + 1:
            raise RuntimeError(
                f"Calculated padded input size per channel: ({size + sum(s)}). Kernel size: ({d * (k - 1) + 1}). Kernel size can't be greater than actual input size"
            )
    found = ops.Conv(
        x,
        weight,
        bias,
        strides=strides,
        pads=pads,
        dilations=dilations,
        group=groups,
        kernel_shape=tuple(weight._data.shape[2:]),
    )
    return found.squeeze(0) if unbatched else found


def _check(n: int, input: Tensor, weight: Tensor, bias: Tensor | None, groups: int, transposed: bool) -> bool:
    """Whether the input has no batch dimension. RuntimeError where shapes or dtypes do not fit."""
    rank = input._data.ndim
    if rank not in (n + 1, n + 2):
        raise RuntimeError(
            f"Expected {n + 1}D (unbatched) or {n + 2}D (batched) input to conv{n}d, but got input of size: {list(input.shape)}"
        )
    if weight._data.ndim != n + 2:
        raise RuntimeError(
            f"Expected {n + 2}-dimensional weight for conv{n}d, but got weight of size {list(weight.shape)}"
        )
    if input._data.dtype != weight._data.dtype:
        raise RuntimeError(f"Input type ({input.dtype}) and weight type ({weight.dtype}) should be the same")
    if bias is not None and input._data.dtype != bias._data.dtype:
        raise RuntimeError(f"Input type ({input.dtype}) and bias type ({bias.dtype}) should be the same")
    if groups < 1:
        raise RuntimeError("non-positive groups is not supported")
    channels = input._data.shape[rank - n - 1]
    takes = weight._data.shape[0] if transposed else weight._data.shape[1] * groups
    if not is_symbolic(channels) and channels != takes:
        raise RuntimeError(
            f"Given groups={groups}, weight of size {list(weight.shape)}, expected input{list(input.shape)} to have {takes} channels, but got {channels} channels instead"
        )
    gives = weight._data.shape[1] * groups if transposed else weight._data.shape[0]
    if not transposed and gives % groups:
        raise RuntimeError(
            f"Given groups={groups}, expected weight to be divisible by {groups} at dimension 0, but got weight of size {list(weight.shape)} instead"
        )
    if bias is not None and tuple(bias.shape) != (gives,):
        raise RuntimeError(
            f"Given weight of size {list(weight.shape)}, expected bias to be 1-dimensional with {gives} elements, but got bias of size {list(bias.shape)} instead"
        )
    return rank == n + 1


def _named_padding(
    padding: str, kernel: tuple[int, ...], strides: tuple[int, ...], dilations: tuple[int, ...]
) -> tuple[int, ...]:
    if padding == "valid":
        return (0,) * (2 * len(kernel))
    if padding != "same":
        raise RuntimeError(f"Invalid padding string {padding!r}, should be one of 'valid', 'same'")
    if any(s != 1 for s in strides):
        raise RuntimeError("padding='same' is not supported for strided convolutions")
    total = [d * (k - 1) for k, d in zip(kernel, dilations)]
    return tuple(t // 2 for t in total) + tuple(t - t // 2 for t in total)


def conv1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    """Convolution of [N, C, L] with weight [M, C / groups, k]."""
    return _conv(1, input, weight, bias, stride, padding, dilation, groups)


def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    """Convolution of [N, C, H, W] with weight [M, C / groups, kH, kW]."""
    return _conv(2, input, weight, bias, stride, padding, dilation, groups)


def conv3d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    """Convolution of [N, C, D, H, W] with weight [M, C / groups, kD, kH, kW]."""
    return _conv(3, input, weight, bias, stride, padding, dilation, groups)


def _transposed(
    n: int,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Any,
    padding: Any,
    output_padding: Any,
    groups: int,
    dilation: Any,
) -> Tensor:
    unbatched = _check(n, input, weight, bias, groups, transposed=True)
    strides, dilations, around = (
        ntuple(stride, n, "stride"),
        ntuple(dilation, n, "dilation"),
        ntuple(padding, n, "padding"),
    )
    extra = ntuple(output_padding, n, "output_padding")
    if min(strides) < 1 or min(dilations) < 1 or min(around) < 0:
        raise RuntimeError("non-positive stride or dilation, or negative padding is not supported")
    if any(e >= max(s, d) for e, s, d in zip(extra, strides, dilations)):
        raise RuntimeError(
            f"output padding must be smaller than either stride or dilation, but got output_padding: {list(extra)}, stride: {list(strides)}, dilation: {list(dilations)}"
        )
    x = input.unsqueeze(0) if unbatched else input
    # Less cut off at the end is what output_padding means; where nothing is cut off, zeros are put there.
    end = tuple(max(0, p - e) for p, e in zip(around, extra))
    more = tuple(max(0, e - p) for p, e in zip(around, extra))
    options = {
        "strides": strides,
        "pads": around + end,
        "dilations": dilations,
        "group": groups,
        "kernel_shape": tuple(weight._data.shape[2:]),
    }
    if any(more):
        found = ops.Pad(ops.ConvTranspose(x, weight, **options), axes_input((0,) * (n + 4) + more))
        found = found if bias is None else ops.Add(found, bias.reshape(1, -1, *(1,) * n))
    else:
        found = ops.ConvTranspose(x, weight, bias, **options)
    return found.squeeze(0) if unbatched else found


def conv_transpose1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Tensor:
    """Transposed convolution of [N, C, L] with weight [C, M / groups, k]."""
    return _transposed(1, input, weight, bias, stride, padding, output_padding, groups, dilation)


def conv_transpose2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Tensor:
    """Transposed convolution of [N, C, H, W] with weight [C, M / groups, kH, kW]."""
    return _transposed(2, input, weight, bias, stride, padding, output_padding, groups, dilation)


def conv_transpose3d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Tensor:
    """Transposed convolution of [N, C, D, H, W] with weight [C, M / groups, kD, kH, kW]."""
    return _transposed(3, input, weight, bias, stride, padding, output_padding, groups, dilation)


def _windows(
    height: int, width: int, kernel: Any, dilation: Any, padding: Any, stride: Any
) -> tuple[np.ndarray, tuple[int, int], tuple[int, int]]:
    """For each kernel cell (rows) and window (columns) the flat place in the padded image."""
    (kh, kw), (dh, dw), (ph, pw), (sh, sw) = (ntuple(v, 2) for v in (kernel, dilation, padding, stride))
    full = (height + 2 * ph, width + 2 * pw)
    counts = ((full[0] - dh * (kh - 1) - 1) // sh + 1, (full[1] - dw * (kw - 1) - 1) // sw + 1)
    if min(counts) < 1:
        raise RuntimeError(
            f"Given input with spatial size ({height}, {width}), calculated shape of the array of sliding blocks as ({counts[0]}, {counts[1]}), but its components must be at least one."
        )
    rows = (np.arange(kh) * dh)[:, None, None, None] + (np.arange(counts[0]) * sh)[None, None, :, None]
    columns = (np.arange(kw) * dw)[None, :, None, None] + (np.arange(counts[1]) * sw)[None, None, None, :]
    places = (rows * full[1] + columns).reshape(kh * kw, counts[0] * counts[1])
    return places.astype(np.int64), full, (ph, pw)


def unfold(input: Tensor, kernel_size: Any, dilation: Any = 1, padding: Any = 0, stride: Any = 1) -> Tensor:
    """Windows of [N, C, H, W] as columns: [N, C * kH * kW, windows]."""
    if input._data.ndim not in (3, 4):
        raise RuntimeError(
            f"Expected 3D or 4D (batch mode) tensor for input with possibly 0 batch size and non-zero dimensions for input, but got: {list(input.shape)}"
        )
    x = input if input._data.ndim == 4 else input.unsqueeze(0)
    n, c, h, w = x.shape
    places, full, (ph, pw) = _windows(h, w, kernel_size, dilation, padding, stride)
    if ph or pw:
        x = ops.Pad(x, np.array([0, 0, ph, pw, 0, 0, ph, pw], np.int64))
    found = ops.Gather(x.reshape(n, c, full[0] * full[1]), places, axis=2).reshape(
        n, c * places.shape[0], places.shape[1]
    )
    return found if input._data.ndim == 4 else found.squeeze(0)


def fold(
    input: Tensor, output_size: Any, kernel_size: Any, dilation: Any = 1, padding: Any = 0, stride: Any = 1
) -> Tensor:
    """The reverse of unfold; overlapping windows add up."""
    if input._data.ndim not in (2, 3):
        raise RuntimeError(
            f"Expected 2D or 3D (batch mode) tensor for input with possibly 0 batch size and non-zero dimensions for input, but got: {list(input.shape)}"
        )
    x = input if input._data.ndim == 3 else input.unsqueeze(0)
    h, w = ntuple(output_size, 2)
    places, full, (ph, pw) = _windows(h, w, kernel_size, dilation, padding, stride)
    n, rows, columns = x.shape
    if rows % places.shape[0] or columns != places.shape[1]:
        raise RuntimeError(
            f"Given output_size=({h}, {w}), expected input's sizes to be a multiple of {places.shape[0]} and {places.shape[1]}, but got {rows} and {columns}"
        )
    c = rows // places.shape[0]
    from headrace.functional.creation import new_zeros
    from headrace.tensors import wrap

    blank = new_zeros(x, (n, c, full[0] * full[1]))
    found = blank.index_add(2, wrap(places.reshape(-1)), x.reshape(n, c, -1))
    found = found.reshape(n, c, *full)[:, :, ph : ph + h, pw : pw + w]
    return found if input._data.ndim == 3 else found.squeeze(0)


__all__ = [name for name in exported(globals()) if name != "ntuple"]
