"""The reference executor: runs a graph node by node with the operators' NumPy references.

It is the definition of what a graph means, the oracle of the native executor's tests, and the fallback for operators
without a native kernel. It is written to be read, not to be fast.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from headrace.runtime.errors import HeadraceError, RunError
from headrace.runtime.feeds import check_feeds
from headrace.runtime.graph import Block, Graph, Node, Value
from headrace.runtime.interface import TensorSpec
from headrace.runtime.ops import find
from headrace.runtime.ops.base import Operator


def run_graph(graph: Graph, feeds: Mapping[str, Any]) -> dict[str, Any]:
    """Run the graph: input name -> array (or list, dict, None) in, output name -> value out.

    Raises InputError for a feed that does not fit, RunError naming the node that failed.
    """
    run = Run(graph)
    run.feed(feeds)
    run.nodes(graph.nodes, _last_uses(graph))
    return {value.name: run.read(value) for value in graph.outputs}


def run_node(operator: Operator, inputs: Sequence[Any], attributes: Mapping[str, Any], outputs: int = 1) -> list[Any]:
    """One operator alone, with attribute defaults filled in; its blocks may read their own inputs only."""
    run = Run(Graph(Block([], [], [])))
    with np.errstate(all="ignore"):
        return list(operator.reference(list(inputs), operator.complete(attributes), outputs, run_block=run.block))


class Run:
    """One execution. `scope` maps values to what they are; inner blocks share it, because every value has one producer."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.scope: dict[Value, Any] = {}
        self._prepared: dict[int, tuple[Operator, dict[str, Any]]] = {}

    def feed(self, feeds: Mapping[str, Any]) -> None:
        """Give the graph's inputs their values. Raises InputError for a feed that does not fit."""
        checked = check_feeds([TensorSpec.of(value) for value in self.graph.inputs], feeds)
        self.scope.update((value, checked[value.name]) for value in self.graph.inputs)

    def read(self, value: Value | None) -> Any:
        if value is None:
            return None
        constant = self.graph.constant_of(value)
        if constant is not None:
            return constant
        try:
            return self.scope[value]
        except KeyError:
            raise RunError(f"value %{value.name} is read before anything computes it") from None

    def nodes(self, nodes: Sequence[Node], last_uses: Mapping[int, Sequence[Value]] | None = None) -> None:
        for node in nodes:
            self.node(node)
            for value in (last_uses or {}).get(id(node), ()):
                self.scope.pop(value, None)

    def node(self, node: Node) -> None:
        operator, attributes = self._prepare(node)
        try:
            inputs = [self.read(value) for value in node.inputs]
            with np.errstate(all="ignore"):
                results = operator.reference(inputs, attributes, len(node.outputs), run_block=self.block)
            if len(results) < len(node.outputs):
                raise RunError(f"{operator.kind} gave {len(results)} outputs; the node has {len(node.outputs)}")
        except RunError as error:
            text = str(error)
            raise (error if text.startswith("node ") else RunError(f"{node.label()}: {text}")) from error
        except Exception as error:
            raise RunError(f"{node.label()}: {error or type(error).__name__}") from error
        for value, result in zip(node.outputs, results):
            if value is not None:
                self.scope[value] = np.asarray(result) if isinstance(result, np.generic) else result

    def block(self, block: Block, inputs: Sequence[Any]) -> list[Any]:
        """Run an inner block on its inputs; operators with blocks call this."""
        if len(inputs) != len(block.inputs):
            raise RunError(f"a block takes {len(block.inputs)} inputs, not {len(inputs)}")
        self.scope.update(zip(block.inputs, inputs))
        self.nodes(block.nodes)
        return [self.read(value) for value in block.outputs]

    def _prepare(self, node: Node) -> tuple[Operator, dict[str, Any]]:
        """The operator and complete attributes of a node, found once for a run: loops come back here."""
        found = self._prepared.get(id(node))
        if found is None:
            operator = find(node.operator, node.domain)
            if operator is None:
                raise RunError(f"{node.label()}: there is no operator {node.kind}")
            try:
                found = operator, operator.complete(node.attributes)
            except HeadraceError as error:
                raise RunError(f"{node.label()}: {error}") from error
            self._prepared[id(node)] = found
        return found


def _last_uses(graph: Graph) -> dict[int, list[Value]]:
    """For each node, the values that nothing reads after it."""
    last: dict[Value, int] = {}
    for node in graph.nodes:
        for value in node.outputs:
            if value is not None:
                last[value] = id(node)
        reads = [value for value in node.inputs if value is not None]
        for block in node.blocks.values():
            reads += block.captured()
        for value in reads:
            last[value] = id(node)
    kept = set(graph.outputs)
    uses: dict[int, list[Value]] = {}
    for value, node_id in last.items():
        if value not in kept:
            uses.setdefault(node_id, []).append(value)
    return uses
