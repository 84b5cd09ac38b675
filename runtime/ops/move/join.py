"""Concat, Split, Tile: joining, cutting and repeating along axes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from headrace.runtime import dtypes
from headrace.runtime.errors import GraphError, RunError
from headrace.runtime.ops.axes import (
    attribute_to_input,
    axis_of,
    ceildiv,
    fresh_shape,
    int64,
    integers,
    joint_rows,
    kept_rows,
    length_of,
    sizes_of,
)
from headrace.runtime.ops.base import MIXED, REQUIRED, Accuracy, Attr, Context, In, Operator, Out, Sample
from headrace.runtime.ops.common import draw, numpy_dtype
from headrace.runtime.ops.shape.create import sized
from headrace.runtime.shapes import Dim, equal, shape_text
from headrace.runtime.shapes import Shape as Dims
from headrace.runtime.types import TensorType, Type

INT64 = frozenset({"int64"})


class Concat(Operator):
    """The inputs one after the other along `axis`."""

    versions = (1, 4, 11, 13)
    inputs = (In("inputs", variadic=True),)
    outputs = (Out("concat_result"),)
    types = {"T": dtypes.ANY}
    attributes = {"axis": Attr("int", REQUIRED)}
    accuracy = Accuracy.exact()

    def infer(self, context: Context) -> list[Type | None]:
        shapes = [context.shape(index) for index in range(len(context.inputs))]
        known = [shape for shape in shapes if shape is not None]
        if not known:
            return [TensorType(context.dtype())]
        if len({len(shape) for shape in known}) > 1 or not known[0]:
            raise GraphError(f"ranks of the inputs are {[len(shape) for shape in known]}; allowed: equal, at least 1")
        axis = axis_of(context.attributes["axis"], len(known[0]))
        sizes = [_agreed(known, place) for place in range(len(known[0]))]
        sizes[axis] = context.fresh("concat") if len(known) < len(shapes) else _total([shape[axis] for shape in known])
        return [TensorType(context.dtype(), tuple(sizes)) if not _clash(known, axis) else self._refuse(known)]

    @staticmethod
    def _refuse(shapes: Sequence[Dims]) -> Type:
        raise GraphError(f"inputs {', '.join(map(shape_text, shapes))} differ on other axes than the joined one")

    def values(self, context: Context) -> list[Any] | None:
        joined: list[Dim] = []
        for index in range(len(context.inputs)):
            value = context.value(index)
            if not isinstance(value, tuple):
                return None
            joined += value
        return [tuple(joined)]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        return [np.concatenate(inputs, axis=attributes["axis"])]

    def gradient(
        self, F: Any, inputs: list[Any], outputs: list[Any], grads: list[Any], attributes: Mapping[str, Any]
    ) -> list[Any]:
        axis = axis_of(attributes["axis"], F.rank(outputs[0]))
        if len(inputs) == 1:
            return [grads[0]]
        sizes = F.Concat(*(F.Shape(x, start=axis, end=axis + 1) for x in inputs), axis=0)
        return list(F.Split(grads[0], sizes, axis=axis, outputs=len(inputs)))

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        for shapes, axis in (
            (((2, 3), (2, 1)), 1),
            (((2, 3, 4), (1, 3, 4), (0, 3, 4)), 0),
            (((2, 3),), -1),
            (((2, 3, 2), (2, 3, 5)), -1),
        ):
            yield Sample([draw(rng, shape, "float32") for shape in shapes], {"axis": axis})
        yield Sample([draw(rng, (2,), "string"), draw(rng, (3,), "string")], {"axis": 0})
        yield Sample([draw(rng, (2, 2), "int64"), draw(rng, (2, 3), "int64")], {"axis": 1})

    def rows(self, tags: Sequence[int | None], context: Context) -> list[int | None]:
        (tag,) = joint_rows(tags, None)
        rank = context.type(0).rank
        if tag is None or tag == MIXED or rank is None:
            return [tag if tag is None else MIXED]
        return [MIXED if axis_of(context.attributes["axis"], rank) == tag else tag]

    def upgrade(self, node: Any, version: int, builder: Any) -> Any:
        if version < 4:
            node.attributes.setdefault("axis", 1)


def _agreed(shapes: Sequence[Dims], place: int) -> Dim:
    """The size of an axis that all share: an integer where one is known."""
    sizes = [shape[place] for shape in shapes]
    return next((size for size in sizes if isinstance(size, int)), sizes[0])


def _clash(shapes: Sequence[Dims], axis: int) -> bool:
    others = [place for place in range(len(shapes[0])) if place != axis]
    return any(equal(shape[place], shapes[0][place]) is False for shape in shapes for place in others)


def _total(sizes: Sequence[Dim]) -> Dim:
    total: Dim = 0
    for size in sizes:
        total = total + size
    return total


class Split(Operator):
    """The input cut along `axis`: into the sizes of input 1, or into num_outputs equal parts, the last one smaller."""

    versions = (1, 2, 11, 13, 18)
    inputs = (In("input"), In("split", INT64, optional=True))
    outputs = (Out("outputs", variadic=True),)
    types = {"T": dtypes.ANY}
    attributes = {"axis": Attr("int", 0), "num_outputs": Attr("int")}
    accuracy = Accuracy.exact()

    def infer(self, context: Context) -> list[Type | None]:
        shape = context.shape()
        if shape is None:
            return [TensorType(context.dtype())] * context.n_outputs
        axis = axis_of(context.attributes["axis"], len(shape))
        sizes = self._sizes(context, shape[axis])
        return [TensorType(context.dtype(), (*shape[:axis], size, *shape[axis + 1 :])) for size in sizes]

    def _sizes(self, context: Context, size: Dim) -> Sequence[Dim]:
        given = context.value(1) if context.has(1) else None
        if isinstance(given, tuple):
            if len(given) < context.n_outputs:
                raise GraphError(f"split is {shape_text(given)}; allowed: {context.n_outputs} sizes")
            # A sum that does not fit is left to the run: it may stand in a branch of If that is never taken.
            return given
        if context.has(1):
            return fresh_shape(context, length_of(context, 1) or context.n_outputs, "split")
        count = context.attributes["num_outputs"] or context.n_outputs
        return _parts(size, count)

    def values(self, context: Context) -> list[Any] | None:
        value, shape = context.value(0), context.shape()
        if not isinstance(value, tuple) or shape is None:
            return None
        sizes = self._sizes(context, shape[0])
        if not all(isinstance(size, int) for size in sizes):
            return None
        ends = np.cumsum(sizes_of(sizes)).tolist()
        return [value[end - size : end] for size, end in zip(sizes, ends)]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        x, axis = inputs[0], attributes["axis"]
        given = inputs[1] if len(inputs) > 1 else None
        sizes = sizes_of(_parts(x.shape[axis], attributes["num_outputs"] or n_outputs) if given is None else given)
        if sum(sizes) != x.shape[axis] or min(sizes, default=0) < 0:
            raise RunError(f"split is {list(sizes)}; allowed: sizes whose sum is {x.shape[axis]}")
        return np.split(x, np.cumsum(sizes)[:-1].astype(int), axis=axis)

    def gradient(
        self, F: Any, inputs: list[Any], outputs: list[Any], grads: list[Any], attributes: Mapping[str, Any]
    ) -> list[Any]:
        parts = [_zeros_like(F, y) if g is None else g for y, g in zip(outputs, grads)]
        joined = F.Concat(*parts, axis=attributes["axis"]) if len(parts) > 1 else parts[0]
        return [joined, None][: len(inputs)]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        yield Sample([draw(rng, (6, 2), "float32"), int64(1, 2, 3)], {}, outputs=3)
        yield Sample([draw(rng, (2, 7), "float32")], {"axis": 1, "num_outputs": 3}, outputs=3)
        yield Sample([draw(rng, (2, 4), "float32")], {"axis": -1, "num_outputs": 2}, outputs=2)
        yield Sample([draw(rng, (2, 3), "float32"), int64(0, 3)], {"axis": 1}, outputs=2)

    def rows(self, tags: Sequence[int | None], context: Context) -> list[int | None]:
        rank = context.type(0).rank
        return kept_rows(
            tags, None if rank is None else (axis_of(context.attributes["axis"], rank),), context.n_outputs
        )

    def upgrade(self, node: Any, version: int, builder: Any) -> Any:
        if version < 13:
            attribute_to_input(node, builder, "split", 1)
        if version < 18 and len(node.inputs) < 2:
            node.attributes["num_outputs"] = len(node.outputs)


def _parts(size: Dim, count: int) -> list[Dim]:
    if count < 1:
        raise GraphError(f"num_outputs is {count}; allowed: 1 and more")
    chunk = ceildiv(size, count)
    return [chunk] * (count - 1) + [size - chunk * (count - 1)]


def _zeros_like(F: Any, value: Any) -> Any:
    zero = np.zeros(1, numpy_dtype(F.dtype(value)))
    return F.ConstantOfShape(F.Shape(value), value=zero)


class Tile(Operator):
    """The input repeated repeats[i] times along axis i."""

    versions = (1, 6, 13)
    inputs = (In("input"), In("repeats", INT64))
    outputs = (Out("output"),)
    types = {"T": dtypes.ANY}
    accuracy = Accuracy.exact()

    def infer(self, context: Context) -> list[Type | None]:
        shape, repeats = context.shape(), context.value(1)
        if shape is None:
            return [TensorType(context.dtype())]
        if not isinstance(repeats, tuple):
            return [TensorType(context.dtype(), fresh_shape(context, len(shape), "tiled"))]
        if len(repeats) != len(shape):
            raise GraphError(f"repeats has {len(repeats)} elements; the input has rank {len(shape)}")
        return [TensorType(context.dtype(), tuple(size * count for size, count in zip(shape, repeats)))]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        repeats = tuple(int(count) for count in inputs[1])
        sized([size * count for size, count in zip(inputs[0].shape, repeats)])
        return [np.tile(inputs[0], repeats)]

    def gradient(
        self, F: Any, inputs: list[Any], outputs: list[Any], grads: list[Any], attributes: Mapping[str, Any]
    ) -> list[Any]:
        """The gradient as [repeats_0, size_0, repeats_1, size_1, ...], summed over the repeats."""
        x, repeats = inputs
        rank = F.rank(x)
        if rank == 0:
            return [grads[0], None]
        column = F.constant(int64(1))
        pairs = F.Concat(F.Unsqueeze(repeats, column), F.Unsqueeze(F.Shape(x), column), axis=1)
        split = F.Reshape(grads[0], F.Reshape(pairs, F.constant(int64(-1))), allowzero=1)
        return [F.ReduceSum(split, F.constant(int64(*range(0, 2 * rank, 2))), keepdims=0), None]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        for shape, repeats in (((2, 3), (2, 1)), ((2, 3), (1, 3)), ((2,), (0,)), ((2, 1, 2), (2, 3, 2))):
            yield Sample([draw(rng, shape, "float32"), int64(*repeats)])

    def rows(self, tags: Sequence[int | None], context: Context) -> list[int | None]:
        repeats = integers(context, 1)
        blocked = None if repeats is None else [axis for axis, count in enumerate(repeats) if count != 1]
        return kept_rows(tags[:1], blocked)

    def upgrade(self, node: Any, version: int, builder: Any) -> Any:
        """Version 1: inputs tiles (a count) and axis (both scalars) instead of a count for each axis."""
        if version >= 6:
            return None
        x, tiles, axis = node.inputs
        if not is_known(x):
            raise GraphError("Tile of operator set 1 needs an input of known rank")
        ones = builder.constant(np.ones(x.type.rank, np.int64))
        place = builder.node("Reshape", [axis, builder.constant(int64(1))])[0]
        place = builder.node("Cast", [place], {"to": dtypes.of("int64").onnx})[0]
        count = builder.node(
            "Cast", [builder.node("Reshape", [tiles, builder.constant(int64(1))])[0]], {"to": dtypes.of("int64").onnx}
        )[0]
        repeats = builder.node("ScatterElements", [ones, place, count], {"axis": 0})[0]
        return builder.node("Tile", [x, repeats])


def is_known(value: Any) -> bool:
    """Whether a graph value is a tensor of known rank."""
    return isinstance(value.type, TensorType) and value.type.rank is not None
