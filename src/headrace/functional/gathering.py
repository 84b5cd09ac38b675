"""Elements read and written by number along a dimension."""

from __future__ import annotations

from typing import Any

import numpy as np

from headrace import scalar_types
from headrace.autograd.tape import ops
from headrace.functional.base import (
    both,
    cast,
    category,
    inplace,
    is_symbolic,
    method,
)
from headrace.functional.indexing import _check_range
from headrace.functional.shape import copy_of, expand, ravel, reshape, slice_axes
from headrace.tensors import Tensor, check_dim, wrap


def _check_index(index: Tensor, what: str) -> Tensor:
    if isinstance(index, Tensor) and not index._data.size and type(index._data) is np.ndarray:
        return wrap(index._data.astype(np.int64))
    if not isinstance(index, Tensor) or index.dtype not in (scalar_types.int64, scalar_types.int32):
        raise RuntimeError(f"{what}(): Expected dtype int64 for index")
    return index if index.dtype is scalar_types.int64 else cast(index, scalar_types.int64)


@both
def gather(input: Tensor, dim: int, index: Tensor, *, sparse_grad: bool = False) -> Tensor:
    """out[i][j] = input[index[i][j]][j] (dim 0)."""
    axis, index = check_dim(dim, input._data.ndim), _check_index(index, "gather")
    return _scalars(lambda x, i: _gather(x, i, axis), input, index)


def _gather(x: Tensor, index: Tensor, axis: int) -> Tensor:
    if type(index._data) is np.ndarray and not index._data.size:
        return ops.Gather(reshape(x, (-1,)), index, axis=0)  # nothing, in the shape of the index
    if index._data.ndim != x._data.ndim:
        raise RuntimeError("Index tensor must have the same number of dimensions as input tensor")
    for i, (d, e) in enumerate(zip(index._data.shape, x._data.shape)):
        if i != axis and not is_symbolic(d) and not is_symbolic(e) and d > e:
            raise RuntimeError(
                f"Size does not match at dimension {i} expected index {list(index.shape)} to be no larger than self {list(x.shape)} apart from dimension {axis}"
            )
    _no_negative(index, x._data.shape[axis], axis)
    return ops.GatherElements(_shrunk(x, index, axis), index, axis=axis)


def _shrunk(x: Tensor, index: Tensor, axis: int) -> Tensor:
    """x cut to the sizes of the index in every other dimension."""
    parts = [
        (i, 0, d, 1)
        for i, (d, e) in enumerate(zip(index._data.shape, x._data.shape))
        if i != axis and not is_symbolic(d) and not is_symbolic(e) and d < e
    ]
    return slice_axes(x, parts) if parts else x


def _no_negative(index: Tensor, size: Any, axis: int) -> None:
    data = index._data
    if type(data) is np.ndarray and not is_symbolic(size) and data.size and (data.min() < 0 or data.max() >= size):
        raise RuntimeError(
            f"index {data.min() if data.min() < 0 else data.max()} is out of bounds for dimension {axis} with size {size}"
        )


def _scalars(call: Any, *tensors: Any) -> Tensor:
    """Run with 0-d tensors made 1-d; the result takes the rank of the last."""
    if all(t._data.ndim for t in tensors):
        return call(*tensors)
    found = call(*(reshape(t, (1,)) if t._data.ndim == 0 else t for t in tensors))
    return (
        reshape(found, ())
        if any(t._data.ndim == 0 for t in tensors)
        and found._data.size == 1
        and (tensors[0]._data.ndim == 0 if len(tensors) > 2 else tensors[-1]._data.ndim == 0)
        else found
    )


@both
def take_along_dim(input: Tensor, indices: Tensor, dim: int | None = None) -> Tensor:
    """gather with broadcasting."""
    if indices.dtype is not scalar_types.int64:
        raise RuntimeError(f"torch.take_along_dim(): dtype of indices should be Long but got {indices.dtype}")
    if dim is None:
        return gather(ravel(input), 0, ravel(indices))
    if input._data.ndim != indices._data.ndim:
        raise RuntimeError(
            f"torch.take_along_dim(): input and indices should have the same number of dimensions, but got {input._data.ndim} dimensions for input, and {indices._data.ndim} dimensions for indices"
        )
    axis = check_dim(dim, input._data.ndim)
    shape = [max(a, b) if i != axis else -1 for i, (a, b) in enumerate(zip(input._data.shape, indices._data.shape))]
    _check_range(indices, input._data.shape[axis], axis)
    return ops.GatherElements(expand(input, *shape), expand(indices, *shape), axis=axis)


