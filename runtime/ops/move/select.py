"""Trilu, OneHot, NonZero, Compress, Unique, ReverseSequence: elements picked by a rule or by data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from headrace.runtime import dtypes
from headrace.runtime.errors import GraphError
from headrace.runtime.ops.axes import axis_of, int64, kept_rows, known_shape
from headrace.runtime.ops.base import Accuracy, Attr, Context, In, Operator, Out, Sample
from headrace.runtime.ops.common import draw
from headrace.runtime.ops.shape.create import sized
from headrace.runtime.shapes import Dim, product
from headrace.runtime.types import TensorType, Type

INT64 = frozenset({"int64"})


class Trilu(Operator):
    """The upper or lower triangle of the last two axes, zeros elsewhere."""

    versions = (14,)
    inputs = (In("input"), In("k", INT64, optional=True))
    outputs = (Out("output"),)
    types = {"T": dtypes.ANY}
    attributes = {"upper": Attr("int", 1, (0, 1))}
    accuracy = Accuracy.exact()
    in_place = (0,)

    def infer(self, context: Context) -> list[Type | None]:
        return [TensorType(context.dtype(), known_shape(context, least=2))]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        x, k = inputs[0], int(np.ravel(inputs[1])[0]) if len(inputs) > 1 and inputs[1] is not None else 0
        rows, columns = np.ogrid[: x.shape[-2], : x.shape[-1]]
        keep = columns - rows >= k if attributes["upper"] else columns - rows <= k
        return [np.where(keep, x, np.zeros((), x.dtype))]

    def gradient(
        self, F: Any, inputs: list[Any], outputs: list[Any], grads: list[Any], attributes: Mapping[str, Any]
    ) -> list[Any]:
        return [F.Trilu(grads[0], *inputs[1:], upper=attributes["upper"]), None][: len(inputs)]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        for upper in (0, 1):
            yield Sample([draw(rng, (2, 4, 5), "float32")], {"upper": upper})
            for k in (-2, 1, 9):
                yield Sample([draw(rng, (4, 3), "float32"), np.array(k, np.int64)], {"upper": upper})

    def rows(self, tags: Sequence[int | None], context: Context) -> list[int | None]:
        rank = context.type(0).rank
        return kept_rows(tags, None if rank is None else (rank - 1, rank - 2))


class OneHot(Operator):
    """A new axis of size `depth`: values[1] at the index, values[0] elsewhere; indices outside give values[0] alone."""

    versions = (9, 11, 28)
    inputs = (In("indices", "T1"), In("depth", "T2"), In("values", "T3"))
    outputs = (Out("output", "T3"),)
    types = {"T1": dtypes.NUMERIC, "T2": dtypes.NUMERIC, "T3": dtypes.ANY}
    attributes = {"axis": Attr("int", -1)}
    accuracy = Accuracy.exact()
    differentiable = False

    def infer(self, context: Context) -> list[Type | None]:
        shape, depth = context.shape(0), context.value(1)
        constant = context.constant(1)
        if constant is not None:
            depth = int(np.ravel(constant)[0])
        if isinstance(depth, tuple):
            depth = depth[0]
        if shape is None:
            return [TensorType(context.dtype(2))]
        axis = axis_of(context.attributes["axis"], len(shape) + 1)
        size: Dim = context.fresh("depth") if depth is None else depth
        return [TensorType(context.dtype(2), (*shape[:axis], size, *shape[axis:]))]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        indices, depth, values = inputs[0].astype(np.int64), int(np.ravel(inputs[1])[0]), inputs[2]
        axis = axis_of(attributes["axis"], indices.ndim + 1)
        sized((*indices.shape, depth))
        wrapped = np.where((indices < 0) & (indices >= -depth), indices + depth, indices)
        places = np.arange(depth).reshape([-1 if place == axis else 1 for place in range(indices.ndim + 1)])
        return [np.where(np.expand_dims(wrapped, axis) == places, values[1], values[0]).astype(values.dtype)]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        for axis in (-1, 0, 1):
            yield Sample(
                [np.array([[1, -2], [7, 0]], np.int64), np.array(4, np.int64), np.array([0.5, 2], np.float32)],
                {"axis": axis},
            )

    def rows(self, tags: Sequence[int | None], context: Context) -> list[int | None]:
        (tag,), rank = kept_rows(tags), context.type(0).rank
        if tag is None or tag < 0 or rank is None:
            return kept_rows(tags, () if tag is None else None)
        return [tag + (axis_of(context.attributes["axis"], rank + 1) <= tag)]


class NonZero(Operator):
    """The indices of all elements that are not zero: [rank, count], in row-major order."""

    versions = (9, 13)
    outputs = (Out("Y", INT64),)
    types = {"T": dtypes.ANY}
    accuracy = Accuracy.exact()
    differentiable = False

    def infer(self, context: Context) -> list[Type | None]:
        rank = context.type(0).rank
        first: Dim = context.fresh("rank") if rank is None else max(rank, 1)
        return [TensorType("int64", (first, context.fresh("nonzero")))]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        return [np.array(np.nonzero(np.atleast_1d(inputs[0])), np.int64)]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        yield Sample([np.array([[1, 0], [1, 1]], np.bool_)])
        yield Sample([draw(rng, (3, 4), "int8", 0, 2)])
        yield Sample([np.zeros((2, 3), np.float32)])
        yield Sample([np.array(2.5, np.float32)])
        yield Sample([np.zeros((2, 0), np.bool_)])
        yield Sample([draw(rng, (2, 3, 70), "float32", -1, 1).round()])


class Compress(Operator):
    """The entries of `axis` (without axis: the elements) where the condition holds; a short condition ends in False."""

    versions = (9, 11, 28)
    inputs = (In("input"), In("condition", frozenset({"bool"})))
    outputs = (Out("output"),)
    types = {"T": dtypes.ANY}
    attributes = {"axis": Attr("int")}
    accuracy = Accuracy.exact()
    differentiable = False

    def infer(self, context: Context) -> list[Type | None]:
        shape, axis = context.shape(), context.attributes["axis"]
        count = context.fresh("kept")
        if axis is None:
            return [TensorType(context.dtype(), (count,))]
        if shape is None:
            return [TensorType(context.dtype())]
        axis = axis_of(axis, len(shape))
        return [TensorType(context.dtype(), (*shape[:axis], count, *shape[axis + 1 :]))]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        return [np.compress(inputs[1], inputs[0], axis=attributes["axis"])]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        x = draw(rng, (3, 4), "float32")
        yield Sample([x, np.array([True, False, True, True, False])])
        yield Sample([x, np.array([False, True, True])], {"axis": 0})
        yield Sample([x, np.array([False, True])], {"axis": -1})


class Unique(Operator):
    """The distinct elements (or entries of `axis`), sorted or in order of first occurrence; first indices, inverse, counts."""

    versions = (11, 28)
    outputs = (
        Out("Y"),
        Out("indices", INT64, optional=True),
        Out("inverse_indices", INT64, optional=True),
        Out("counts", INT64, optional=True),
    )
    types = {"T": dtypes.ANY}
    attributes = {"axis": Attr("int"), "sorted": Attr("int", 1, (0, 1))}
    accuracy = Accuracy.exact()
    differentiable = False

    def infer(self, context: Context) -> list[Type | None]:
        shape, axis, count = context.shape(), context.attributes["axis"], context.fresh("unique")
        vector = TensorType("int64", (count,))
        if axis is None:
            first = TensorType(context.dtype(), (count,))
            inverse = TensorType("int64", (context.fresh("size") if shape is None else product(shape),))
        elif shape is None:
            first, inverse = TensorType(context.dtype()), TensorType("int64", (context.fresh("size"),))
        else:
            axis = axis_of(axis, len(shape))
            first = TensorType(context.dtype(), (*shape[:axis], count, *shape[axis + 1 :]))
            inverse = TensorType("int64", (shape[axis],))
        found: list[Type | None] = [first, vector, inverse, vector]
        return found[: context.n_outputs]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        x, axis = inputs[0], attributes["axis"]
        data = x.astype(str) if x.dtype.kind == "O" else x
        values, first, inverse, counts = np.unique(
            data, return_index=True, return_inverse=True, return_counts=True, axis=axis
        )
        if not attributes["sorted"]:
            order = np.argsort(first)
            rank = np.argsort(order)
            values, first, counts = np.take(values, order, axis=axis or 0), first[order], counts[order]
            inverse = rank[inverse.ravel()]
        found = [values.astype(x.dtype), first, np.ravel(inverse), counts]
        return [found[0], *(item.astype(np.int64) for item in found[1:])][: max(1, n_outputs)]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        x = np.array([2, 1, 1, 3, 4, 3], np.float32)
        for attributes in ({}, {"sorted": 0}):
            yield Sample([x], attributes, outputs=4)
            yield Sample([np.array([[1, 0], [2, 3], [1, 0]], np.int64)], {**attributes, "axis": 0}, outputs=4)


class ReverseSequence(Operator):
    """For each batch entry, the first sequence_lens entries of the time axis in reverse order."""

    versions = (10, 28)
    inputs = (In("input"), In("sequence_lens", INT64))
    types = {"T": dtypes.ANY}
    attributes = {"batch_axis": Attr("int", 1), "time_axis": Attr("int", 0)}
    accuracy = Accuracy.exact()

    def infer(self, context: Context) -> list[Type | None]:
        shape = known_shape(context, least=2)
        if shape is not None and _axis(context.attributes, "batch_axis", len(shape)) == _axis(
            context.attributes, "time_axis", len(shape)
        ):
            raise GraphError("batch_axis and time_axis are the same")
        return [TensorType(context.dtype(), shape)]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        x, lengths = inputs
        batch, time = (_axis(attributes, name, x.ndim) for name in ("batch_axis", "time_axis"))
        moved = np.moveaxis(x, (batch, time), (0, 1))
        steps = np.arange(moved.shape[1])
        places = np.where(steps < lengths[:, None], lengths[:, None] - 1 - steps, steps)
        picked = moved[np.arange(moved.shape[0])[:, None], places]
        return [np.ascontiguousarray(np.moveaxis(picked, (0, 1), (batch, time)))]

    def gradient(
        self, F: Any, inputs: list[Any], outputs: list[Any], grads: list[Any], attributes: Mapping[str, Any]
    ) -> list[Any]:
        return [
            F.ReverseSequence(
                grads[0], inputs[1], batch_axis=attributes["batch_axis"], time_axis=attributes["time_axis"]
            ),
            None,
        ]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        yield Sample([draw(rng, (4, 3, 2), "float32"), int64(4, 1, 2)])
        yield Sample([draw(rng, (3, 5), "float32"), int64(4, 5, 2)], {"batch_axis": 0, "time_axis": 1})


def _axis(attributes: Mapping[str, Any], name: str, rank: int) -> int:
    return axis_of(attributes[name], rank, name)
