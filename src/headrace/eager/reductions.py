"""Sums and means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from headrace.eager.registry import kernel, wide_only
from headrace.runtime.errors import RunError
from headrace.runtime.ops import find


@kernel("headrace.SumTo")
def sum_to(inputs: list[Any], attributes: Mapping[str, Any], n: int) -> Sequence[Any]:
    """Sum input 0 over its broadcast dimensions, down to the shape of input 1."""
    x, shape = inputs[0], inputs[1].shape
    if x.shape == shape:
        return (x,)
    extra = x.ndim - len(shape)
    axes = tuple(range(extra)) + tuple(i + extra for i, d in enumerate(shape) if d == 1 and x.shape[i + extra] != 1)
    if x.dtype.kind == "V" or x.dtype.itemsize == 2:
        return (x.astype(np.float32).sum(axis=axes).reshape(shape).astype(x.dtype),)
    return (x.sum(axis=axes, dtype=x.dtype).reshape(shape),)


def _axes(inputs: list[Any]) -> tuple[int, ...] | None:
    """The folded axes; None: all."""
    if len(inputs) < 2 or inputs[1] is None or not inputs[1].size:
        return None
    return tuple(inputs[1].tolist())


def _sum(inputs: list[Any], attributes: Mapping[str, Any], n: int) -> Sequence[Any]:
    axes = _axes(inputs)
    if axes is None and attributes["noop_with_empty_axes"]:
        return (inputs[0].copy(),)
    return (np.add.reduce(inputs[0], axis=axes, keepdims=attributes["keepdims"]),)


def _mean(inputs: list[Any], attributes: Mapping[str, Any], n: int) -> Sequence[Any]:
    x, axes = inputs[0], _axes(inputs)
    if axes is None and attributes["noop_with_empty_axes"]:
        return (x.copy(),)
    total = np.add.reduce(x, axis=axes, keepdims=attributes["keepdims"])
    count = x.size
    if axes is not None:
        count = 1
        for axis in axes:
            count *= x.shape[axis]
    return (total / x.dtype.type(count),)


wide_only("ReduceSum", _sum)
wide_only("ReduceMean", _mean)


def _softmax_cross_entropy(inputs: list[Any], attributes: Mapping[str, Any], n: int) -> Sequence[Any]:
    scores, labels = inputs[:2]
    if (
        len(inputs) > 2
        or scores.ndim != 2
        or attributes["ignore_index"] is not None
        or attributes["reduction"] == "none"
    ):
        operator = find("SoftmaxCrossEntropyLoss")
        assert operator is not None
        return operator.reference(inputs, attributes, n)
    logs = scores - np.maximum.reduce(scores, axis=1, keepdims=True)
    logs -= np.log(np.add.reduce(np.exp(logs), axis=1, keepdims=True))
    rows = np.arange(len(labels))
    if labels.size and (labels.min() < 0 or labels.max() >= scores.shape[1]):
        raise RunError(f"a label is outside of 0 .. {scores.shape[1] - 1}")
    total = -np.add.reduce(logs[rows, labels])
    loss = total / scores.dtype.type(len(labels)) if attributes["reduction"] == "mean" else total
    return (np.asarray(loss, scores.dtype), logs)[: max(1, n)]


wide_only("SoftmaxCrossEntropyLoss", _softmax_cross_entropy)
