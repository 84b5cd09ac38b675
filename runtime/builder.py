"""Builder: adds nodes to a block, with types inferred at once.

graph = Graph(Block([x], [], []))
builder = Builder(graph)
(y,) = builder.node("Relu", [x])
graph.outputs.append(y)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from headrace.runtime import dtypes
from headrace.runtime.graph import Block, Graph, Node, Value
from headrace.runtime.infer import Inference
from headrace.runtime.types import TensorType, Type


class Builder:
    """Appends nodes to `block` (default: the graph's own). Builders of inner blocks are made with `inner`.

    Two builders at work on one graph at a time must share names: make the second with `inner`.
    """

    def __init__(self, graph: Graph, block: Block | None = None, *, inference: Inference | None = None) -> None:
        self.graph = graph
        self.block = graph.block if block is None else block
        self.inference = inference or Inference(graph)
        self.names = graph.names()
        self._counts: dict[str, int] = {}

    @property
    def nodes(self) -> list[Node]:
        return self.block.nodes

    def inner(self, block: Block) -> Builder:
        """A builder of a block inside this one: same graph, same names, same knowledge."""
        builder = object.__new__(Builder)
        builder.graph, builder.block, builder.inference = self.graph, block, self.inference
        builder.names, builder._counts = self.names, self._counts
        builder.names.update(value.name for value in block.inputs)
        return builder

    def fresh(self, name: str) -> str:
        """`name`, or the first of `name_2`, `name_3`, ... that nothing uses, and reserve it."""
        count = self._counts.get(name, 1)
        candidate = name if count == 1 else f"{name}_{count}"
        while candidate in self.names:
            count += 1
            candidate = f"{name}_{count}"
        self._counts[name] = count
        self.names.add(candidate)
        return candidate

    def release(self, names: set[str], counts: Mapping[str, int]) -> None:
        """Go back to the names that were in use before (with `counts` as of then): what was made since is thrown away."""
        self.names.intersection_update(names)
        self._counts.clear()
        self._counts.update(counts)

    def input(self, name: str, type: Type | None) -> Value:
        """Add an input to the block."""
        value = Value(self.fresh(name), type)
        self.block.inputs.append(value)
        return value

    def constant(self, array: object, name: str = "") -> Value:
        """A constant of the graph with this array (taken as it is, not copied)."""
        data = np.asarray(array)
        value = Value(self.fresh(name or "constant"), TensorType(dtypes.of(data).name, tuple(data.shape)))
        self.graph.constants[value.name], self.graph.values[value.name] = data, value
        return value

    def node(
        self,
        op: str,
        inputs: Sequence[Value | None],
        attributes: Mapping[str, object] | None = None,
        *,
        domain: str = "",
        outputs: int | Sequence[str | None] = 1,
        name: str = "",
        path: str = "",
        version: int | None = None,
    ) -> list[Value]:
        """Append one node and answer its outputs, typed. `outputs`: how many, or their names (None: not wanted; a name
        that is taken gets a number). Raises GraphError with the node's label; then nothing is appended."""
        given = list(inputs)
        while given and given[-1] is None:
            given.pop()
        wanted = [op.lower()] * outputs if isinstance(outputs, int) else list(outputs)
        results = [None if output is None else Value(self.fresh(output)) for output in wanted]
        attributes = {key: value for key, value in (attributes or {}).items() if value is not None}
        node = Node(op, given, results, attributes, domain=domain, name=name, path=path, version=version)
        self.append(node)
        return results  # type: ignore[return-value]  # None only where the caller asked for None

    def append(self, node: Node) -> Node:
        """Append a node that exists (its values keep their names), with its types inferred."""
        self.inference.node(node)
        self.names.update(value.name for value in node.outputs if value is not None)
        for block in node.blocks.values():
            for inner in block.walk():
                self.names.update(value.name for value in inner.outputs if value is not None)
            self.names.update(value.name for value in block.inputs)
        self.block.nodes.append(node)
        return node
