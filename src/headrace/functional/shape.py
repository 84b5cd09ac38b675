"""Shapes and views: the same elements in other dimensions, and parts of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from headrace import scalar_types
from headrace.autograd.mode import MODE
from headrace.autograd.tape import ops
from headrace.functional.base import (
    METHODS,
    alias,
    axes_input,
    axes_of,
    both,
    function,
    is_symbolic,
    method,
    plain_size,
    shape_args,
    shape_input,
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
