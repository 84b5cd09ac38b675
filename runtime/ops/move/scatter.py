"""ScatterElements (and Scatter), ScatterND, TensorScatter: elements written by index, optionally combined with what is there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from headrace.runtime import dtypes
from headrace.runtime.errors import GraphError, RunError
from headrace.runtime.ops.axes import axis_of, int64
from headrace.runtime.ops.base import Accuracy, Attr, Context, In, Operator, Out, Sample
from headrace.runtime.ops.common import draw, scalar
from headrace.runtime.ops.move.gather import INDEX, element_index, tuple_index
from headrace.runtime.types import Type

REDUCTION = Attr("string", "none", ("none", "add", "mul", "max", "min"))


def write(target: Any, index: Any, updates: Any, reduction: str) -> None:
    """target[index] = updates, or combined one by one: several updates of one element all count."""
    if reduction == "none":
        target[index] = updates
        return
    function = {"add": np.add, "mul": np.multiply, "max": np.maximum, "min": np.minimum}[reduction]
    function.at(target, index, updates)


class _Scatter(Operator):
    outputs = (Out("output"),)
    types = {"T": dtypes.ANY, "Tind": INDEX}
    accuracy = Accuracy(4.0)
    in_place = (0,)

    def infer(self, context: Context) -> list[Type | None]:
        return [context.type(0)]


class ScatterElements(_Scatter):
    """output = data, then output[i][indices[i][j]] = updates[i][j] for axis 1, likewise for others."""

    versions = (11, 13, 16, 18)
    inputs = (In("data"), In("indices", "Tind"), In("updates"))
    attributes = {"axis": Attr("int", 0), "reduction": REDUCTION}

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        data, indices, updates = inputs
        result = data.copy()
        write(
            result,
            element_index(indices, data.shape, axis_of(attributes["axis"], data.ndim)),
            updates,
            attributes["reduction"],
        )
        return [result]

    def gradient(
        self, F: Any, inputs: list[Any], outputs: list[Any], grads: list[Any], attributes: Mapping[str, Any]
    ) -> list[Any]:
        g, indices, axis = grads[0], inputs[1], attributes["axis"]
        for_updates = F.GatherElements(g, indices, axis=axis)
        if attributes["reduction"] == "add":
            return [g, None, for_updates]
        if attributes["reduction"] == "mul":
            return _product_gradient(F, g, inputs, outputs[0], axis)
        if attributes["reduction"] != "none":
            return _extreme_gradient(F, g, inputs, outputs[0], axis)
        zeros = F.Expand(scalar(F, 0, inputs[2]), F.Shape(inputs[2]))
        return [F.ScatterElements(g, indices, zeros, axis=axis), None, for_updates]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        for axis in (0, 1):
            indices = np.stack([rng.permutation(4)[:3] for _ in range(4)], axis=1 - axis) - 2
            yield Sample([draw(rng, (4, 4), "float32"), indices, draw(rng, indices.shape, "float32")], {"axis": axis})
        for reduction in ("add", "mul", "max", "min"):
            yield Sample(
                [draw(rng, (5,), "int64"), int64(1, 1, -1), draw(rng, (3,), "int64")], {"reduction": reduction}
            )
            yield Sample(
                [draw(rng, (5,), "float32"), int64(1, 1, -1), draw(rng, (3,), "float32")], {"reduction": reduction}
            )
        yield Sample(
            [draw(rng, (5, 2), "float32"), np.array([[1, 1], [1, 0]]), draw(rng, (2, 2), "float32")],
            {"reduction": "add"},
        )


def _product_gradient(F: Any, g: Any, inputs: list[Any], y: Any, axis: int) -> list[Any]:
    """g times the product of the other factors; where one factor is 0, its own is the product without it."""
    data, indices, updates = inputs
    zero, one = scalar(F, 0, data), scalar(F, 1, data)
    empty = F.Equal(data, zero)
    nonzero = F.Where(empty, one, data)
    others = F.ScatterElements(nonzero, indices, updates, axis=axis, reduction="mul")
    for_data = F.Div(F.Mul(g, others), nonzero)
    holes = F.Equal(updates, zero)
    count = F.ScatterElements(F.Sub(g, g), indices, F.Where(holes, one, zero), axis=axis, reduction="add")
    single = F.And(holes, F.Equal(F.GatherElements(count, indices, axis=axis), one))
    filled = F.ScatterElements(data, indices, F.Where(single, one, updates), axis=axis, reduction="mul")
    quotient = F.Div(F.GatherElements(F.Mul(g, y), indices, axis=axis), F.Where(holes, one, updates))
    return [for_data, None, F.Where(single, F.GatherElements(F.Mul(g, filled), indices, axis=axis), quotient)]


def _extreme_gradient(F: Any, g: Any, inputs: list[Any], y: Any, axis: int) -> list[Any]:
    """g shared evenly among all that are equal to the extreme."""
    data, indices, updates = inputs
    zero, one = scalar(F, 0, data), scalar(F, 1, data)
    stays = F.Where(F.Equal(data, y), one, zero)
    wins = F.Where(F.Equal(updates, F.GatherElements(y, indices, axis=axis)), one, zero)
    share = F.Div(g, F.ScatterElements(stays, indices, wins, axis=axis, reduction="add"))
    return [F.Mul(stays, share), None, F.Mul(wins, F.GatherElements(share, indices, axis=axis))]


class Scatter(_Scatter):
    """The old name of ScatterElements."""

    versions = (9, 11)
    inputs = (In("data"), In("indices", "Tind"), In("updates"))
    attributes = {"axis": Attr("int", 0)}
    differentiable = False

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        return ScatterElements().reference(inputs, {"axis": attributes["axis"], "reduction": "none"})

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        yield Sample(
            [draw(rng, (4, 4), "float32"), np.array([[1, 0], [2, 3]]), draw(rng, (2, 2), "float32")], {"axis": 1}
        )

    def upgrade(self, node: Any, version: int, builder: Any) -> Any:
        return builder.node("ScatterElements", node.inputs, {"axis": node.attributes.get("axis", 0)})


class ScatterND(_Scatter):
    """output = data, then output[tuple] = update for each tuple in the last axis of `indices`."""

    versions = (11, 13, 16, 18)
    inputs = (In("data"), In("indices", frozenset({"int64"})), In("updates"))
    attributes = {"reduction": REDUCTION}

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        data, indices, updates = inputs
        result = data.copy()
        write(result, tuple_index(indices, data.shape), updates, attributes["reduction"])
        return [result]

    def gradient(
        self, F: Any, inputs: list[Any], outputs: list[Any], grads: list[Any], attributes: Mapping[str, Any]
    ) -> list[Any]:
        g, indices = grads[0], inputs[1]
        for_updates = F.GatherND(g, indices)
        if attributes["reduction"] == "add":
            return [g, None, for_updates]
        if attributes["reduction"] != "none":
            raise NotImplementedError(f"ScatterND has no gradient for reduction {attributes['reduction']!r}")
        return [F.ScatterND(g, indices, F.Sub(inputs[2], inputs[2])), None, for_updates]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        yield Sample([draw(rng, (4, 3), "float32"), np.array([[0], [-1]]), draw(rng, (2, 3), "float32")])
        yield Sample([draw(rng, (4, 3), "float32"), np.array([[0, 1], [2, 2]]), draw(rng, (2,), "float32")])
        for reduction in ("add", "mul", "max", "min"):
            yield Sample(
                [draw(rng, (4,), "int64"), np.array([[1], [1], [3]]), draw(rng, (3,), "int64")],
                {"reduction": reduction},
            )
        yield Sample(
            [draw(rng, (4,), "float32"), np.array([[1], [1], [3]]), draw(rng, (3,), "float32")], {"reduction": "add"}
        )


class TensorScatter(_Scatter):
    """Writes `update` into a cache along `axis` from write_indices[b] on, for each batch entry b (wrapping if circular)."""

    versions = (24,)
    inputs = (In("past_cache"), In("update"), In("write_indices", frozenset({"int64"}), optional=True))
    outputs = (Out("present_cache"),)
    attributes = {"axis": Attr("int", -2), "mode": Attr("string", "linear", ("linear", "circular"))}
    accuracy = Accuracy.exact()
    differentiable = False

    def infer(self, context: Context) -> list[Type | None]:
        rank = context.type(0).rank
        if rank is not None and axis_of(context.attributes["axis"], rank) == 0:
            raise GraphError("axis is 0, the batch; allowed: any other")
        return [context.type(0)]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        cache, update, starts = (*inputs, None)[:3]
        axis = axis_of(attributes["axis"], cache.ndim)
        size, count = cache.shape[axis], update.shape[axis]
        begin = np.zeros(cache.shape[0], np.int64) if starts is None else starts
        places = begin[:, None] + np.arange(count)
        if attributes["mode"] == "circular":
            places %= size
        elif places.size and (places.min() < 0 or places.max() >= size):
            raise RunError(f"write_indices lead to {int(places.max())}; allowed: 0 to {size - 1}")
        result = np.moveaxis(cache.copy(), axis, 1)
        result[np.arange(len(begin))[:, None], places] = np.moveaxis(update, axis, 1)
        return [np.ascontiguousarray(np.moveaxis(result, 1, axis))]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        cache, update = draw(rng, (2, 3, 5, 4), "float32"), draw(rng, (2, 3, 2, 4), "float32")
        yield Sample([cache, update, int64(0, 3)])
        yield Sample([cache, update, int64(4, 3)], {"mode": "circular"})
        yield Sample([cache, update])
