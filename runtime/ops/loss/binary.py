"""BinaryCrossEntropy: -(y log p + (1 - y) log(1 - p)), element by element."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from headrace.runtime import dtypes
from headrace.runtime.ops.base import Accuracy, Context, In, Operator, Out, Sample
from headrace.runtime.ops.common import broadcast_rows, broadcast_shapes, compute, draw, is_float, scalar, unbroadcast
from headrace.runtime.types import TensorType, Type

# Logarithms are limited from below, so that a certain and wrong answer costs much but not infinitely much.
FLOOR = -100.0


def cross_entropy(p: Any, y: Any) -> Any:
    floor = p.dtype.type(FLOOR)
    right = np.maximum(np.log(p), floor)
    wrong = np.maximum(np.log1p(-p), floor)
    return (y - 1) * wrong - y * right


class BinaryCrossEntropy(Operator):
    """p in [0, 1] and y of one shape; each logarithm is at least -100."""

    domain = "headrace"
    inputs = (In("p"), In("y"))
    outputs = (Out("loss"),)
    types = {"T": dtypes.FLOAT}
    accuracy = Accuracy(8.0)

    def infer(self, context: Context) -> list[Type | None]:
        return [TensorType(context.dtype(), broadcast_shapes(context))]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        return [compute(cross_entropy, inputs, inputs[0].dtype)]

    def gradient(
        self, F: Any, inputs: list[Any], outputs: list[Any], grads: list[Any], attributes: Mapping[str, Any]
    ) -> list[Any]:
        p, y = inputs
        one, g = scalar(F, 1, p), grads[0]
        q = F.Sub(one, p)
        # The product is kept from zero: the gradient of a certain and wrong answer stays finite.
        for_p = F.Mul(g, F.Div(F.Sub(p, y), F.Max(F.Mul(p, q), scalar(F, 1e-12, p))))
        floor = scalar(F, FLOOR, p)
        for_y = F.Mul(g, F.Sub(F.Max(F.Log(q), floor), F.Max(F.Log(p), floor)))
        return [unbroadcast(F, for_p, p), unbroadcast(F, for_y, y) if is_float(F, y) else None]

    def rows(self, tags: Sequence[int | None], context: Context) -> list[int | None]:
        return [broadcast_rows(tags, [context.shape(0), context.shape(1)])]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        for shape in ((2, 3), (17,), (), (0, 3), (4, 1)):
            yield Sample([draw(rng, shape, "float32", 0.05, 0.95), draw(rng, shape, "float32", 0.0, 1.0)])
        for dtype in ("float64", "float16", "bfloat16"):
            yield Sample([draw(rng, (3, 5), dtype, 0.05, 0.95), draw(rng, (3, 5), dtype, 0.0, 1.0)])
