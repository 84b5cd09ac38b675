"""Adam, Adagrad and Momentum of ai.onnx.preview.training: one step of an optimizer for several tensors.

Inputs: the rate R, the step count T, then all tensors X, all gradients G, and each kind of state for all of them.
Outputs: the new tensors, then the new states.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from headrace.runtime import dtypes
from headrace.runtime.errors import GraphError
from headrace.runtime.ops.base import REQUIRED, Accuracy, Attr, Context, In, Operator, Out, Sample
from headrace.runtime.ops.common import draw
from headrace.runtime.types import Type


class _Step(Operator):
    domain = "ai.onnx.preview.training"
    inputs = (
        In("R", frozenset({"float32", "float64"})),
        In("T", frozenset({"int64"})),
        In("inputs", dtypes.FLOAT, variadic=True),
    )
    outputs = (Out("outputs", dtypes.FLOAT, variadic=True),)
    accuracy = Accuracy(32.0)
    differentiable = False
    states = 1

    def infer(self, context: Context) -> list[Type | None]:
        given = context.inputs[2:]
        count, left = divmod(len(given), 2 + self.states)
        if left or not count:
            raise GraphError(f"{self.name} has {len(given)} tensors; allowed: a multiple of {2 + self.states}")
        return [*given[:count], *given[2 * count :]]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        rate, step, *given = inputs
        count = len(given) // (2 + self.states)
        columns = []
        for place in range(count):
            x, g, *states = given[place::count]
            wide = [item.astype(np.float64) for item in (x, g, *states)]
            results = self.step(float(rate), int(step), attributes, *wide)
            columns.append([new.astype(old.dtype) for new, old in zip(results, (x, *states))])
        return [column[kind] for kind in range(1 + self.states) for column in columns]

    def step(
        self, rate: float, count: int, attributes: Mapping[str, Any], x: Any, g: Any, *states: Any
    ) -> tuple[Any, ...]:
        raise NotImplementedError

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        for step in (0, 3):
            for shapes in (((3,),), ((2, 2), (5,))):
                tensors = [
                    draw(rng, shape, "float32", 0.1 if kind > 1 else -2, 2)
                    for kind in range(2 + self.states)
                    for shape in shapes
                ]
                yield Sample(
                    [np.array(0.1, np.float32), np.array(step, np.int64), *tensors],
                    self.case(),
                    outputs=len(shapes) * (1 + self.states),
                )

    def case(self) -> dict[str, Any]:
        return {"norm_coefficient": 0.01, "epsilon": 1e-2}


class Adam(_Step):
    """X - R' * V / (sqrt(H) + epsilon): V and H are moving means of the gradient and of its square."""

    states = 2
    attributes = {
        "alpha": Attr("float", 0.9), "beta": Attr("float", 0.999), "epsilon": Attr("float", 0.0),
        "norm_coefficient": Attr("float", 0.0), "norm_coefficient_post": Attr("float", 0.0),
    }  # fmt: skip

    def step(
        self, rate: float, count: int, attributes: Mapping[str, Any], x: Any, g: Any, *states: Any
    ) -> tuple[Any, ...]:
        v, h = states
        alpha, beta = attributes["alpha"], attributes["beta"]
        g = g + attributes["norm_coefficient"] * x
        v, h = alpha * v + (1 - alpha) * g, beta * h + (1 - beta) * g * g
        rate = rate * np.sqrt(1 - beta**count) / (1 - alpha**count) if count > 0 else rate
        x = x - rate * v / (np.sqrt(h) + attributes["epsilon"])
        return (1 - attributes["norm_coefficient_post"]) * x, v, h


class Adagrad(_Step):
    """X - R' * G / (sqrt(H) + epsilon): H is the sum of squared gradients."""

    attributes = {
        "decay_factor": Attr("float", 0.0),
        "epsilon": Attr("float", 1e-6),
        "norm_coefficient": Attr("float", 0.0),
    }

    def step(
        self, rate: float, count: int, attributes: Mapping[str, Any], x: Any, g: Any, *states: Any
    ) -> tuple[Any, ...]:
        g = g + attributes["norm_coefficient"] * x
        h = states[0] + g * g
        return x - rate / (1 + count * attributes["decay_factor"]) * g / (np.sqrt(h) + attributes["epsilon"]), h


class Momentum(_Step):
    """X - R * V with V = alpha * V + beta * G (beta is 1 in the first step); nesterov looks one step ahead."""

    attributes = {
        "alpha": Attr("float", REQUIRED), "beta": Attr("float", REQUIRED), "norm_coefficient": Attr("float", REQUIRED),
        "mode": Attr("string", REQUIRED, ("standard", "nesterov")),
    }  # fmt: skip

    def step(
        self, rate: float, count: int, attributes: Mapping[str, Any], x: Any, g: Any, *states: Any
    ) -> tuple[Any, ...]:
        alpha = attributes["alpha"]
        g = g + attributes["norm_coefficient"] * x
        v = alpha * states[0] + (attributes["beta"] if count > 0 else 1.0) * g
        return x - rate * (g + alpha * v if attributes["mode"] == "nesterov" else v), v

    def case(self) -> dict[str, Any]:
        return {"alpha": 0.9, "beta": 0.5, "norm_coefficient": 0.01, "mode": "nesterov"}