@both
def take(input: Tensor, index: Tensor) -> Tensor:
    """Elements by their place in the flattened tensor."""
    index = _check_index(index, "take")
    flat = ravel(input) if input._data.ndim else reshape(input, (1,))
    _check_range(index, flat._data.shape[0], 0)
    return ops.Gather(flat, index, axis=0)


@method
def put(self: Tensor, index: Tensor, source: Tensor, accumulate: bool = False) -> Tensor:
    """Elements written by their place in the flattened tensor."""
    index = _check_index(index, "put_")
    if self.dtype is not source.dtype:
        raise RuntimeError(
            f"put_(): self and source expected to have the same dtype, but got self.dtype = {self.dtype} and source.dtype = {source.dtype}"
        )
    if index._data.size != source._data.size:
        raise RuntimeError("put_(): Expected source and index to have the same number of elements")
    flat = reshape(self, (-1,)) if self._data.size else self
    if not index._data.size:
        return copy_of(self)
    _check_range(index, flat._data.shape[0], 0)
    found = ops.ScatterND(
        flat, reshape(index, (-1, 1)), reshape(source, (-1,)), **({"reduction": "add"} if accumulate else {})
    )
    return reshape(found, tuple(self.shape))


inplace(put)


@both
def index_select(input: Tensor, dim: int, index: Tensor) -> Tensor:
    """Rows (of dimension dim) by number."""
    if index._data.ndim > 1:
        raise IndexError("index_select(): Index is supposed to be a vector")
    axis, index = check_dim(dim, input._data.ndim), _check_index(index, "index_select")
    if input._data.ndim == 0:
        return reshape(ops.Gather(reshape(input, (1,)), reshape(index, (-1,)), axis=0), ())
    _check_range(index, input._data.shape[axis], axis)
    return ops.Gather(input, reshape(index, (-1,)), axis=axis)


def _rows(index: Tensor, source: Tensor, axis: int, rank: int) -> Tensor:
    """An index vector stretched to the shape of `source`, for operators that index element by element."""
    lined = reshape(index, tuple(-1 if i == axis else 1 for i in range(rank)))
    return expand(lined, *source.shape)


def _index_write(name: str, x: Tensor, dim: int, index: Tensor, source: Tensor, **how: Any) -> Tensor:
    axis, index = check_dim(dim, x._data.ndim), _check_index(index, name)
    if index._data.ndim > 1:
        raise IndexError(f"{name}(): Index is supposed to be a vector")
    if source.dtype is not x.dtype:
        raise RuntimeError(f"{name}(): self ({x.dtype}) and source ({source.dtype}) must have the same scalar type")
    if x._data.ndim == 0:
        return reshape(
            _index_write(name, reshape(x, (1,)), 0, reshape(index, (-1,)), reshape(source, (-1,)), **how), ()
        )
    if source._data.ndim == 0:
        source = reshape(source, (1,) * x._data.ndim)
    index = reshape(index, (-1,))
    if source._data.ndim != x._data.ndim or source._data.shape[axis] != index._data.shape[0]:
        raise IndexError(
            f"{name}(): Number of indices ({index.numel()}) should be equal to source.size(dim) for source of shape {list(source.shape)}"
        )
    _check_range(index, x._data.shape[axis], axis)
    return ops.ScatterElements(x, _rows(index, source, axis, x._data.ndim), source, axis=axis, **how)


@inplace
def index_add(input: Tensor, dim: int, index: Tensor, source: Tensor, *, alpha: Any = 1) -> Tensor:
    """alpha * source added to rows by number."""
    if alpha != 1:
        from headrace.functional.arithmetic import mul

        source = mul(source, alpha)
    return _index_write("index_add_", input, dim, index, source, reduction="add")


@inplace
def index_copy(input: Tensor, dim: int, index: Tensor, source: Tensor) -> Tensor:
    """source written to rows by number."""
    return _index_write("index_copy_", input, dim, index, source)


