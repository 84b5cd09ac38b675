"""Python indices: reading and writing by integers, slices, None, Ellipsis, masks and index tensors."""

from __future__ import annotations

from typing import Any

import numpy as np

from headrace import scalar_types
from headrace.autograd.mode import MODE
from headrace.autograd.tape import adopt, check_write, ops
from headrace.functional.base import (
    METHODS,
    axes_input,
    cast,
    category,
    inplace,
    is_symbolic,
    recorded,
    shadow,
    tensor_of,
)
from headrace.functional.logic import where
from headrace.functional.shape import expand, permute, reshape, slice_axes
from headrace.functional.writes import copy_
from headrace.tensors import Tensor, wrap


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
    from headrace.functional.joins import stack
    from headrace.functional.shape import broadcast_tensors

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
