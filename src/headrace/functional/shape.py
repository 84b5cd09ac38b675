"""Shapes: views, joins, repeats. Views share memory; see headrace.tensors."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from headrace import scalar_types
from headrace.autograd.mode import MODE
from headrace.autograd.tape import adopt, ops, rebase
from headrace.functional.base import (
    METHODS,
    alias,
    axes_input,
    axes_of,
    both,
    cast,
    function,
    is_symbolic,
    method,
    plain_size,
    recorded,
    scalar,
    shadow,
    shape_args,
    shape_input,
    tensor_of,
)
from headrace.tensors import Tensor, check_dim, wrap


def copy_of(x: Tensor) -> Tensor:
    """A copy in memory of its own; gradients flow through."""
    found = ops.Identity(x)
    found._base, found._chain, found._storage = None, (), type(found._storage)()
    if type(found._data) is np.ndarray:
        found._data = x._data.copy()
        if found._node is not None:
            found._node.outputs = [found._data]
            found._node.stores[-1] = found._storage
            found._node.versions[-1] = 0
    return found


# -------------------------------------------------------------------- views


def _resolve(shape: tuple[Any, ...], x: Tensor) -> tuple[Any, ...]:
    """A shape with -1 worked out. RuntimeError where the sizes do not fit."""
    known: Any = 1
    hole = None
    for i, d in enumerate(shape):
        if not is_symbolic(d) and d == -1:
            if hole is not None:
                raise RuntimeError("only one dimension can be inferred")
            hole = i
        elif not is_symbolic(d) and d < 0:
            raise RuntimeError(f"invalid shape dimension {d}")
        else:
            known = known * d
    total = x.shape.numel()
    if is_symbolic(total) or is_symbolic(known):
        return shape if hole is None else (*shape[:hole], total // known, *shape[hole + 1 :])
    if hole is not None:
        if known == 0 and total == 0:
            raise RuntimeError(
                f"cannot reshape tensor of 0 elements into shape {list(shape)} because the unspecified dimension size -1 can be any value and is ambiguous"
            )
        if known == 0 or total % known:
            raise RuntimeError(f"shape '{list(shape)}' is invalid for input of size {total}")
        return (*shape[:hole], total // known, *shape[hole + 1 :])
    if known != total:
        raise RuntimeError(f"shape '{list(shape)}' is invalid for input of size {total}")
    return shape


@both
def reshape(input: Tensor, *shape: Any) -> Tensor:
    """The same elements in another shape; a view where it can be one."""
    wanted = _resolve(shape_args(shape), input)
    symbolic = [i for i, d in enumerate(wanted) if is_symbolic(d)]
    if len(symbolic) == 1 and 0 not in wanted[: symbolic[0]] + wanted[symbolic[0] + 1 :]:
        wanted = tuple(-1 if i == symbolic[0] else d for i, d in enumerate(wanted))
        return ops.Reshape(input, axes_input(wanted))
    if symbolic and 0 not in [d for d in wanted if not is_symbolic(d)]:
        # Sizes that stay where they are need not be computed: 0 says "as it is" to Reshape.
        own = input._data.shape
        kept = [
            i for i in symbolic if i < len(own) and getattr(own[i], "expr", None) == getattr(wanted[i], "expr", wanted)
        ]
        wanted = tuple(0 if i in kept else d for i, d in enumerate(wanted))
        return ops.Reshape(input, shape_input(wanted))
    if symbolic:
        return ops.Reshape(input, shape_input(wanted), allowzero=1)
    return (
        ops.Reshape(input, axes_input(wanted), allowzero=1) if 0 in wanted else ops.Reshape(input, axes_input(wanted))
    )


@method
def view(self: Tensor, *shape: Any) -> Tensor:
    """The same memory in another shape, or (with a dtype) its bits as another type."""
    if len(shape) == 1 and isinstance(shape[0], scalar_types.dtype):
        found = wrap(self._data.view(shape[0].numpy))
        found._storage = self._storage
        return found
    found = reshape(self, *shape)
    if type(found._data) is np.ndarray and found._base is None and self._data.size:
        raise RuntimeError(
            "view size is not compatible with input tensor's size and stride (at least one dimension spans across two"
            " contiguous subspaces). Use .reshape(...) instead."
        )
    return found


@method
def view_as(self: Tensor, other: Tensor) -> Tensor:
    """A view in the shape of another tensor."""
    return view(self, tuple(other.shape))


@method
def reshape_as(self: Tensor, other: Tensor) -> Tensor:
    """Reshaped as another tensor."""
    return reshape(self, tuple(other.shape))


@both
def flatten(input: Tensor, start_dim: int = 0, end_dim: int = -1) -> Tensor:
    """Dimensions start_dim to end_dim made one."""
    rank = input._data.ndim
    start, end = check_dim(start_dim, rank), check_dim(end_dim, rank)
    if start > end:
        raise RuntimeError("flatten() has invalid args: start_dim cannot come after end_dim")
    if rank == 0:
        return reshape(input, (1,))
    if start == end:
        return input
    shape = tuple(input.shape)
    if start == 1 and end == rank - 1 and MODE.tracer is not None:
        return ops.Flatten(input, axis=1)
    merged: Any = 1
    for d in shape[start : end + 1]:
        merged = merged * d
    return reshape(input, (*shape[:start], merged, *shape[end + 1 :]))


@both
def unflatten(input: Tensor, dim: int, sizes: Any) -> Tensor:
    """One dimension split into several."""
    axis = check_dim(dim, input._data.ndim)
    shape = tuple(input.shape)
    sizes = tuple(sizes) if isinstance(sizes, tuple | list) else (sizes,)
    if not sizes:
        raise RuntimeError("unflatten: sizes must be non-empty")
    if -1 in sizes:
        known = int(np.prod([s for s in sizes if s != -1]))
        sizes = tuple(shape[axis] // known if s == -1 else s for s in sizes)
    product: Any = 1
    for s in sizes:
        product = product * s
    if not is_symbolic(product) and not is_symbolic(shape[axis]) and product != shape[axis]:
        raise RuntimeError(
            f"unflatten: Provided sizes {list(sizes)} don't multiply up to the size of dim {axis} ({shape[axis]}) in the input tensor"
        )
    return reshape(input, (*shape[:axis], *sizes, *shape[axis + 1 :]))


@both
def ravel(input: Tensor) -> Tensor:
    """One dimension."""
    return reshape(input, (-1,)) if input._data.ndim != 1 else input


@both
def squeeze(input: Tensor, dim: Any = None) -> Tensor:
    """Dimensions of size 1 removed (all, or those named)."""
    shape = input._data.shape
    axes = axes_of(dim, len(shape), empty_is_all=False)
    kept = tuple(a for a in axes if not is_symbolic(shape[a]) and shape[a] == 1)
    return ops.Squeeze(input, axes_input(kept)) if kept else ops.Identity(input)


@both
def unsqueeze(input: Tensor, dim: int) -> Tensor:
    """A dimension of size 1 put in."""
    return ops.Unsqueeze(input, axes_input((check_dim(dim, input._data.ndim, 1),)))


@both
def permute(input: Tensor, *dims: Any) -> Tensor:
    """Dimensions in another order."""
    order = axes_of(
        tuple(dims[0]) if len(dims) == 1 and isinstance(dims[0], tuple | list) else dims,
        input._data.ndim,
        empty_is_all=False,
    )
    if len(order) != input._data.ndim:
        raise RuntimeError(
            f"permute(sparse_coo): number of dimensions in the tensor input does not match the length of the desired ordering of dimensions i.e. input.dim() = {input._data.ndim} is not equal to len(dims) = {len(order)}"
        )
    return ops.Transpose(input, perm=order)


@both
def transpose(input: Tensor, dim0: int, dim1: int) -> Tensor:
    """Two dimensions exchanged."""
    rank = input._data.ndim
    a, b = check_dim(dim0, rank), check_dim(dim1, rank)
    if rank == 0:
        return ops.Identity(input)
    order = list(range(rank))
    order[a], order[b] = b, a
    return ops.Transpose(input, perm=tuple(order))


alias("transpose", "swapaxes", "swapdims")


@both
def t(input: Tensor) -> Tensor:
    """A matrix transposed."""
    if input._data.ndim > 2:
        raise RuntimeError(f"t() expects a tensor with <= 2 dimensions, but self is {input._data.ndim}D")
    return ops.Transpose(input, perm=(1, 0)) if input._data.ndim == 2 else ops.Identity(input)


class _Attribute(property):
    """A property that can also be called with its tensor, as the functions of the same name in other libraries."""

    def __call__(self, input: Tensor) -> Tensor:
        return self.fget(input)  # type: ignore[misc]


METHODS["T"] = _Attribute(
    lambda self: ops.Transpose(self, perm=tuple(reversed(range(self._data.ndim)))) if self._data.ndim else self,
    doc="All dimensions reversed.",
)


def _mt(self: Tensor) -> Tensor:
    if self._data.ndim < 2:
        raise RuntimeError(
            f"tensor.mT is only supported on matrices or batches of matrices. Got {self._data.ndim}-D tensor."
        )
    return transpose(self, -2, -1)


METHODS["mT"] = _Attribute(_mt, doc="The last two dimensions exchanged.")
METHODS["H"] = METHODS["mH"] = METHODS["mT"]


@both
def movedim(input: Tensor, source: Any, destination: Any) -> Tensor:
    """Dimensions moved to other places."""
    rank = input._data.ndim
    sources = axes_of(source, rank, empty_is_all=False)
    places = axes_of(destination, rank, empty_is_all=False)
    if len(sources) != len(places):
        raise RuntimeError(
            f"movedim: Invalid source or destination dims: source ({list(sources)} dims) should contain the same number of dims as destination ({list(places)} dims)"
        )
    rest = iter(d for d in range(rank) if d not in sources)
    where = dict(zip(places, sources))
    return permute(input, tuple(where[i] if i in where else next(rest) for i in range(rank)))


alias("movedim", "moveaxis")


def _expand_shape(input: Tensor, sizes: tuple[Any, ...]) -> tuple[Any, ...]:
    shape = tuple(input.shape)
    extra = len(sizes) - len(shape)
    if extra < 0:
        raise RuntimeError(
            f"expand({list(shape)}, size={list(sizes)}): the number of sizes provided ({len(sizes)}) must be greater or equal to the number of dimensions in the tensor ({len(shape)})"
        )
    found = []
    for i, d in enumerate(sizes):
        own = shape[i - extra] if i >= extra else None
        if not is_symbolic(d) and d == -1:
            if own is None:
                raise RuntimeError(f"expand({list(shape)}, size={list(sizes)}): a new leading dimension cannot be -1")
            d = own
        elif not is_symbolic(d) and d < -1:
            raise RuntimeError(f"expand: sizes must be positive, got {list(sizes)}")
        elif own is not None and not is_symbolic(own) and not is_symbolic(d) and own not in (1, d):
            raise RuntimeError(
                f"The expanded size of the tensor ({d}) must match the existing size ({own}) at non-singleton dimension {i}. Target sizes: {list(sizes)}. Tensor sizes: {list(shape)}"
            )
        found.append(d)
    return tuple(found)


@method
def expand(self: Tensor, *sizes: Any, implicit: bool = False) -> Tensor:
    """Dimensions of size 1 stretched, without a copy; -1 keeps a size."""
    wanted = _expand_shape(self, shape_args(sizes))
    own = (None,) * (len(wanted) - self._data.ndim) + tuple(self.shape)
    # A size that stays may be symbolic: 1 says "as it is" to Expand.
    return ops.Expand(
        self,
        shape_input(
            [1 if is_symbolic(d) and o is not None and is_symbolic(o) and d == o else d for d, o in zip(wanted, own)]
        ),
    )


@both
def broadcast_to(input: Tensor, size: Any) -> Tensor:
    """Stretched to a shape, without a copy."""
    return expand(input, *size)


@method
def expand_as(self: Tensor, other: Tensor) -> Tensor:
    """Stretched to the shape of another tensor."""
    return expand(self, *other.shape)


@function
def broadcast_tensors(*tensors: Any) -> tuple[Tensor, ...]:
    """All stretched to their common shape."""
    if len(tensors) == 1 and isinstance(tensors[0], tuple | list):
        tensors = tuple(tensors[0])
    shape = broadcast_shapes(*(t._data.shape for t in tensors))
    return tuple(expand(t, *shape) for t in tensors)


@function
def broadcast_shapes(*shapes: Any) -> Any:
    """The common shape of several. RuntimeError where there is none."""
    from headrace.tensors import Size

    if any(is_symbolic(d) for shape in shapes if not isinstance(shape, int) for d in shape):
        return Size(MODE.tracer.broadcast_shapes(shapes))
    try:
        return Size(np.broadcast_shapes(*((s,) if isinstance(s, int) else tuple(s) for s in shapes)))
    except ValueError as error:
        raise RuntimeError(
            f"Shape mismatch: objects cannot be broadcast to a single shape: {', '.join(map(str, shapes))}"
        ) from error


@both
def narrow(input: Tensor, dim: int, start: Any, length: int) -> Tensor:
    """`length` elements of a dimension from `start` on."""
    axis = check_dim(dim, input._data.ndim)
    if input._data.ndim == 0:
        raise RuntimeError("narrow() cannot be applied to a 0-dim tensor.")
    if isinstance(start, Tensor):
        if start._data.ndim or start.dtype.category != 1:
            raise RuntimeError("start must be an 0-dim integral Tensor.")
        start = start.item()
    size = input._data.shape[axis]
    if not is_symbolic(size):
        if not -size <= start <= size:
            raise IndexError(f"Dimension out of range (expected to be in range of [{-size}, {size}], but got {start})")
        start = start + size if start < 0 else start
        if length < 0:
            raise RuntimeError("narrow(): length must be non-negative.")
        if start + length > size:
            raise RuntimeError(f"start ({start}) + length ({length}) exceeds dimension size ({size}).")
    return slice_axes(input, [(axis, start, start + length, 1)])


_END = np.iinfo(np.int64).max


def slice_axes(x: Tensor, parts: Sequence[tuple[int, Any, Any, int]]) -> Tensor:
    """Slices (axis, start, end, step); an end of None is the dimension's end."""
    starts = [s for _, s, _, _ in parts]
    ends = [_END if e is None else e for _, _, e, _ in parts]
    axes, steps = [a for a, _, _, _ in parts], [p for _, _, _, p in parts]
    return ops.Slice(x, shape_input(starts), shape_input(ends), axes_input(axes), axes_input(steps))


