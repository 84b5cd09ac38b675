"""Elements repeated, turned round and moved along dimensions."""

from __future__ import annotations

from typing import Any

import numpy as np

from headrace.autograd.mode import MODE
from headrace.autograd.tape import ops
from headrace.functional.base import (
    FUNCTIONS,
    axes_of,
    both,
    function,
    is_symbolic,
    method,
    shape_args,
    shape_input,
)
from headrace.functional.shape import _END, copy_of, expand, ravel, reshape, slice_axes, transpose
from headrace.tensors import Tensor, check_dim, wrap


@method
def repeat(self: Tensor, *sizes: Any) -> Tensor:
    """The tensor repeated along each dimension."""
    times = shape_args(sizes)
    extra = len(times) - self._data.ndim
    if extra < 0:
        raise RuntimeError("Number of dimensions of repeat dims can not be smaller than number of dimensions of tensor")
    if any(not is_symbolic(n) and n < 0 for n in times):
        raise RuntimeError(f"Trying to create tensor with negative dimension: {list(times)}")
    x = reshape(self, (1,) * extra + tuple(self.shape)) if extra else self
    return ops.Tile(x, shape_input(times))


@both
def tile(input: Tensor, *dims: Any) -> Tensor:
    """The tensor repeated; missing leading counts are 1."""
    times = shape_args(dims)
    return repeat(input, *((1,) * (input._data.ndim - len(times)) + times))


@both
def repeat_interleave(
    input: Tensor, repeats: Any = None, dim: int | None = None, *, output_size: int | None = None
) -> Tensor:
    """Each element of a dimension repeated."""
    if repeats is None:
        return wrap(np.repeat(np.arange(input._data.size), input._data))
    counts = repeats._data if isinstance(repeats, Tensor) else np.asarray(repeats)
    if counts.dtype.kind not in "iu":
        raise RuntimeError("repeats has to be Long or Int tensor")
    if np.any(counts < 0):
        raise RuntimeError("repeats can not be negative")
    if counts.ndim > 1:
        raise RuntimeError("repeats must be 0-dim or 1-dim tensor")
    x, axis = (ravel(input), 0) if dim is None else (input, check_dim(dim, input._data.ndim))
    if x._data.ndim == 0:
        x = reshape(x, (1,))
    size = x._data.shape[axis]
    if counts.ndim == 1 and counts.size not in (1, size):
        raise RuntimeError(
            f"repeats must have the same size as input along dim, but got repeats.size(0) = {counts.size} and input.size({axis}) = {size}"
        )
    return ops.Gather(
        x, np.repeat(np.arange(size, dtype=np.int64), np.broadcast_to(counts.reshape(-1), (size,))), axis=axis
    )


@both
def flip(input: Tensor, *args: Any, dims: Any = None) -> Tensor:
    """The order along dimensions reversed."""
    dims = args if dims is None else dims
    axes = axes_of(
        tuple(dims[0]) if len(dims) == 1 and isinstance(dims[0], tuple | list) else dims,
        input._data.ndim,
        empty_is_all=False,
    )
    if not axes:
        return copy_of(input)
    found = slice_axes(input, [(a, -1, -_END, -1) for a in axes])
    return copy_of(found)


@both
def fliplr(input: Tensor) -> Tensor:
    """Columns in reverse order."""
    if input._data.ndim < 2:
        raise RuntimeError("Input must be >= 2-d.")
    return flip(input, 1)


@both
def flipud(input: Tensor) -> Tensor:
    """Rows in reverse order."""
    if input._data.ndim < 1:
        raise RuntimeError("Input must be >= 1-d.")
    return flip(input, 0)


@both
def roll(input: Tensor, shifts: Any, dims: Any = None) -> Tensor:
    """Elements moved along dimensions, round the end."""
    if dims is None or dims == ():
        if isinstance(shifts, tuple | list) and len(shifts) != 1:
            raise RuntimeError(f"shifts and dimensions must align. shifts: {len(shifts)}, dims:0")
        flat = roll(ravel(input), shifts, 0)
        return reshape(flat, tuple(input.shape))
    shifts = shifts if isinstance(shifts, tuple | list) else (shifts,)
    dims = dims if isinstance(dims, tuple | list) else (dims,)
    if len(shifts) != len(dims):
        raise RuntimeError(f"shifts and dimensions must align. shifts: {len(shifts)}, dims:{len(dims)}")
    if dims and not input._data.ndim:
        raise IndexError(f"Dimension specified as {dims[0]} but tensor has no dimensions")
    for shift, dim in zip(shifts, dims):
        axis = check_dim(dim, input._data.ndim)
        size = input._data.shape[axis] if input._data.ndim else 0
        if size:
            input = ops.Gather(input, (np.arange(size, dtype=np.int64) - shift) % size, axis=axis)
    return copy_of(input)


@both
def rot90(input: Tensor, k: int = 1, dims: Any = (0, 1)) -> Tensor:
    """Turned by k quarter turns in the plane of two dimensions."""
    if len(dims) != 2 or input._data.ndim < 2:
        raise RuntimeError(f"expected total rotation dims == 2, but got dims = {len(dims)}")
    a, b = (check_dim(d, input._data.ndim) for d in dims)
    if a == b:
        raise RuntimeError(f"expected rotation dims to be different, but got dim0 = {dims[0]} and dim1 = {dims[1]}")
    k %= 4
    if k == 0:
        return copy_of(input)
    if k == 2:
        return flip(input, a, b)
    return copy_of(transpose(flip(input, b) if k == 1 else flip(input, a), a, b))


@both
def contiguous(input: Tensor, *, memory_format: Any = None) -> Tensor:
    """The tensor with its elements in order in memory."""
    data = input._data
    if type(data) is not np.ndarray:
        return copy_of(input) if MODE.tracer.strided(input) else input
    return input if data.flags.c_contiguous else copy_of_ordered(input)


FUNCTIONS.pop("contiguous")


def copy_of_ordered(x: Tensor) -> Tensor:
    found = copy_of(x)
    found._data = np.ascontiguousarray(found._data)
    return found


@function
def meshgrid(*tensors: Any, indexing: str = "ij") -> tuple[Tensor, ...]:
    """Coordinates of a grid."""
    given = list(tensors[0]) if len(tensors) == 1 and isinstance(tensors[0], tuple | list) else list(tensors)
    if not given:
        raise RuntimeError("meshgrid expects a non-empty TensorList")
    if indexing not in ("ij", "xy"):
        raise RuntimeError(f'torch.meshgrid: indexing must be one of "xy" or "ij", but received: {indexing}')
    if len({x._data.dtype for x in given}) > 1:
        raise RuntimeError("torch.meshgrid expects all tensors to have the same dtype")
    if any(x._data.ndim > 1 for x in given):
        raise RuntimeError("torch.meshgrid: Expected 0D or 1D tensor in the tensor list")
    given = [reshape(x, (-1,)) for x in given]
    shape = tuple(x.shape[0] for x in given)
    grids = [
        expand(reshape(x, tuple(-1 if i == j else 1 for j in range(len(given)))), *shape) for i, x in enumerate(given)
    ]
    return tuple(transpose(g, 0, 1) for g in grids) if indexing == "xy" and len(given) >= 2 else tuple(grids)
