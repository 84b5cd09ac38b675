"""LRN, LpNormalization, MeanVarianceNormalization."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from headrace.runtime import dtypes
from headrace.runtime.ops.axes import axes_of, axis_of, batch_first, int64, kept_rows, known_shape
from headrace.runtime.ops.base import REQUIRED, Accuracy, Attr, Context, In, Operator, Out, Sample
from headrace.runtime.ops.common import draw, scalar, widen
from headrace.runtime.types import TensorType, Type


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
