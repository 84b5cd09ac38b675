"""Reshape, Flatten, Squeeze, Unsqueeze: the same elements in the same order under another shape."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from headrace.runtime import dtypes
from headrace.runtime.errors import GraphError
from headrace.runtime.ops.axes import (
    attribute_to_input,
    axes_of,
    axis_of,
    count_of,
    drop,
    fresh_shape,
    int64,
    integers,
    length_of,
    reshaped_axis,
)
from headrace.runtime.ops.base import MIXED, Accuracy, Attr, Context, In, Operator, Out, Sample
from headrace.runtime.ops.common import draw
from headrace.runtime.shapes import Dim, Expr, equal, floordiv, product, shape_text
from headrace.runtime.shapes import Shape as Dims
from headrace.runtime.types import TensorType, Type

INT64 = frozenset({"int64"})


class _View(Operator):
    """Output 0 has the bytes of input 0. Subclasses say the shape."""

    types = {"T": dtypes.ANY}
    outputs = (Out("reshaped"),)
    accuracy = Accuracy.exact()
    view = True
    in_place = (0,)

    def shape(self, context: Context) -> Dims | None:
        """The new shape, None where the rank is unknown."""
        raise NotImplementedError

    def infer(self, context: Context) -> list[Type | None]:
        return [TensorType(context.dtype(), self.shape(context))]

    def values(self, context: Context) -> list[Any] | None:
        """Values stay what they are; only rank 0 and 1 are followed."""
        value, shape = context.value(0), self.shape(context)
        if value is None or shape is None or len(shape) > 1:
            return None
        flat = value if isinstance(value, tuple) else (value,)
        return [flat if len(shape) == 1 else flat[0] if len(flat) == 1 else None]

    def gradient(
        self, F: Any, inputs: list[Any], outputs: list[Any], grads: list[Any], attributes: Mapping[str, Any]
    ) -> list[Any]:
        return [F.Reshape(grads[0], F.Shape(inputs[0]), allowzero=1)] + [None] * (len(inputs) - 1)

    def rows(self, tags: Sequence[int | None], context: Context) -> list[int | None]:
        before = context.shape()
        after = self.shape(context)
        if tags[0] is None and (len(tags) < 2 or tags[1] is None or (context.value(1) is not None and before == after)):
            return [None]
        if tags[0] is None or tags[0] == MIXED or before is None or after is None:
            return [MIXED]
        return [reshaped_axis(before, after, tags[0])]


class Reshape(_View):
    """The shape is input 1: 0 copies the input's size (unless allowzero), -1 takes what is left."""

    versions = (1, 5, 13, 14, 19, 21, 23, 24, 25)
    inputs = (In("data"), In("shape", INT64))
    attributes = {"allowzero": Attr("int", 0, (0, 1))}

    def shape(self, context: Context) -> Dims | None:
        target = context.value(1)
        if not isinstance(target, tuple):
            rank = length_of(context, 1)
            return None if rank is None else fresh_shape(context, rank, "reshaped")
        return resolve(context.shape(), target, bool(context.attributes["allowzero"]), context)

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        data, target = inputs
        shape = [int(size) for size in target]
        if not attributes["allowzero"]:
            shape = [data.shape[i] if size == 0 else size for i, size in enumerate(shape)]
        if -1 in shape and 0 in shape:  # NumPy cannot tell what is left of nothing
            left = [size for size in data.shape if size] if not attributes["allowzero"] else []
            wanted = count_of(size for size in shape if size > 0)
            shape[shape.index(-1)] = count_of(left) // wanted if left else 0
        return [np.reshape(data, shape)]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        for shape, target in (((2, 3, 4), (4, -1)), ((2, 3, 4), (0, 12)), ((24,), (2, 3, 4)), ((1,), ()), ((), (1, 1)),
                              ((2, 3, 4), (0, 0, -1)), ((0, 3), (3, 0)), ((2, 3), (-1,))):  # fmt: skip
            yield Sample([draw(rng, shape, "float32"), int64(*target)], {"allowzero": int(0 in shape)})
        yield Sample([draw(rng, (2, 6), "string"), int64(3, 4)])

    def upgrade(self, node: Any, version: int, builder: Any) -> Any:
        if version < 5:
            attribute_to_input(node, builder, "shape", 1)
            drop(node, "consumed_inputs")


def resolve(before: Dims | None, target: Sequence[Dim], allowzero: bool, context: Context) -> Dims:
    """The shape that `target` means for a tensor of shape `before`."""
    after: list[Dim | None] = []
    copied: set[int] = set()
    for place, size in enumerate(target):
        if size == 0 and not allowzero:
            if before is not None and place >= len(before):
                raise GraphError(
                    f"shape {shape_text(target)} copies axis {place} of {shape_text(before)}, which has none"
                )
            after.append(context.fresh("reshaped") if before is None else before[place])
            copied.add(place)
        elif isinstance(size, int) and size < -1:
            raise GraphError(f"shape {shape_text(target)} holds {size}; allowed: -1 and more")
        else:
            after.append(None if size == -1 else size)
    if after.count(None) > 1:
        raise GraphError(f"shape {shape_text(target)} holds -1 more than once")
    if None in after:
        after[after.index(None)] = _rest(before, after, copied, context)
    shape: Dims = tuple(after)  # type: ignore[arg-type]
    if before is not None and equal(product(before), product(shape)) is False:
        raise GraphError(f"{shape_text(before)} cannot be reshaped to {shape_text(shape)}")
    return shape


