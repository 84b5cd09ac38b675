"""Slice, its gradient SliceGrad, CenterCropPad."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from headrace.runtime import dtypes
from headrace.runtime.errors import GraphError, RunError
from headrace.runtime.ops.axes import attribute_to_input, axes_of, ceildiv, fresh_shape, int64, integers, kept_rows
from headrace.runtime.ops.base import MIXED, Accuracy, Attr, Context, In, Operator, Out, Sample
from headrace.runtime.ops.common import draw
from headrace.runtime.ops.shape.create import sized
from headrace.runtime.shapes import Dim, compare, maximum, minimum
from headrace.runtime.shapes import Shape as Dims
from headrace.runtime.types import TensorType, Type

INDEX = frozenset({"int32", "int64"})
FAR = 1 << 30  # starts and ends at least this far out mean "to the end"


class Slice(Operator):
    """data[starts:ends:steps] along `axes`, by NumPy's rules."""

    versions = (1, 10, 11, 13)
    inputs = (
        In("data"),
        In("starts", "Tind"),
        In("ends", "Tind"),
        In("axes", "Tind", optional=True),
        In("steps", "Tind", optional=True),
    )
    outputs = (Out("output"),)
    types = {"T": dtypes.ANY, "Tind": INDEX}
    accuracy = Accuracy.exact()

    def infer(self, context: Context) -> list[Type | None]:
        shape = context.shape()
        return [TensorType(context.dtype(), None if shape is None else self._shape(context, shape))]

    def _shape(self, context: Context, shape: Dims) -> Dims:
        axes = self._axes(context, len(shape))
        if axes is None:
            return fresh_shape(context, len(shape), "sliced")
        starts, ends = context.value(1), context.value(2)
        steps = context.value(4) if context.has(4) else (1,) * len(axes)
        sizes = list(shape)
        for place, axis in enumerate(axes):
            start, end, step = (given[place] if isinstance(given, tuple) else None for given in (starts, ends, steps))
            known = start is not None and end is not None and step is not None
            sizes[axis] = sliced(shape[axis], start, end, step, context) if known else context.fresh("sliced")  # type: ignore[arg-type]
        return tuple(sizes)

    @staticmethod
    def _axes(context: Context, rank: int) -> tuple[int, ...] | None:
        if context.has(3):
            given = integers(context, 3)
            return None if given is None else axes_of(given, rank)
        known = context.value(1)
        length = context.shape(1)
        count = len(known) if isinstance(known, tuple) else length[0] if length else None
        if isinstance(count, int) and count > rank:
            raise GraphError(f"starts has {count} elements; the input has rank {rank}")
        return tuple(range(count)) if isinstance(count, int) else None

    def values(self, context: Context) -> list[Any] | None:
        value = context.value(0)
        parts = [
            integers(context, index) if context.has(index) else (default,)
            for index, default in ((1, 0), (2, 0), (4, 1))
        ]
        if not isinstance(value, tuple) or any(part is None or len(part) != 1 for part in parts):
            return None
        start, end, step = (part[0] for part in parts)  # type: ignore[index]
        return [value[_python_slice(len(value), start, end, step)]]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        return [inputs[0][slices(inputs[0].shape, inputs[1:])].copy()]

    def gradient(
        self, F: Any, inputs: list[Any], outputs: list[Any], grads: list[Any], attributes: Mapping[str, Any]
    ) -> list[Any]:
        dx = F.SliceGrad(grads[0], F.Shape(inputs[0]), *inputs[1:])
        return [dx] + [None] * (len(inputs) - 1)

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        x = draw(rng, (5, 6, 4), "float32")
        yield Sample([x, int64(1), int64(4)])
        yield Sample([x, int64(0, 1), int64(3, 1000), int64(0, 2)])
        yield Sample([x, int64(-2, 5), int64(1 << 62, -(1 << 62)), int64(-1, 1), int64(1, -2)])
        yield Sample([x, int64(4), int64(0), int64(1), int64(-1)])
        yield Sample([x, int64(3), int64(2), int64(0)])
        yield Sample([x, int64(0), int64(-1), int64(0), int64(3)])
        yield Sample([x, np.array([0, 2], np.int32), np.array([9, -1], np.int32)])

    def rows(self, tags: Sequence[int | None], context: Context) -> list[int | None]:
        shape = context.shape()
        if tags[0] is None or tags[0] == MIXED or shape is None:
            return [None if all(tag is None for tag in tags) else MIXED]
        axes, after = self._axes(context, len(shape)), self._shape(context, shape)
        whole = axes is not None and (
            tags[0] not in axes
            or (after[tags[0]] == shape[tags[0]] and integers(context, 4) in (None, (1,) * len(axes)))
        )
        return kept_rows([tags[0]], () if whole else None)

    def upgrade(self, node: Any, version: int, builder: Any) -> Any:
        if version < 10:
            for name, index in (("starts", 1), ("ends", 2), ("axes", 3)):
                attribute_to_input(node, builder, name, index)


