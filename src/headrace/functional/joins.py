"""Tensors joined, and cut into parts."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from headrace import scalar_types
from headrace.autograd.tape import ops
from headrace.functional.base import (
    axes_input,
    both,
    cast,
    function,
    is_symbolic,
)
from headrace.functional.shape import reshape, slice_axes, unsqueeze
from headrace.tensors import Tensor, check_dim


@function
def cat(tensors: Any, dim: int = 0) -> Tensor:
    """Tensors joined along a dimension."""
    given = list(tensors)
    if not given:
        raise RuntimeError("torch.cat(): expected a non-empty list of Tensors")
    if any(not isinstance(x, Tensor) for x in given):
        raise TypeError("expected Tensor as element in argument 0")
    if any(x._data.ndim == 0 for x in given):
        raise RuntimeError("zero-dimensional tensor cannot be concatenated")
    kept = [x for x in given if x._data.ndim > 1 or x._data.size] or given[:1]
    if len({x._data.ndim for x in kept}) > 1:
        raise RuntimeError(
            f"Tensors must have same number of dimensions: got {kept[0]._data.ndim} and {next(x._data.ndim for x in kept if x._data.ndim != kept[0]._data.ndim)}"
        )
    axis = check_dim(dim, kept[0]._data.ndim)
    first = kept[0]._data.shape
    for number, x in enumerate(kept):
        for i, (d, e) in enumerate(zip(first, x._data.shape)):
            if i != axis and not is_symbolic(d) and not is_symbolic(e) and d != e:
                raise RuntimeError(
                    f"Sizes of tensors must match except in dimension {axis}. Expected size {d} but got size {e} for tensor number {number} in the list."
                )
    if len({x._data.dtype for x in given}) > 1:
        found = scalar_types.result_type(*given)
        kept = [cast(x, found) for x in kept]
    return ops.Concat(*kept, axis=axis)


for _name in ("concat", "concatenate"):
    from headrace.functional.base import FUNCTIONS

    FUNCTIONS[_name] = cat


@function
def stack(tensors: Any, dim: int = 0) -> Tensor:
    """Tensors of one shape joined along a new dimension."""
    given = list(tensors)
    if not given:
        raise RuntimeError("stack expects a non-empty TensorList")
    for number, x in enumerate(given):
        if x._data.shape != given[0]._data.shape:
            raise RuntimeError(
                f"stack expects each tensor to be equal size, but got {list(given[0].shape)} at entry 0 and {list(x.shape)} at entry {number}"
            )
    axis = check_dim(dim, given[0]._data.ndim, 1)
    return cat([ops.Unsqueeze(x, axes_input((axis,))) for x in given], axis)


def _tuple_of(tensors: Any) -> list[Tensor]:
    return [tensors] if isinstance(tensors, Tensor) else list(tensors)


@function
def hstack(tensors: Any) -> Tensor:
    """Joined column by column."""
    given = [atleast_1d(x) for x in _tuple_of(tensors)]
    if not given:
        raise RuntimeError("hstack expects a non-empty TensorList")
    return cat(given, 0 if given[0]._data.ndim == 1 else 1)


@function
def vstack(tensors: Any) -> Tensor:
    """Joined row by row."""
    given = [atleast_2d(x) for x in _tuple_of(tensors)]
    if not given:
        raise RuntimeError("vstack expects a non-empty TensorList")
    return cat(given, 0)


FUNCTIONS["row_stack"] = vstack


@function
def dstack(tensors: Any) -> Tensor:
    """Joined along the third dimension."""
    given = [atleast_3d(x) for x in _tuple_of(tensors)]
    if not given:
        raise RuntimeError("dstack expects a non-empty TensorList")
    return cat(given, 2)


@function
def column_stack(tensors: Any) -> Tensor:
    """Joined as columns."""
    given = _tuple_of(tensors)
    if not given:
        raise RuntimeError("column_stack expects a non-empty TensorList")
    return cat([reshape(x, (x.numel(), 1)) if x._data.ndim <= 1 else x for x in given], 1)


def _each(tensors: tuple[Any, ...], rank: int, convert: Any) -> Any:
    given = tensors[0] if len(tensors) == 1 else tensors
    if isinstance(given, tuple | list):
        return tuple(convert(x) if x._data.ndim < rank else x for x in given)
    return convert(given) if given._data.ndim < rank else given


@function
def atleast_1d(*tensors: Any) -> Any:
    """With at least one dimension."""
    return _each(tensors, 1, lambda x: reshape(x, (1,)))


@function
def atleast_2d(*tensors: Any) -> Any:
    """With at least two dimensions."""
    return _each(tensors, 2, lambda x: reshape(x, (1, 1)) if x._data.ndim == 0 else unsqueeze(x, 0))


@function
def atleast_3d(*tensors: Any) -> Any:
    """With at least three dimensions."""
    return _each(
        tensors,
        3,
        lambda x: (
            reshape(x, (1, 1, 1)) if x._data.ndim == 0 else x[None, :, None] if x._data.ndim == 1 else unsqueeze(x, -1)
        ),
    )


def _cut(input: Tensor, sizes: Sequence[int], axis: int) -> tuple[Tensor, ...]:
    sizes = [int(s) for s in sizes]
    if len(sizes) == 1:
        return (ops.Identity(input),)
    found = ops.Split(input, axes_input(sizes), axis=axis, outputs=len(sizes))
    return tuple(found)


@both
def split(tensor: Tensor, split_size_or_sections: Any, dim: int = 0) -> tuple[Tensor, ...]:
    """Cut along a dimension into parts of a size, or of the sizes listed."""
    axis = check_dim(dim, tensor._data.ndim)
    if tensor._data.ndim == 0:
        raise RuntimeError("split expects at least a 1-dimensional tensor")
    total = tensor._data.shape[axis]
    if isinstance(split_size_or_sections, tuple | list):
        sizes = list(split_size_or_sections)
        if any(s < 0 for s in sizes) or (not is_symbolic(total) and sum(sizes) != total):
            raise RuntimeError(
                f"split_with_sizes expects split_sizes to sum exactly to {total} (input tensor's size at dimension {axis}), but got split_sizes={sizes}"
            )
        return _cut(tensor, sizes, axis)
    size = int(split_size_or_sections)
    if size < 0 or (size == 0 and total != 0):
        raise RuntimeError(f"split expects split_size be non-negative and nonzero, but got split_size={size}")
    if is_symbolic(total):
        total.refuse("a split of a dimension of symbolic size into an unknown number of parts")
    return _cut(tensor, [min(size, total - i) for i in range(0, total, size)] if total else [0], axis)


@both
def split_with_sizes(input: Tensor, split_sizes: Any, dim: int = 0) -> tuple[Tensor, ...]:
    """Cut along a dimension into parts of the sizes listed."""
    return split(input, list(split_sizes), dim)


@both
def chunk(input: Tensor, chunks: int, dim: int = 0) -> tuple[Tensor, ...]:
    """Cut along a dimension into at most `chunks` parts of one size."""
    axis = check_dim(dim, input._data.ndim)
    if input._data.ndim == 0:
        raise RuntimeError("chunk expects at least a 1-dimensional tensor")
    if chunks <= 0:
        raise RuntimeError(f"chunk expects `chunks` to be greater than 0, got: {chunks}")
    total = input._data.shape[axis]
    if total == 0:
        return _cut(input, [0] * chunks, axis)
    return split(input, -(-total // chunks), axis)


@both
def tensor_split(input: Tensor, indices_or_sections: Any, dim: int = 0) -> tuple[Tensor, ...]:
    """Cut along a dimension into a number of parts, or at indices."""
    axis = check_dim(dim, input._data.ndim)
    if input._data.ndim == 0:
        raise RuntimeError("tensor_split expected at least a 1-dimensional tensor, but got a tensor with 0 dims")
    total = input._data.shape[axis]
    if isinstance(indices_or_sections, Tensor):
        if indices_or_sections.dtype is not scalar_types.int64 or indices_or_sections._data.ndim > 1:
            raise RuntimeError(
                "tensor_split expected tensor_indices_or_sections to be a zero-dimensional or one-dimensional tensor of long dtype"
            )
        indices_or_sections = indices_or_sections.tolist()
    if isinstance(indices_or_sections, int):
        count = indices_or_sections
        if count <= 0:
            raise RuntimeError(f"number of sections must be larger than 0, got {count}")
        return _cut(input, [total // count + (i < total % count) for i in range(count)], axis)
    edges = [0, *indices_or_sections, total]
    return tuple(slice_axes(input, [(axis, a, b, 1)]) for a, b in pairwise(edges))


def _cut_along(name: str, axis_of: Any, least: int) -> None:
    def call(input: Tensor, indices_or_sections: Any) -> tuple[Tensor, ...]:
        if input._data.ndim < least:
            raise RuntimeError(
                f"torch.{name} requires a tensor with at least {least} dimension, but got a tensor with {input._data.ndim} dimensions!"
            )
        axis = axis_of(input)
        if isinstance(indices_or_sections, int) and (
            indices_or_sections <= 0 or input._data.shape[axis] % indices_or_sections
        ):
            raise RuntimeError(
                f"torch.{name} attempted to split along dimension {axis}, but the size of the dimension {input._data.shape[axis]} is not divisible by the split_size {indices_or_sections}!"
            )
        return tensor_split(input, indices_or_sections, axis)

    call.__name__ = call.__qualname__ = name
    call.__doc__ = "Cut along one dimension, as NumPy does."
    both(call)


_cut_along("hsplit", lambda x: 0 if x._data.ndim == 1 else 1, 1)
_cut_along("vsplit", lambda x: 0, 2)
_cut_along("dsplit", lambda x: 2, 3)
