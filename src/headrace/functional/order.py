"""Order: sorting, the largest, ranks, places in sorted sequences, distinct values, quantiles."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from headrace import scalar_types
from headrace.autograd.tape import ops
from headrace.functional.base import both, category, function, named_tuple, recorded, scalar
from headrace.functional.shape import reshape
from headrace.tensors import Tensor, check_dim, wrap

sort_type = named_tuple("sort", "values indices")
topk_type = named_tuple("topk", "values indices")


def _comparable(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float32) if array.dtype.kind == "V" else array


def _order(x: Tensor, axis: int, descending: bool, stable: bool = True) -> np.ndarray:
    """Indices that sort; equal elements keep their order; NaN counts as the largest."""
    data = _comparable(x.detach().numpy())
    if not descending:
        return np.argsort(data, axis=axis, kind="stable")
    back = np.flip(data, axis)
    return data.shape[axis] - 1 - np.flip(np.argsort(back, axis=axis, kind="stable"), axis)


def _picked(x: Tensor, places: np.ndarray, axis: int) -> Tensor:
    return ops.GatherElements(x, np.ascontiguousarray(places, np.int64), axis=axis)


@both
def sort(input: Tensor, dim: int = -1, descending: bool = False, stable: bool = False) -> Any:
    """(values, indices) in order along a dimension. Always stable."""
    axis = check_dim(dim, input._data.ndim)
    if input._data.ndim == 0:
        return sort_type(input.clone(), wrap(np.zeros((), np.int64)))
    if type(input._data) is not np.ndarray:
        size = input._data.shape[axis]
        values, places = ops.TopK(input, _count(size), axis=axis, largest=int(descending), outputs=2)
        return sort_type(values, places)
    places = _order(input, axis, descending)
    return sort_type(_picked(input, places, axis), wrap(np.ascontiguousarray(places, np.int64)))


def _count(size: Any) -> Any:
    from headrace.functional.base import is_symbolic, shape_input

    return shape_input([size]) if is_symbolic(size) else np.array([size], np.int64)


@both
def argsort(input: Tensor, dim: int = -1, descending: bool = False, stable: bool = False) -> Tensor:
    """The indices that sort."""
    return sort(input, dim, descending, stable)[1]


@function
def msort(input: Tensor) -> Tensor:
    """Sorted along the first dimension."""
    return sort(input, 0)[0]


@both
def topk(input: Tensor, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> Any:
    """(values, indices) of the k largest (or smallest) along a dimension."""
    axis = check_dim(dim, input._data.ndim)
    if input._data.ndim == 0:
        if k > 1:
            raise RuntimeError("selected index k out of range")
        return topk_type(input.clone(), wrap(np.zeros((), np.int64)))
    size = input._data.shape[axis]
    if type(size) is int and not 0 <= k <= size:
        raise RuntimeError("selected index k out of range")
    if type(input._data) is np.ndarray:
        places = np.take(_order(input, axis, largest), np.arange(k), axis=axis)
        return topk_type(_picked(input, places, axis), wrap(np.ascontiguousarray(places, np.int64)))
    values, where = ops.TopK(
        input, np.array([k], np.int64), axis=axis, largest=int(largest), sorted=int(sorted), outputs=2
    )
    return topk_type(values, where)


@both
def kthvalue(input: Tensor, k: int, dim: int = -1, keepdim: bool = False) -> Any:
    """(value, index) of the k-th smallest along a dimension."""
    axis = check_dim(dim, input._data.ndim)
    kind = named_tuple("kthvalue", "values indices")
    if input._data.ndim == 0:
        if k != 1:
            raise RuntimeError("kthvalue(): selected number k out of range for dimension 0")
        return kind(input.clone(), wrap(np.zeros((), np.int64)))
    if not 1 <= k <= input._data.shape[axis]:
        raise RuntimeError(f"kthvalue(): selected number k out of range for dimension {axis}")
    places = np.take(_order(input, axis, False), [k - 1], axis=axis)
    return kind(*_pick_one(input, places, axis, keepdim))


def _pick_one(x: Tensor, places: np.ndarray, axis: int, keepdim: bool) -> tuple[Tensor, Tensor]:
    found, where = _picked(x, places, axis), wrap(np.ascontiguousarray(places, np.int64))
    if keepdim:
        return found, where
    shape = tuple(d for i, d in enumerate(found.shape) if i != axis)
    return reshape(found, shape), reshape(where, shape)


@both
def median(input: Tensor, dim: int | None = None, keepdim: bool = False) -> Any:
    """The lower median: of all elements, or (values, indices) along a dimension. NaN where there is one."""
    if dim is None:
        flat = reshape(input, (-1,))
        if not input._data.size:
            return wrap(
                np.asarray(np.nan if category(input) >= 2 else np.iinfo(input._data.dtype).min, input._data.dtype)
            )
        return median(flat, 0)[0]
    axis = check_dim(dim, input._data.ndim)
    kind = named_tuple("median", "values indices")
    if input._data.ndim == 0:
        return kind(input.clone(), wrap(np.zeros((), np.int64)))
    size = input._data.shape[axis]
    if size == 0:
        raise IndexError(f"median(): Expected reduction dim {axis} to have non-zero size.")
    order = _order(input, axis, False)
    places = np.take(order, [(size - 1) // 2], axis=axis)
    data = _comparable(input.detach().numpy())
    if data.dtype.kind == "f":
        bad = np.isnan(data)
        places = np.where(bad.any(axis, keepdims=True), np.argmax(bad, axis=axis, keepdims=True), places)
    return kind(*_pick_one(input, places, axis, keepdim))


@both
def mode(input: Tensor, dim: int = -1, keepdim: bool = False) -> Any:
    """(values, indices) of the most frequent element along a dimension; of equals the smallest, at its last place."""
    axis = check_dim(dim, input._data.ndim)
    kind = named_tuple("mode", "values indices")
    if input._data.ndim == 0:
        return kind(input.clone(), wrap(np.zeros((), np.int64)))
    data = np.moveaxis(_comparable(input.detach().numpy()), axis, -1)
    rows = data.reshape(-1, data.shape[-1])
    places = np.zeros((len(rows), 1), np.int64)
    for i, row in enumerate(rows):
        values, counts = np.unique(row, return_counts=True)
        places[i, 0] = np.flatnonzero(row == values[np.argmax(counts)])[-1]
    back = np.moveaxis(places.reshape(*data.shape[:-1], 1), -1, axis)
    return kind(*_pick_one(input, back, axis, keepdim))


@both
def quantile(
    input: Tensor, q: Any, dim: int | None = None, keepdim: bool = False, *, interpolation: str = "linear"
) -> Tensor:
    """Quantiles along a dimension, interpolated between neighbours."""
    if category(input) != 2 or input.dtype not in (scalar_types.float32, scalar_types.float64):
        raise RuntimeError("quantile() input tensor must be either float or double dtype")
    points = np.asarray(q._data if isinstance(q, Tensor) else q, np.float64)
    if isinstance(q, Tensor) and q.dtype is not input.dtype:
        raise RuntimeError("quantile() q tensor must be same dtype as the input tensor")
    if points.ndim > 1:
        raise RuntimeError("quantile() q must be a scalar or 1D tensor")
    if np.any((points < 0) | (points > 1)):
        raise RuntimeError("quantile() q must be in the range [0, 1]")
    if interpolation not in ("linear", "lower", "higher", "midpoint", "nearest"):
        raise RuntimeError("quantile() interpolation must be one of linear, lower, higher, midpoint or nearest")
    if not input._data.size:
        raise RuntimeError("quantile() input tensor must be non-empty")
    axis = 0 if dim is None else check_dim(dim, input._data.ndim)
    x = reshape(input, (-1,)) if dim is None or input._data.ndim == 0 else input
    ordered = sort(x, axis)[0]
    size = x._data.shape[axis]
    rank = points.reshape(-1) * (size - 1)
    low, high = np.floor(rank).astype(np.int64), np.ceil(rank).astype(np.int64)
    weight = {"linear": rank - low, "lower": np.zeros_like(rank), "higher": np.ones_like(rank), "midpoint": np.where(low == high, 0, 0.5),
              "nearest": np.rint(rank) - low}[interpolation]  # fmt: skip
    shape = [-1 if i == axis else 1 for i in range(x._data.ndim)]
    below, above = ops.Gather(ordered, low, axis=axis), ops.Gather(ordered, high, axis=axis)
    factor: Any = weight.astype(x._data.dtype).reshape(shape)
    if recorded(q) and interpolation == "linear":  # the place between two neighbours moves with q
        place = ops.Mul(reshape(q, (-1,)), scalar(size - 1, x))
        factor = reshape(ops.Sub(place, low.astype(x._data.dtype)), shape)
    found = ops.Add(below, ops.Mul(ops.Sub(above, below), factor))
    bad = np.isnan(x._data).any(axis, keepdims=True)
    if bad.any():
        found = ops.Where(bad, scalar(np.nan, x), found)
    from headrace.functional.shape import movedim

    found = movedim(found, axis, 0)  # the quantiles come first
    rest = tuple(found.shape)[1:]
    if keepdim:
        kept = (
            (1,) * input._data.ndim if dim is None else tuple(1 if i == axis else d for i, d in enumerate(input.shape))
        )
        rest = kept
    return reshape(found, (points.size, *rest) if points.ndim else rest)


# -------------------------------------------------------------------- places in sorted sequences


def _side(right: bool, side: str | None) -> Literal["left", "right"]:
    if side is not None and side not in ("left", "right"):
        raise RuntimeError(f"torch.searchsorted(): side can only be 'left' or 'right' but got {side}")
    if side == "left" and right:
        raise RuntimeError(
            "torch.searchsorted(): side and right can't be set to opposites, got side of left while right was True"
        )
    return "right" if right or side == "right" else "left"


@function
def searchsorted(
    sorted_sequence: Tensor,
    input: Any,
    *,
    out_int32: bool = False,
    right: bool = False,
    side: str | None = None,
    sorter: Tensor | None = None,
) -> Tensor:
    """Where values would have to go so that the sequence stays sorted."""
    edges = _comparable(sorted_sequence.detach().numpy())
    values = _comparable(input.detach().numpy()) if isinstance(input, Tensor) else np.asarray(input)
    if isinstance(input, Tensor) and input.dtype is not sorted_sequence.dtype:
        raise RuntimeError("torch.searchsorted(): boundary tensor and input value tensor should have same dtype")
    if edges.ndim == 0 or (edges.ndim > 1 and (values.ndim != edges.ndim or values.shape[:-1] != edges.shape[:-1])):
        raise RuntimeError(
            "torch.searchsorted(): boundaries tensor should be 1 dimension or the first N-1 dimensions of boundaries tensor and input value tensor must match"
        )
    if sorter is not None:
        if sorter._data.shape != edges.shape or sorter.dtype is not scalar_types.int64:
            raise RuntimeError(
                "torch.searchsorted(): boundary and sorter must have the same size, and sorter must be of dtype long"
            )
        edges = np.take_along_axis(edges, sorter._data, -1)
    where = _side(right, side)
    if edges.ndim == 1:
        found = np.searchsorted(edges, values, side=where)
    else:
        rows = [
            np.searchsorted(e, v, side=where)
            for e, v in zip(edges.reshape(-1, edges.shape[-1]), values.reshape(-1, values.shape[-1]))
        ]
        found = np.reshape(rows, values.shape)
    return wrap(np.asarray(found).astype(np.int32 if out_int32 else np.int64))


@function
def bucketize(input: Any, boundaries: Tensor, *, out_int32: bool = False, right: bool = False) -> Tensor:
    """The bucket between boundaries that each value falls into."""
    if boundaries._data.ndim != 1:
        raise RuntimeError(f"boundaries tensor must be 1 dimension, but got dim({boundaries._data.ndim})")
    return searchsorted(boundaries, input, out_int32=out_int32, right=right)


@function
def isin(elements: Any, test_elements: Any, *, assume_unique: bool = False, invert: bool = False) -> Tensor:
    """Whether each element is one of the test elements."""
    a, b = (v._data if isinstance(v, Tensor) else np.asarray(v) for v in (elements, test_elements))
    return wrap(np.asarray(np.isin(_comparable(a), _comparable(b), invert=invert)))


@both
def unique(
    input: Tensor,
    sorted: bool = True,
    return_inverse: bool = False,
    return_counts: bool = False,
    dim: int | None = None,
) -> Any:
    """Distinct elements (or slices of a dimension), in order, with their places and counts if asked for."""
    data = input.detach().numpy()
    wide = _comparable(data)
    if wide.dtype.kind == "b":
        wide = wide.astype(np.uint8)
    values, inverse, counts = np.unique(wide, return_inverse=True, return_counts=True, axis=dim)
    inverse = inverse.reshape(data.shape) if dim is None else inverse.reshape(-1)
    return _answer(values.astype(data.dtype), inverse, counts, return_inverse, return_counts)


def _answer(values: np.ndarray, inverse: np.ndarray, counts: np.ndarray, with_inverse: bool, with_counts: bool) -> Any:
    found = [wrap(values)]
    if with_inverse:
        found.append(wrap(np.asarray(inverse, np.int64)))
    if with_counts:
        found.append(wrap(np.asarray(counts, np.int64)))
    return found[0] if len(found) == 1 else tuple(found)


@both
def unique_consecutive(
    input: Tensor, return_inverse: bool = False, return_counts: bool = False, dim: int | None = None
) -> Any:
    """Runs of equal elements (or slices of a dimension) made one."""
    data = input.detach().numpy()
    x = data.reshape(-1) if dim is None else np.moveaxis(data, dim, 0)
    size = len(x)
    change = np.ones(size, bool)
    if size > 1:
        change[1:] = (x[1:] != x[:-1]).reshape(size - 1, -1).any(1)
    starts = np.flatnonzero(change)
    values = x[starts] if dim is None else np.moveaxis(x[starts], 0, dim)
    inverse = np.cumsum(change) - 1
    counts = np.diff(np.append(starts, size))
    return _answer(
        np.ascontiguousarray(values),
        inverse.reshape(data.shape) if dim is None else inverse,
        counts,
        return_inverse,
        return_counts,
    )


@both
def bincount(input: Tensor, weights: Tensor | None = None, minlength: int = 0) -> Tensor:
    """How often each whole number from 0 on occurs."""
    return wrap(np.bincount(input._data, None if weights is None else weights._data, minlength))


@both
def histc(input: Tensor, bins: int = 100, min: float = 0, max: float = 0) -> Tensor:
    """Counts of elements in bins of equal width."""
    data = input.detach().numpy()
    if min == max:
        min, max = (float(data.min()), float(data.max())) if data.size else (0.0, 1.0)
    if min == max:
        min, max = min - 1, max + 1
    return wrap(np.histogram(data, bins, (min, max))[0].astype(data.dtype))


@both
def diff(
    input: Tensor, n: int = 1, dim: int = -1, prepend: Tensor | None = None, append: Tensor | None = None
) -> Tensor:
    """n-th differences along a dimension."""
    from headrace.functional.arithmetic import sub
    from headrace.functional.joins import cat
    from headrace.functional.logic import logical_xor
    from headrace.functional.shape import slice_axes

    if input._data.ndim == 0:
        raise RuntimeError("diff expects input to be at least one-dimensional")
    axis = check_dim(dim, input._data.ndim)
    if n < 0:
        raise RuntimeError(f"order must be non-negative but got {n}")
    parts = [p for p in (prepend, input, append) if p is not None]
    if any(p._data.ndim != input._data.ndim for p in parts):
        raise RuntimeError("diff expects prepend or append to be the same dimension as input")
    if n == 0:
        return input.clone()
    x = cat(parts, axis) if len(parts) > 1 else input
    for _ in range(n):
        if x._data.shape[axis] == 0:
            break
        late, early = slice_axes(x, [(axis, 1, None, 1)]), slice_axes(x, [(axis, 0, -1, 1)])
        x = logical_xor(late, early) if category(x) == 0 else sub(late, early)
    return x
