"""InstanceNormalization and GroupNormalization: channels, or groups of them, normalized in each image."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from headrace.runtime import dtypes
from headrace.runtime.errors import GraphError
from headrace.runtime.ops.axes import batch_first, drop, int64, known_shape
from headrace.runtime.ops.base import REQUIRED, Accuracy, Attr, Context, In, Operator, Out, Sample
from headrace.runtime.ops.common import draw, widen
from headrace.runtime.ops.nn._statistics import (
    channelwise,
    inverse_deviation,
    normalized_gradient,
    per_channel,
    total_over,
)
from headrace.runtime.types import TensorType, Type


class InstanceNormalization(Operator):
    """Each channel of each image normalized by its own mean and variance."""

    versions = (1, 6, 22)
    inputs = (In("input"), In("scale"), In("B"))
    outputs = (Out("output"),)
    types = {"T": dtypes.FLOAT}
    attributes = {"epsilon": Attr("float", 1e-5)}
    accuracy = Accuracy(16.0)

    def infer(self, context: Context) -> list[Type | None]:
        return [TensorType(context.dtype(), known_shape(context, least=2))]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        x, scale, bias = map(widen, inputs)
        axes = tuple(range(2, x.ndim))
        hat = (x - x.mean(axis=axes, keepdims=True)) / np.sqrt(
            x.var(axis=axes, keepdims=True) + x.dtype.type(attributes["epsilon"])
        )
        return [(hat * per_channel(scale, x.ndim) + per_channel(bias, x.ndim)).astype(inputs[0].dtype)]

    def gradient(
        self, F: Any, inputs: list[Any], outputs: list[Any], grads: list[Any], attributes: Mapping[str, Any]
    ) -> list[Any]:
        x, scale, _ = inputs
        g, rank = grads[0], F.rank(x)
        axes, others = tuple(range(2, rank)), (0, *range(2, rank))
        centered, inverse = inverse_deviation(F, x, axes, attributes["epsilon"])
        hat = F.Mul(centered, inverse)
        dx = normalized_gradient(F, F.Mul(g, channelwise(F, scale, rank)), hat, inverse, axes)
        return [dx, total_over(F, F.Mul(g, hat), others), total_over(F, g, others)]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        for shape in ((2, 3, 4, 5), (1, 2, 9)):
            yield Sample([draw(rng, shape, "float32"), *(draw(rng, shape[1:2], "float32") for _ in range(2))])

    def rows(self, tags: Sequence[int | None], context: Context) -> list[int | None]:
        return batch_first(tags)

    def upgrade(self, node: Any, version: int, builder: Any) -> Any:
        drop(node, "consumed_inputs")


class GroupNormalization(Operator):
    """Channels in `num_groups` groups, each normalized by its own mean and variance; scale and bias for each channel."""

    versions = (18, 21)
    inputs = (In("X"), In("scale"), In("bias"))
    types = {"T": dtypes.FLOAT}
    attributes = {"epsilon": Attr("float", 1e-5), "num_groups": Attr("int", REQUIRED), "stash_type": Attr("int", 1)}
    accuracy = Accuracy(16.0)

    def infer(self, context: Context) -> list[Type | None]:
        shape, groups = known_shape(context, least=2), context.attributes["num_groups"]
        if shape is not None and isinstance(shape[1], int) and (groups < 1 or shape[1] % groups):
            raise GraphError(f"num_groups is {groups}; allowed: a divisor of the {shape[1]} channels")
        return [TensorType(context.dtype(), shape)]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        x, scale, bias = map(widen, inputs)
        grouped = x.reshape(x.shape[0], attributes["num_groups"], -1)
        mean, variance = grouped.mean(axis=2, keepdims=True), grouped.var(axis=2, keepdims=True)
        hat = ((grouped - mean) / np.sqrt(variance + x.dtype.type(attributes["epsilon"]))).reshape(x.shape)
        return [(hat * per_channel(scale, x.ndim) + per_channel(bias, x.ndim)).astype(inputs[0].dtype)]

    def gradient(
        self, F: Any, inputs: list[Any], outputs: list[Any], grads: list[Any], attributes: Mapping[str, Any]
    ) -> list[Any]:
        x, scale, _ = inputs
        g, rank, shape = grads[0], F.rank(x), F.Shape(x)
        others = (0, *range(2, rank))
        grouped = F.constant(int64(0, attributes["num_groups"], -1))
        centered, inverse = inverse_deviation(F, F.Reshape(x, grouped), (2,), attributes["epsilon"])
        hat = F.Mul(centered, inverse)
        inner = F.Reshape(F.Mul(g, channelwise(F, scale, rank)), grouped)
        dx = F.Reshape(normalized_gradient(F, inner, hat, inverse, (2,)), shape)
        return [dx, total_over(F, F.Mul(g, F.Reshape(hat, shape)), others), total_over(F, g, others)]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        for shape, groups in (((2, 4, 3, 5), 2), ((1, 6, 7), 3), ((2, 4, 2, 2), 4), ((2, 4, 2, 2), 1)):
            vectors = [draw(rng, shape[1:2], "float32") for _ in range(2)]
            yield Sample([draw(rng, shape, "float32"), *vectors], {"num_groups": groups})

    def rows(self, tags: Sequence[int | None], context: Context) -> list[int | None]:
        return batch_first(tags)

    def upgrade(self, node: Any, version: int, builder: Any) -> Any:
        """Before version 21, scale and bias had one element for each group: stretch them to the channels."""
        if version >= 21:
            return
        groups = int(node.attributes["num_groups"])
        channels = builder.node("Shape", [node.inputs[0]], {"start": 1, "end": 2})[0]
        size = builder.node("Div", [channels, builder.constant(int64(groups))])[0]
        target = builder.node("Concat", [builder.constant(int64(groups)), size], {"axis": 0})[0]
        for index in (1, 2):
            column = builder.node("Unsqueeze", [node.inputs[index], builder.constant(int64(1))])[0]
            wide = builder.node("Expand", [column, target])[0]
            node.inputs[index] = builder.node("Reshape", [wide, builder.constant(int64(-1))])[0]
