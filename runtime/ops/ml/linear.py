"""LinearClassifier and LinearRegressor."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from headrace.runtime.errors import GraphError
from headrace.runtime.ops.axes import batch_first, known_shape
from headrace.runtime.ops.base import REQUIRED, Accuracy, Attr, Context, In, Operator, Out, Sample
from headrace.runtime.ops.common import draw
from headrace.runtime.ops.ml._scores import post_transform, string_or_int
from headrace.runtime.types import TensorType, Type

NUMBERS = frozenset({"float32", "float64", "int32", "int64"})
FLOAT32 = frozenset({"float32"})
TRANSFORM = Attr("string", "NONE", ("NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO", "PROBIT"))


def rows_of(context: Context) -> Any:
    """The number of samples of [N, C] or [C]; a fresh symbol where the rank is unknown."""
    shape = known_shape(context, ranks=(1, 2))
    return context.fresh("rows") if shape is None else shape[0] if len(shape) == 2 else 1


def linear(x: Any, coefficients: Sequence[float], intercepts: Sequence[float] | None) -> Any:
    """[N, C] -> float32 [N, targets], coefficients row by row."""
    x = np.atleast_2d(x)
    x = x if x.dtype == np.float64 else x.astype(np.float32)
    weights = np.array(coefficients, x.dtype)
    if weights.size % max(x.shape[1], 1):
        raise GraphError(f"there are {weights.size} coefficients; allowed: a multiple of the {x.shape[1]} columns")
    y = x @ weights.reshape(-1, x.shape[1]).T
    return (y + np.array(intercepts, x.dtype) if intercepts else y).astype(np.float32)


class LinearClassifier(Operator):
    """Labels [N] and scores float32 [N, classes]; one score for two classes stands for the second."""

    domain = "ai.onnx.ml"
    inputs = (In("X"),)
    outputs = (Out("Y", frozenset({"int64", "string"})), Out("Z", FLOAT32))
    types = {"T": NUMBERS}
    attributes = {
        "classlabels_ints": Attr("ints"), "classlabels_strings": Attr("strings"), "coefficients": Attr("floats", REQUIRED),
        "intercepts": Attr("floats"), "multi_class": Attr("int", 0), "post_transform": TRANSFORM,
    }  # fmt: skip
    accuracy = Accuracy(64.0)
    differentiable = False

    def infer(self, context: Context) -> list[Type | None]:
        kind, labels = string_or_int(context.attributes, integers="classlabels_ints")
        rows = rows_of(context)
        return [TensorType(kind, (rows,)), TensorType("float32", (rows, len(labels)))]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        kind, labels = string_or_int(attributes, integers="classlabels_ints")
        scores = linear(inputs[0], attributes["coefficients"], attributes["intercepts"])
        transform = attributes["post_transform"]
        names = np.array(labels, object if kind == "string" else np.int64)
        if scores.shape[1] > 1 or len(labels) != 2:
            chosen = np.argmax(scores, axis=1) if scores.shape[1] > 1 else np.zeros(len(scores), np.int64)
            return [names[chosen], post_transform(scores, transform)]
        chosen = (scores[:, 0] > 0).astype(np.int64)
        if transform in ("NONE", "PROBIT"):
            spread = np.concatenate([1 - scores, scores], axis=1) if transform == "NONE" else scores
            return [names[chosen], post_transform(spread, transform)]
        return [names[chosen], post_transform(np.concatenate([-scores, scores], axis=1), transform)]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        coefficients, x = tuple(float(v) for v in rng.normal(size=9)), draw(rng, (5, 3), "float32")
        for transform in ("NONE", "SOFTMAX", "LOGISTIC"):
            yield Sample(
                [x],
                {
                    "coefficients": coefficients,
                    "intercepts": (0.5, -0.5, 0.0),
                    "classlabels_ints": (4, 5, 7),
                    "post_transform": transform,
                },
            )
        both = tuple(-c for c in coefficients[:3]) + coefficients[:3]
        yield Sample(
            [x],
            {
                "coefficients": both,
                "intercepts": (0.1, -0.1),
                "classlabels_strings": ("no", "yes"),
                "post_transform": "LOGISTIC",
            },
        )
        yield Sample(
            [draw(rng, (4, 3), "int64")],
            {"coefficients": coefficients, "intercepts": (0.0, 0.5, 0.0), "classlabels_ints": (0, 1, 2)},
        )

    def rows(self, tags: Sequence[int | None], context: Context) -> list[int | None]:
        return batch_first(tags, 2)


class LinearRegressor(Operator):
    """float32 [N, targets]."""

    domain = "ai.onnx.ml"
    inputs = (In("X"),)
    outputs = (Out("Y", FLOAT32),)
    types = {"T": NUMBERS}
    attributes = {
        "coefficients": Attr("floats", REQUIRED),
        "intercepts": Attr("floats"),
        "post_transform": TRANSFORM,
        "targets": Attr("int", 1),
    }
    accuracy = Accuracy(64.0)
    differentiable = False

    def infer(self, context: Context) -> list[Type | None]:
        return [TensorType("float32", (rows_of(context), context.attributes["targets"]))]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        return [
            post_transform(
                linear(inputs[0], attributes["coefficients"], attributes["intercepts"]), attributes["post_transform"]
            )
        ]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        x = draw(rng, (5, 3), "float32")
        yield Sample([x], {"coefficients": (1.0, -2.0, 0.5), "intercepts": (0.25,)})
        yield Sample([x], {"coefficients": (1.0, -2.0, 0.5, 3.0, 0.1, -1.0), "intercepts": (0.25, 1.0), "targets": 2})

    def rows(self, tags: Sequence[int | None], context: Context) -> list[int | None]:
        return batch_first(tags)
