"""The checker finds every way in which a graph may be wrong, and names the node."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from headrace.runtime import check as checker
from headrace.runtime.builder import Builder
from headrace.runtime.check import check, compatible
from headrace.runtime.errors import GraphError
from headrace.runtime.graph import Block, Graph, Node, State, Value
from headrace.runtime.shapes import symbol
from headrace.runtime.types import SequenceType, TensorType

F32 = TensorType("float32", (2, 3))


def fine() -> Graph:
    graph = Graph(Block([Value("x", F32)], [], []))
    builder = Builder(graph)
    (y,) = builder.node("Relu", graph.inputs, name="first")
    graph.outputs.extend(builder.node("Add", [y, builder.constant(np.ones(3, np.float32), "one")], name="second"))
    return graph


def test_a_good_graph_passes() -> None:
    check(fine())


def swapped(graph: Graph) -> None:
    graph.nodes.reverse()


def twice(graph: Graph) -> None:
    graph.nodes[1].outputs[0].name = "x"  # type: ignore[union-attr]


def unknown(graph: Graph) -> None:
    graph.nodes[0].operator = "Nonsense"


def too_many(graph: Graph) -> None:
    graph.nodes[0].inputs.append(graph.inputs[0])


def missing(graph: Graph) -> None:
    graph.nodes[1].inputs[1] = None


def attribute(graph: Graph) -> None:
    graph.nodes[0].attributes["alpha"] = 1.0


def kind(graph: Graph) -> None:
    graph.nodes[0].operator, graph.nodes[0].attributes = "LeakyRelu", {"alpha": "much"}


def choice(graph: Graph) -> None:
    graph.nodes[0].operator, graph.nodes[0].attributes = "Gelu", {"approximate": "roughly"}


def number(graph: Graph) -> None:
    graph.nodes[0].operator, graph.nodes[0].attributes = "Softmax", {"axis": 2}


def rank(graph: Graph) -> None:
    graph.nodes[0].operator, graph.nodes[0].attributes = "Transpose", {"perm": (0, 2, 1)}


def dtype(graph: Graph) -> None:
    value = graph.values["one"]
    graph.constants["one"] = np.ones(3, np.int64)
    value.type = TensorType("int64", (3,))


def lying_constant(graph: Graph) -> None:
    graph.values["one"].type = TensorType("float32", (4,))


def bad_name(graph: Graph) -> None:
    graph.nodes[0].outputs[0].name = "a\nb"  # type: ignore[union-attr]


def negative(graph: Graph) -> None:
    graph.inputs[0].type = TensorType("float32", (-2, 3))


def undefined_output(graph: Graph) -> None:
    graph.outputs.append(Value("nowhere", F32))


def state(graph: Graph) -> None:
    graph.states.append(State("x", "nowhere"))


def impostor(graph: Graph) -> None:
    """Another value object of the same name."""
    graph.nodes[0].inputs[0] = Value("x", F32)


@pytest.mark.parametrize(
    "spoil, message",
    [
        (swapped, r"node 'second'.*%relu is read before anything defines it"),
        (twice, r"node 'second'.*%x is defined twice"),
        (unknown, r"node 'first'.*there is no operator Nonsense"),
        (too_many, r"node 'first'.*2 inputs; Relu has 1"),
        (missing, r"node 'second'.*input 1 \(B\) of Add is missing"),
        (attribute, r"node 'first'.*Relu has no attribute 'alpha'"),
        (kind, r"node 'first'.*'alpha' must be of kind float, not str"),
        (choice, r"node 'first'.*approximate is 'roughly'; allowed: 'none', 'tanh'"),
        (number, r"node 'first'.*axis is 2; allowed for rank 2: -2 to 1"),
        (rank, r"node 'first'.*perm"),
        (dtype, r"node 'second'.*is int64; it must be float32"),
        (lying_constant, r"constant 'one' is float32\[3\]"),
        (bad_name, "is no name"),
        (negative, "dimension -2"),
        (undefined_output, "output %nowhere is not defined"),
        (state, "state 'x' <- 'nowhere'"),
        (impostor, r"node 'first'.*%x is read before"),
    ],
)
def test_rules(spoil: Callable[[Graph], None], message: str) -> None:
    graph = fine()
    spoil(graph)
    with pytest.raises(GraphError, match=message):
        check(graph)


def test_inner_values_end_with_their_block() -> None:
    graph = Graph(Block([Value("c", TensorType("bool", ())), Value("x", F32)], [], []))
    builder = Builder(graph)
    condition, x = graph.inputs
    blocks = {}
    for key in ("then_branch", "else_branch"):
        block = Block([], [], [])
        block.outputs += builder.inner(block).node("Relu", [x])
        blocks[key] = block
    builder.node("If", [condition], blocks)
    check(graph)
    inner = blocks["then_branch"].outputs[0]
    graph.nodes.append(Node("Neg", [inner], [Value("late", F32)]))
    with pytest.raises(GraphError, match="is read before anything defines it"):
        check(graph)


def test_nesting_has_a_limit() -> None:
    graph = Graph(Block([Value("c", TensorType("bool", ())), Value("x", F32)], [], []))
    condition, x = graph.inputs
    block, count = graph.block, 0
    for depth in range(checker.MAX_DEPTH + 1):
        inner = [Block([], [], []), Block([], [], [])]
        for side in inner:
            count += 1
            side.outputs.append(Value(f"v{count}", F32))
            if side is inner[1] or depth == checker.MAX_DEPTH:
                side.nodes.append(Node("Relu", [x], [side.outputs[0]]))
        out = block.outputs[0] if block.outputs else Value("y", F32)
        block.nodes.append(Node("If", [condition], [out], {"then_branch": inner[0], "else_branch": inner[1]}))
        block = inner[0]
    with pytest.raises(GraphError, match="nested more than 64 deep"):
        check(graph)


def test_sizes_have_a_limit() -> None:
    graph = Graph(Block([Value("x", TensorType("float32", (1 << 20, 1 << 20, 2)))], [], []))
    with pytest.raises(GraphError, match="more than"):
        check(graph)


def test_compatible() -> None:
    n = symbol("n")
    assert compatible(TensorType("float32", (n, 3)), TensorType("float32", (2, 3)))
    assert compatible(TensorType("float32"), TensorType("float32", (2,)))
    assert not compatible(TensorType("float32", (2,)), TensorType("float32", (3,)))
    assert not compatible(TensorType("float32"), TensorType("int64"))
    assert not compatible(SequenceType(TensorType("float32")), TensorType("float32"))


def test_declared_outputs_are_compared() -> None:
    graph = fine()
    graph.outputs[0].type = TensorType("float32", (2, 4))
    with pytest.raises(GraphError, match="is declared"):
        check(graph)
