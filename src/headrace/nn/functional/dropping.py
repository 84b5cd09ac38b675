"""Dropout: elements or whole channels set to zero at random while training."""

from __future__ import annotations

from typing import Any

import numpy as np

from headrace.autograd.tape import adopt, ops
from headrace.functional.base import shadow
from headrace.functional.exports import exported
from headrace.generators import stream
from headrace.tensors import Tensor


def _drop(input: Tensor, p: float, training: bool, inplace: bool, shape: tuple[int, ...]) -> Tensor:
    if not 0.0 <= p <= 1.0:
        raise ValueError(f"dropout probability has to be between 0 and 1, but got {p}")
    if not training or p == 0.0:
        return input
    if type(input._data) is not np.ndarray:
        input._data.refuse("dropout in training mode; call model.eval() before the trace")
    dtype = input._data.dtype
    if p == 1.0:
        mask: Any = np.zeros(shape, dtype)
    else:
        mask = np.asarray(np.asarray(stream().random(shape, np.float32) >= p, dtype) * dtype.type(1.0 / (1.0 - p)))
    return adopt(input, ops.Mul(shadow(input), mask)) if inplace else ops.Mul(input, mask)


def dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Each element is 0 with probability p, else scaled by 1 / (1 - p)."""
    return _drop(input, p, training, inplace, input._data.shape)


def _drop_channels(input: Tensor, p: float, training: bool, inplace: bool, spatial: int) -> Tensor:
    rank = input._data.ndim
    lead = 2 if rank == spatial + 2 or rank != spatial + 1 else 1
    return _drop(input, p, training, inplace, (*input._data.shape[:lead], *(1,) * (rank - lead)))


def dropout1d(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Whole channels of [N, C, L] or [C, L]."""
    if input._data.ndim not in (2, 3):
        raise RuntimeError(f"dropout1d: Expected 2D or 3D input, but received a {input._data.ndim}D input.")
    return _drop_channels(input, p, training, inplace, 1)


def dropout2d(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Whole channels of [N, C, H, W]."""
    return _drop(input, p, training, inplace, (*input._data.shape[:2], *(1,) * max(0, input._data.ndim - 2)))


def dropout3d(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Whole channels of [N, C, D, H, W] or [C, D, H, W]."""
    return _drop_channels(input, p, training, inplace, 3)


feature_dropout = dropout2d


def alpha_dropout(input: Tensor, p: float = 0.5, training: bool = False, inplace: bool = False) -> Tensor:
    """Dropout that keeps mean and variance of SELU networks."""
    if not 0.0 <= p <= 1.0:
        raise ValueError(f"dropout probability has to be between 0 and 1, but got {p}")
    if not training or p == 0.0:
        return input
    if p == 1.0:
        return input * 0.0
    low = -1.7580993408473766
    keep = stream().random(input._data.shape) >= p
    a = ((1 - p) * (1 + p * low**2)) ** -0.5
    dtype = input._data.dtype
    scale, shift = (keep * a).astype(dtype), (np.where(keep, 0, low * a) - a * low * p).astype(dtype)
    found = ops.Add(ops.Mul(input, scale), shift)
    return adopt(input, found) if inplace else found


__all__ = exported(globals())
