"""AveragePool, its gradient AveragePoolGrad, and LpPool."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from headrace.runtime import dtypes
from headrace.runtime.ops.axes import batch_first, drop, fresh_shape, int64
from headrace.runtime.ops.base import Accuracy, Attr, Context, In, Operator, Out, Sample
from headrace.runtime.ops.common import compute, draw
from headrace.runtime.ops.nn._pooling import CASES, INT64, POOL, arranged, passed, pool_shape, window_sum
from headrace.runtime.ops.window import Window, scatter
from headrace.runtime.types import TensorType, Type


def divisors(x_shape: Sequence[int], window: Window, counts: Sequence[int], include_pad: bool) -> Any:
    """By how many elements each window's sum is divided, [*counts]: its data, and its explicit padding too where
    `include_pad` is set; what ceil_mode adds behind never counts."""
    total = np.ones((1,) * len(counts), np.int64)
    for axis, count in enumerate(counts):
        begin, size, end = window.begin[axis], x_shape[2 + axis], window.end[axis]
        first, last = (0, begin + size + end) if include_pad else (begin, begin + size)
        places = (
            np.arange(count)[:, None] * window.strides[axis] + np.arange(window.kernel[axis]) * window.dilations[axis]
        )
        inside = np.count_nonzero((places >= first) & (places < last), axis=1)
        total = total * inside.reshape([-1 if other == axis else 1 for other in range(len(counts))])
    return np.maximum(total, 1)


class AveragePool(Operator):
    """The mean of each window."""

    versions = (1, 7, 10, 11, 19, 22)
    types = {"T": dtypes.FLOAT}
    attributes = {**POOL, "count_include_pad": Attr("int", 0, (0, 1))}
    accuracy = Accuracy(16.0)

    def infer(self, context: Context) -> list[Type | None]:
        return [TensorType(context.dtype(), pool_shape(context))]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        x = inputs[0]
        window, counts = arranged(attributes, x.shape[2:])
        divisor = divisors(x.shape, window, counts, bool(attributes["count_include_pad"]))
        return [compute(lambda x: window_sum(x, window, counts) / divisor.astype(x.dtype), [x], x.dtype)]

    def gradient(
        self, F: Any, inputs: list[Any], outputs: list[Any], grads: list[Any], attributes: Mapping[str, Any]
    ) -> list[Any]:
        return [F.AveragePoolGrad(grads[0], F.Shape(inputs[0]), **passed(attributes, self.attributes))]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        for shape, attributes in CASES:
            for include in (0, 1):
                yield Sample([draw(rng, shape, "float32")], {**attributes, "count_include_pad": include})

    def rows(self, tags: Sequence[int | None], context: Context) -> list[int | None]:
        return batch_first(tags)


class AveragePoolGrad(Operator):
    """The gradient of AveragePool: dY [N, C, *counts] and the shape of X -> dX [N, C, *sizes]."""

    domain = "headrace"
    inputs = (In("dY"), In("shape", INT64))
    outputs = (Out("dX"),)
    types = {"T": dtypes.FLOAT}
    attributes = AveragePool.attributes
    accuracy = Accuracy(16.0)

    def infer(self, context: Context) -> list[Type | None]:
        target, rank = context.value(1), context.type(0).rank
        if isinstance(target, tuple):
            return [TensorType(context.dtype(), target)]
        return [TensorType(context.dtype(), None if rank is None else fresh_shape(context, rank, "pool"))]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        dy, shape = inputs[0], tuple(int(size) for size in inputs[1])
        window, counts = arranged(attributes, shape[2:])
        divisor = divisors(shape, window, counts, bool(attributes["count_include_pad"]))

        def run(dy: Any) -> Any:
            share = (dy / divisor.astype(dy.dtype)).reshape(*shape[:2], *[1] * len(counts), *counts)
            columns = np.broadcast_to(share, (*shape[:2], *window.kernel, *counts))
            return scatter(columns, window, shape[2:], counts)

        return [compute(run, [dy], dy.dtype)]

    def gradient(
        self, F: Any, inputs: list[Any], outputs: list[Any], grads: list[Any], attributes: Mapping[str, Any]
    ) -> list[Any]:
        return [F.AveragePool(grads[0], **passed(attributes, self.attributes)), None]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        for shape, attributes in CASES:
            counts = arranged(attributes, shape[2:])[1]
            for include in (0, 1):
                yield Sample(
                    [draw(rng, (*shape[:2], *counts), "float32"), int64(*shape)],
                    {**attributes, "count_include_pad": include},
                )

    def rows(self, tags: Sequence[int | None], context: Context) -> list[int | None]:
        return batch_first(tags[:1])


class LpPool(Operator):
    """The p-norm of each window."""

    versions = (1, 2, 11, 18, 22)
    types = {"T": dtypes.FLOAT}
    attributes = {**POOL, "p": Attr("int", 2)}
    accuracy = Accuracy(16.0)
    differentiable = False

    def infer(self, context: Context) -> list[Type | None]:
        return [TensorType(context.dtype(), pool_shape(context))]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        x, p = inputs[0], attributes["p"]
        window, counts = arranged(attributes, x.shape[2:])
        return [compute(lambda x: window_sum(np.abs(x) ** p, window, counts) ** (1 / p), [x], x.dtype)]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        for shape, attributes in CASES:
            yield Sample([draw(rng, shape, "float32")], attributes)
        yield Sample([draw(rng, (1, 2, 5, 5), "float32")], {"kernel_shape": (2, 3), "p": 3})

    def rows(self, tags: Sequence[int | None], context: Context) -> list[int | None]:
        return batch_first(tags)

    def upgrade(self, node: Any, version: int, builder: Any) -> Any:
        if version < 2:
            node.attributes["p"] = int(node.attributes.get("p", 2))
        drop(node, *(() if version >= 18 else ("count_include_pad",)))
