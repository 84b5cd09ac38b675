"""The canonical text of a graph, which its hash is taken over: what a graph computes and how it is called, not how the
values inside are named.

Inputs, outputs and named constants keep their names; other values are numbered in the order of their making; constants
without a name of their own stand where they are read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np

from headrace.runtime import dtypes
from headrace.runtime.graph import Block, Graph, Node, Value, attribute_text

UNNAMED = "constant"  # how names of constants begin that the program never named


def canonical_text(graph: Graph) -> str:
    """One text for all graphs that differ in the names of inner values only."""
    printer = _Printer(graph)
    lines = [f"graph {graph.name}({', '.join(f'{v.name}: {v.type}' for v in graph.inputs)})"]
    for state in graph.states:
        initial = "zeros" if state.initial is None else array_text(state.initial)
        lines.append(f"state {state.input} <- {state.output} = {initial}")
    lines += printer.nodes(graph.block)
    lines += [f"output {value.name} = {printer.name(value)}" for value in graph.outputs]
    return "\n".join(lines) + "\n"


def array_text(array: np.ndarray) -> str:
    """An array by dtype, shape and digest."""
    data = array.tobytes() if array.dtype.kind != "O" else "\0".join(map(str, array.ravel())).encode()
    return f"{dtypes.of(array)}{list(array.shape)}#{hashlib.sha256(data).hexdigest()}"


class _Printer:
    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.names = {id(value): f"%{value.name}" for value in graph.inputs}
        self.count = 0

    def name(self, value: Value | None) -> str:
        if value is None:
            return "_"
        array = self.graph.constant_of(value)
        if array is not None and id(value) not in self.names:
            name = "" if value.name.startswith(UNNAMED) else value.name
            self.names[id(value)] = f"{name}:{array_text(array)}"
        return self.names[id(value)]

    def define(self, value: Value | None) -> str:
        if value is None:
            return "_"
        self.count += 1
        self.names[id(value)] = f"%{self.count}"
        return self.names[id(value)]

    def nodes(self, block: Block) -> Iterator[str]:
        for node in block.nodes:
            yield from self.node(node)

    def node(self, node: Node) -> Iterator[str]:
        inputs = ", ".join(map(self.name, node.inputs))
        plain = (f"{k}={attribute_text(v)}" for k, v in sorted(node.attributes.items()) if not isinstance(v, Block))
        head = f"{node.kind}({inputs}) {{{', '.join(plain)}}}"
        for key, block in sorted(node.blocks.items()):
            yield f"{key}({', '.join(map(self.define, block.inputs))}) {{"
            yield from self.nodes(block)
            yield f"}} -> {', '.join(map(self.name, block.outputs))}"
        yield f"{', '.join(map(self.define, node.outputs))} = {head}"
