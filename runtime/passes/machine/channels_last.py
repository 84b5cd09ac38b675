"""Channels last: convolutions become <domain>.* nodes over [N, *sizes, C], and whatever can follows them.

One walk in program order. A value may exist in two layouts: *first* (as the graph says, [N, C, *sizes]) and *last*. A
convolution asks for its inputs last; elementwise operators, concatenations, reductions and the like follow where an
input exists only last; everything else asks for first. A layout that does not exist yet is made by a Transpose, once.
So transposes appear only where the layout really changes. What the graph answers stays channels first.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np

from headrace.runtime import dtypes
from headrace.runtime.graph import Block, Graph, Node, Value
from headrace.runtime.passes.machine.rules import RULES, follow_elementwise
from headrace.runtime.passes.scope import Names
from headrace.runtime.types import TensorType, Type


def channels_last(
    graph: Graph,
    caps: Collection[str],
    domain: str = "headrace.cpu",
    allows: Callable[[Node], bool] = lambda node: True,
) -> Graph:
    """A new graph; constants are shared. `domain`: of the device's operators; those in `caps` exist there, for the nodes that
    `allows` lets through."""
    if not any(node.kind in RULES for node in graph.block.walk()):
        return graph  # nothing follows where nothing begins
    copy = Graph(graph.block, dict(graph.constants), dict(graph.values), graph.name, graph.states, graph.metadata)
    if not any(name.startswith(f"{domain}.") for name in caps):
        return copy
    copy.block = Layouts(copy, Names(graph), caps, domain, allows).block(graph.block)
    return copy


def to_last(rank: int) -> tuple[int, ...]:
    return (0, *range(2, rank), 1)


def to_first(rank: int) -> tuple[int, ...]:
    return (0, rank - 1, *range(1, rank - 1))


class Layouts:
    """The walk over one block. Rules call `last`, `first`, `add` and the readers below."""

    def __init__(
        self, graph: Graph, names: Names, caps: Collection[str], domain: str, allows: Callable[[Node], bool]
    ) -> None:
        self.graph, self.names, self.caps, self.domain, self.allows = graph, names, caps, domain, allows
        self.nodes: list[Node] = []
        self.lasts: dict[Value, Value] = {}
        self.pending: set[Value] = set()  # exist only last so far
        self.moved: dict[tuple[str, int], Value] = {}

    def block(self, block: Block) -> Block:
        for node in block.nodes:
            rule = RULES.get(node.kind, follow_elementwise)
            if not rule(node, self):
                self.keep(node)
        for value in block.outputs:
            self.first(value)
        return Block(block.inputs, self.nodes, block.outputs)

    def keep(self, node: Node) -> None:
        """The node as it is, with its inputs channels first."""
        for value in node.inputs:
            self.first(value)
        blocks = node.blocks
        if blocks:
            for inner in blocks.values():
                for value in inner.captured():
                    self.first(value)
            inside = {key: self.inner().block(inner) for key, inner in blocks.items()}
            node = _like(node, node.inputs, node.outputs, {**node.attributes, **inside})
        self.nodes.append(node)

    def inner(self) -> Layouts:
        """The walk over a block inside this one."""
        return Layouts(self.graph, self.names, self.caps, self.domain, self.allows)

    # ---- what rules read

    def rank(self, value: Value | None) -> int | None:
        return value.type.rank if value is not None and isinstance(value.type, TensorType) else None

    def dtype(self, value: Value | None) -> str:
        return value.type.dtype if value is not None and isinstance(value.type, TensorType) else ""

    def only_last(self, value: Value | None) -> bool:
        return value in self.pending

    def array(self, value: Value | None) -> np.ndarray | None:
        return self.graph.constant_of(value)

    # ---- what rules make

    def first(self, value: Value | None) -> None:
        """Make sure that the value exists channels first."""
        if value is not None and value in self.pending:
            self.pending.discard(value)
            source = self.lasts[value]
            self.nodes.append(Node("Transpose", [source], [value], {"perm": to_first(self.rank(value) or 0)}))

    def last(self, value: Value) -> Value:
        """The value channels last; its rank must be known."""
        found = self.lasts.get(value)
        if found is None:
            array = self.array(value)
            perm = to_last(self.rank(value) or 0)
            if array is not None:
                found = self.constant(np.ascontiguousarray(np.transpose(array, perm)), f"{value.name}_last")
            else:
                found = Value(self.names.fresh(f"{value.name}_last"), permuted(value.type, perm))
                self.nodes.append(Node("Transpose", [value], [found], {"perm": perm}))
            self.lasts[value] = found
        return found

    def constant(self, array: np.ndarray, name: str) -> Value:
        name = self.names.fresh(name)
        value = Value(name, TensorType(dtypes.of(array).name, tuple(array.shape)))
        self.graph.constants[name], self.graph.values[name] = array, value
        return value

    def broadcast_constant(self, value: Value, rank: int) -> Value | None:
        """A constant so that it broadcasts against channels-last values as it did against channels-first ones."""
        array = self.array(value)
        if array is None or array.ndim > rank:
            return None
        if array.size == 1:
            return value
        key = (value.name, rank)
        if key not in self.moved:
            wide = array.reshape((1,) * (rank - array.ndim) + array.shape)
            self.moved[key] = self.constant(
                np.ascontiguousarray(np.transpose(wide, to_last(rank))), f"{value.name}_last"
            )
        return self.moved[key]

    def add(
        self,
        node: Node,
        inputs: Sequence[Value | None],
        *,
        kind: str | None = None,
        attributes: Mapping[str, object] | None = None,
    ) -> None:
        """`node` over channels-last inputs; its outputs exist only last. `kind`: under the name <domain>.<kind>."""
        outputs: list[Value | None] = []
        for value in node.outputs:
            if value is None:
                outputs.append(None)
                continue
            made = Value(self.names.fresh(f"{value.name}_last"), permuted(value.type, to_last(self.rank(value) or 0)))
            self.lasts[value] = made
            self.pending.add(value)
            outputs.append(made)
        given = node.attributes if attributes is None else attributes
        if kind is None:
            self.nodes.append(_like(node, inputs, outputs, given))
        else:
            self.nodes.append(
                Node(kind, list(inputs), outputs, given, domain=self.domain, name=node.name, path=node.path)
            )

    def alias(self, value: Value, last: Value) -> None:
        """`value`, channels last, is what another value already holds."""
        self.lasts[value] = last
        self.pending.add(value)

    def emit(self, node: Node, inputs: Sequence[Value | None], attributes: Mapping[str, object]) -> None:
        """`node` with other inputs and attributes but the same outputs, which are then as the graph says."""
        self.nodes.append(_like(node, inputs, node.outputs, attributes))


def permuted(type: Type | None, perm: Sequence[int]) -> Type | None:
    if not isinstance(type, TensorType) or type.shape is None:
        return type
    return TensorType(type.dtype, tuple(type.shape[axis] for axis in perm))


def _like(
    node: Node, inputs: Sequence[Value | None], outputs: Sequence[Value | None], attributes: Mapping[str, object]
) -> Node:
    return Node(
        node.operator,
        list(inputs),
        list(outputs),
        attributes,
        domain=node.domain,
        name=node.name,
        path=node.path,
        version=node.version,
    )
