"""Writes through views, as values: what the base is after a part of it was written.

A view is a chain of view operators from its base. The chain is walked inward, and on the way back each operator is undone:
a Reshape by a Reshape, a Transpose by the opposite one, a Slice or Split by a Concat with what lies around it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from headrace.autograd.tape import ops, run
from headrace.functional.base import axes_input, is_symbolic, shape_input, size_tensor
from headrace.functional.shape import reshape
from headrace.jit.errors import TraceError, here
from headrace.tensors import Tensor

_END = np.iinfo(np.int64).max


def written(base: Tensor, chain: Sequence[Any], value: Tensor) -> Tensor:
    """`base` with the part that `chain` shows replaced by `value`."""
    return _written(base, chain, value, True)


def dense(step: Any) -> bool:
    """Whether a view operator shows neighbours in memory as neighbours."""
    call, others, attributes, *_ = step
    match call.operator.kind:
        case "Reshape" | "Flatten" | "Squeeze" | "Unsqueeze" | "Identity":
            return True
        case "Slice":  # whole rows
            return _elements(others[2]) == [0] and _elements(others[3]) == [1]
        case "Split" | "Gather":
            return bool(attributes["axis"] == 0)
    return False


def _written(x: Tensor, chain: Sequence[Any], value: Tensor, whole: bool) -> Tensor:
    if not chain:
        return value
    call, others, attributes, outputs, index = chain[0]
    kind = call.operator.kind
    shown = run(call, (x, *others), attributes, outputs)
    part = shown[index] if outputs > 1 else shown
    if kind in ("Reshape", "Flatten") and not whole:
        raise TraceError(
            f"{here()}an in-place write to a reshape of a part: whether it shows the same memory depends on strides, which a graph"
            " does not have. Rewrite: write before the reshape, or clone() and go on with the result."
        )
    new = _written(part, chain[1:], value, whole and dense(chain[0]))
    match kind:
        case "Reshape" | "Flatten" | "Squeeze" | "Unsqueeze":
            return reshape(new, tuple(x.shape))
        case "Transpose":
            perm = attributes["perm"] or tuple(reversed(range(x._data.ndim)))
            return ops.Transpose(new, perm=tuple(int(i) for i in np.argsort(perm)))
        case "Identity":
            return new
        case "Slice":
            return _unsliced(x, new, others)
        case "Gather":
            return _scattered(x, new, others[0], attributes["axis"])
        case "Split":
            axis = attributes["axis"]
            return ops.Concat(*(new if i == index else piece for i, piece in enumerate(shown)), axis=axis)
    raise TraceError(
        f"{here()}an in-place write through {kind} cannot be traced. Rewrite: clone() first, or use torch.where"
    )


def _unsliced(x: Tensor, new: Tensor, others: Sequence[Any]) -> Tensor:
    """x with a slice replaced. Several axes are written one inside the other."""
    starts, ends, axes, steps = (_elements(o) for o in others)
    axis, step = int(axes[0]), int(steps[0])
    if len(axes) > 1:  # the first axis' part of x, with the rest of the slice replaced
        part = _slice(x, axis, starts[0], ends[0], step)
        new = _unsliced(part, new, [starts[1:], ends[1:], axes[1:], steps[1:]])
    if step != 1:
        return _strided(x, new, axis, starts[0], ends[0], step)
    size = x._data.shape[axis]
    pieces = [new]
    if not _is(starts[0], 0):
        pieces.insert(0, _slice(x, axis, 0, starts[0], 1))
    end = ends[0]
    if not is_symbolic(end) and not is_symbolic(starts[0]) and (end < 0) == (starts[0] < 0):
        end = max(end, starts[0])  # an empty slice
    if is_symbolic(end) or not (end == _END or (not is_symbolic(size) and end >= size)):
        pieces.append(_slice(x, axis, end, _END, 1))
    return pieces[0] if len(pieces) == 1 else ops.Concat(*pieces, axis=axis)


def _strided(x: Tensor, new: Tensor, axis: int, start: Any, end: Any, step: int) -> Tensor:
    """x with every step-th element along an axis replaced: scattered by their numbers."""
    size = x._data.shape[axis]
    if is_symbolic(size) or is_symbolic(start) or is_symbolic(end):
        raise TraceError(
            f"{here()}an in-place write to every {step}th element of a dimension of symbolic size. Rewrite: reshape, and torch.stack the parts"
        )
    places = np.arange(size, dtype=np.int64)[slice(start, None if end == _END else end, step)]
    order = [axis, *(i for i in range(x._data.ndim) if i != axis)]
    back = tuple(int(i) for i in np.argsort(order))
    front, value = (ops.Transpose(t, perm=tuple(order)) if axis else t for t in (x, new))
    found = ops.ScatterND(front, places[:, None], value)
    return ops.Transpose(found, perm=back) if axis else found


def _scattered(x: Tensor, new: Tensor, index: Tensor, axis: int) -> Tensor:
    """x with the entry at a place that only the graph knows replaced."""
    order = [axis, *(i for i in range(x._data.ndim) if i != axis)]
    front = ops.Transpose(x, perm=tuple(order)) if axis else x
    size = size_tensor(x._data.shape[axis]) if is_symbolic(x._data.shape[axis]) else x._data.shape[axis]
    place = reshape((index + size) % size, (1, 1))  # a place from the end counts as one from the start
    found = ops.ScatterND(front, place, reshape(new, (1, *new.shape)))
    return ops.Transpose(found, perm=tuple(int(i) for i in np.argsort(order))) if axis else found


def _slice(x: Tensor, axis: int, start: Any, end: Any, step: int) -> Tensor:
    return ops.Slice(x, shape_input([start]), shape_input([end]), axes_input((axis,)), axes_input((step,)))


def _elements(values: Any) -> list[Any]:
    """The numbers of a shape input: ints where they are known, tensors of rank 0 where the graph computes them."""
    if isinstance(values, np.ndarray):
        return [int(v) for v in values]
    if isinstance(values, Tensor):
        return [values[i] for i in range(values._data.shape[0])]
    return list(values)


def _is(value: Any, number: int) -> bool:
    return not is_symbolic(value) and value == number
