"""LayerNormalization and RMSNormalization: the last axes normalized."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from headrace.runtime import dtypes
from headrace.runtime.ops.axes import axis_of, kept_rows, known_shape
from headrace.runtime.ops.base import MIXED, Accuracy, Attr, Context, In, Operator, Out, Sample
from headrace.runtime.ops.common import broadcast_rows, draw, name_of, numpy_dtype, scalar, widen
from headrace.runtime.ops.nn._statistics import (
    inverse_deviation,
    mean_of,
    normalized_gradient,
)
from headrace.runtime.types import TensorType, Type


class LayerNormalization(Operator):
    """(X - mean) / sqrt(var + epsilon) * Scale + B over the axes from `axis` on; outputs Mean and InvStdDev on demand."""

    versions = (17,)
    inputs = (In("X"), In("Scale"), In("B", optional=True))
    outputs = (
        Out("Y"),
        Out("Mean", "U", optional=True, gradient=False),
        Out("InvStdDev", "U", optional=True, gradient=False),
    )
    types = {"T": dtypes.FLOAT, "U": frozenset({"float32", "bfloat16"})}
    attributes = {"axis": Attr("int", -1), "epsilon": Attr("float", 1e-5), "stash_type": Attr("int", 1)}
    accuracy = Accuracy(16.0)

    def infer(self, context: Context) -> list[Type | None]:
        shape = known_shape(context, least=1)
        stash = name_of(context.attributes["stash_type"])
        stash = "float64" if context.dtype() == "float64" else stash
        axis = 0 if shape is None else axis_of(context.attributes["axis"], len(shape))
        small = None if shape is None else tuple(size if i < axis else 1 for i, size in enumerate(shape))
        found: list[Type | None] = [TensorType(context.dtype(), shape), *[TensorType(stash, small)] * 2]
        return found[: max(1, context.n_outputs)]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        x, scale, bias = (*map(widen, inputs), None)[:3]
        stash = (
            numpy_dtype(name_of(attributes["stash_type"])) if inputs[0].dtype != np.float64 else np.dtype(np.float64)
        )
        axes = tuple(range(axis_of(attributes["axis"], x.ndim), x.ndim))
        mean = x.mean(axis=axes, keepdims=True)
        centered = x - mean
        inverse = 1 / np.sqrt(
            (centered * centered).mean(axis=axes, keepdims=True) + x.dtype.type(attributes["epsilon"])
        )
        y = centered * inverse * scale
        y = y if bias is None else y + bias
        return [y.astype(inputs[0].dtype), mean.astype(stash), inverse.astype(stash)][: max(1, n_outputs)]

    def gradient(
        self, F: Any, inputs: list[Any], outputs: list[Any], grads: list[Any], attributes: Mapping[str, Any]
    ) -> list[Any]:
        x, scale, bias = (*inputs, None)[:3]
        rank = F.rank(x)
        axes = tuple(range(axis_of(attributes["axis"], rank), rank))
        g = grads[0]
        if g is None:
            return [None] * len(inputs)
        centered, inverse = inverse_deviation(F, x, axes, attributes["epsilon"])
        hat = F.Mul(centered, inverse)
        dx = normalized_gradient(F, F.Mul(g, scale), hat, inverse, axes)
        return [dx, F.SumTo(F.Mul(g, hat), scale), None if bias is None else F.SumTo(g, bias)][: len(inputs)]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        for shape, axis in (((2, 3, 8), -1), ((2, 3, 4), 1), ((5, 7), 0), ((4, 33), -1)):
            scale, bias = (draw(rng, shape[axis:], "float32") for _ in range(2))
            yield Sample([draw(rng, shape, "float32"), scale, bias], {"axis": axis})
            yield Sample([draw(rng, shape, "float32"), scale], {"axis": axis, "epsilon": 1e-3})
        yield Sample([draw(rng, (3, 8), "float16"), draw(rng, (8,), "float16")])
        yield Sample([draw(rng, (3, 8), "float32"), draw(rng, (8,), "float32")], outputs=3)
        for wide in ((2, 3, 4), (3, 1), (2, 1, 4), (1,)):  # anything that broadcasts to X
            yield Sample([draw(rng, (2, 3, 4), "float32"), draw(rng, wide, "float32"), draw(rng, (4,), "float32")])

    def rows(self, tags: Sequence[int | None], context: Context) -> list[int | None]:
        shape = context.shape()
        blocked = None if shape is None else range(axis_of(context.attributes["axis"], len(shape)), len(shape))
        found = kept_rows(tags, blocked, context.n_outputs)
        scales = [i for i in range(len(context.inputs)) if i == 0 or context.has(i)]
        if broadcast_rows([tags[i] for i in scales], [context.shape(i) for i in scales]) != found[0]:
            return [MIXED] * context.n_outputs  # a scale with a row for each entry of this batch
        return found


class RMSNormalization(Operator):
    """X / sqrt(mean(X^2) + epsilon) * scale over the axes from `axis` on."""

    versions = (23,)
    inputs = (In("X"), In("scale", "V"))
    outputs = (Out("Y", "V"),)
    types = {"T": dtypes.FLOAT, "V": dtypes.FLOAT}
    attributes = {"axis": Attr("int", -1), "epsilon": Attr("float", 1e-5), "stash_type": Attr("int", 1)}
    accuracy = Accuracy(16.0)

    def infer(self, context: Context) -> list[Type | None]:
        return [TensorType(context.dtype(1), known_shape(context, least=1))]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        x, scale = map(widen, inputs)
        axes = tuple(range(axis_of(attributes["axis"], x.ndim), x.ndim))
        root = np.sqrt((x * x).mean(axis=axes, keepdims=True) + x.dtype.type(attributes["epsilon"]))
        return [(x / root * scale).astype(inputs[1].dtype)]

    def gradient(
        self, F: Any, inputs: list[Any], outputs: list[Any], grads: list[Any], attributes: Mapping[str, Any]
    ) -> list[Any]:
        x, scale = inputs
        rank = F.rank(x)
        axes = tuple(range(axis_of(attributes["axis"], rank), rank))
        inverse = F.Reciprocal(F.Sqrt(F.Add(mean_of(F, F.Mul(x, x), axes), scalar(F, attributes["epsilon"], x))))
        hat = F.Mul(x, inverse)
        g = F.Mul(grads[0], scale)
        dx = F.Mul(F.Sub(g, F.Mul(hat, mean_of(F, F.Mul(g, hat), axes))), inverse)
        return [dx, F.SumTo(F.Mul(grads[0], hat), scale)]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        for shape, axis in (((2, 3, 8), -1), ((2, 3, 4), 1), ((5, 7), 0)):
            yield Sample([draw(rng, shape, "float32"), draw(rng, shape[axis:], "float32")], {"axis": axis})
        for scale in ((2, 3, 4), (3, 1), (2, 1, 4), (1,)):  # anything that broadcasts to X, as exporters write it
            yield Sample([draw(rng, (2, 3, 4), "float32"), draw(rng, scale, "float32")])

    rows = LayerNormalization.rows