def sliced(size: Dim, start: Dim, end: Dim, step: Dim, context: Context) -> Dim:
    """How many elements start:end:step picks out of `size`."""
    if all(isinstance(item, int) for item in (size, start, end, step)):
        return len(range(size)[_python_slice(size, start, end, step)])  # type: ignore[arg-type]
    if not isinstance(step, int) or step == 0:
        return context.fresh("sliced")
    if step < 0:
        whole = (
            step == -1
            and isinstance(start, int)
            and isinstance(end, int)
            and (start == -1 or start >= FAR)
            and end <= -FAR
        )
        return size if whole else context.fresh("sliced")
    first, last = _bound(size, start), _bound(size, end)
    if first is None or last is None:
        return context.fresh("sliced")
    return ceildiv(maximum(last - first, 0) if first != 0 else last, step)


def _bound(size: Dim, place: Dim) -> Dim | None:
    """Where a start or end falls, within 0 .. size; None where its sign is not known."""
    if isinstance(place, int):
        if place >= FAR:
            return size
        return minimum(place, size) if place >= 0 else maximum(size + place, 0)
    sign = compare(place, -1)
    if sign == 1 or place.name is not None:
        return place if place == size else minimum(place, size)
    return maximum(size + place, 0) if compare(place, 1) == -1 and compare(place, 0) == -1 else None


def _python_slice(size: int, start: int, end: int, step: int) -> slice:
    """ONNX's clamping as a Python slice: an end before the first element with a negative step means "to the first"."""
    if step == 0:
        raise GraphError("a step is 0; allowed: any other integer")
    if step < 0 and end < -size:
        return slice(start, None, step)
    return slice(start, end, step)


def slices(shape: Sequence[int], given: Sequence[Any]) -> tuple[slice, ...]:
    """One slice for each axis, from the arrays starts, ends, axes?, steps?."""
    starts, ends, axes, steps = ([] if item is None else np.ravel(item).tolist() for item in (*given, None, None)[:4])
    axes = axes_of(axes or range(len(starts)), len(shape))
    picked = [slice(None)] * len(shape)
    for axis, start, end, step in zip(axes, starts, ends, steps or [1] * len(starts)):
        picked[axis] = _python_slice(shape[axis], start, end, step)
    return tuple(picked)


class SliceGrad(Operator):
    """The gradient of Slice: zeros of the given shape with dY in the place of the slice."""

    domain = "headrace"
    inputs = (In("dY"), In("shape", frozenset({"int64"})), *Slice.inputs[1:])
    outputs = (Out("dX"),)
    types = {"T": dtypes.ANY, "Tind": INDEX}
    accuracy = Accuracy.exact()

    def infer(self, context: Context) -> list[Type | None]:
        target, rank = context.value(1), context.type(0).rank
        if isinstance(target, tuple):
            return [TensorType(context.dtype(), target)]
        return [TensorType(context.dtype(), None if rank is None else fresh_shape(context, rank, "sliced"))]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        total = np.zeros(sized(inputs[1]), inputs[0].dtype)
        total[slices(total.shape, inputs[2:])] = inputs[0]
        return [total]

    def gradient(
        self, F: Any, inputs: list[Any], outputs: list[Any], grads: list[Any], attributes: Mapping[str, Any]
    ) -> list[Any]:
        return [F.Slice(grads[0], *inputs[2:])] + [None] * (len(inputs) - 1)

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        for sample in Slice().samples(rng):
            x, *rest = sample.inputs
            part = x[slices(x.shape, rest)].copy()
            yield Sample([part, int64(*x.shape), *rest])


class CenterCropPad(Operator):
    """Crops or zero-pads around the centre to the given sizes of `axes`."""

    versions = (18,)
    inputs = (In("input_data"), In("shape", INDEX))
    outputs = (Out("output_data"),)
    types = {"T": dtypes.ANY}
    attributes = {"axes": Attr("ints")}
    accuracy = Accuracy.exact()
    differentiable = False

    def infer(self, context: Context) -> list[Type | None]:
        shape, target = context.shape(), context.value(1)
        if shape is None:
            return [TensorType(context.dtype())]
        axes = axes_of(context.attributes["axes"] or range(len(shape)), len(shape))
        sizes = list(shape)
        for place, axis in enumerate(axes):
            sizes[axis] = target[place] if isinstance(target, tuple) else context.fresh("crop")
        return [TensorType(context.dtype(), tuple(sizes))]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        x, target = inputs
        axes = axes_of(attributes["axes"] or range(x.ndim), x.ndim)
        if len(axes) != len(target):
            raise RunError(f"shape has {len(target)} elements; allowed: {len(axes)}")
        sizes, source, place = list(x.shape), [slice(None)] * x.ndim, [slice(None)] * x.ndim
        for axis, wanted in zip(axes, map(int, target)):
            have, sizes[axis] = x.shape[axis], wanted
            if wanted < have:
                source[axis] = slice((have - wanted) // 2, (have - wanted) // 2 + wanted)
            else:
                place[axis] = slice((wanted - have) // 2, (wanted - have) // 2 + have)
        result = np.zeros(sized(sizes), x.dtype)
        result[tuple(place)] = x[tuple(source)]
        return [result]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        yield Sample([draw(rng, (5, 4, 3), "float32"), int64(3, 7, 3)])
        yield Sample([draw(rng, (5, 4, 3), "float32"), int64(2, 6)], {"axes": (-1, 0)})
