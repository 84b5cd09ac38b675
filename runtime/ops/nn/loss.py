"""SoftmaxCrossEntropyLoss and NegativeLogLikelihoodLoss: scores [N, C, *sizes], labels [N, *sizes], weights [C]."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from headrace.runtime import dtypes
from headrace.runtime.errors import GraphError, RunError
from headrace.runtime.ops.axes import int64, known_shape
from headrace.runtime.ops.base import Accuracy, Attr, Context, In, Operator, Out, Sample
from headrace.runtime.ops.common import draw, scalar, widen
from headrace.runtime.ops.move.gather import zeros_like
from headrace.runtime.ops.nn.softmax import log_softmax
from headrace.runtime.types import TensorType, Type

LABELS = frozenset({"int32", "int64"})
LOSS = {"ignore_index": Attr("int"), "reduction": Attr("string", "mean", ("none", "sum", "mean"))}


def picked_loss(log_p: Any, labels: Any, weights: Any, attributes: Mapping[str, Any]) -> Any:
    """-weight[label] * log_p[label], reduced. A mean divides by the sum of the weights that took part."""
    ignored = (
        np.zeros(labels.shape, bool) if attributes["ignore_index"] is None else labels == attributes["ignore_index"]
    )
    safe = np.where(ignored, 0, labels)
    if safe.size and (safe.min() < 0 or safe.max() >= log_p.shape[1]):
        raise RunError(f"a label is outside of 0 .. {log_p.shape[1] - 1}")
    scale = np.ones(labels.shape, log_p.dtype) if weights is None else weights[safe]
    scale = np.where(ignored, 0, scale).astype(log_p.dtype)
    loss = -np.take_along_axis(log_p, safe[:, None], axis=1)[:, 0] * scale
    if attributes["reduction"] == "none":
        return loss
    total = np.sum(loss)
    return total if attributes["reduction"] == "sum" else total / np.sum(scale)


def loss_gradient(F: Any, log_p: Any, labels: Any, weights: Any, grad: Any, attributes: Mapping[str, Any]) -> Any:
    """The gradient for log_p: minus each element's share at its label, zero elsewhere."""
    ignore = attributes["ignore_index"]
    zero = scalar(F, 0, labels)
    ignored = None if ignore is None else F.Equal(labels, scalar(F, ignore, labels))
    safe = labels if ignored is None else F.Where(ignored, zero, labels)
    one = scalar(F, 1, log_p)
    share = F.Expand(one, F.Shape(labels)) if weights is None else F.Gather(weights, safe)
    share = share if ignored is None else F.Where(ignored, scalar(F, 0, log_p), share)
    if attributes["reduction"] == "mean":
        grad = F.Div(grad, F.ReduceSum(share, None, keepdims=0))
    places = F.Unsqueeze(safe, F.constant(int64(1)))
    column = F.Unsqueeze(F.Neg(F.Mul(share, grad)), F.constant(int64(1)))
    return F.ScatterElements(zeros_like(F, log_p), places, column, axis=1, reduction="add")


class _Loss(Operator):
    attributes = LOSS
    types = {"T": dtypes.FLOAT, "Tind": LABELS}
    accuracy = Accuracy(32.0)
    twice_differentiable = True

    def loss_type(self, context: Context) -> TensorType:
        scores, labels = known_shape(context, 0, least=2), context.shape(1)
        if scores is not None and labels is not None and len(labels) != len(scores) - 1:
            raise GraphError(f"labels have rank {len(labels)}; allowed: {len(scores) - 1}")
        if context.attributes["reduction"] != "none":
            return TensorType(context.dtype(), ())
        return TensorType(
            context.dtype(), labels if labels is not None else None if scores is None else (scores[0], *scores[2:])
        )

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        for shape in ((4, 5), (2, 3, 4), (2, 3, 2, 2)):
            scores = draw(rng, shape, "float32")
            labels = rng.integers(0, shape[1], (shape[0], *shape[2:]))
            for reduction in ("none", "sum", "mean"):
                yield Sample([scores, labels], {"reduction": reduction})
                yield Sample(
                    [scores, labels, draw(rng, shape[1:2], "float32", 0.2, 2)],
                    {"reduction": reduction, "ignore_index": 1},
                )


class SoftmaxCrossEntropyLoss(_Loss):
    """The negative log likelihood of the labels under Softmax(scores) along axis 1; output 1 is LogSoftmax(scores)."""

    versions = (12, 13)
    inputs = (In("scores"), In("labels", "Tind"), In("weights", optional=True))
    outputs = (Out("output"), Out("log_prob", optional=True))

    def infer(self, context: Context) -> list[Type | None]:
        found: list[Type | None] = [self.loss_type(context), TensorType(context.dtype(), context.shape())]
        return found[: max(1, context.n_outputs)]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        scores, labels, weights = (*inputs, None)[:3]
        log_p = log_softmax(widen(scores), 1)
        loss = picked_loss(log_p, labels, None if weights is None else widen(weights), attributes)
        return [np.asarray(item).astype(scores.dtype) for item in (loss, log_p)][: max(1, n_outputs)]

    def gradient(
        self, F: Any, inputs: list[Any], outputs: list[Any], grads: list[Any], attributes: Mapping[str, Any]
    ) -> list[Any]:
        scores, labels, weights = (*inputs, None)[:3]
        log_p = F.LogSoftmax(scores, axis=1)
        g = None if grads[0] is None else loss_gradient(F, log_p, labels, weights, grads[0], attributes)
        if len(grads) > 1 and grads[1] is not None:
            g = grads[1] if g is None else F.Add(g, grads[1])
        dx = F.Sub(g, F.Mul(F.Exp(log_p), F.ReduceSum(g, F.constant(int64(1)), keepdims=1)))
        return [dx, None, None][: len(inputs)]


class NegativeLogLikelihoodLoss(_Loss):
    """-weight[target] * input[target], reduced; the input holds log probabilities."""

    versions = (12, 13, 22)
    inputs = (In("input"), In("target", "Tind"), In("weight", optional=True))
    outputs = (Out("loss"),)

    def infer(self, context: Context) -> list[Type | None]:
        return [self.loss_type(context)]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        log_p, labels, weights = (*inputs, None)[:3]
        loss = picked_loss(widen(log_p), labels, None if weights is None else widen(weights), attributes)
        return [np.asarray(loss).astype(log_p.dtype)]

    def gradient(
        self, F: Any, inputs: list[Any], outputs: list[Any], grads: list[Any], attributes: Mapping[str, Any]
    ) -> list[Any]:
        log_p, labels, weights = (*inputs, None)[:3]
        return [loss_gradient(F, log_p, labels, weights, grads[0], attributes), None, None][: len(inputs)]
