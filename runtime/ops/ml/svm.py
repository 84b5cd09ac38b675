"""SVMClassifier and SVMRegressor: sums of kernels with support vectors, or linear machines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from headrace.runtime.errors import GraphError
from headrace.runtime.ops.axes import batch_first
from headrace.runtime.ops.base import REQUIRED, Accuracy, Attr, Context, In, Operator, Out, Sample
from headrace.runtime.ops.common import draw
from headrace.runtime.ops.ml._scores import post_transform, string_or_int
from headrace.runtime.ops.ml.linear import FLOAT32, NUMBERS, TRANSFORM, rows_of
from headrace.runtime.types import TensorType, Type

SVM = {
    "coefficients": Attr("floats", REQUIRED),
    "kernel_params": Attr("floats"),
    "kernel_type": Attr("string", "LINEAR", ("LINEAR", "POLY", "RBF", "SIGMOID")),
    "post_transform": TRANSFORM,
    "rho": Attr("floats", REQUIRED),
    "support_vectors": Attr("floats"),
}


def kernel(x: Any, vectors: Any, attributes: Mapping[str, Any]) -> Any:
    """[N, C] and [V, C] -> [N, V]. kernel_params are gamma, coef0, degree."""
    gamma, shift, degree = (*(attributes["kernel_params"] or ()), 0.0, 0.0, 0.0)[:3]
    match attributes["kernel_type"]:
        case "RBF":
            distance = (x * x).sum(1)[:, None] + (vectors * vectors).sum(1) - 2 * x @ vectors.T
            return np.exp(-gamma * np.maximum(distance, 0))
        case "POLY":
            return (gamma * (x @ vectors.T) + shift) ** degree
        case "SIGMOID":
            return np.tanh(gamma * (x @ vectors.T) + shift)
    return x @ vectors.T


def doubles(values: Any) -> Any:
    return np.array(values or (), np.float32).astype(np.float64)


class SVMRegressor(Operator):
    """float32 [N, 1]; with one_class 1 for inliers and -1 for outliers."""

    domain = "ai.onnx.ml"
    inputs = (In("X"),)
    outputs = (Out("Y", FLOAT32),)
    types = {"T": NUMBERS}
    attributes = {**SVM, "n_supports": Attr("int", 0), "one_class": Attr("int", 0, (0, 1))}
    accuracy = Accuracy(256.0)
    differentiable = False

    def infer(self, context: Context) -> list[Type | None]:
        return [TensorType("float32", (rows_of(context), 1))]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        x, weights = np.atleast_2d(inputs[0]).astype(np.float64), doubles(attributes["coefficients"])
        count = attributes["n_supports"]
        values = kernel(x, doubles(attributes["support_vectors"]).reshape(count, -1), attributes) if count else x
        y = values @ weights + doubles(attributes["rho"])[0]
        y = np.where(y > 0, 1, -1) if attributes["one_class"] else y
        return [post_transform(y[:, None].astype(np.float32), attributes["post_transform"])]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        vectors, weights = tuple(map(float, rng.normal(size=12))), tuple(map(float, rng.normal(size=4)))
        base = {
            "support_vectors": vectors,
            "coefficients": weights,
            "rho": (0.3,),
            "n_supports": 4,
            "kernel_params": (0.4, 0.1, 3.0),
        }
        for kind in ("LINEAR", "RBF", "POLY", "SIGMOID"):
            yield Sample([draw(rng, (5, 3), "float32", -1, 1)], {**base, "kernel_type": kind})
        yield Sample([draw(rng, (5, 3), "float32")], {**base, "kernel_type": "RBF", "one_class": 1})

    def rows(self, tags: Sequence[int | None], context: Context) -> list[int | None]:
        return batch_first(tags)


class SVMClassifier(Operator):
    """Labels [N] and scores float32: one a class (linear, or with probabilities), else one a pair of classes."""

    domain = "ai.onnx.ml"
    inputs = (In("X"),)
    outputs = (Out("Y", frozenset({"int64", "string"})), Out("Z", FLOAT32))
    types = {"T": NUMBERS}
    attributes = {
        **SVM, "classlabels_ints": Attr("ints"), "classlabels_strings": Attr("strings"), "prob_a": Attr("floats"), "prob_b": Attr("floats"),
        "vectors_per_class": Attr("ints"),
    }  # fmt: skip
    accuracy = Accuracy(256.0)
    differentiable = False

    def infer(self, context: Context) -> list[Type | None]:
        kind, labels = string_or_int(context.attributes, integers="classlabels_ints")
        count = len(labels)
        pairs = count * (count - 1) // 2
        if context.attributes["vectors_per_class"]:
            if len(context.attributes["vectors_per_class"]) != count or len(context.attributes["rho"]) != pairs:
                raise GraphError(f"vectors_per_class and rho must hold {count} and {pairs} numbers for {count} classes")
            width = count if context.attributes["prob_a"] else max(pairs, 2)
        else:
            width = max(count, 2)
        rows = rows_of(context)
        return [TensorType(kind, (rows,)), TensorType("float32", (rows, width))]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        kind, labels = string_or_int(attributes, integers="classlabels_ints")
        x = np.atleast_2d(inputs[0]).astype(np.float64)
        names = np.array(labels, object if kind == "string" else np.int64)
        if not attributes["vectors_per_class"]:
            weights = doubles(attributes["coefficients"]).reshape(len(labels), -1)
            scores = kernel(x, weights, {**attributes, "kernel_type": "LINEAR"}) + doubles(attributes["rho"])[0]
            return [names[scores.argmax(1)], post_transform(scores.astype(np.float32), attributes["post_transform"])]
        scores, votes = pairwise(x, attributes, len(labels))
        if attributes["prob_a"]:
            scores = probabilities(scores, doubles(attributes["prob_a"]), doubles(attributes["prob_b"]), len(labels))
            return [names[votes.argmax(1)], post_transform(scores.astype(np.float32), attributes["post_transform"])]
        if len(labels) == 2:  # one score: the second class gets it, the first its opposite
            scores = np.concatenate([-scores, scores], axis=1)
        return [names[votes.argmax(1)], post_transform(scores.astype(np.float32), attributes["post_transform"])]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        vectors, weights = tuple(map(float, rng.normal(size=18))), tuple(map(float, rng.normal(size=12)))
        base = {
            "support_vectors": vectors,
            "coefficients": weights,
            "rho": (0.3, -0.2, 0.1),
            "vectors_per_class": (2, 3, 1),
            "classlabels_ints": (0, 1, 2),
            "kernel_params": (0.4, 0.1, 3.0),
        }
        x = draw(rng, (6, 3), "float32", -1, 1)
        yield Sample([x], {**base, "kernel_type": "RBF"})
        yield Sample([x], {**base, "kernel_type": "RBF", "prob_a": (-1.0, -1.5, -0.7), "prob_b": (0.1, 0.2, -0.1)})
        two = {
            "support_vectors": vectors[:9],
            "coefficients": weights[:3],
            "rho": (0.2,),
            "vectors_per_class": (2, 1),
            "kernel_params": (0.4, 0.1, 3.0),
        }
        yield Sample([x], {**two, "classlabels_strings": ("a", "b"), "kernel_type": "POLY"})

    def rows(self, tags: Sequence[int | None], context: Context) -> list[int | None]:
        return batch_first(tags, 2)


def pairwise(x: Any, attributes: Mapping[str, Any], classes: int) -> tuple[Any, Any]:
    """(decision of each pair [N, pairs], votes [N, classes])."""
    sizes = attributes["vectors_per_class"]
    ends = np.cumsum(sizes)
    total = int(ends[-1])
    values = kernel(x, doubles(attributes["support_vectors"]).reshape(total, -1), attributes)
    weights, rho = doubles(attributes["coefficients"]).reshape(-1, total), doubles(attributes["rho"])
    parts = [slice(end - size, end) for end, size in zip(ends, sizes)]
    scores: list[Any] = []
    votes = np.zeros((len(x), classes))
    for i in range(classes):
        for j in range(i + 1, classes):
            score = (
                values[:, parts[i]] @ weights[j - 1, parts[i]]
                + values[:, parts[j]] @ weights[i, parts[j]]
                + rho[len(scores)]
            )
            votes[:, i] += score > 0
            votes[:, j] += score <= 0
            scores.append(score)
    return np.stack(scores, axis=1), votes


def probabilities(scores: Any, a: Any, b: Any, classes: int) -> Any:
    """Class probabilities from pairwise decisions (Platt's sigmoids coupled after Wu, Lin, Weng 2004, as libsvm does)."""
    paired = np.zeros((len(scores), classes, classes))
    number = 0
    for i in range(classes):
        for j in range(i + 1, classes):
            p = np.clip(1 - 1 / (1 + np.exp(-(scores[:, number] * a[number] + b[number]))), 1e-7, 1 - 1e-7)
            paired[:, i, j], paired[:, j, i] = p, 1 - p
            number += 1
    return np.stack([coupled(matrix) for matrix in paired]) if len(paired) else np.zeros((0, classes))


def coupled(pairs: Any) -> Any:
    """One probability a class that fits the pairwise ones best."""
    count = len(pairs)
    q = -pairs.T * pairs
    np.fill_diagonal(q, (pairs**2).sum(axis=0))
    p = np.full(count, 1 / count)
    for _ in range(max(100, count)):
        qp = q @ p
        total = p @ qp
        if np.max(np.abs(qp - total)) < 0.005 / count:
            break
        for t in range(count):
            diff = (total - qp[t]) / q[t, t]
            p[t] += diff
            total = (total + diff * (diff * q[t, t] + 2 * qp[t])) / (1 + diff) ** 2
            qp = (qp + diff * q[t]) / (1 + diff)
            p = p / (1 + diff)
    return p
