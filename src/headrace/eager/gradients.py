"""Gradients on plain arrays of the operators that small networks spend their time in.

Each answers what the operator's own rule answers (a test compares them on the operator's samples), but knows which inputs
are wanted and calls NumPy directly. Called as `rule(inputs, outputs, grads, attributes, wanted)`; it answers one gradient
for each input, or None for "not my case: use the operator's rule".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from headrace.eager.reductions import sum_to
from headrace.eager.registry import WIDE
from headrace.runtime.ops.base import Operator

Rule = Callable[[list[Any], list[Any], list[Any], Mapping[str, Any], Sequence[bool]], "list[Any] | None"]
RULES: dict[str, Rule] = {}


def find_rule(operator: Operator) -> Rule | None:
    """The direct rule of an operator, if there is one."""
    return RULES.get(operator.kind)


def rule(kind: str) -> Callable[[Rule], Rule]:
    def register(function: Rule) -> Rule:
        RULES[kind] = function
        return function

    return register


def _to(g: Any, like: Any) -> Any:
    """The gradient summed to the shape of an input that was broadcast."""
    return g if g.shape == like.shape else sum_to([g, like], {}, 1)[0]


@rule("Add")
def add(
    inputs: list[Any], outputs: list[Any], grads: list[Any], attributes: Mapping[str, Any], wanted: Sequence[bool]
) -> list[Any] | None:
    g = grads[0]
    if g.dtype not in WIDE:
        return None
    return [_to(g, x) if w else None for x, w in zip(inputs, wanted)]


@rule("Sub")
def sub(
    inputs: list[Any], outputs: list[Any], grads: list[Any], attributes: Mapping[str, Any], wanted: Sequence[bool]
) -> list[Any] | None:
    g = grads[0]
    if g.dtype not in WIDE:
        return None
    return [_to(g, inputs[0]) if wanted[0] else None, -_to(g, inputs[1]) if wanted[1] else None]


@rule("Mul")
def mul(
    inputs: list[Any], outputs: list[Any], grads: list[Any], attributes: Mapping[str, Any], wanted: Sequence[bool]
) -> list[Any] | None:
    g, (a, b) = grads[0], inputs
    if g.dtype not in WIDE:
        return None
    return [_to(np.multiply(g, b), a) if wanted[0] else None, _to(np.multiply(g, a), b) if wanted[1] else None]


@rule("Relu")
def relu(
    inputs: list[Any], outputs: list[Any], grads: list[Any], attributes: Mapping[str, Any], wanted: Sequence[bool]
) -> list[Any] | None:
    g = grads[0]
    if g.dtype not in WIDE:
        return None
    return [kept(g, np.greater(inputs[0], 0))]


def kept(g: Any, where: Any) -> Any:
    """g where a truth holds, else 0: its bits and those of a mask, a fifth of np.where's time."""
    whole = np.int32 if g.itemsize == 4 else np.int64
    mask = np.negative(np.asarray(where).view(np.int8)).astype(whole)
    return np.asarray(np.bitwise_and(g.view(whole), mask)).view(g.dtype)


@rule("Sigmoid")
def sigmoid(
    inputs: list[Any], outputs: list[Any], grads: list[Any], attributes: Mapping[str, Any], wanted: Sequence[bool]
) -> list[Any] | None:
    y = outputs[0]
    if grads[0].dtype not in WIDE:
        return None
    return [np.multiply(grads[0], np.multiply(y, 1 - y))]


@rule("Tanh")
def tanh(
    inputs: list[Any], outputs: list[Any], grads: list[Any], attributes: Mapping[str, Any], wanted: Sequence[bool]
) -> list[Any] | None:
    y = outputs[0]
    if grads[0].dtype not in WIDE:
        return None
    return [np.multiply(grads[0], 1 - np.multiply(y, y))]


