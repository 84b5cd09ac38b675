"""BatchNormalization: channels normalized over the batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from headrace.runtime import dtypes
from headrace.runtime.errors import GraphError
from headrace.runtime.ops.axes import batch_first, drop, known_shape
from headrace.runtime.ops.base import MIXED, Accuracy, Attr, Context, In, Operator, Out, Sample
from headrace.runtime.ops.common import draw, scalar, widen
from headrace.runtime.ops.nn._statistics import (
    channelwise,
    inverse_deviation,
    normalized_gradient,
    per_channel,
    total_over,
)
from headrace.runtime.shapes import equal
from headrace.runtime.types import TensorType, Type


class BatchNormalization(Operator):
    """(X - mean) / sqrt(var + epsilon) * scale + B for each channel; with training_mode the mean and variance are those
    of the batch, and outputs 1 and 2 are the running statistics, blended with `momentum`."""

    versions = (1, 6, 7, 9, 14, 15)
    inputs = (In("X"), In("scale", "T1"), In("B", "T1"), In("input_mean", "T2"), In("input_var", "T2"))
    outputs = (
        Out("Y"),
        Out("running_mean", "T2", optional=True, gradient=False),
        Out("running_var", "T2", optional=True, gradient=False),
    )
    types = {"T": dtypes.FLOAT, "T1": dtypes.FLOAT, "T2": dtypes.FLOAT}
    attributes = {
        "epsilon": Attr("float", 1e-5),
        "momentum": Attr("float", 0.9),
        "training_mode": Attr("int", 0, (0, 1)),
    }
    accuracy = Accuracy(16.0)
    prepack = (1, 2, 3, 4)

    def infer(self, context: Context) -> list[Type | None]:
        shape = known_shape(context, least=2)
        for index in range(1, 5):
            vector = known_shape(context, index, (1,))
            if shape is not None and vector is not None and equal(shape[1], vector[0]) is False:
                raise GraphError(f"input {index} has {vector[0]} elements; X has {shape[1]} channels")
        running = TensorType(context.dtype(3), context.shape(3))
        found: list[Type | None] = [TensorType(context.dtype(), shape), running, running]
        return found[: max(1, context.n_outputs)]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        x, scale, bias, mean, variance = map(widen, inputs)
        running: list[Any] = []
        if attributes["training_mode"]:
            axes = (0, *range(2, x.ndim))
            kept, fresh = x.dtype.type(attributes["momentum"]), x.dtype.type(1 - attributes["momentum"])
            batch_mean, batch_variance = x.mean(axis=axes), x.var(axis=axes)
            running = [
                (old * kept + new * fresh).astype(inputs[3].dtype)
                for old, new in ((mean, batch_mean), (variance, batch_variance))
            ]
            mean, variance = batch_mean, batch_variance
        factor = scale / np.sqrt(variance + x.dtype.type(attributes["epsilon"]))
        y = (x - per_channel(mean, x.ndim)) * per_channel(factor, x.ndim) + per_channel(bias, x.ndim)
        return [y.astype(inputs[0].dtype), *running, *[inputs[3], inputs[4]][len(running) :]][: max(1, n_outputs)]

    def gradient(
        self, F: Any, inputs: list[Any], outputs: list[Any], grads: list[Any], attributes: Mapping[str, Any]
    ) -> list[Any]:
        x, scale, _, mean, variance = inputs
        g, rank = grads[0], F.rank(x)
        if g is None:
            return [None] * 5
        axes = (0, *range(2, rank))
        if attributes["training_mode"]:
            centered, inverse = inverse_deviation(F, x, axes, attributes["epsilon"])
            hat = F.Mul(centered, inverse)
            dx = normalized_gradient(F, F.Mul(g, channelwise(F, scale, rank)), hat, inverse, axes)
            return [dx, total_over(F, F.Mul(g, hat), axes), total_over(F, g, axes), None, None]
        inverse = F.Reciprocal(F.Sqrt(F.Add(variance, scalar(F, attributes["epsilon"], variance))))
        factor = F.Mul(scale, inverse)
        hat = F.Mul(F.Sub(x, channelwise(F, mean, rank)), channelwise(F, inverse, rank))
        sum_g, sum_g_hat = total_over(F, g, axes), total_over(F, F.Mul(g, hat), axes)
        d_variance = F.Mul(F.Mul(F.Mul(sum_g_hat, scale), F.Mul(inverse, inverse)), scalar(F, -0.5, x))
        return [F.Mul(g, channelwise(F, factor, rank)), sum_g_hat, sum_g, F.Neg(F.Mul(sum_g, factor)), d_variance]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        for shape in ((2, 3, 4, 5), (4, 3), (2, 3, 7), (1, 2, 2, 3, 2)):
            vectors = [draw(rng, shape[1:2], "float32", low, 2.0) for low in (-1.0, -1.0, -1.0, 0.1)]
            for attributes in ({}, {"epsilon": 1e-2}, {"training_mode": 1, "momentum": 0.7}):
                yield Sample(
                    [draw(rng, shape, "float32"), *vectors], attributes, outputs=3 if "momentum" in attributes else 1
                )

    def rows(self, tags: Sequence[int | None], context: Context) -> list[int | None]:
        if context.attributes["training_mode"] and any(tag is not None for tag in tags):
            return [MIXED] * context.n_outputs
        return [*batch_first(tags), None, None][: context.n_outputs]

    def upgrade(self, node: Any, version: int, builder: Any) -> Any:
        if version < 14:
            if (version < 7 and not node.attributes.get("is_test", 0)) or node.attributes.get("spatial", 1) == 0:
                raise GraphError(
                    "training-mode or per-element BatchNormalization of operator sets before 9 is not supported"
                )
            drop(node, "is_test", "spatial", "consumed_inputs", "momentum")
            node.outputs[1:] = []