def _rest(before: Dims | None, after: Sequence[Dim | None], copied: set[int], context: Context) -> Dim:
    """What -1 stands for: the elements divided by the other sizes; copied axes cancel, whatever their size."""
    if before is None:
        return context.fresh("reshaped")
    elements = product(size for place, size in enumerate(before) if place not in copied)
    others = product(size for place, size in enumerate(after) if size is not None and place not in copied)
    if others == 0:
        return context.fresh("reshaped")
    if isinstance(elements, int) and isinstance(others, int) and elements % others:
        raise GraphError(f"{shape_text(before)} cannot be reshaped: {elements} is not a multiple of {others}")
    return floordiv(elements, others)


class Flatten(_View):
    """A matrix: the axes before `axis` become rows, the others columns."""

    versions = (1, 9, 11, 13, 21, 23, 24, 25)
    inputs = (In("input"),)
    attributes = {"axis": Attr("int", 1)}

    def shape(self, context: Context) -> Dims | None:
        before = context.shape()
        if before is None:
            return fresh_shape(context, 2, "flat")
        axis = _cut(context.attributes["axis"], len(before))
        return product(before[:axis]), product(before[axis:])

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        shape = inputs[0].shape
        axis = _cut(attributes["axis"], len(shape))
        return [inputs[0].reshape(count_of(shape[:axis]), count_of(shape[axis:]))]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        for axis in (0, 1, 2, 3, -1, -3):
            yield Sample([draw(rng, (2, 3, 4), "float32")], {"axis": axis})
        yield Sample([draw(rng, (0, 3), "float32")])


def _cut(axis: int, rank: int) -> int:
    if not -rank <= axis <= rank:
        raise GraphError(f"axis is {axis}; allowed for rank {rank}: {-rank} to {rank}")
    return axis + rank if axis < 0 else axis


class Squeeze(_View):
    """Removes axes of size 1: those of input 1, or all of them."""

    versions = (1, 11, 13, 21, 23, 24, 25)
    inputs = (In("data"), In("axes", INT64, optional=True))

    def shape(self, context: Context) -> Dims | None:
        before, axes = context.shape(), integers(context, 1)
        if before is None:
            return None
        if context.has(1):
            if axes is None:
                count = length_of(context, 1)
                return None if count is None else fresh_shape(context, len(before) - count, "squeezed")
            dropped = axes_of(axes, len(before))
            for axis in dropped:
                if isinstance(before[axis], int) and before[axis] != 1:
                    raise GraphError(f"axis {axis} of {shape_text(before)} cannot be squeezed: its size is not 1")
        elif any(isinstance(size, Expr) for size in before):
            return None
        else:
            dropped = tuple(axis for axis, size in enumerate(before) if size == 1)
        return tuple(size for axis, size in enumerate(before) if axis not in dropped)

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        axes = inputs[1] if len(inputs) > 1 else None
        return [np.squeeze(inputs[0], axis=None if axes is None else tuple(int(axis) for axis in np.ravel(axes)))]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        x = draw(rng, (1, 3, 1, 2), "float32")
        yield Sample([x])
        for axes in ((0,), (2, 0), (-2,)):
            yield Sample([x, int64(*axes)])

    def rows(self, tags: Sequence[int | None], context: Context) -> list[int | None]:
        before, axes, tag = context.shape(), integers(context, 1), tags[0]
        if tag is None or tag == MIXED or before is None or axes is None:
            return super().rows(tags, context)
        dropped = axes_of(axes, len(before))
        return [MIXED if tag in dropped else tag - sum(axis < tag for axis in dropped)]

    def upgrade(self, node: Any, version: int, builder: Any) -> Any:
        if version < 13:
            attribute_to_input(node, builder, "axes", 1)


class Unsqueeze(_View):
    """Inserts axes of size 1 at the places of input 1, counted in the output."""

    versions = (1, 11, 13, 21, 23, 24, 25)
    inputs = (In("data"), In("axes", INT64))

    def shape(self, context: Context) -> Dims | None:
        before, axes = context.shape(), integers(context, 1)
        if before is None:
            return None
        if axes is None:
            count = length_of(context, 1)
            return None if count is None else fresh_shape(context, len(before) + count, "unsqueezed")
        added = axes_of(axes, len(before) + len(axes))
        sizes = iter(before)
        return tuple(1 if place in added else next(sizes) for place in range(len(before) + len(added)))

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        return [np.expand_dims(inputs[0], tuple(int(axis) for axis in np.ravel(inputs[1])))]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        for axes in ((0,), (1, 3), (-1,), (2, 0)):
            yield Sample([draw(rng, (3, 2), "float32"), int64(*axes)])
        yield Sample([draw(rng, (), "float32"), int64(0)])

    def rows(self, tags: Sequence[int | None], context: Context) -> list[int | None]:
        before, axes, tag = context.shape(), integers(context, 1), tags[0]
        if tag is None or tag == MIXED or before is None or axes is None:
            return super().rows(tags, context)
        added = axes_of(axes, len(before) + len(axes))
        kept = [place for place in range(len(before) + len(added)) if place not in added]
        return [kept[axis_of(tag, len(before))]]

    def upgrade(self, node: Any, version: int, builder: Any) -> Any:
        if version < 13:
            attribute_to_input(node, builder, "axes", 1)
