"""Scaled dot-product attention."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from headrace.autograd.tape import ops
from headrace.functional.base import category, scalar
from headrace.functional.exports import exported
from headrace.nn.functional.dropping import dropout
from headrace.tensors import Tensor, wrap


def scaled_dot_product_attention(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0, is_causal: bool = False,
    scale: float | None = None, enable_gqa: bool = False,
) -> Tensor:  # fmt: skip
    """softmax(query @ key^T * scale + mask) @ value over the last two dimensions; a truth mask says what may be seen."""
    if is_causal and attn_mask is not None:
        raise RuntimeError("_scaled_dot_product_attention: Explicit attn_mask should not be set when is_causal=True")
    if query._data.ndim < 2 or query.dtype is not key.dtype or query.dtype is not value.dtype:
        raise RuntimeError("Expected query, key, and value to have the same dtype and at least 2 dimensions")
    factor = 1.0 / math.sqrt(query._data.shape[-1]) if scale is None else scale
    if enable_gqa:
        key, value = (t.repeat_interleave(query._data.shape[-3] // t._data.shape[-3], -3) for t in (key, value))
    scores = ops.MatMul(ops.Mul(query, scalar(factor, query)), key.transpose(-2, -1))
    weights = ops.Softmax(_masked(scores, attn_mask, is_causal), axis=-1)
    if attn_mask is not None and category(attn_mask) == 0:
        blind = ops.Not(attn_mask.any(-1, keepdim=True))
        weights = ops.Where(blind, scalar(0, weights), weights)  # a row that may see nothing gives zeros
    if dropout_p > 0.0:
        weights = dropout(weights, dropout_p)
    return ops.MatMul(weights, value)


def _masked(scores: Tensor, mask: Any, is_causal: bool) -> Tensor:
    if is_causal:
        from headrace.functional.creation import ones
        from headrace.scalar_types import bool_

        rows, columns = scores.shape[-2:]
        full = ones(rows, columns, dtype=bool_)
        mask = wrap(np.tril(full._data)) if type(full._data) is np.ndarray else full.tril()
    if mask is None:
        return scores
    if category(mask) == 0:
        return ops.Where(mask, scores, scalar(-math.inf, scores))
    return ops.Add(scores, mask)


__all__ = exported(globals())