@inplace
def index_fill(input: Tensor, dim: int, index: Tensor, value: Any) -> Tensor:
    """A number written to rows by number."""
    axis = check_dim(dim, input._data.ndim)
    if isinstance(value, Tensor) and value._data.ndim:
        raise RuntimeError(
            f"index_fill_ only supports a 0-dimensional value tensor, but got tensor with {value._data.ndim} dimension(s)."
        )
    if isinstance(index, Tensor) and index._data.ndim > 1:
        raise IndexError("index_fill_(): Index is supposed to be a vector")
    x = reshape(input, (1,)) if input._data.ndim == 0 else input
    index = reshape(_check_index(index, "index_fill_"), (-1,))
    _check_range(index, x._data.shape[axis], axis)
    number = cast(value, x.dtype) if isinstance(value, Tensor) else wrap(np.asarray(value, x._data.dtype))
    # A mask, because an index that comes twice names its row once (also for the gradient of `value`).
    rows = expand(wrap(np.zeros((), np.int64)), x.shape[axis])
    rows = ops.ScatterElements(rows, index, expand(wrap(np.ones((), np.int64)), *index.shape))
    mask = reshape(cast(rows, scalar_types.bool_), tuple(-1 if i == axis else 1 for i in range(x._data.ndim)))
    return reshape(ops.Where(mask, number, x), tuple(input.shape))


def _scatter(name: str, input: Tensor, dim: int, index: Tensor, src: Any, **how: Any) -> Tensor:
    axis, index = check_dim(dim, input._data.ndim), _check_index(index, name)
    if not isinstance(src, Tensor):
        src = expand(wrap(np.asarray(src, input._data.dtype)), *index.shape)
    if src.dtype is not input.dtype:
        raise RuntimeError(f"{name}(): Expected self.dtype to be equal to src.dtype")
    if not index._data.size:
        return copy_of(input)
    ranks = {t._data.ndim or 1 for t in (input, index, src)}
    if len(ranks) > 1:
        raise RuntimeError("Index tensor must have the same number of dimensions as self tensor")
    if input._data.ndim == 0:
        return reshape(_scatter(name, reshape(input, (1,)), 0, reshape(index, (-1,)), reshape(src, (-1,)), **how), ())
    index, src = (reshape(t, (1,)) if t._data.ndim == 0 else t for t in (index, src))
    for i, d in enumerate(index._data.shape):
        if d > src._data.shape[i] or (i != axis and d > input._data.shape[i]):
            raise RuntimeError(
                f"Expected index {list(index.shape)} to be no larger than self {list(input.shape)} apart from dimension {axis} and to be no larger size than src {list(src.shape)}"
            )
    _no_negative(index, input._data.shape[axis], axis)
    parts = [(i, 0, d, 1) for i, d in enumerate(index._data.shape) if d < src._data.shape[i]]
    if parts:
        src = slice_axes(src, parts)
    return ops.ScatterElements(input, index, src, axis=axis, **how)


@inplace
def scatter(
    input: Tensor, dim: int, index: Tensor, src: Any = None, *, value: Any = None, reduce: str | None = None
) -> Tensor:
    """out[index[i][j]][j] = src[i][j] (dim 0)."""
    how = {} if reduce is None else {"reduction": {"add": "add", "multiply": "mul"}[reduce]}
    return _scatter("scatter", input, dim, index, src if value is None else value, **how)


@inplace
def scatter_add(input: Tensor, dim: int, index: Tensor, src: Tensor) -> Tensor:
    """out[index[i][j]][j] += src[i][j] (dim 0)."""
    return _scatter("scatter_add", input, dim, index, src, reduction="add")


@inplace
def scatter_reduce(
    input: Tensor, dim: int, index: Tensor, src: Tensor, reduce: str, *, include_self: bool = True
) -> Tensor:
    """src folded into the places that index names: sum, prod, mean, amax, amin."""
    names = {"sum": "add", "prod": "mul", "mean": "add", "amax": "max", "amin": "min"}
    if reduce not in names:
        raise RuntimeError(f"reduce argument must be either sum, prod, mean, amax or amin, got {reduce}")
    x = input
    if not include_self:
        neutral = {
            "sum": 0,
            "mean": 0,
            "prod": 1,
            "amax": _lowest(x),
            "amin": -_lowest(x) if category(x) >= 2 else np.iinfo(x._data.dtype).max,
        }[reduce]
        x = _scatter("scatter_reduce", x, dim, index, wrap(np.full(index._data.shape, neutral, x._data.dtype)))
    found = _scatter("scatter_reduce", x, dim, index, src, reduction=names[reduce])
    if reduce != "mean":
        return found
    ones = wrap(np.ones(src._data.shape, x._data.dtype))
    start = wrap(np.full(x._data.shape, int(include_self), x._data.dtype))
    count = _scatter("scatter_reduce", start, dim, index, ones, reduction="add")
    from headrace.functional.arithmetic import div
    from headrace.functional.binary import clamp_min

    return div(found, clamp_min(count, 1), rounding_mode=None if category(x) >= 2 else "floor")


def _lowest(x: Tensor) -> Any:
    return -np.inf if category(x) >= 2 else np.iinfo(x._data.dtype).min
