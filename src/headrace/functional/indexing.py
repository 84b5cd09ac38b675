"""Reading and writing parts of tensors: x[...], gather, scatter, masks, places."""

from __future__ import annotations

from typing import Any

import numpy as np

from headrace import scalar_types
from headrace.autograd.mode import MODE
from headrace.autograd.tape import adopt, check_write, ops
from headrace.functional.base import (
    METHODS,
    axes_input,
    both,
    cast,
    function,
    inplace,
    is_symbolic,
    method,
    recorded,
    shadow,
    tensor_of,
)
from headrace.functional.pointwise import category, truth, where
from headrace.functional.shape import copy_, copy_of, expand, permute, ravel, reshape, slice_axes
from headrace.tensors import Tensor, check_dim, wrap


def _entries(index: Any) -> list[Any]:
    """The entries of an index; lists become tensors."""
    entries = list(index) if isinstance(index, tuple) else [index]
    found = []
    for entry in entries:
        if isinstance(entry, list | tuple | range):
            from headrace.functional.creation import tensor

            entry = tensor(list(entry)) if len(entry) else wrap(np.zeros(0, np.int64))
        elif isinstance(entry, np.ndarray):
            entry = wrap(entry)
        elif isinstance(entry, np.bool_ | bool):
            entry = wrap(np.asarray(entry))
        elif isinstance(entry, np.integer):
            entry = int(entry)
        if (
            isinstance(entry, Tensor)
            and entry._data.ndim == 0
            and category(entry) == 1
            and type(entry._data) is np.ndarray
        ):
            entry = int(entry.item())
        found.append(entry)
    return found


def _consumes(entry: Any) -> int:
    """How many dimensions an entry uses up."""
    if entry is None or entry is Ellipsis:
        return 0
    if isinstance(entry, Tensor) and category(entry) == 0:
        return entry._data.ndim
    return 1


def _basic(x: Tensor, entries: list[Any]) -> tuple[Tensor, list[tuple[int, Any]]]:
    """Apply ints, slices, None and Ellipsis; answers what is left of x and its tensor indices (axis, index)."""
    used = sum(map(_consumes, entries))
    rank = x._data.ndim
    if used > rank:
        raise IndexError(f"too many indices for tensor of dimension {rank}")
    dots = [i for i, e in enumerate(entries) if e is Ellipsis]
    if len(dots) > 1:
        raise IndexError("an index can only have a single ellipsis ('...')")
    fill: list[Any] = [slice(None)] * (rank - used)
    entries = entries[: dots[0]] + fill + entries[dots[0] + 1 :] if dots else entries + fill
    shape = x._data.shape
    parts: list[tuple[int, Any, Any, int]] = []
    dropped, added, tensors = [], [], []
    axis = place = 0  # dimension of x, dimension of the result
    for entry in entries:
        if entry is None:
            added.append(place)
            place += 1
        elif isinstance(entry, slice):
            part = _slice(entry, axis, shape[axis])
            if part is not None:
                parts.append(part)
            axis, place = axis + 1, place + 1
        elif isinstance(entry, Tensor):
            count = _consumes(entry)
            if count == 0:  # a 0-d truth value: a dimension of 1 or 0 elements
                added.append(place)
                tensors.append((place, reshape(entry, (1,))))
                place += 1
                continue
            tensors.append((place, entry))
            axis, place = axis + count, place + count
        else:
            start = _integer(entry, axis, shape[axis])
            parts.append((axis, start, None if not is_symbolic(start) and start == -1 else start + 1, 1))
            dropped.append(axis)
            axis += 1
    if parts:
        x = slice_axes(x, parts)
    if dropped:
        x = ops.Squeeze(x, axes_input(dropped))
    if added:
        x = ops.Unsqueeze(x, axes_input(added))
    return x, tensors


def _slice(entry: slice, axis: int, size: Any) -> tuple[int, Any, Any, int] | None:
    step = 1 if entry.step is None else int(entry.step)
    if step <= 0:
        raise ValueError("step must be greater than zero")
    if entry.start is None and entry.stop is None and step == 1:
        return None
    start = 0 if entry.start is None else entry.start if is_symbolic(entry.start) else entry.start.__index__()
    stop = None if entry.stop is None else entry.stop if is_symbolic(entry.stop) else entry.stop.__index__()
    return (axis, start, stop, step)


