"""The graph: values, nodes, blocks for If/Loop/Scan, symbolic dimensions, state.

A graph is a program in single-assignment form over ONNX operators and those of the domain "headrace". It never
aliases and has no hidden state. Its text form (`str(graph)`) is its repr and the golden form of tests; the hash is taken
over the `canonical` text. Passes do not mutate while they walk: they answer with a new list of nodes (see `passes`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from headrace.runtime import dtypes
from headrace.runtime.types import TensorType, Type

# The operator-set versions of archive format 1; import brings older operators up to these.
OPSETS: dict[str, int] = {
    "": 28,
    "ai.onnx.ml": 5,
    "ai.onnx.preview": 1,
    "ai.onnx.preview.training": 1,
    "com.microsoft": 1,
    "headrace": 1,
}

Attribute = (
    "int | float | str | bytes | tuple[int, ...] | tuple[float, ...] | tuple[str, ...] | np.ndarray | Block | Type"
)


class Value:
    """One result of the program: a name that is unique in its graph, and a type (None while unknown)."""

    __slots__ = ("name", "type")

    def __init__(self, name: str, type: Type | None = None) -> None:
        self.name = name
        self.type = type

    def __repr__(self) -> str:
        return f"%{self.name}: {self.type}" if self.type is not None else f"%{self.name}"


class Node:
    """One application of an operator.

    `inputs` may hold None for an absent optional input. `outputs` may hold None for an output that nobody asked for.
    `path` is the module path of the layer that the node came from ("encoder.0.linear"), for profiling and messages.
    `version` is the operator-set version of the definition that the node follows. `blocks` are those among the attributes that
    it is made with: every walk over a graph asks for them.
    """

    __slots__ = ("attributes", "blocks", "domain", "inputs", "name", "operator", "outputs", "path", "version")

    def __init__(
        self,
        operator: str,
        inputs: list[Value | None],
        outputs: list[Value | None],
        attributes: Mapping[str, object] | None = None,
        *,
        domain: str = "",
        name: str = "",
        path: str = "",
        version: int | None = None,
    ) -> None:
        self.operator, self.domain, self.name, self.path = operator, domain, name, path
        self.inputs, self.outputs = list(inputs), list(outputs)
        self.attributes = dict(attributes) if attributes else {}
        self.blocks = {key: value for key, value in self.attributes.items() if isinstance(value, Block)}
        self.version = OPSETS.get(domain, 1) if version is None else version

    @property
    def kind(self) -> str:
        """The operator's full name: "Conv", "headrace.QConv", "ai.onnx.ml.Scaler"."""
        return f"{self.domain}.{self.operator}" if self.domain else self.operator

    def label(self) -> str:
        """What error messages call this node."""
        outputs = ", ".join(value.name for value in self.outputs if value is not None)
        return f"node {self.name!r} ({self.kind} -> {outputs})" if self.name else f"node {self.kind} -> {outputs}"

    def __repr__(self) -> str:
        return _node_text(self, 0)


class Block:
    """A straight list of nodes with inputs and outputs. Inner blocks may read values of the blocks around them."""

    __slots__ = ("inputs", "nodes", "outputs")

    def __init__(self, inputs: list[Value], nodes: list[Node], outputs: list[Value]) -> None:
        self.inputs, self.nodes, self.outputs = inputs, nodes, outputs

    def walk(self) -> Iterator[Node]:
        """Every node, those of inner blocks after the node that holds them."""
        for node in self.nodes:
            yield node
            for block in node.blocks.values():
                yield from block.walk()

    def captured(self) -> list[Value]:
        """The values of outer blocks that this block reads, in the order of first use."""
        own = {id(value) for value in self.inputs}
        found: dict[int, Value] = {}
        for node in self.nodes:
            reads = [value for value in node.inputs if value is not None]
            for block in node.blocks.values():
                reads += block.captured()
            for value in reads:
                if id(value) not in own:
                    found.setdefault(id(value), value)
            own.update(id(value) for value in node.outputs if value is not None)
        for value in self.outputs:
            if id(value) not in own:
                found.setdefault(id(value), value)
        return list(found.values())


@dataclass(frozen=True)
class State:
    """A state that the caller holds: the entry point reads `input`, answers the next state as `output`, and starts from
    `initial` (an array, or None for zeros)."""

    input: str
    output: str
    initial: np.ndarray | None = None


