"""Namespaces of operators: what gradients and patterns are written over.

    def gradient(self, F, inputs, outputs, grads, attributes):
        return [F.Mul(grads[0], F.Cos(inputs[0]))]

`F.Name(*inputs, outputs=1, **attributes)` calls the operator Name of domain "" or else of domain "headrace"; it answers
one value, or a tuple where `outputs` > 1. `F.op(domain, name)` is the call for another domain. `F.constant(array)` is a
constant, `F.type(v)`, `F.rank(v)`, `F.dtype(v)` answer about a value. The tape of the core is a third namespace.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from headrace.runtime import dtypes
from headrace.runtime.builder import Builder
from headrace.runtime.errors import GraphError, RunError
from headrace.runtime.graph import Value
from headrace.runtime.ops import find
from headrace.runtime.ops.base import Operator
from headrace.runtime.types import TensorType


class Namespace:
    """Looks operators up by name; subclasses say what a call does (`apply`) and what a value's type is (`type`)."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("_"):
            raise AttributeError(name)
        operator = find(name) or find(name, "headrace")
        if operator is None:
            raise AttributeError(f"there is no operator {name} in the domains '' and 'headrace'")
        call = self._caller(operator)
        self.__dict__[name] = call  # found once
        return call

    def op(self, domain: str, name: str) -> Callable[..., Any]:
        """The call of an operator of any domain."""
        operator = find(name, domain)
        if operator is None:
            raise AttributeError(f"there is no operator {name} in the domain {domain!r}")
        return self._caller(operator)

    def _caller(self, operator: Operator) -> Callable[..., Any]:
        def call(*inputs: Any, outputs: int = 1, **attributes: Any) -> Any:
            results = self.apply(operator, list(inputs), attributes, outputs)
            return results[0] if outputs == 1 else tuple(results)

        call.__name__ = operator.name
        return call

    def apply(self, operator: Operator, inputs: list[Any], attributes: dict[str, Any], outputs: int) -> list[Any]:
        raise NotImplementedError

    def constant(self, array: object) -> Any:
        raise NotImplementedError

    def type(self, value: Any) -> TensorType:
        raise NotImplementedError

    def rank(self, value: Any) -> int:
        """The rank; GraphError where it is not known."""
        rank = self.type(value).rank
        if rank is None:
            raise GraphError(f"the rank of {value!r} is not known")
        return rank

    def dtype(self, value: Any) -> str:
        return self.type(value).dtype


class NumpyNamespace(Namespace):
    """Runs the references at once on NumPy arrays."""

    def apply(self, operator: Operator, inputs: list[Any], attributes: dict[str, Any], outputs: int) -> list[Any]:
        attributes = operator.complete(attributes)
        while inputs and inputs[-1] is None:
            inputs.pop()
        with np.errstate(all="ignore"):
            results = operator.reference(inputs, attributes, outputs)
        if len(results) < outputs:
            raise RunError(f"{operator.kind} has {len(results)} outputs; asked for {outputs}")
        return list(results[:outputs])

    def constant(self, array: object) -> Any:
        return np.asarray(array)

    def type(self, value: Any) -> TensorType:
        array = np.asarray(value)
        return TensorType(dtypes.of(array).name, tuple(array.shape))


class BuilderNamespace(Namespace):
    """Adds nodes to a graph through a Builder. `path` is given to every node."""

    def __init__(self, builder: Builder, path: str = "") -> None:
        self.builder, self.path = builder, path

    def apply(self, operator: Operator, inputs: list[Any], attributes: dict[str, Any], outputs: int) -> list[Any]:
        return list(
            self.builder.node(
                operator.name, inputs, attributes, domain=operator.domain, outputs=outputs, path=self.path
            )
        )

    def constant(self, array: object) -> Value:
        return self.builder.constant(array)

    def type(self, value: Value) -> TensorType:
        if not isinstance(value.type, TensorType):
            raise GraphError(f"{value!r} is not a tensor of known type")
        return value.type
