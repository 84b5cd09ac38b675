"""The forward-backward algorithm of CTC, in log space."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from headrace.autograd.mode import MODE
from headrace.autograd.tape import PythonNode, edge_of, ops
from headrace.tensors import Tensor, wrap


def losses(
    log_probs: Tensor, targets: np.ndarray, input_lengths: np.ndarray, target_lengths: np.ndarray, blank: int
) -> Tensor:
    """-log p(target) for each sample, float [N], of log_probs [T, N, C]. RuntimeError where lengths do not fit."""
    data = log_probs.detach().numpy()
    steps, count, classes = data.shape
    if len(input_lengths) != count or len(target_lengths) != count:
        raise RuntimeError("input_lengths and target_lengths must be of size batch_size")
    if input_lengths.size and input_lengths.max() > steps:
        raise RuntimeError(
            f"Expected input_lengths to have value at most {steps}, but got value {int(input_lengths.max())}"
        )
    if not 0 <= blank < classes:
        raise RuntimeError("blank must be in label range")
    labels = _labels(targets, target_lengths, count)
    values = np.zeros(count, data.dtype)
    gradient = np.zeros_like(data)
    with np.errstate(all="ignore"):
        for n in range(count):
            values[n], gradient[: input_lengths[n], n] = _sample(
                data[: input_lengths[n], n].astype(np.float64), labels[n], blank
            )
    found = wrap(values)
    if log_probs._node is not None and MODE.grad:

        def backward(grads: list[Tensor | None]) -> list[Tensor | None]:
            (g,) = grads
            return [None if g is None else ops.Mul(gradient, g.reshape(1, -1, 1))]

        found._node = PythonNode("CtcLossBackward", [edge_of(log_probs)], 1, backward)
    return found


def _labels(targets: np.ndarray, lengths: np.ndarray, count: int) -> list[np.ndarray]:
    if targets.ndim == 2:
        return [targets[n, : lengths[n]] for n in range(count)]
    ends = np.cumsum(lengths)
    if targets.ndim == 1 and (not len(ends) or ends[-1] <= targets.size):
        return [targets[e - length : e] for e, length in zip(ends, lengths)]
    raise RuntimeError("targets must be [N, S] or the joined labels of all samples")


def _sample(logs: np.ndarray, label: np.ndarray, blank: int) -> tuple[float, np.ndarray]:
    """The loss of one sample, and its gradient with respect to the log-probabilities [T, C]."""
    steps = len(logs)
    path = np.full(2 * len(label) + 1, blank, np.int64)
    path[1::2] = label
    skip = np.zeros(len(path), bool)
    skip[2:] = (path[2:] != blank) & (path[2:] != path[:-2])
    if steps == 0:
        return (0.0 if not len(label) else np.inf), np.zeros_like(logs)
    alpha = _forward(logs[:, path], skip)
    total = np.logaddexp.reduce(alpha[-1, max(0, len(path) - 2) :])
    back_skip = np.zeros(len(path), bool)
    back_skip[: len(path) - 2] = skip[2:]
    beta = _forward(logs[::-1][:, path[::-1]], back_skip[::-1])[::-1, ::-1]
    if not np.isfinite(total):
        return np.inf, np.full_like(logs, np.nan)
    share = np.exp(alpha + beta - logs[:, path] - total)
    occupied = np.zeros_like(logs)
    np.add.at(occupied.T, path, share.T)  # a class may be on the path more than once
    # As torch has it, the gradient includes that of the log-softmax that gave log_probs; through one it is the same.
    return -float(total), np.exp(logs) - occupied


def _forward(logs: np.ndarray, skip: Sequence[Any] | np.ndarray) -> np.ndarray:
    alpha = np.full(logs.shape, -np.inf)
    alpha[0, :2] = logs[0, :2]
    for t in range(1, len(logs)):
        stay = alpha[t - 1].copy()
        stay[1:] = np.logaddexp(stay[1:], alpha[t - 1, :-1])
        stay[2:] = np.where(skip[2:], np.logaddexp(stay[2:], alpha[t - 1, :-2]), stay[2:])
        alpha[t] = stay + logs[t]
    return alpha
