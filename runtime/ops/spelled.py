"""Operators that are defined by a few others: one body gives the types, the reference, and what import puts in their place.

    class QuickGelu(Spelled):
        def spell(self, F, inputs, attributes, n_outputs):
            return F.Mul(x, F.Sigmoid(...))

Import replaces such a node by its body, so passes and kernels see operators that they know. It stays a node only where the
body must know a rank or a size that the file does not tell; then the same body runs over arrays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from headrace.runtime.builder import Builder
from headrace.runtime.errors import GraphError
from headrace.runtime.graph import Block, Graph, Value
from headrace.runtime.infer import check_inputs, expand_formals, symbols_of
from headrace.runtime.namespaces import BuilderNamespace, NumpyNamespace
from headrace.runtime.ops.base import Accuracy, Context, Operator
from headrace.runtime.ops.common import scalar
from headrace.runtime.shapes import Dim, substitute
from headrace.runtime.types import TensorType, Type

FLOAT32 = frozenset({"float32"})
INT32 = frozenset({"int32"})
EITHER8 = frozenset({"int8", "uint8"})


class Unspelled(GraphError):
    """The body must know a size that only the run will tell."""


class Spelled(Operator):
    domain = "com.microsoft"
    accuracy = Accuracy(64.0)
    differentiable = False

    def spell(self, F: Any, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int) -> Any:
        """The outputs, by calls of F; `inputs` has None for every formal input that is absent. A tuple for several outputs."""
        raise NotImplementedError(self.kind)

    def infer(self, context: Context) -> list[Type | None]:
        builder = Builder(Graph(Block([], [], [])))
        inputs: list[Any] = []
        for index, type in enumerate(context.inputs):
            constant = context.constant(index)
            value = (
                None
                if type is None
                else builder.constant(constant)
                if constant is not None
                else Value(f"x{index}", type)
            )
            if value is not None and context.values[index] is not None:
                builder.inference.symbolic[value] = context.values[index]  # type: ignore[assignment]
            inputs.append(value)
        if not all(map(_ranked, context.inputs)):
            return self._unranked(context)
        try:
            made = self._spell(BuilderNamespace(builder), inputs, context.attributes, context.n_outputs)
        except Unspelled:
            return self._unranked(context)
        own = frozenset().union(*map(symbols_of, context.inputs))
        renames: dict[str, Dim] = {}
        return [None if value is None else _renamed(value.type, own, renames, context) for value in made]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        made = self._spell(NumpyNamespace(), list(inputs), attributes, n_outputs)
        return [None if y is None else np.ascontiguousarray(y) if np.ndim(y) else y for y in made]

    def upgrade(self, node: Any, version: int, builder: Any) -> list[Any] | None:
        types = [None if value is None else value.type for value in node.inputs]
        check_inputs(self, types)
        if (expand_formals(self.outputs, len(node.outputs))) is None:
            raise GraphError(f"{self.kind} has {len(self.outputs)} outputs; the node asks for {len(node.outputs)}")
        attributes = self.complete(node.attributes)
        if not all(map(_ranked, types)):
            return None
        start = len(builder.nodes)
        try:
            return self._spell(BuilderNamespace(builder, node.path), list(node.inputs), attributes, len(node.outputs))
        except Unspelled:
            del builder.nodes[start:]
            return None

    def _spell(self, F: Any, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int) -> list[Any]:
        inputs += [None] * (len(self.inputs) - len(inputs))
        made = self.spell(F, inputs, attributes, n_outputs)
        return list(made if isinstance(made, tuple) else (made,))

    def _unranked(self, context: Context) -> list[Type | None]:
        """The element types of the outputs alone."""
        bound = check_inputs(self, context.inputs)
        kinds = [bound.get(out.types) if isinstance(out.types, str) else next(iter(out.types)) for out in self.outputs]
        return [None if kind is None else TensorType(kind) for kind in kinds[: context.n_outputs]]


def _ranked(type: Type | None) -> bool:
    return not isinstance(type, TensorType) or type.shape is not None


def _renamed(type: Type | None, own: frozenset[str], renames: dict[str, Dim], context: Context) -> Type | None:
    """A type whose new symbols are new in the graph around, too."""
    if not isinstance(type, TensorType) or type.shape is None:
        return type
    for name in sorted(symbols_of(type) - own - set(renames)):
        renames[name] = context.fresh(name)
    return type.with_shape(tuple(substitute(dim, renames) for dim in type.shape))


def ints(F: Any, *values: int) -> Any:
    """An int64 constant of rank 1."""
    return F.constant(np.array(values, np.int64))


def size(F: Any, x: Any, axis: int) -> Any:
    """The size of one axis, an int64 tensor of one element and rank 1."""
    axis %= F.rank(x)
    return F.Shape(x, start=axis, end=axis + 1)


def known(F: Any, x: Any, axis: int) -> int:
    """The size of one axis as a number."""
    found = F.type(x).shape[axis]
    if not isinstance(found, int):
        raise Unspelled(f"the size of axis {axis} is not known")
    return found


def count_up(F: Any, length: Any) -> Any:
    """0, 1, ... length - 1 as int64; `length` has one element and rank 1."""
    return F.Range(F.constant(np.array(0, np.int64)), F.Squeeze(length), F.constant(np.array(1, np.int64)))


def times(F: Any, x: Any, factor: float) -> Any:
    """x * factor; x itself for 1."""
    return x if factor == 1.0 else F.Mul(x, scalar(F, factor, x))


def total(F: Any, terms: Sequence[Any]) -> Any:
    """The sum of those that are there."""
    given = [term for term in terms if term is not None]
    result = given[0]
    for term in given[1:]:
        result = F.Add(result, term)
    return result
