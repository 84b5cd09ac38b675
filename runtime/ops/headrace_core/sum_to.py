"""SumTo: what undoes broadcasting in gradients."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from headrace.runtime import dtypes
from headrace.runtime.errors import GraphError
from headrace.runtime.ops.base import MIXED, Accuracy, Context, In, Operator, Out, Sample
from headrace.runtime.ops.common import compute, draw, is_float, ordered
from headrace.runtime.types import TensorType, Type


class SumTo(Operator):
    """Sum `x` over the dimensions along which the shape of `like` was broadcast to that of `x`. Only the shape of `like`
    is read."""

    domain = "headrace"
    inputs = (In("x"), In("like", dtypes.ANY))
    outputs = (Out("y"),)
    types = {"T": dtypes.NUMERIC}
    accuracy = Accuracy(8.0)

    def infer(self, context: Context) -> list[Type | None]:
        shape, target = context.shape(0), context.shape(1)
        if shape is not None and target is not None:
            if len(target) > len(shape):
                raise GraphError(f"{context.type(1)} has more dimensions than {context.type(0)}")
            for have, want in zip(shape[len(shape) - len(target) :], target):
                if isinstance(have, int) and isinstance(want, int) and want not in (1, have):
                    raise GraphError(f"{context.type(0)} was not broadcast from the shape of {context.type(1)}")
        return [TensorType(context.dtype(0), target)]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        x, like = inputs
        shape = np.shape(like)
        lead = x.ndim - len(shape)
        if lead < 0 or any(want not in (1, have) for have, want in zip(x.shape[lead:], shape)):
            raise GraphError(f"shape {list(x.shape)} was not broadcast from {list(shape)}")
        axes = tuple(range(lead)) + tuple(
            lead + i for i, size in enumerate(shape) if size == 1 and x.shape[lead + i] != 1
        )
        if not axes and not lead:
            return [x]
        return [compute(lambda a: np.sum(a, axis=axes, dtype=a.dtype), [x], x.dtype).reshape(shape)]

    def gradient(
        self, F: Any, inputs: list[Any], outputs: list[Any], grads: list[Any], attributes: Mapping[str, Any]
    ) -> list[Any]:
        return [F.Expand(grads[0], F.Shape(inputs[0])) if is_float(F, inputs[0]) else None, None]

    def rows(self, tags: Sequence[int | None], context: Context) -> list[int | None]:
        if all(tag is None for tag in tags):
            return [None]
        x, target = context.shape(0), context.shape(1)
        if tags[0] is None or tags[0] == MIXED or x is None or target is None:
            return [MIXED]
        place = tags[0] - (len(x) - len(target))
        return [place if place >= 0 and target[place] == x[tags[0]] else MIXED]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        for shape, like in (
            ((2, 3), (2, 3)),
            ((2, 3), (3,)),
            ((2, 3), (2, 1)),
            ((4, 2, 3), (2, 1)),
            ((5,), ()),
            ((0, 3), (1, 3)),
            ((1, 1), ()),
        ):
            yield Sample([draw(rng, shape, "float32"), draw(rng, like, "float32")])
        for dtype in ordered(dtypes.NUMERIC):
            yield Sample([draw(rng, (3, 4), dtype), draw(rng, (4,), "float32")])
