"""GlobalAveragePool, GlobalMaxPool, GlobalLpPool: one number for each channel."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from headrace.runtime import dtypes
from headrace.runtime.ops.axes import batch_first, int64, known_shape
from headrace.runtime.ops.base import Accuracy, Attr, Context, Operator, Sample
from headrace.runtime.ops.common import compute, draw
from headrace.runtime.types import TensorType, Type


class _Global(Operator):
    """One number for each channel of [N, C, *sizes]."""

    versions: ClassVar[tuple[int, ...]] = (1, 22)
    types = {"T": dtypes.FLOAT}
    accuracy = Accuracy(16.0)

    def infer(self, context: Context) -> list[Type | None]:
        shape = known_shape(context, least=2)
        return [TensorType(context.dtype(), None if shape is None else (*shape[:2], *[1] * (len(shape) - 2)))]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        for shape in ((2, 3, 4, 5), (1, 2, 7), (2, 1, 2, 3, 2), (1, 1, 1, 1)):
            yield Sample([draw(rng, shape, "float32")])
        yield Sample([draw(rng, (2, 3, 4, 5), "float16")])

    def rows(self, tags: Sequence[int | None], context: Context) -> list[int | None]:
        return batch_first(tags)


def spatial(x: Any) -> tuple[int, ...]:
    return tuple(range(2, x.ndim))


class GlobalAveragePool(_Global):
    """The mean over all spatial axes."""

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        return [compute(lambda x: np.mean(x, axis=spatial(x), keepdims=True), inputs, inputs[0].dtype)]

    def gradient(
        self, F: Any, inputs: list[Any], outputs: list[Any], grads: list[Any], attributes: Mapping[str, Any]
    ) -> list[Any]:
        x = inputs[0]
        count = F.Cast(F.Div(F.Size(x), F.Size(outputs[0])), to=dtypes.of(F.dtype(x)).onnx)
        return [F.Expand(F.Div(grads[0], count), F.Shape(x))]


class GlobalMaxPool(_Global):
    """The largest element over all spatial axes. Its gradient goes in equal parts to all that are the largest."""

    accuracy = Accuracy.exact()

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        return [np.max(inputs[0], axis=spatial(inputs[0]), keepdims=True)]

    def gradient(
        self, F: Any, inputs: list[Any], outputs: list[Any], grads: list[Any], attributes: Mapping[str, Any]
    ) -> list[Any]:
        x = inputs[0]
        won = F.Cast(F.Equal(x, outputs[0]), to=dtypes.of(F.dtype(x)).onnx)
        axes = F.constant(int64(*range(2, F.rank(x))))
        return [F.Mul(grads[0], F.Div(won, F.ReduceSum(won, axes, keepdims=1)))]


class GlobalLpPool(_Global):
    """The p-norm over all spatial axes."""

    versions = (1, 2, 22)
    attributes = {"p": Attr("int", 2)}
    differentiable = False

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        p = attributes["p"]
        return [
            compute(
                lambda x: np.sum(np.abs(x) ** p, axis=spatial(x), keepdims=True) ** (1 / p), inputs, inputs[0].dtype
            )
        ]

    def upgrade(self, node: Any, version: int, builder: Any) -> Any:
        if version < 2:
            node.attributes["p"] = int(node.attributes.get("p", 2))
