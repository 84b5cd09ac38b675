"""Normalizations: batch, layer, instance, group, RMS, local response, Lp, mean-variance."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from headrace.runtime import dtypes
from headrace.runtime.errors import GraphError
from headrace.runtime.ops.axes import axes_of, axis_of, batch_first, drop, int64, kept_rows, known_shape
from headrace.runtime.ops.base import MIXED, REQUIRED, Accuracy, Attr, Context, In, Operator, Out, Sample
from headrace.runtime.ops.common import draw, name_of, numpy_dtype, scalar, widen
from headrace.runtime.shapes import equal
from headrace.runtime.types import TensorType, Type


def per_channel(x: Any, rank: int) -> Any:
    """A vector over channels, shaped to meet axis 1."""
    return x.reshape(-1, *[1] * (rank - 2)) if rank > 1 else x


def channelwise(F: Any, vector: Any, rank: int) -> Any:
    """The same in a namespace."""
    return F.Unsqueeze(vector, F.constant(int64(*range(1, rank - 1)))) if rank > 2 else vector


def mean_of(F: Any, x: Any, axes: Sequence[int]) -> Any:
    return F.ReduceMean(x, F.constant(int64(*axes)), keepdims=1)


def normalized_gradient(F: Any, g: Any, hat: Any, inverse: Any, axes: Sequence[int]) -> Any:
    """The gradient through hat = (x - mean) * inverse, both over `axes`, for the gradient g of hat."""
    centered = F.Sub(F.Sub(g, mean_of(F, g, axes)), F.Mul(hat, mean_of(F, F.Mul(g, hat), axes)))
    return F.Mul(centered, inverse)


def inverse_deviation(F: Any, x: Any, axes: Sequence[int], epsilon: float) -> tuple[Any, Any]:
    """(x - mean, 1 / sqrt(variance + epsilon)) over `axes`."""
    centered = F.Sub(x, mean_of(F, x, axes))
    variance = mean_of(F, F.Mul(centered, centered), axes)
    return centered, F.Reciprocal(F.Sqrt(F.Add(variance, scalar(F, epsilon, x))))


def total_over(F: Any, x: Any, axes: Sequence[int]) -> Any:
    return F.ReduceSum(x, F.constant(int64(*axes)), keepdims=0)


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

    def rows(self, tags: Sequence[int | None], context: Context) -> list[int | None]:
        shape = context.shape()
        blocked = None if shape is None else range(axis_of(context.attributes["axis"], len(shape)), len(shape))
        return kept_rows(tags, blocked, context.n_outputs)


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

    rows = LayerNormalization.rows


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


class LRN(Operator):
    """X / (bias + alpha / size * (sum of squares over `size` neighbouring channels))^beta."""

    versions = (1, 13)
    types = {"T": dtypes.FLOAT}
    attributes = {
        "alpha": Attr("float", 1e-4),
        "beta": Attr("float", 0.75),
        "bias": Attr("float", 1.0),
        "size": Attr("int", REQUIRED),
    }
    accuracy = Accuracy(16.0)
    differentiable = False

    def infer(self, context: Context) -> list[Type | None]:
        return [TensorType(context.dtype(), known_shape(context, least=2))]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        x, size = widen(inputs[0]), attributes["size"]
        before = (size - 1) // 2
        squares = np.pad(x * x, [(0, 0), (before, size - 1 - before)] + [(0, 0)] * (x.ndim - 2))
        total = np.lib.stride_tricks.sliding_window_view(squares, size, axis=1).sum(axis=-1)
        base = x.dtype.type(attributes["bias"]) + x.dtype.type(attributes["alpha"] / size) * total
        return [(x / base ** x.dtype.type(attributes["beta"])).astype(inputs[0].dtype)]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        for size in (1, 3, 5):
            yield Sample([draw(rng, (2, 5, 3, 4), "float32")], {"size": size, "alpha": 0.3, "beta": 0.6, "bias": 1.5})

    def rows(self, tags: Sequence[int | None], context: Context) -> list[int | None]:
        return batch_first(tags)


class LpNormalization(Operator):
    """X divided by its p-norm along `axis`; a norm of 0 gives 0."""

    versions = (1, 22)
    inputs = (In("input"),)
    outputs = (Out("output"),)
    types = {"T": dtypes.FLOAT}
    attributes = {"axis": Attr("int", -1), "p": Attr("int", 2, (1, 2))}
    accuracy = Accuracy(16.0)

    def infer(self, context: Context) -> list[Type | None]:
        shape = context.shape()
        if shape is not None:
            axis_of(context.attributes["axis"], len(shape))
        return [TensorType(context.dtype(), shape)]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        x = widen(inputs[0])
        norm = np.linalg.norm(x, ord=attributes["p"], axis=attributes["axis"], keepdims=True)
        return [np.where(norm == 0, 0, x / np.where(norm == 0, 1, norm)).astype(inputs[0].dtype)]

    def gradient(
        self, F: Any, inputs: list[Any], outputs: list[Any], grads: list[Any], attributes: Mapping[str, Any]
    ) -> list[Any]:
        x, y, g = inputs[0], outputs[0], grads[0]
        axes = F.constant(int64(axis_of(attributes["axis"], F.rank(x))))
        norm = F.ReduceL2(x, axes, keepdims=1) if attributes["p"] == 2 else F.ReduceL1(x, axes, keepdims=1)
        slope = y if attributes["p"] == 2 else F.Sign(x)
        inner = F.Sub(g, F.Mul(slope, F.ReduceSum(F.Mul(g, y), axes, keepdims=1)))
        zero = F.Equal(norm, scalar(F, 0, x))
        return [F.Where(zero, scalar(F, 0, x), F.Div(inner, F.Where(zero, scalar(F, 1, x), norm)))]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        for axis in (-1, 0, 1):
            for p in (1, 2):
                yield Sample([draw(rng, (2, 3, 5), "float32")], {"axis": axis, "p": p})

    def rows(self, tags: Sequence[int | None], context: Context) -> list[int | None]:
        shape = context.shape()
        return kept_rows(tags, None if shape is None else (axis_of(context.attributes["axis"], len(shape)),))


class MeanVarianceNormalization(Operator):
    """(X - mean) / (deviation + 1e-9) over `axes`."""

    versions = (9, 13)
    types = {"T": dtypes.FLOAT}
    attributes = {"axes": Attr("ints", (0, 2, 3))}
    accuracy = Accuracy(32.0)
    differentiable = False

    def infer(self, context: Context) -> list[Type | None]:
        shape = context.shape()
        if shape is not None:
            axes_of(context.attributes["axes"], len(shape))
        return [TensorType(context.dtype(), shape)]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        x, axes = widen(inputs[0]), tuple(attributes["axes"])
        mean = x.mean(axis=axes, keepdims=True)
        return [((x - mean) / (np.sqrt(x.var(axis=axes, keepdims=True)) + x.dtype.type(1e-9))).astype(inputs[0].dtype)]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        yield Sample([draw(rng, (2, 3, 4, 5), "float32")])
        yield Sample([draw(rng, (2, 3, 4), "float32")], {"axes": (1, -1)})

    def rows(self, tags: Sequence[int | None], context: Context) -> list[int | None]:
        shape = context.shape()
        return kept_rows(tags, None if shape is None else axes_of(context.attributes["axes"], len(shape)))
