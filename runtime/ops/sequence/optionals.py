"""Optionals: a value or nothing (None at run time)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from headrace.runtime import dtypes
from headrace.runtime.errors import GraphError, RunError
from headrace.runtime.ops.base import Accuracy, Attr, Context, In, Operator, Out, Sample
from headrace.runtime.ops.common import draw
from headrace.runtime.types import OptionalType, TensorType, Type


class Optional(Operator):
    """The input as an optional; without input an empty optional of the type in `type`."""

    versions = (15, 28)
    inputs = (In("input", dtypes.ANY, optional=True),)
    outputs = (Out("output", dtypes.ANY),)
    attributes = {"type": Attr("type")}
    accuracy = Accuracy.exact()
    differentiable = False

    def infer(self, context: Context) -> list[Type | None]:
        element = context.inputs[0] if context.has(0) else context.attributes["type"]
        if element is None:
            raise GraphError("Optional without an input needs the attribute 'type'")
        return [OptionalType(element)]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        return [inputs[0] if inputs else None]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        yield Sample([[draw(rng, (2, 3), "float32")]])
        yield Sample([], {"type": TensorType("float32")})


class OptionalHasElement(Operator):
    """Whether there is a value."""

    versions = (15, 18, 28)
    inputs = (In("input", dtypes.ANY, optional=True),)
    outputs = (Out("output", frozenset({"bool"})),)
    accuracy = Accuracy.exact()
    differentiable = False

    def infer(self, context: Context) -> list[Type | None]:
        return [TensorType("bool", ())]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        return [np.array(bool(inputs) and inputs[0] is not None)]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        yield Sample([draw(rng, (2, 3), "float32")])
        yield Sample([[draw(rng, (2,), "float32")]])
        yield Sample([])


class OptionalGetElement(Operator):
    """The value; an error where there is none."""

    versions = (15, 18, 28)
    inputs = (In("input", dtypes.ANY),)
    outputs = (Out("output", dtypes.ANY),)
    accuracy = Accuracy.exact()
    differentiable = False

    def infer(self, context: Context) -> list[Type | None]:
        type = context.inputs[0]
        return [type.element if isinstance(type, OptionalType) else type]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        if inputs[0] is None:
            raise RunError("the optional is empty")
        return [inputs[0]]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        yield Sample([draw(rng, (2, 3), "float32")])
        yield Sample([[draw(rng, (2,), "float32")]])