@both
def select(input: Tensor, dim: int, index: Any) -> Tensor:
    """One element of a dimension, which disappears."""
    axis = check_dim(dim, input._data.ndim)
    if input._data.ndim == 0:
        raise IndexError("select() cannot be applied to a 0-dim tensor.")
    size, index = input._data.shape[axis], plain_size(index)
    if not is_symbolic(size) and not -size <= index < size:
        raise IndexError(
            f"select(): index {index} out of range for tensor of size {list(input.shape)} at dimension {axis}"
        )
    return ops.Squeeze(slice_axes(input, [(axis, index, None if index == -1 else index + 1, 1)]), axes_input((axis,)))


@function
def slice_(input: Tensor, dim: int = 0, start: Any = None, end: Any = None, step: int = 1) -> Tensor:
    """Every step-th element of a dimension from start to before end."""
    if step <= 0:
        raise RuntimeError("slice step must be positive")
    return slice_axes(input, [(check_dim(dim, input._data.ndim), 0 if start is None else start, end, step)])


@both
def unbind(input: Tensor, dim: int = 0) -> tuple[Tensor, ...]:
    """One tensor for each element of a dimension."""
    axis = check_dim(dim, input._data.ndim)
    if input._data.ndim == 0:
        raise IndexError("Dimension specified as 0 but tensor has no dimensions")
    size = input._data.shape[axis]
    if is_symbolic(size):
        size.refuse("iteration over a dimension of symbolic size")
    return tuple(select(input, axis, i) for i in range(size))