@rule("Gemm")
def gemm(
    inputs: list[Any], outputs: list[Any], grads: list[Any], attributes: Mapping[str, Any], wanted: Sequence[bool]
) -> list[Any] | None:
    g, a, b = grads[0], inputs[0], inputs[1]
    if g.dtype not in WIDE or attributes["transA"] or attributes["alpha"] != 1.0 or attributes["beta"] != 1.0:
        return None
    found = [None] * len(inputs)
    turned = attributes["transB"]
    if wanted[0]:
        found[0] = np.matmul(g, b if turned else b.T)
    if wanted[1]:
        found[1] = np.matmul(g.T, a) if turned else np.matmul(a.T, g)
    if len(inputs) > 2 and wanted[2]:
        found[2] = _to(g, inputs[2])
    return found


def _folded(x: Any, inputs: list[Any], attributes: Mapping[str, Any]) -> tuple[tuple[int, ...], int] | None:
    """The folded axes and the number of elements of each sum; None where nothing was folded."""
    if len(inputs) < 2 or inputs[1] is None or not inputs[1].size:
        if attributes["noop_with_empty_axes"]:
            return None
        return tuple(range(x.ndim)), x.size
    axes = tuple(a % x.ndim for a in inputs[1].tolist())
    count = 1
    for axis in axes:
        count *= x.shape[axis]
    return axes, count


def _spread(inputs: list[Any], g: Any, attributes: Mapping[str, Any], mean: bool) -> list[Any] | None:
    x = inputs[0]
    folded = _folded(x, inputs, attributes)
    if g.dtype not in WIDE or folded is None:
        return None
    axes, count = folded
    if mean:
        g = np.asarray(g / g.dtype.type(count))
    if not attributes["keepdims"] and g.ndim:
        g = g.reshape([1 if i in axes else d for i, d in enumerate(x.shape)])
    found = np.empty(x.shape, g.dtype)
    found[...] = g
    return [found] + [None] * (len(inputs) - 1)


@rule("ReduceSum")
def reduce_sum(
    inputs: list[Any], outputs: list[Any], grads: list[Any], attributes: Mapping[str, Any], wanted: Sequence[bool]
) -> list[Any] | None:
    return _spread(inputs, grads[0], attributes, mean=False)


@rule("ReduceMean")
def reduce_mean(
    inputs: list[Any], outputs: list[Any], grads: list[Any], attributes: Mapping[str, Any], wanted: Sequence[bool]
) -> list[Any] | None:
    return _spread(inputs, grads[0], attributes, mean=True)


@rule("headrace.BinaryCrossEntropy")
def binary_cross_entropy(
    inputs: list[Any], outputs: list[Any], grads: list[Any], attributes: Mapping[str, Any], wanted: Sequence[bool]
) -> list[Any] | None:
    p, y = inputs
    if p.dtype not in WIDE or p.shape != y.shape or wanted[1]:
        return None
    scale = np.maximum(np.multiply(p, 1 - p), p.dtype.type(1e-12))
    return [np.multiply(grads[0], np.divide(np.subtract(p, y), scale)), None]


@rule("SoftmaxCrossEntropyLoss")
def softmax_cross_entropy(
    inputs: list[Any], outputs: list[Any], grads: list[Any], attributes: Mapping[str, Any], wanted: Sequence[bool]
) -> list[Any] | None:
    """(softmax - one) / n for the plain mean or sum over rows [N, C]."""
    scores, labels = inputs[:2]
    if (
        len(outputs) < 2
        or len(inputs) > 2
        or scores.ndim != 2
        or scores.dtype not in WIDE
        or attributes["reduction"] == "none"
    ):
        return None
    if grads[0] is None or grads[1] is not None or attributes["ignore_index"] is not None:
        return None
    dx = np.exp(outputs[1])
    dx[np.arange(len(labels)), labels] -= 1
    factor = grads[0] / scores.dtype.type(len(labels)) if attributes["reduction"] == "mean" else grads[0]
    dx *= factor
    return [dx, None]
