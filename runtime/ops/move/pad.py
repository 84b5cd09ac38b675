"""Pad in all modes, and its gradient PadGrad."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from headrace.runtime import dtypes
from headrace.runtime.errors import GraphError, RunError
from headrace.runtime.ops.axes import attribute_to_input, axes_of, fresh_shape, int64, integers, kept_rows
from headrace.runtime.ops.base import MIXED, Accuracy, Attr, Context, In, Operator, Out, Sample
from headrace.runtime.ops.common import draw, numpy_dtype
from headrace.runtime.ops.shape.create import sized
from headrace.runtime.shapes import Dim
from headrace.runtime.types import TensorType, Type

INDEX = frozenset({"int32", "int64"})
INT64 = frozenset({"int64"})
MODES = {"mode": Attr("string", "constant", ("constant", "reflect", "edge", "wrap"))}


class Pad(Operator):
    """Adds pads[i] elements before and pads[n + i] behind axes[i]; negative numbers crop."""

    versions = (1, 2, 11, 13, 18, 19, 21, 23, 24, 25)
    inputs = (In("data"), In("pads", INT64), In("constant_value", optional=True), In("axes", INDEX, optional=True))
    outputs = (Out("output"),)
    types = {"T": dtypes.ANY}
    attributes = MODES
    accuracy = Accuracy.exact()

    def infer(self, context: Context) -> list[Type | None]:
        shape = context.shape()
        if shape is None:
            return [TensorType(context.dtype())]
        axes, pads = _axes(context, len(shape)), context.value(1)
        if axes is None or not isinstance(pads, tuple):
            return [TensorType(context.dtype(), fresh_shape(context, len(shape), "padded"))]
        if len(pads) != 2 * len(axes):
            raise GraphError(f"pads has {len(pads)} elements; allowed for {len(axes)} axes: {2 * len(axes)}")
        sizes: list[Dim] = list(shape)
        for place, axis in enumerate(axes):
            sizes[axis] = sizes[axis] + pads[place] + pads[len(axes) + place]
            if isinstance(sizes[axis], int) and sizes[axis] < 0:  # type: ignore[operator]
                raise GraphError(f"axis {axis} of size {shape[axis]} is cropped to {sizes[axis]}")
        return [TensorType(context.dtype(), tuple(sizes))]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        x, pads, value, axes = (*inputs, None, None)[:4]
        widths = pad_widths(x.ndim, pads, axes)
        result = x
        fill = numpy_fill(x.dtype) if value is None else np.reshape(value, ())
        sized([max(0, size + before + after) for size, (before, after) in zip(x.shape, widths)])
        if attributes["mode"] == "constant":
            crop = tuple(
                slice(max(0, -before), max(0, size - max(0, -after))) for size, (before, after) in zip(x.shape, widths)
            )
            grown = [(max(0, before), max(0, after)) for before, after in widths]
            padded = np.full([part + b + a for part, (b, a) in zip(x[crop].shape, grown)], fill, x.dtype)
            padded[tuple(slice(b, b + part) for part, (b, _) in zip(x[crop].shape, grown))] = x[crop]
            return [padded]
        for axis, (before, after) in enumerate(widths):
            if before or after:
                result = np.take(result, source(result.shape[axis], before, after, attributes["mode"]), axis=axis)
        return [result.copy() if result is x else result]

    def gradient(
        self, F: Any, inputs: list[Any], outputs: list[Any], grads: list[Any], attributes: Mapping[str, Any]
    ) -> list[Any]:
        x, pads, value, axes = (*inputs, None, None)[:4]
        if attributes["mode"] == "constant":
            dx = F.Pad(grads[0], F.Neg(pads), None, axes)
            dv = None
            if value is not None:  # what is not in the middle came from the value
                dv = F.SumTo(F.Sub(F.ReduceSum(grads[0], None, keepdims=0), F.ReduceSum(dx, None, keepdims=0)), value)
                dv = F.Reshape(dv, F.Shape(value))
            return [dx, None, dv, None][: len(inputs)]
        return [F.PadGrad(grads[0], F.Shape(x), pads, axes, mode=attributes["mode"]), None, None, None][: len(inputs)]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        x = draw(rng, (3, 4, 5), "float32")
        for mode in MODES["mode"].choices:
            yield Sample([x, int64(0, 1, 2, 1, 0, 2)], {"mode": mode})
            yield Sample([x, int64(1, 2), None, int64(-1)], {"mode": mode})
        yield Sample([x, int64(0, 1, 2, 1, 0, 2), np.array(1.5, np.float32)])
        yield Sample([x, int64(0, -1, 2, 1, 0, -2)])
        yield Sample([draw(rng, (2, 3), "int64"), int64(1, 1, 0, 0)])

    def rows(self, tags: Sequence[int | None], context: Context) -> list[int | None]:
        rank, pads = context.type(0).rank, integers(context, 1)
        axes = None if rank is None else _axes(context, rank)
        if axes is None or pads is None:
            return kept_rows(tags, None)
        return kept_rows(tags, [axis for place, axis in enumerate(axes) if pads[place] or pads[len(axes) + place]])

    def upgrade(self, node: Any, version: int, builder: Any) -> Any:
        if version >= 11:
            return
        if "paddings" in node.attributes:
            node.attributes["pads"] = node.attributes.pop("paddings")
        attribute_to_input(node, builder, "pads", 1)
        value = node.attributes.pop("value", 0.0)
        if node.attributes.get("mode", "constant") == "constant" and value:
            dtype = numpy_dtype(node.inputs[0].type.dtype if isinstance(node.inputs[0].type, TensorType) else "float32")
            node.inputs.append(builder.constant(np.array(value, dtype)))


def _axes(context: Context, rank: int) -> tuple[int, ...] | None:
    if not context.has(3):
        return tuple(range(rank))
    given = integers(context, 3)
    return None if given is None else axes_of(given, rank)


def numpy_fill(dtype: Any) -> Any:
    """Zero, or the empty string."""
    return "" if dtype.kind == "O" else np.zeros((), dtype)


def pad_widths(rank: int, pads: Any, axes: Any) -> list[tuple[int, int]]:
    """(before, behind) for each axis."""
    places = axes_of(range(rank) if axes is None else np.ravel(axes).tolist(), rank)
    flat = [int(pad) for pad in np.ravel(pads)]
    if len(flat) != 2 * len(places):
        raise RunError(f"pads has {len(flat)} elements; allowed for {len(places)} axes: {2 * len(places)}")
    widths = [(0, 0)] * rank
    for place, axis in enumerate(places):
        widths[axis] = flat[place], flat[len(places) + place]
    return widths


def source(size: int, before: int, after: int, mode: str) -> Any:
    """Which element stands at each place of a padded axis."""
    places = np.arange(-before, size + after)
    if size == 0 and places.size:
        raise RunError(f"an empty axis cannot be padded in mode {mode!r}")
    if mode == "edge":
        return np.clip(places, 0, size - 1)
    if mode == "wrap":
        return places % size
    period = max(1, 2 * (size - 1))
    folded = places % period
    return np.minimum(folded, period - folded) if size > 1 else np.zeros_like(places)


class PadGrad(Operator):
    """The gradient of Pad in the modes reflect, edge and wrap: each element goes back to where it was copied from."""

    domain = "headrace"
    inputs = (In("dY"), In("shape", INT64), In("pads", INT64), In("axes", INDEX, optional=True))
    outputs = (Out("dX"),)
    types = {"T": dtypes.FLOAT}
    attributes = MODES

    def infer(self, context: Context) -> list[Type | None]:
        target, rank = context.value(1), context.type(0).rank
        if isinstance(target, tuple):
            return [TensorType(context.dtype(), target)]
        return [TensorType(context.dtype(), None if rank is None else fresh_shape(context, rank, "padded"))]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        dy, shape, pads, axes = (*inputs, None)[:4]
        total = dy
        for axis, (before, after) in enumerate(pad_widths(dy.ndim, pads, axes)):
            if not before and not after:
                continue
            size = int(shape[axis])
            folded = np.zeros((size, *np.delete(total.shape, axis)), dy.dtype)
            np.add.at(folded, source(size, before, after, attributes["mode"]), np.moveaxis(total, axis, 0))
            total = np.moveaxis(folded, 0, axis)
        return [np.ascontiguousarray(total)]

    def gradient(
        self, F: Any, inputs: list[Any], outputs: list[Any], grads: list[Any], attributes: Mapping[str, Any]
    ) -> list[Any]:
        _, _, pads, axes = (*inputs, None)[:4]
        return [F.Pad(grads[0], pads, None, axes, mode=attributes["mode"]), None, None, None][: len(inputs)]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        for mode in ("reflect", "edge", "wrap"):
            yield Sample([draw(rng, (4, 5, 9), "float32"), int64(3, 4, 5), int64(0, 1, 2, 1, 0, 2)], {"mode": mode})
            yield Sample([draw(rng, (3, 8), "float32"), int64(3, 5), int64(1, 2), int64(-1)], {"mode": mode})

    def rows(self, tags: Sequence[int | None], context: Context) -> list[int | None]:
        return [None if all(tag is None for tag in tags) else MIXED]
