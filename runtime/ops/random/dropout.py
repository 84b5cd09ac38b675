"""Dropout: the identity when inferring; when training, elements are zeroed at random and the others scaled up."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from headrace.runtime import dtypes
from headrace.runtime.errors import GraphError
from headrace.runtime.ops.base import MIXED, Accuracy, Attr, Context, In, Operator, Out, Sample
from headrace.runtime.ops.common import code_of, compute, draw, is_float, replacement, scalar
from headrace.runtime.ops.random import philox
from headrace.runtime.ops.random.standard import seed_of
from headrace.runtime.types import TensorType, Type


def _draws(count: int, seed: int | None) -> Any:
    """Numbers in [0, 1): with a seed in the file those of ONNX's reference and its test data, NumPy's MT19937 (a stream that
    NumPy has promised to keep); without one Philox, as everywhere else."""
    if seed is None:
        return philox.uniform(count, "float32", seed_of(None))
    return np.random.RandomState(seed & 0xFFFFFFFF).random_sample(count)


class Dropout(Operator):
    versions = (1, 6, 7, 10, 12, 13, 22)
    inputs = (In("data"), In("ratio", "T1", optional=True), In("training_mode", "T2", optional=True))
    outputs = (Out("output"), Out("mask", "T2", optional=True))
    types = {"T": dtypes.FLOAT | dtypes.FLOAT8, "T1": dtypes.FLOAT | dtypes.FLOAT8, "T2": frozenset({"bool"})}
    attributes = {"seed": Attr("int", None)}
    accuracy = Accuracy(1.0)
    deterministic = False

    def infer(self, context: Context) -> list[Type | None]:
        return [context.type(0), TensorType("bool", context.shape(0))]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        x, ratio, training = (*inputs, None, None)[:3]
        if training is None or not bool(training):
            return [x, np.ones(x.shape, np.bool_)]
        share = 0.5 if ratio is None else float(ratio)
        if not 0 <= share < 1:
            raise GraphError(f"ratio is {share}; allowed: 0 <= ratio < 1")
        mask = _draws(x.size, attributes["seed"]).reshape(x.shape) >= share
        return [compute(lambda a: np.where(mask, a * np.asarray(1 / (1 - share), a.dtype), 0), [x], x.dtype), mask]

    def gradient(
        self, F: Any, inputs: list[Any], outputs: list[Any], grads: list[Any], attributes: Mapping[str, Any]
    ) -> list[Any]:
        x, ratio, training = (*inputs, None, None)[:3]
        g = grads[0]
        none = [None] * (len(inputs) - 1)
        if g is None or not is_float(F, x):
            return [None, *none]
        if training is None:
            return [g, *none]
        if len(outputs) < 2 or outputs[1] is None:
            raise GraphError("the gradient of Dropout in training mode needs its output mask")
        one = scalar(F, 1, x)
        share = scalar(F, 0.5, x) if ratio is None else F.Cast(ratio, to=code_of(F.dtype(x)))
        scale = F.Where(training, F.Div(one, F.Sub(one, share)), one)
        return [F.Where(outputs[1], F.Mul(g, scale), scalar(F, 0, g)), *none]

    def rows(self, tags: Sequence[int | None], context: Context) -> list[int | None]:
        training = context.constant(2) if context.has(2) else np.False_
        tag = tags[0] if training is not None and not bool(training) else MIXED
        return [tag] * context.n_outputs

    def upgrade(self, node: Any, version: int, builder: Any) -> list[Any] | None:
        """Before version 12 the ratio is an attribute, and files say nothing about training: inference is meant."""
        if version >= 12:
            return None
        return replacement(builder, node, node.inputs[:1])

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        for shape in ((2, 3), (), (0, 2)):
            yield Sample([draw(rng, shape, "float32")], outputs=2)
        yield Sample([draw(rng, (4, 5), "float32"), np.array(0.25, np.float32), np.array(False)], outputs=2)
        yield Sample([draw(rng, (4, 5), "float32"), np.array(0.25, np.float32), np.array(True)], {"seed": 3}, outputs=2)
        yield Sample([draw(rng, (4, 5), "bfloat16"), np.array(0.0, np.float32), np.array(True)], {"seed": 3}, outputs=2)