@dataclass
class Graph:
    """One entry point: a block, the constants it reads by name, and what is known about it.

    Constants belong to the graph, not to a block; inner blocks capture them like any outer value. A constant's Value is
    in `constants`, keyed by identity of its name.
    """

    block: Block
    constants: dict[str, np.ndarray] = field(default_factory=dict)
    values: dict[str, Value] = field(default_factory=dict)  # constant name -> its Value
    name: str = "main"
    states: list[State] = field(default_factory=list)
    metadata: dict[str, str] = field(default_factory=dict)

    @property
    def inputs(self) -> list[Value]:
        return self.block.inputs

    @property
    def outputs(self) -> list[Value]:
        return self.block.outputs

    @property
    def nodes(self) -> list[Node]:
        return self.block.nodes

    def constant(self, name: str, array: np.ndarray) -> Value:
        """Add a constant under a fresh name made from `name`, and answer its value."""
        array = np.asarray(array)
        name = self.fresh(name or "constant")
        value = Value(name, TensorType(dtypes.of(array).name, tuple(array.shape)))
        self.constants[name], self.values[name] = array, value
        return value

    def constant_of(self, value: Value | None) -> np.ndarray | None:
        """The array behind a value, or None where the value is not a constant of this graph."""
        if value is None or self.values.get(value.name) is not value:
            return None
        return self.constants[value.name]

    @property
    def weight_bytes(self) -> int:
        """Bytes of all constants."""
        return sum(array.nbytes for array in self.constants.values())

    def names(self) -> set[str]:
        """Every name in use."""
        used = set(self.constants) | {value.name for value in self.inputs}
        for node in self.block.walk():
            used.update(value.name for value in node.outputs if value is not None)
            for block in node.blocks.values():
                used.update(value.name for value in block.inputs)
        return used

    def fresh(self, name: str) -> str:
        """`name`, or `name_2`, `name_3`, ... : the first that nothing uses yet."""
        used = self.names()
        candidate, count = name, 1
        while candidate in used:
            count += 1
            candidate = f"{name}_{count}"
        return candidate

    def __str__(self) -> str:
        return graph_text(self)

    __repr__ = __str__

    def hash(self) -> str:
        """SHA-256 over the canonical text (see `canonical`), as hexadecimal text."""
        from headrace.runtime.canonical import canonical_text

        return hashlib.sha256(canonical_text(self).encode()).hexdigest()


@dataclass
class Program:
    """What an archive holds: entry points that share constants by name, and facts about the whole."""

    entries: dict[str, Graph]
    metadata: dict[str, str] = field(default_factory=dict)

    @property
    def main(self) -> Graph:
        """The entry point called "main", or the only one."""
        return self.entries["main"] if "main" in self.entries else next(iter(self.entries.values()))


def graph_text(graph: Graph) -> str:
    """The canonical text: a header, constants, states, one node a line, the outputs."""
    lines = [f"graph {graph.name}({', '.join(map(repr, graph.inputs))}) {{"]
    for name in sorted(graph.constants):
        array = graph.constants[name]
        lines.append(f"  const %{name}: {dtypes.of(array)}[{', '.join(map(str, array.shape))}]{_small(array)}")
    for state in graph.states:
        lines.append(f"  state %{state.input} <- %{state.output}")
    lines += _block_lines(graph.block, 1)
    lines.append("}")
    return "\n".join(lines) + "\n"


def _small(array: np.ndarray) -> str:
    """Values of constants that a reader wants to see: axes, shapes, scalars."""
    if array.size > 8 or array.dtype.kind == "V":
        return ""
    return " = " + " ".join(np.array2string(array, separator=", ", max_line_width=10_000).split())


def _block_lines(block: Block, depth: int) -> list[str]:
    lines = [_node_text(node, depth) for node in block.nodes]
    lines.append("  " * depth + "return " + ", ".join(f"%{value.name}" for value in block.outputs))
    return lines


def _node_text(node: Node, depth: int) -> str:
    pad = "  " * depth
    results = ", ".join("_" if value is None else repr(value) for value in node.outputs)
    inputs = ", ".join("_" if value is None else f"%{value.name}" for value in node.inputs)
    plain = {key: value for key, value in sorted(node.attributes.items()) if not isinstance(value, Block)}
    attributes = (
        " {" + ", ".join(f"{key}={attribute_text(value)}" for key, value in plain.items()) + "}" if plain else ""
    )
    text = f"{pad}{results} = {node.kind}({inputs}){attributes}"
    for key, block in sorted(node.blocks.items()):
        header = ", ".join(map(repr, block.inputs))
        text += f" {key} ({header}) {{\n" + "\n".join(_block_lines(block, depth + 1)) + f"\n{pad}}}"
    return text


def attribute_text(value: object) -> str:
    """One attribute as text; arrays by dtype, shape and digest unless small."""
    if isinstance(value, np.ndarray):
        digest = hashlib.sha256(value.tobytes()).hexdigest()[:12] if value.dtype.kind != "O" else ""
        return f"{dtypes.of(value)}{list(value.shape)}" + (_small(value) or f" #{digest}")
    if isinstance(value, tuple | list):
        return "[" + ", ".join(map(attribute_text, value)) + "]"
    if isinstance(value, float):
        return repr(float(value))
    return repr(value) if isinstance(value, str | bytes) else str(value)