def _integer(entry: Any, axis: int, size: Any) -> Any:
    if is_symbolic(entry):
        return entry
    try:
        found = entry.__index__()
    except (AttributeError, TypeError):
        raise IndexError(
            f"only integers, slices (`:`), ellipsis (`...`), None and long or bool tensors are valid indices (got {type(entry).__name__})"
        ) from None
    if not is_symbolic(size) and not -size <= found < size:
        raise IndexError(f"index {found} is out of bounds for dimension {axis} with size {size}")
    return found


def _masks(x: Tensor, tensors: list[tuple[int, Any]]) -> list[tuple[int, Tensor]]:
    """Truth-value indices as the places where they hold."""
    found: list[tuple[int, Tensor]] = []
    for place, entry in tensors:
        kind = category(entry)
        if kind >= 2:
            raise IndexError("tensors used as indices must be long, int, byte or bool tensors")
        if kind:
            found.append((place, entry if entry.dtype is scalar_types.int64 else cast(entry, scalar_types.int64)))
            continue
        for i, (d, e) in enumerate(zip(entry._data.shape, x._data.shape[place:])):
            if not is_symbolic(d) and not is_symbolic(e) and d != e:
                raise IndexError(
                    f"The shape of the mask {list(entry.shape)} at index {i} does not match the shape of the indexed tensor {list(x.shape)} at index {place + i}"
                )
        if entry._data.ndim and type(entry._data) is np.ndarray:
            found += [(place + i, wrap(v.astype(np.int64))) for i, v in enumerate(np.nonzero(entry._data))]
        else:
            rows = ops.NonZero(entry)
            found += [
                (place + i, ops.Squeeze(slice_axes(rows, [(0, i, i + 1, 1)]), axes_input((0,))))
                for i in range(entry._data.ndim)
            ]
    return found


def getitem(self: Tensor, index: Any) -> Tensor:
    """x[index]: ints, slices with positive steps, None, Ellipsis, truth masks, integer tensors, mixed."""
    if type(index) is int and self._data.ndim and not is_symbolic(self._data.shape[0]):
        _integer(index, 0, self._data.shape[0])
        return ops.Squeeze(slice_axes(self, [(0, index, None if index == -1 else index + 1, 1)]), axes_input((0,)))
    x, tensors = _basic(self, _entries(index))
    if not tensors:
        return x if x is not self else ops.Identity(self)
    return _advanced(x, _masks(x, tensors))


def _advanced(x: Tensor, tensors: list[tuple[int, Tensor]]) -> Tensor:
    if len(tensors) == 1:
        axis, entry = tensors[0]
        _check_range(entry, x._data.shape[axis], axis)
        return ops.Gather(x, entry, axis=axis)
    front, joined, indices = _to_front(x, tensors)
    found = ops.GatherND(front, indices)
    count = indices._data.ndim - 1
    axes = [a for a, _ in tensors]
    if joined and axes[0] > 0:  # neighbouring indices: their dimensions stay where they were
        rank = found._data.ndim
        first = axes[0]
        order = [*range(count, count + first), *range(count), *range(count + first, rank)]
        found = permute(found, order)
    return found


def _to_front(x: Tensor, tensors: list[tuple[int, Tensor]]) -> tuple[Tensor, bool, Tensor]:
    """x with the indexed dimensions first, whether they were neighbours, and the indices as one tensor [..., k]."""
    from headrace.functional.shape import broadcast_tensors, stack

    axes = [a for a, _ in tensors]
    for axis, entry in tensors:
        _check_range(entry, x._data.shape[axis], axis)
    joined = axes == list(range(axes[0], axes[0] + len(axes)))
    order = [*axes, *(i for i in range(x._data.ndim) if i not in axes)]
    if order != list(range(x._data.ndim)):
        x = permute(x, order)
    try:
        entries = broadcast_tensors(*(e for _, e in tensors))
    except (RuntimeError, ValueError) as error:
        raise IndexError(
            f"shape mismatch: indexing tensors could not be broadcast together with shapes {[list(e.shape) for _, e in tensors]}"
        ) from error
    return x, joined, stack(entries, -1)


def _check_range(index: Tensor, size: Any, axis: int) -> None:
    data = index._data
    if type(data) is not np.ndarray or is_symbolic(size) or not data.size:
        return
    low, high = data.min(), data.max()
    if low < -size or high >= size:
        raise IndexError(f"index {low if low < -size else high} is out of bounds for dimension {axis} with size {size}")


