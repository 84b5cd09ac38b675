"""Gradients made smaller, in place."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from headrace.tensors import Tensor, wrap


def _gradients(parameters: Any) -> list[Tensor]:
    given = [parameters] if isinstance(parameters, Tensor) else list(parameters)
    return [p._grad for p in given if p._grad is not None]


def get_total_norm(
    tensors: Iterable[Tensor], norm_type: float = 2.0, error_if_nonfinite: bool = False, foreach: bool | None = None
) -> Tensor:
    """The norm of all tensors together."""
    given = [t._data for t in tensors]
    if not given:
        return wrap(np.zeros((), np.float32))
    if norm_type == math.inf:
        total = np.max([np.abs(g).max() for g in given])
    else:
        norms = [np.linalg.norm(g.reshape(-1), norm_type) for g in given]
        total = np.linalg.norm(np.array(norms), norm_type)
    if error_if_nonfinite and not np.isfinite(total):
        raise RuntimeError(
            f"The total norm of order {norm_type} for gradients from `parameters` is non-finite, so it cannot be clipped."
        )
    return wrap(np.asarray(total, given[0].dtype))


def clip_grad_norm_(
    parameters: Any,
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
) -> Tensor:
    """Scale all gradients so that their joint norm is at most max_norm; answers the norm before."""
    gradients = _gradients(parameters)
    total = get_total_norm(gradients, norm_type, error_if_nonfinite)
    factor = float(max_norm) / (float(total._data) + 1e-6)
    if not factor >= 1:
        for g in gradients:
            g._data *= g._data.dtype.type(factor)
            g._storage.version += 1
    return total


def clip_grad_value_(parameters: Any, clip_value: float, foreach: bool | None = None) -> None:
    """Limit every element of every gradient to [-clip_value, clip_value]."""
    for g in _gradients(parameters):
        np.clip(g._data, -clip_value, clip_value, out=g._data)
        g._storage.version += 1
