"""graph.pb: what goes in comes out, and every reference, count and size in it is checked."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from serializer_graphs import every_array, graphs, make_graph, same

from headrace.protos import graph_pb2 as pb
from headrace.runtime import type_text
from headrace.runtime.errors import GraphError, LoadError
from headrace.runtime.graph import Block, Graph, Node, Program, Value
from headrace.runtime.shapes import maximum, symbol
from headrace.runtime.types import MapType, OptionalType, SequenceType, TensorType, Type
from headrace.serializer import graph_codec, message_scan, weights


def around(program: Program) -> Program:
    data, arrays = graph_codec.encode(program)
    stored, _ = weights.decode(memoryview(b"".join(weights.encode(arrays))))
    return graph_codec.decode(data, stored)


def one_node(attributes: dict[str, Any]) -> Graph:
    x, y = Value("x", TensorType("float32", (2,))), Value("y", TensorType("float32", (2,)))
    return Graph(
        Block(
            [x],
            [Node("Whatever", [x, None, x], [None, y], attributes, domain="custom", name="n", path="p.q", version=7)],
            [y],
        )
    )


@settings(max_examples=60)
@given(graphs())
def test_random_graphs(graph: Graph) -> None:
    again = around(Program({"main": graph}, {"k": "v"}))
    assert str(again.main) == str(graph) and again.metadata == {"k": "v"}
    assert again.main.hash() == graph.hash()


def test_attributes_of_every_kind() -> None:
    attributes: dict[str, Any] = {
        "i": -(2**63), "j": 2**63 - 1, "f": 0.1, "nan": float("inf"), "s": "é", "b": b"\xff\0", "none": (), "ints": (1, -2, 3), "floats": (0.5, 1e-300),
        "strings": ("a", ""), "type": SequenceType(TensorType("float32", (symbol("n"), 2))), **{f"t_{name}": array for name, array in every_array().items()},
    }  # fmt: skip
    (node,) = around(Program({"main": one_node(attributes)})).main.nodes
    assert (node.operator, node.domain, node.name, node.path, node.version) == ("Whatever", "custom", "n", "p.q", 7)
    assert [value and value.name for value in node.inputs] == ["x", None, "x"] and [
        value and value.name for value in node.outputs
    ] == [None, "y"]
    assert node.attributes.keys() == attributes.keys()
    for key, value in attributes.items():
        assert same(node.attributes[key], value) if isinstance(value, np.ndarray) else node.attributes[key] == value, (
            key
        )


def test_blocks_see_the_values_around_them() -> None:
    x = Value("x", TensorType("float32", (2,)))
    inner = [Value("i", TensorType("int64", ())), Value("o", TensorType("float32", (2,)))]
    deep = Block([], [Node("Neg", [x], [inner[1]])], [inner[1], x])
    y = Value("y", TensorType("float32", (2,)))
    graph = Graph(Block([x], [Node("Loop", [], [y], {"body": Block([inner[0]], [], [x]), "other": deep})], [y]))
    again = around(Program({"main": graph})).main
    assert str(again) == str(graph)
    assert again.nodes[0].attributes["body"].outputs[0] is again.inputs[0]


@pytest.mark.parametrize("value", [object(), 1 << 63, ("a", b"b"), ("a", 1), (None,)])
def test_attributes_without_a_form(value: object) -> None:
    with pytest.raises(GraphError, match="attribute 'a'"):
        graph_codec.encode(Program({"main": one_node({"a": value})}))


def damaged(change: Callable[[Any], None]) -> None:
    data, arrays = graph_codec.encode(Program({"main": make_graph()}))
    message = pb.Program.FromString(data)
    change(message)
    with pytest.raises(LoadError):
        graph_codec.decode(message.SerializeToString(), arrays)


def _set(path: str, value: Any) -> Callable[[Any], None]:
    def change(message: Any) -> None:
        *head, last = path.split(".")
        target = message.entries[0]
        for part in head:
            target = target[int(part)] if part.isdigit() else getattr(target, part)
        if last.isdigit():
            target[int(last)] = value
        else:
            setattr(target, last, value)

    return change


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("block.inputs.0", 0), ("block.inputs.0", 99), ("block.outputs.0", 0), ("block.outputs.0", 2**32 - 1), ("block.nodes.0.inputs.0", 99), ("block.nodes.0.outputs.0", 99),
        ("block.nodes.0.operator", ""), ("block.nodes.0.domain", "nowhere"), ("values.0.name", ""), ("values.0.name", "x"), ("values.0.type", "float33[2]"),
        ("values.0.type", "float32[-1]"), ("values.0.type", "float32[" + "1, " * 40 + "1]"), ("constants.0.value", 0), ("constants.0.value", 99), ("constants.0.value", 2),
        ("constants.0.weight", "both"), ("constants.1.weight", "missing"), ("constants.1.weight", ""), ("constants.0.data.dtype", "object"), ("constants.0.data.dtype", "float64"),
        ("constants.0.data.data", b"123"), ("name", ""),
    ],
)  # fmt: skip
def test_damaged_fields(path: str, value: Any) -> None:
    damaged(_set(path, value))


def test_damaged_structure() -> None:
    damaged(lambda message: message.entries.add().CopyFrom(message.entries[0]))
    damaged(lambda message: message.ClearField("entries"))
    damaged(lambda message: message.opsets.update({"": 29}))
    damaged(lambda message: message.opsets.update({"": 0}))
    damaged(lambda message: message.entries[0].block.nodes[0].attributes.add(name="a"))
    damaged(lambda message: message.entries[0].block.nodes[0].attributes.add(i=1))
    damaged(lambda message: message.entries[0].block.nodes[0].attributes.add(name="t", type="tensor"))
    damaged(lambda message: message.entries[0].constants[0].data.shape.extend([1 << 62, 4]))
    damaged(lambda message: message.entries[0].constants[0].data.strings.append("x"))
    damaged(lambda message: message.entries[0].states.add(input=0, output=1))

    def deep(message: Any) -> None:
        block = message.entries[0].block
        for _ in range(28):
            block = block.nodes.add(operator="If").attributes.add(name="b").block

    damaged(deep)


def test_unused_weights_are_refused() -> None:
    data, arrays = graph_codec.encode(Program({"main": make_graph()}))
    with pytest.raises(LoadError, match="'extra'"):
        graph_codec.decode(data, {**arrays, "extra": np.zeros(1)})


def test_random_bytes_never_do_anything_else_than_load_error() -> None:
    data, arrays = graph_codec.encode(Program({"main": make_graph()}))
    rng = np.random.default_rng(0)
    for _ in range(2000):
        mutated = bytearray(data)
        for _ in range(rng.integers(1, 4)):
            mutated[rng.integers(len(mutated))] = rng.integers(256)
        with contextlib.suppress(LoadError):
            graph_codec.decode(bytes(mutated), arrays)


def test_the_scan_counts_messages_before_they_exist() -> None:
    empty_nodes = b"\x12\x00" * 5000  # Block.nodes
    block = b"\x22" + _varint(len(empty_nodes)) + empty_nodes
    data = b"\x0a" + _varint(len(block)) + block
    with pytest.raises(LoadError, match="too many"):
        message_scan.scan(data, pb.Program.DESCRIPTOR, limit=1000)
    message_scan.scan(data, pb.Program.DESCRIPTOR)
    numbers = b"\x22\x04\x12\x02\x40\x01" + b"\x40\x81\x01" * 10  # Node.version again and again
    message_scan.scan(data + b"\x0a" + _varint(len(numbers)) + numbers, pb.Program.DESCRIPTOR)
    for bad in (data[:-1], data + b"\x0a\xff", data + b"\xff" * 11, data + b"\x0b"):
        with pytest.raises(LoadError):
            message_scan.scan(bad, pb.Program.DESCRIPTOR)


def test_small_graphs_are_left_to_the_parser_which_keeps_the_same_rules() -> None:
    def field(number: int, data: bytes) -> bytes:
        return bytes([number << 3 | 2]) + _varint(len(data)) + data

    block = b""
    for _ in range(1000):  # Block.nodes, Node.attributes, Attribute.block
        block = field(2, field(5, field(10, block)))
    for graph in (field(4, block), field(1, b"\xff\xfe"), field(2, field(1, b"\xc3"))):
        with pytest.raises(LoadError):
            graph_codec.decode(field(1, graph), {})


def _varint(value: int) -> bytes:
    out = b""
    while value >= 128:
        out, value = out + bytes([value & 127 | 128]), value >> 7
    return out + bytes([value])


N = symbol("n")
DIMS = st.integers(0, 9) | st.sampled_from(
    [N, 2 * N + 1, N // 2, (N + 1) // 2 * symbol("m"), maximum(N, symbol("m")), N % 3]
)
TENSORS = st.builds(
    TensorType,
    st.sampled_from(["float32", "string", "float8_e4m3fn"]),
    st.none() | st.lists(DIMS, max_size=4).map(tuple),
)
TYPES = st.recursive(
    TENSORS,
    lambda inner: (
        st.builds(SequenceType, inner)
        | st.builds(OptionalType, inner)
        | st.builds(MapType, st.sampled_from(["string", "int64"]), inner)
    ),
    max_leaves=4,
)


@given(TYPES)
def test_types_are_their_text(type: Type) -> None:
    assert type_text.read_type(str(type)) == type


@pytest.mark.parametrize(
    "text",
    [
        "",
        "float32",
        "float32[",
        "float32[1",
        "float32]",
        "[1]",
        "seq()",
        "seq(float32[1]",
        "map(float32, float32[1])",
        "map(string)",
        "float32[1,,2]",
        "float32[n//0]",
        "float32[None]",
        "float32[True]",
        "float32[x.y]",
        "float32[__import__('os')]",
        "seq(" * 50 + "float32[1]" + ")" * 50,
        "float32[99999999999999999999]",
    ],
)
def test_texts_that_are_no_types(text: str) -> None:
    with pytest.raises(ValueError):
        type_text.read_type(text)


def test_what_could_not_be_read_is_not_written() -> None:
    def nested(depth: int) -> Graph:
        graph = one_node({})
        for level in range(depth):
            inner = Block([], [Node("Whatever", [], [Value(f"v{level}")], domain="custom")], [])
            inner.nodes += [node for node in graph.nodes if node.blocks]
            graph.nodes[:] = [Node("Holder", [], [], {"body": inner}, domain="custom")]
        graph.block.outputs = []
        return graph

    assert str(around(Program({"main": nested(24)})).main) == str(nested(24))
    with pytest.raises(GraphError, match="blocks are nested more than 24 deep"):
        graph_codec.encode(Program({"main": nested(25)}))
