"""torch.signal: window functions."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

import headrace.functional  # noqa: F401  attaches the tensor methods
from headrace import scalar_types
from headrace.tensors import Tensor, wrap


def _cosine(alpha: float, M: int, sym: bool, dtype: Any, requires_grad: bool) -> Tensor:
    if M < 0:
        raise ValueError(f"requires non-negative window length, got M={M}")
    if dtype is not None and not dtype.is_floating_point:
        raise ValueError(f"expects floating point dtypes, got: {dtype}")
    count = M - 1 if sym else M
    values = np.ones(M) if count < 1 else alpha - (1 - alpha) * np.cos(2 * np.pi * np.arange(M) / count)
    found = wrap(values.astype((dtype or scalar_types.get_default_dtype()).numpy))
    return found.requires_grad_() if requires_grad else found


def hann(
    M: int, *, sym: bool = True, dtype: Any = None, layout: Any = None, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """1/2 - cos / 2."""
    return _cosine(0.5, M, sym, dtype, requires_grad)


def hamming(
    M: int, *, sym: bool = True, dtype: Any = None, layout: Any = None, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """0.54 - 0.46 cos."""
    return _cosine(0.54, M, sym, dtype, requires_grad)


windows = SimpleNamespace(hann=hann, hamming=hamming)
