"""Optionals: a value or nothing (None at run time)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from headrace.runtime import dtypes
from headrace.runtime.errors import GraphError, RunError
from headrace.runtime.ops.base import Accuracy, Attr, Context, In, Operator, Out
from headrace.runtime.types import OptionalType, TensorType, Type


class Optional(Operator):
    """The input as an optional; without input an empty optional of the type in `type`."""

    versions = (15, 28)
    inputs = (In("input", dtypes.ANY, optional=True),)
    outputs = (Out("output", "O"),)
    attributes = {"type": Attr("type")}
    accuracy = Accuracy.exact()
    differentiable = False

    def infer(self, context: Context) -> list[Type | None]:
        element = context.inputs[0] if context.has(0) else context.attributes["type"]
        if element is None:
            raise GraphError("Optional without an input needs the attribute 'type'")
        return [OptionalType(element)]

    def reference(self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None) -> list[Any]:
        return [inputs[0] if inputs else None]


class OptionalHasElement(Operator):
    """Whether there is a value."""

    versions = (15, 18, 28)
    inputs = (In("input", dtypes.ANY, optional=True),)
    outputs = (Out("output", frozenset({"bool"})),)
    accuracy = Accuracy.exact()
    differentiable = False

    def infer(self, context: Context) -> list[Type | None]:
        return [TensorType("bool", ())]

    def reference(self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None) -> list[Any]:
        return [np.array(bool(inputs) and inputs[0] is not None)]


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

    def reference(self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None) -> list[Any]:
        if inputs[0] is None:
            raise RunError("the optional is empty")
        return [inputs[0]]
