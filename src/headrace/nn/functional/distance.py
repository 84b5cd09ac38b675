"""Distances and similarities of vectors."""

from __future__ import annotations

from headrace.autograd.tape import ops
from headrace.functional.arithmetic import add
from headrace.functional.base import FUNCTIONS, axes_input, axes_of, scalar
from headrace.functional.exports import exported
from headrace.functional.reduction import vector_norm
from headrace.functional.shape import broadcast_tensors
from headrace.tensors import Tensor


def cosine_similarity(x1: Tensor, x2: Tensor, dim: int = 1, eps: float = 1e-8) -> Tensor:
    """x1 . x2 / max(|x1| |x2|, eps) along a dimension."""
    if x1.dtype.category < 2 or x2.dtype.category < 2:
        raise RuntimeError("expected common dtype to be floating point, yet common dtype is " + str(x1.dtype))
    a, b = broadcast_tensors(x1, x2)
    axes = axes_of(dim, a._data.ndim)
    floor = scalar(eps, a)
    left = ops.Div(a, ops.Max(vector_norm(a, 2, dim, keepdim=True), floor))
    right = ops.Div(b, ops.Max(vector_norm(b, 2, dim, keepdim=True), floor))
    return ops.ReduceSum(ops.Mul(left, right), axes_input(axes), keepdims=0)


def pairwise_distance(x1: Tensor, x2: Tensor, p: float = 2.0, eps: float = 1e-6, keepdim: bool = False) -> Tensor:
    """The p-norm of x1 - x2 + eps along the last dimension."""
    gap = add(x1 - x2, eps)
    return vector_norm(gap, p, gap._data.ndim - 1 if gap._data.ndim else None, keepdim)


def pdist(input: Tensor, p: float = 2.0) -> Tensor:
    """p-norm distances of all pairs of rows, each pair once."""
    import numpy as np

    rows, columns = np.triu_indices(input._data.shape[0], 1)
    gap = ops.Gather(input, rows.astype(np.int64), axis=0) - ops.Gather(input, columns.astype(np.int64), axis=0)
    return vector_norm(gap, p, 1)


FUNCTIONS["cosine_similarity"], FUNCTIONS["pairwise_distance"], FUNCTIONS["pdist"] = (
    cosine_similarity,
    pairwise_distance,
    pdist,
)
__all__ = exported(globals())
