"""Where the extremes are: ArgMax, ArgMin, TopK."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from headrace.runtime import dtypes
from headrace.runtime.errors import GraphError
from headrace.runtime.ops.base import MIXED, Accuracy, Attr, Context, In, Operator, Out, Sample
from headrace.runtime.ops.common import draw, is_float, numpy_dtype, ordered, replacement, widen
from headrace.runtime.shapes import Expr, compare
from headrace.runtime.types import TensorType, Type

INDEX = frozenset({"int64"})


def resolve_axis(axis: int, rank: int) -> int:
    """An axis counted from the front. GraphError where it is out of range."""
    if not -rank <= axis < rank:
        raise GraphError(f"axis {axis} is outside [{-rank}, {rank - 1}]")
    return axis % rank


class _ArgExtreme(Operator):
    versions = (1, 11, 12, 13)
    inputs = (In("data"),)
    outputs = (Out("reduced", INDEX),)
    attributes = {
        "axis": Attr("int", 0),
        "keepdims": Attr("int", 1, (0, 1)),
        "select_last_index": Attr("int", 0, (0, 1)),
    }
    accuracy = Accuracy.exact()
    differentiable = False

    def infer(self, context: Context) -> list[Type | None]:
        shape = context.shape()
        if shape is None:
            return [TensorType("int64", None)]
        axis = resolve_axis(context.attributes["axis"], len(shape))
        middle = (1,) if context.attributes["keepdims"] else ()
        return [TensorType("int64", shape[:axis] + middle + shape[axis + 1 :])]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        x = widen(inputs[0])
        axis = resolve_axis(attributes["axis"], x.ndim)
        place = np.argmax if self.name == "ArgMax" else np.argmin
        if attributes["select_last_index"]:
            found = x.shape[axis] - 1 - place(np.flip(x, axis), axis=axis)
        else:
            found = place(x, axis=axis)
        found = np.asarray(found, np.int64)
        return [np.expand_dims(found, axis) if attributes["keepdims"] else found]

    def gradient(
        self, F: Any, inputs: list[Any], outputs: list[Any], grads: list[Any], attributes: Mapping[str, Any]
    ) -> list[Any]:
        return [None]

    def rows(self, tags: Sequence[int | None], context: Context) -> list[int | None]:
        tag, rank = tags[0], context.type(0).rank
        if tag is None:
            return [None]
        axis = resolve_axis(context.attributes["axis"], rank) if rank else MIXED
        if tag in (MIXED, axis) or rank is None:
            return [MIXED]
        return [tag if context.attributes["keepdims"] or tag < axis else tag - 1]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        for axis, keep, last in ((0, 1, 0), (1, 0, 0), (-1, 1, 1), (2, 0, 1)):
            yield Sample([draw(rng, (2, 3, 4), "float32")], {"axis": axis, "keepdims": keep, "select_last_index": last})
        yield Sample([np.array([[2, 1, 2, 2], [1, 1, 1, 1]], np.float32)], {"axis": 1})
        yield Sample([np.array([[2, 1, 2, 2], [1, 1, 1, 1]], np.float32)], {"axis": 1, "select_last_index": 1})
        yield Sample([draw(rng, (1, 17), "float32")], {"axis": 0})
        yield Sample([draw(rng, (0, 3), "float32")], {"axis": 1})
        for dtype in ordered(dtypes.NUMERIC):
            yield Sample([draw(rng, (3, 5), dtype)], {"axis": 1})


class ArgMax(_ArgExtreme):
    """The place of the largest; the first of equals unless select_last_index."""


class ArgMin(_ArgExtreme):
    """The place of the smallest; the first of equals unless select_last_index."""


class TopK(Operator):
    """The k largest (or smallest) along an axis, in order, the lower index first among equals; NaN counts as largest."""

    versions = (1, 10, 11, 24)
    inputs = (In("X"), In("K", INDEX))
    outputs = (Out("Values"), Out("Indices", INDEX))
    attributes = {"axis": Attr("int", -1), "largest": Attr("int", 1, (0, 1)), "sorted": Attr("int", 1, (0, 1))}
    accuracy = Accuracy.exact()

    def infer(self, context: Context) -> list[Type | None]:
        shape, k = context.shape(), context.value(1)
        if shape is None:
            return [TensorType(context.dtype(), None), TensorType("int64", None)]
        axis = resolve_axis(context.attributes["axis"], len(shape))
        count = k[0] if isinstance(k, tuple) and k else k
        if not isinstance(count, int | Expr):
            count = context.fresh("top")
        elif compare(shape[axis], count) == -1:
            raise GraphError(f"K is {count}, but axis {axis} has {shape[axis]} elements")
        result = (*shape[:axis], count, *shape[axis + 1 :])
        return [TensorType(context.dtype(), result), TensorType("int64", result)]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        x, k = widen(inputs[0]), int(inputs[1].reshape(-1)[0])
        axis = resolve_axis(attributes["axis"], x.ndim)
        size = x.shape[axis]
        if not 0 <= k <= size:
            raise GraphError(f"K is {k}; allowed: 0 to {size}, the size of axis {axis}")
        if attributes["largest"]:  # a stable descending order: sort the reverse, read it backwards
            order = np.flip(size - 1 - np.argsort(np.flip(x, axis), axis=axis, kind="stable"), axis)
        else:
            order = np.argsort(x, axis=axis, kind="stable")
        chosen = np.take(order, np.arange(k), axis=axis).astype(np.int64)
        return [np.take_along_axis(inputs[0], chosen, axis), chosen]

    def gradient(
        self, F: Any, inputs: list[Any], outputs: list[Any], grads: list[Any], attributes: Mapping[str, Any]
    ) -> list[Any]:
        x = inputs[0]
        if not is_float(F, x) or grads[0] is None:
            return [None, None]
        zeros = F.ConstantOfShape(F.Shape(x), value=np.zeros(1, numpy_dtype(F.dtype(x))))
        return [F.ScatterElements(zeros, outputs[1], grads[0], axis=attributes["axis"]), None]

    def rows(self, tags: Sequence[int | None], context: Context) -> list[int | None]:
        rank = context.type(0).rank
        if tags[0] is None and tags[1] is None:
            return [None, None]
        if (
            tags[1] is not None
            or tags[0] in (None, MIXED)
            or rank is None
            or tags[0] == resolve_axis(context.attributes["axis"], rank)
        ):
            return [MIXED, MIXED]
        return [tags[0], tags[0]]

    def upgrade(self, node: Any, version: int, builder: Any) -> list[Any] | None:
        if "k" not in node.attributes:
            return None
        k = builder.constant(np.array([node.attributes["k"]], np.int64), "k")
        attributes = {key: value for key, value in node.attributes.items() if key != "k"}
        return replacement(builder, node, [node.inputs[0], k], attributes)

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        for axis, largest, k in ((-1, 1, 2), (0, 0, 1), (1, 1, 3), (1, 0, 0)):
            yield Sample([draw(rng, (2, 5, 4), "float32"), np.array([k], np.int64)], {"axis": axis, "largest": largest})
        yield Sample([np.array([[1, 3, 3, 2, 3]], np.float32), np.array([3], np.int64)], smooth=False)
        yield Sample([np.array([[1, 3, 1, 2, 1]], np.float32), np.array([3], np.int64)], {"largest": 0}, smooth=False)
        yield Sample([draw(rng, (33,), "float32"), np.array([33], np.int64)])
        for dtype in ordered(dtypes.NUMERIC):
            yield Sample([draw(rng, (3, 6), dtype, 0, 100), np.array([2], np.int64)])