@both
def diagonal(input: Tensor, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Tensor:
    """The diagonal of two dimensions, as the last dimension."""
    rank = input._data.ndim
    a, b = check_dim(dim1, rank), check_dim(dim2, rank)
    if a == b:
        raise RuntimeError(f"diagonal dimensions cannot be identical {dim1}, {dim2}")
    x = movedim(input, (a, b), (-2, -1))
    rows, columns = x._data.shape[-2:]
    count = max(0, min(rows, columns - offset) if offset >= 0 else min(rows + offset, columns))
    places = np.arange(count, dtype=np.int64) * (columns + 1) + (offset if offset >= 0 else -offset * columns)
    flat = reshape(x, (*x.shape[:-2], rows * columns))
    return ops.Gather(flat, places, axis=rank - 2)


# -------------------------------------------------------------------- joins and cuts


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


# -------------------------------------------------------------------- repeats and moves


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


# -------------------------------------------------------------------- in place


@method
def copy_(self: Tensor, src: Any, non_blocking: bool = False) -> Tensor:
    """Write another tensor's elements here."""
    source = cast(tensor_of(src), self.dtype)
    if source._data.shape != self._data.shape:
        source = expand(source, *self.shape)
    return adopt(self, source)


@method
def fill_(self: Tensor, value: Any) -> Tensor:
    """Write one number everywhere."""
    if isinstance(value, Tensor):
        if value._data.ndim:
            raise RuntimeError(
                f"fill_ only supports 0-dimension value tensor but got tensor with {value._data.ndim} dimensions."
            )
        return copy_(self, value)
    from headrace.functional.creation import full_like

    if isinstance(value, complex) and self.dtype.category < 3:
        raise RuntimeError("value cannot be converted to a real dtype without overflow")
    if recorded(self):  # the gradient of what was overwritten is zero, not absent
        return adopt(self, ops.Where(np.ones((), np.bool_), scalar(value, self), shadow(self)))
    return adopt(self, full_like(self, value))


@function
def fill(input: Tensor, value: Any) -> Tensor:
    """A tensor of the same shape with one number everywhere."""
    return fill_(copy_of(input), value)


@both
def zero_(self: Tensor) -> Tensor:
    """Write zeros."""
    if MODE.grad and self._node is not None:
        return fill_(self, 0)
    if type(self._data) is np.ndarray:
        self._data[...] = 0
        self._storage.version += 1
        if MODE.grad and self._base is not None:
            rebase(self, wrap(self._data))
        return self
    return fill_(self, 0)


def _shape_in_place(name: str) -> None:
    def call(self: Tensor, *args: Any) -> Tensor:
        found = METHODS[name](self, *args)
        self._data, self._node, self._index = found._data, found._node, found._index
        return self

    call.__name__ = call.__qualname__ = f"{name}_"
    call.__doc__ = f"In-place version of `{name}`: the tensor takes the new shape."
    METHODS[f"{name}_"] = call


for _name in ("squeeze", "unsqueeze", "transpose", "t", "swapaxes"):
    _shape_in_place(_name)
