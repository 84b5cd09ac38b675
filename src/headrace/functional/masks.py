"""Elements by mask, triangles, diagonals and windows."""

from __future__ import annotations

from typing import Any

import numpy as np

from headrace import scalar_types
from headrace.autograd.tape import ops
from headrace.functional.base import (
    axes_input,
    both,
    category,
    function,
    inplace,
    method,
)
from headrace.functional.indexing import getitem
from headrace.functional.logic import truth
from headrace.functional.shape import copy_of, expand, ravel, reshape, slice_axes
from headrace.tensors import Tensor, check_dim, wrap


@both
def masked_select(input: Tensor, mask: Tensor) -> Tensor:
    """The elements where mask holds, as a vector."""
    if category(mask):
        raise RuntimeError("masked_select: expected BoolTensor for mask")
    shape = np.broadcast_shapes(input._data.shape, mask._data.shape)
    x, m = expand(input, *shape), expand(mask, *shape)
    if not shape:
        x, m = reshape(x, (1,)), reshape(m, (1,))
    return getitem(x, m)


@inplace
def masked_scatter(input: Tensor, mask: Tensor, source: Tensor) -> Tensor:
    """The elements where mask holds replaced by those of `source`, in order."""
    if category(mask):
        raise RuntimeError("masked_scatter_ only supports boolean masks")
    if input.dtype is not source.dtype:
        raise RuntimeError("masked_scatter: expected self and source to have same dtypes")
    shape = np.broadcast_shapes(input._data.shape, mask._data.shape)
    x, m = expand(input, *shape), np.broadcast_to(mask.detach().numpy(), shape)
    count = int(m.sum())
    if count > source._data.size:
        raise RuntimeError(
            "masked_scatter: expected the number of elements in source to be at least the number of ones in mask"
        )
    places = np.where(m.reshape(-1), np.cumsum(m.reshape(-1)) - 1, 0).astype(np.int64)
    if not source._data.size:
        return copy_of(x)
    spread = reshape(ops.Gather(ravel(source) if source._data.ndim else reshape(source, (1,)), places, axis=0), shape)
    return ops.Where(np.ascontiguousarray(m), spread, x)


@both
def nonzero(input: Tensor, *, as_tuple: bool = False) -> Any:
    """Places of the elements that are not 0: rows of indices, or one index vector for each dimension."""
    if type(input._data) is np.ndarray:
        found = np.nonzero(np.atleast_1d(input._data)) if as_tuple or input._data.ndim else ()
        if as_tuple:
            return tuple(wrap(v.astype(np.int64)) for v in found)
        if not input._data.ndim:
            return wrap(np.zeros((int(bool(input._data)), 0), np.int64))
        return wrap(np.stack(found, -1).astype(np.int64))
    rows = ops.NonZero(truth(input))
    if as_tuple:
        return tuple(
            ops.Squeeze(slice_axes(rows, [(0, i, i + 1, 1)]), axes_input((0,))) for i in range(input._data.ndim)
        )
    return ops.Transpose(rows, perm=(1, 0))


@both
def argwhere(input: Tensor) -> Tensor:
    """Rows of indices of the elements that are not 0."""
    return nonzero(input)


def _triangle(input: Tensor, diagonal: int, upper: int) -> Tensor:
    if input._data.ndim < 2:
        raise RuntimeError(f"{'triu' if upper else 'tril'}: input tensor must have at least 2 dimensions")
    if type(input._data) is np.ndarray and category(input) == 0:
        return wrap((np.triu if upper else np.tril)(input._data, diagonal))
    return ops.Trilu(input, np.asarray(diagonal, np.int64), upper=upper)


@inplace
def tril(input: Tensor, diagonal: int = 0) -> Tensor:
    """The lower triangle; 0 above."""
    return _triangle(input, diagonal, 0)


@inplace
def triu(input: Tensor, diagonal: int = 0) -> Tensor:
    """The upper triangle; 0 below."""
    return _triangle(input, diagonal, 1)


def _triangle_indices(places: Any, row: int, col: int, offset: int, dtype: Any) -> Tensor:
    if row < 0 or col < 0:
        raise RuntimeError("row and col must be non-negative")
    found = np.stack(places(row, offset, col)).astype((dtype or scalar_types.int64).numpy)
    return wrap(found)


@function
def tril_indices(
    row: int, col: int, offset: int = 0, *, dtype: Any = None, device: Any = None, layout: Any = None
) -> Tensor:
    """Row and column numbers of a lower triangle."""
    return _triangle_indices(np.tril_indices, row, col, offset, dtype)


@function
def triu_indices(
    row: int, col: int, offset: int = 0, *, dtype: Any = None, device: Any = None, layout: Any = None
) -> Tensor:
    """Row and column numbers of an upper triangle."""
    return _triangle_indices(np.triu_indices, row, col, offset, dtype)


@both
def diag(input: Tensor, diagonal: int = 0) -> Tensor:
    """The diagonal of a matrix, or a matrix with this diagonal."""
    if input._data.ndim not in (1, 2):
        raise RuntimeError(f"diag(): Supports 1D or 2D tensors. Got {input._data.ndim}D")
    from headrace.functional.shape import diagonal as diagonal_of

    return diag_embed(input, diagonal) if input._data.ndim == 1 else diagonal_of(input, diagonal)


@both
def diag_embed(input: Tensor, offset: int = 0, dim1: int = -2, dim2: int = -1) -> Tensor:
    """Matrices whose diagonals are the last dimension."""
    from headrace.functional.shape import movedim

    if input._data.ndim == 0:
        raise RuntimeError("diag_embed: input must have at least 1 dimension")
    rank = input._data.ndim + 1
    a, b = check_dim(dim1, rank), check_dim(dim2, rank)
    if a == b:
        raise RuntimeError(f"diagonal dimensions cannot be identical {dim1}, {dim2}")
    n = input._data.shape[-1]
    size = n + abs(offset)
    places = np.full((size, size), n, np.int64)  # n: the column of zeros put behind the diagonal
    steps = np.arange(n)
    places[steps + max(-offset, 0), steps + max(offset, 0)] = steps
    padded = ops.Concat(
        input, expand(wrap(np.zeros((), input._data.dtype)), *tuple(input.shape)[:-1], 1), axis=rank - 2
    )
    return movedim(ops.Gather(padded, places, axis=rank - 2), (-2, -1), (a, b))


@both
def trace(input: Tensor) -> Tensor:
    """The sum of a matrix's diagonal."""
    from headrace.functional.reduction import sum_
    from headrace.functional.shape import diagonal

    if input._data.ndim != 2:
        raise RuntimeError("trace: expected a matrix")
    return sum_(diagonal(input))


@method
def unfold(self: Tensor, dimension: int, size: int, step: int) -> Tensor:
    """Windows along a dimension, as a new last dimension."""
    axis = check_dim(dimension, self._data.ndim)
    x = reshape(self, (1,)) if self._data.ndim == 0 else self
    length = x._data.shape[axis]
    if size < 0 or size > length:
        raise RuntimeError(f"maximum size for tensor at dimension {axis} is {length} but size is {size}")
    if step <= 0:
        raise RuntimeError(f"step is {step} but must be > 0")
    places = np.arange(0, length - size + 1, step, dtype=np.int64)[:, None] + np.arange(size, dtype=np.int64)
    from headrace.functional.shape import movedim

    found = movedim(ops.Gather(x, places, axis=axis), axis + 1, -1)
    return found if self._data.ndim else reshape(found, (size,))
