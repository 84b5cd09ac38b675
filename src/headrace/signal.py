"""torch.signal: window functions."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

import headrace.functional  # noqa: F401  attaches the tensor methods
from headrace import scalar_types
from headrace.layouts import strided
from headrace.tensors import Tensor, wrap


def cosine_window(alpha: float, M: int, sym: bool, dtype: Any, layout: Any, requires_grad: bool) -> Tensor:
    """alpha - (1 - alpha) cos over M samples; without `sym`, the first M of M + 1."""
    if M < 0:
        raise ValueError(f"requires non-negative window length, got M={M}")
    if dtype is not None and dtype not in (scalar_types.float32, scalar_types.float64):
        raise ValueError(f"expects float32 or float64 dtypes, got: {dtype}")
    if layout not in (None, strided):
        raise ValueError(f"is implemented for strided tensors only, got: {layout}")
    count = M - 1 if sym else M
    values = np.ones(M) if M <= 1 else alpha - (1 - alpha) * np.cos(2 * np.pi * np.arange(M) / count)
    found = wrap(values.astype((dtype or scalar_types.get_default_dtype()).numpy))
    return found.requires_grad_() if requires_grad else found


def hann(
    M: int, *, sym: bool = True, dtype: Any = None, layout: Any = None, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """1/2 - cos / 2."""
    return cosine_window(0.5, M, sym, dtype, layout, requires_grad)


def hamming(
    M: int, *, sym: bool = True, dtype: Any = None, layout: Any = None, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """0.54 - 0.46 cos."""
    return cosine_window(0.54, M, sym, dtype, layout, requires_grad)


windows = SimpleNamespace(hann=hann, hamming=hamming)
