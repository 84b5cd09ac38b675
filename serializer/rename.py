"""A copy of a graph with other names for values and symbolic dimensions. Arrays are shared."""

from __future__ import annotations

from collections.abc import Mapping

from headrace.runtime.errors import GraphError
from headrace.runtime.graph import Block, Graph, Node, State, Value
from headrace.runtime.shapes import Dim, substitute, symbol
from headrace.runtime.types import MapType, OptionalType, SequenceType, TensorType, Type


def rename(graph: Graph, values: Mapping[str, str], symbols: Mapping[str, str] | None = None) -> Graph:
    """The graph with values renamed by `values` and dimensions by `symbols` (old name -> new name). GraphError where a
    new name is taken by something else."""
    kept = graph.names() - set(values)
    taken = sorted(kept & set(values.values()))
    if taken or len(set(values.values())) != len(values):
        raise GraphError(f"the name {(taken or ['given twice'])[0]!r} is in use already")
    return _Copy(values, {old: symbol(new) for old, new in (symbols or {}).items()}).graph(graph)


class _Copy:
    def __init__(self, values: Mapping[str, str], symbols: Mapping[str, Dim]) -> None:
        self.names, self.symbols = values, symbols
        self.made: dict[int, Value] = {}

    def graph(self, graph: Graph) -> Graph:
        constants = {self._name(name): self._value(value) for name, value in graph.values.items()}
        arrays = {self._name(name): array for name, array in graph.constants.items()}
        states = [State(self._name(state.input), self._name(state.output), state.initial) for state in graph.states]
        return Graph(self._block(graph.block), arrays, constants, graph.name, states, dict(graph.metadata))

    def _name(self, name: str) -> str:
        return self.names.get(name, name)

    def _value(self, value: Value) -> Value:
        if id(value) not in self.made:
            self.made[id(value)] = Value(self._name(value.name), None if value.type is None else self._type(value.type))
        return self.made[id(value)]

    def _optional(self, value: Value | None) -> Value | None:
        return None if value is None else self._value(value)

    def _block(self, block: Block) -> Block:
        inputs = [self._value(value) for value in block.inputs]
        return Block(
            inputs, [self._node(node) for node in block.nodes], [self._value(value) for value in block.outputs]
        )

    def _node(self, node: Node) -> Node:
        attributes = {
            key: self._block(value) if isinstance(value, Block) else value for key, value in node.attributes.items()
        }
        return Node(
            node.operator, [self._optional(value) for value in node.inputs], [self._optional(value) for value in node.outputs], attributes,
            domain=node.domain, name=node.name, path=node.path, version=node.version,
        )  # fmt: skip

    def _type(self, type: Type) -> Type:
        match type:
            case TensorType(shape=shape) if shape is not None and self.symbols:
                return type.with_shape(tuple(substitute(dim, self.symbols) for dim in shape))
            case SequenceType(element=element):
                return SequenceType(self._type(element))
            case OptionalType(element=element):
                return OptionalType(self._type(element))
            case MapType(key=key, value=value):
                return MapType(key, self._type(value))
        return type
