"""Values between convolutions as bfloat16 where bf16 products are allowed: half the bytes between layers, and nothing to round
when a convolution reads its factors.

A convolution rounds each value once, to nearest even, when it stores it; sums stay float32. What only moves values (pools,
Concat, Split, Slice, nearest Resize) and Add carry them on. A value is bfloat16 where every node that makes or reads it, and what
those nodes tie together, can: so no Cast is ever needed, and inputs and outputs of the graph stay float32. Types and attributes
decide, never a size, so that a row's answer does not depend on its batch.
"""

from __future__ import annotations

from collections.abc import Collection

from headrace.runtime.graph import Block, Graph, Node, Value
from headrace.runtime.passes.edit import copy_node, substitute
from headrace.runtime.passes.machine.low_precision import PRECISIONS
from headrace.runtime.types import TensorType

# Which inputs hold values that the node passes on, all in one type (None: all of them).
CARRIERS: dict[str, tuple[int, ...] | None] = {
    "headrace.cpu.MaxPool": (0,),
    "headrace.cpu.AveragePool": (0,),
    "Concat": None,
    "Split": (0,),
    "Slice": (0,),
    "Resize": (0,),
    "Add": None,
}


def low_values(graph: Graph, caps: Collection[str], precision: str) -> Graph:
    """The graph with such values in `precision`; the same graph where there are none, or this CPU has no such products."""
    if PRECISIONS[precision] not in caps:
        return graph
    block = _block(graph.block, graph)
    if block is graph.block:
        return graph
    return Graph(block, dict(graph.constants), dict(graph.values), graph.name, graph.states, graph.metadata)


class _Groups:
    """Values that must have one type, and which of them must stay float32."""

    def __init__(self) -> None:
        self.parent: dict[Value, Value] = {}
        self.fixed: set[Value] = set()

    def root(self, value: Value) -> Value:
        while (above := self.parent.setdefault(value, value)) is not value:
            value = self.parent[value] = self.parent[above]
        return value

    def tie(self, values: Collection[Value | None]) -> None:
        first, *others = [self.root(value) for value in values if value is not None]
        for other in others:
            self.parent[other] = first

    def fix(self, values: Collection[Value | None]) -> None:
        self.fixed.update(value for value in values if value is not None)

    def free(self) -> list[Value]:
        bound = {self.root(value) for value in self.fixed}
        return [value for value in self.parent if self.root(value) not in bound]


def _block(block: Block, graph: Graph) -> Block:
    groups = _Groups()
    groups.fix(block.inputs)
    groups.fix(block.outputs)
    for node in block.nodes:
        for value in (*node.inputs, *node.outputs):
            if value is not None:
                groups.root(value)
                if _dtype(value) != "float32" or graph.constant_of(value) is not None:
                    groups.fix([value])
        data = _reads(node, graph)
        if data is None:
            groups.fix(node.inputs)
            groups.fix(node.outputs)
        else:
            groups.fix([value for index, value in enumerate(node.inputs) if index not in data])
        for inner in node.blocks.values():
            groups.fix(inner.captured())
        if node.kind in CARRIERS and data is not None:
            groups.tie([*(node.inputs[index] for index in data), *node.outputs])
    made = {
        id(value): Value(value.name, TensorType("bfloat16", value.type.shape))
        for value in groups.free()
        if isinstance(value.type, TensorType)
    }
    nodes = []
    for node in block.nodes:
        blocks = {key: _block(inside, graph) for key, inside in node.blocks.items()}
        if any(blocks[key] is not inside for key, inside in node.blocks.items()):
            node = copy_node(node, attributes={**node.attributes, **blocks})
        nodes.append(substitute(node, made, made))
    same = all(a is b for a, b in zip(nodes, block.nodes))
    return block if same else Block(block.inputs, nodes, block.outputs)


def _reads(node: Node, graph: Graph) -> Collection[int] | None:
    """The inputs that may be bfloat16, where the outputs may; None where the node takes no part."""
    if node.kind == "headrace.cpu.WinogradConv":
        return (0, 3)
    if node.kind == "headrace.cpu.Conv":
        return _conv(node, graph)
    if node.kind not in CARRIERS or (node.kind == "Resize" and node.attributes.get("mode", "nearest") != "nearest"):
        return None
    data = CARRIERS[node.kind]
    return range(len(node.inputs)) if data is None else data


def _conv(node: Node, graph: Graph) -> Collection[int] | None:
    """A depthwise convolution, or one of bf16 products; that reads whole pairs of channels."""
    weight, groups = graph.constant_of(node.inputs[1]), node.attributes.get("group", 1)
    if weight is None or weight.ndim < 3:
        return None
    if weight.shape[1] % 2 == 0 or (weight.shape[1] == 1 and weight.shape[0] == groups and groups != 1):
        return (0, 3) if weight.shape[1] == 1 or node.attributes.get("precision") == "bf16" else None
    return (3,) if groups == 1 and node.attributes.get("precision") == "bf16" else None


def _dtype(value: Value) -> str:
    return value.type.dtype if isinstance(value.type, TensorType) else ""
