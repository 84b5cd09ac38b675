"""Common subexpressions: two applications of one operator to the same values are one. Small equal constants become one
first, so that the numbers that exporters repeat do not hide it.
"""

from __future__ import annotations

import numpy as np

from headrace.runtime import dtypes
from headrace.runtime.graph import Block, Graph, Node, Value
from headrace.runtime.ops import find
from headrace.runtime.passes.edit import drop_dead, substitute_block
from headrace.runtime.passes.rewrite import Patch, rewrite
from headrace.runtime.passes.scope import Scope

PORTABLE = True
ORDER = 35

SMALL = 1024  # bytes; larger constants are the same only where they are the same array


def run(graph: Graph) -> Graph:
    return rewrite(_share_constants(graph), {"*": _Seen()})


def _share_constants(graph: Graph) -> Graph:
    first: dict[object, Value] = {}
    table: dict[int, Value] = {}
    answered = {id(value) for value in graph.outputs}
    for name, array in graph.constants.items():
        key = _array_key(array)
        value = graph.values[name]
        kept = first.setdefault(key, value)
        if kept is not value and id(value) not in answered:
            table[id(value)] = kept
    if not table:
        return graph
    block = substitute_block(graph.block, table)
    return drop_dead(
        Graph(block, dict(graph.constants), dict(graph.values), graph.name, list(graph.states), dict(graph.metadata))
    )


def _array_key(array: np.ndarray) -> object:
    if array.nbytes > SMALL or array.dtype.kind == "O":
        return id(array)
    return dtypes.of(array).name, array.shape, array.tobytes()


class _Seen:
    """The rule. It remembers, for the block being swept, the first node of each key, and which values are the same."""

    def __init__(self) -> None:
        self.scope: Scope | None = None
        self.first: dict[object, Node] = {}
        self.same: dict[int, int] = {}

    def __call__(self, node: Node, scope: Scope) -> Patch | None:
        if scope is not self.scope:
            self.scope, self.first, self.same = scope, {}, {}
        operator = find(node.operator, node.domain)
        if operator is None or not operator.deterministic or node.blocks:
            return None
        first = self.first.setdefault(self._key(node), node)
        if first is node:
            return None
        pairs = [(old, new) for old, new in zip(node.outputs, first.outputs) if old is not None and new is not None]
        if any(not scope.replaceable(old, new) for old, new in pairs):
            return None
        self.same.update({id(old): self.same.get(id(new), id(new)) for old, new in pairs})
        return Patch([node], rename=dict(pairs))

    def _key(self, node: Node) -> object:
        attributes = tuple((key, _attribute_key(value)) for key, value in sorted(node.attributes.items()))
        inputs = tuple(None if value is None else self.same.get(id(value), id(value)) for value in node.inputs)
        return node.kind, node.version, inputs, tuple(value is not None for value in node.outputs), attributes


def _attribute_key(value: object) -> object:
    if isinstance(value, np.ndarray):
        return _array_key(value)
    if isinstance(value, Block):
        return id(value)
    return (type(value).__name__, tuple(value)) if isinstance(value, tuple | list) else (type(value).__name__, value)