def setitem(self: Tensor, index: Any, value: Any) -> None:
    """x[index] = value, in place."""
    value = (
        value
        if isinstance(value, Tensor)
        else tensor_of(value)
        if not isinstance(value, int | float | bool)
        else wrap(np.asarray(value, self._data.dtype))
    )
    if value.dtype is not self.dtype:
        value = cast(value, self.dtype)
    check_write(self)
    entries = _entries(index)
    traced = MODE.tracer is not None and (
        type(self._data) is not np.ndarray
        or type(value._data) is not np.ndarray
        or any(isinstance(e, Tensor) and type(e._data) is not np.ndarray for e in entries)
    )
    if not traced and not recorded(self, value) and self._base is None:
        _write_array(self, entries, value)
        return
    x, tensors = _basic(self, entries)
    if not tensors:
        target = x if x is not self else ops.Identity(self)
        copy_(target, _squeezed(value, target._data.ndim))
        return
    if (
        len(tensors) == 1
        and category(tensors[0][1]) == 0
        and tensors[0][1]._data.ndim == x._data.ndim
        and value._data.size == 1
    ):
        adopt(x, where(tensors[0][1], reshape(value, ()), shadow(x)))
        return
    adopt(x, _index_put(shadow(x), _masks(x, tensors), value, accumulate=False))


def _squeezed(value: Tensor, rank: int) -> Tensor:
    """A value with extra leading dimensions of 1 fits all the same."""
    extra = value._data.ndim - rank
    return (
        reshape(value, tuple(value.shape)[extra:])
        if extra > 0 and all(d == 1 for d in value._data.shape[:extra])
        else value
    )


def _write_array(x: Tensor, entries: list[Any], value: Tensor) -> None:
    """Without history NumPy's own assignment does it."""
    key = tuple(e._data if isinstance(e, Tensor) else e for e in entries)
    for entry in entries:
        if isinstance(entry, slice) and entry.step is not None and entry.step <= 0:
            raise ValueError("step must be greater than zero")
        if isinstance(entry, Tensor) and category(entry) >= 2:
            raise IndexError("tensors used as indices must be long, int, byte or bool tensors")
    x._data[key] = value._data
    x._storage.version += 1


def _index_put(x: Tensor, tensors: list[tuple[int, Tensor]], value: Tensor, accumulate: bool) -> Tensor:
    """A tensor like x with the indexed elements replaced by (or added to) `value`."""
    front, joined, indices = _to_front(x, tensors)
    axes = [a for a, _ in tensors]
    count, used = indices._data.ndim - 1, len(axes)
    rest = tuple(front.shape)[used:]
    lead = tuple(indices.shape)[:count]
    first = axes[0] if joined else 0
    wanted = (*rest[:first], *lead, *rest[first:])  # as x[index] would be
    value = expand(_squeezed(value, len(wanted)), *wanted) if tuple(value.shape) != wanted else value
    if first:
        value = permute(value, [*range(first, first + count), *range(first), *range(first + count, len(wanted))])
    found = ops.ScatterND(front, indices, value, **({"reduction": "add"} if accumulate else {}))
    order = [*axes, *(i for i in range(x._data.ndim) if i not in axes)]
    if order == list(range(x._data.ndim)):
        return found
    return permute(found, [order.index(i) for i in range(x._data.ndim)])


METHODS["__getitem__"] = getitem
METHODS["__setitem__"] = setitem


@inplace
def index_put(input: Tensor, indices: Any, values: Tensor, accumulate: bool = False) -> Tensor:
    """`values` written (or added) at the places that a tuple of index tensors names."""
    if input.dtype is not values.dtype:
        raise RuntimeError(
            f"Index put requires the source and destination dtypes match, got {input.dtype} for the destination and {values.dtype} for the source."
        )
    x, tensors = _basic(input, _entries(tuple(indices)))
    if x is not input:
        raise NotImplementedError("index_put takes tensors as indices")
    return _index_put(input, _masks(x, tensors), values, accumulate)


# -------------------------------------------------------------------- along a dimension


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
        from headrace.functional.pointwise import mul

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
    from headrace.functional.pointwise import clamp_min, div

    return div(found, clamp_min(count, 1), rounding_mode=None if category(x) >= 2 else "floor")


def _lowest(x: Tensor) -> Any:
    return -np.inf if category(x) >= 2 else np.iinfo(x._data.dtype).min


# -------------------------------------------------------------------- masks and places


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
