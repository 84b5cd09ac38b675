"""Softmax, LogSoftmax, Hardmax along one axis."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from headrace.runtime import dtypes
from headrace.runtime.ops.axes import axis_of, int64, kept_rows
from headrace.runtime.ops.base import Accuracy, Attr, Context, In, Operator, Out, Sample
from headrace.runtime.ops.common import compute, draw
from headrace.runtime.types import TensorType, Type


def softmax(x: Any, axis: int = -1) -> Any:
    exponentials = np.exp(x - np.max(x, axis=axis, keepdims=True, initial=-np.inf))
    return exponentials / np.sum(exponentials, axis=axis, keepdims=True)


def softmax_half(x: Any, axis: int = -1) -> Any:
    """Of float16: every step is rounded to float16, as in the function by which ONNX defines Softmax, so that the standard's own
    expansions of attention give the same bits. A sum beyond 65504 stays as it is: rounded to inf it would make long
    rows zero."""
    shifted = (x - np.max(x, axis=axis, keepdims=True, initial=-np.inf)).astype(np.float16)
    exponentials = np.exp(shifted.astype(np.float32)).astype(np.float16)
    total = np.sum(exponentials, axis=axis, keepdims=True, dtype=np.float32)
    rounded = total.astype(np.float16).astype(np.float32)
    return exponentials.astype(np.float32) / np.where(np.isinf(rounded), total, rounded)


def log_softmax(x: Any, axis: int = -1) -> Any:
    shifted = x - np.max(x, axis=axis, keepdims=True, initial=-np.inf)
    return shifted - np.log(np.sum(np.exp(shifted), axis=axis, keepdims=True))


class _AlongAxis(Operator):
    versions = (1, 11, 13)
    inputs = (In("input"),)
    outputs = (Out("output"),)
    types = {"T": dtypes.FLOAT}
    attributes = {"axis": Attr("int", -1)}
    accuracy = Accuracy(16.0)
    in_place = (0,)

    def infer(self, context: Context) -> list[Type | None]:
        shape = context.shape()
        if shape:
            axis_of(context.attributes["axis"], len(shape))
        return [TensorType(context.dtype(), shape)]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        for axis in (-1, 0, 1):
            yield Sample([draw(rng, (2, 5, 3), "float32")], {"axis": axis})
        yield Sample([draw(rng, (3, 100), "float32", -50, 50)])
        yield Sample([draw(rng, (0, 4), "float32")])
        yield Sample([draw(rng, (3, 9), "float16")])

    def rows(self, tags: Sequence[int | None], context: Context) -> list[int | None]:
        shape = context.shape()
        return kept_rows(tags, None if shape is None else (axis_of(context.attributes["axis"], len(shape)),))

    def upgrade(self, node: Any, version: int, builder: Any) -> Any:
        """Before version 13 the input was flattened to a matrix at `axis` (default 1)."""
        if version >= 13:
            return None
        x, axis = node.inputs[0], int(node.attributes.get("axis", 1))
        rank = x.type.rank if isinstance(x.type, TensorType) else None
        if rank is not None and axis % rank == rank - 1:
            node.attributes["axis"] = -1
            return None
        flat = builder.node("Flatten", [x], {"axis": axis})[0]
        inner = builder.node(self.name, [flat], {"axis": 1})[0]
        return builder.node("Reshape", [inner, builder.node("Shape", [x])[0]])


def _sum(F: Any, x: Any, axis: int) -> Any:
    return F.ReduceSum(x, F.constant(int64(axis)), keepdims=1)


class Softmax(_AlongAxis):
    """exp(x) / sum(exp(x)) along `axis`."""

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        function = softmax_half if inputs[0].dtype == np.float16 else softmax
        return [compute(function, inputs, inputs[0].dtype, axis=attributes["axis"])]

    def gradient(
        self, F: Any, inputs: list[Any], outputs: list[Any], grads: list[Any], attributes: Mapping[str, Any]
    ) -> list[Any]:
        y, g = outputs[0], grads[0]
        product = F.Mul(g, y)
        return [F.Sub(product, F.Mul(y, _sum(F, product, attributes["axis"])))]


class LogSoftmax(_AlongAxis):
    """x - log(sum(exp(x))) along `axis`."""

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        return [compute(log_softmax, inputs, inputs[0].dtype, axis=attributes["axis"])]

    def gradient(
        self, F: Any, inputs: list[Any], outputs: list[Any], grads: list[Any], attributes: Mapping[str, Any]
    ) -> list[Any]:
        return [F.Sub(grads[0], F.Mul(F.Exp(outputs[0]), _sum(F, grads[0], attributes["axis"])))]


class Hardmax(_AlongAxis):
    """1 at the first largest element along `axis`, 0 elsewhere."""

    accuracy = Accuracy.exact()
    differentiable = False

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        x, axis = inputs[0], attributes["axis"]
        result = np.zeros_like(x)
        if x.size:
            np.put_along_axis(result, np.expand_dims(np.argmax(x, axis=axis), axis), 1, axis=axis)
        return [result]
