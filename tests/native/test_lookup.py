"""Functions of one 8-bit number as tables: the same bytes as the nodes they replace."""

from __future__ import annotations

import numpy as np
import pytest
from one_kernel import run

from headrace.runtime.builder import Builder
from headrace.runtime.executor import run_graph
from headrace.runtime.graph import Block, Graph, Value
from headrace.runtime.infer import infer_graph
from headrace.runtime.lower import lower
from headrace.runtime.passes import lookup, optimize
from headrace.runtime.types import TensorType


@pytest.mark.parametrize("n", [0, 1, 63, 64, 65, 1000])
def test_every_length(tier: str, n: int) -> None:
    rng = np.random.default_rng(n)
    x, table = rng.integers(0, 256, n).astype(np.uint8), rng.integers(0, 256, 256).astype(np.uint8)
    np.testing.assert_array_equal(run("headrace.QLookup", [x, table], {}, ["uint8"], threads=2), table[x])


def silu(kind: str, shape: tuple[int, ...], *, second: bool = False) -> Graph:
    """Q(DQ(x) * DQ(Q(Sigmoid(DQ(x))))), as a quantizer leaves it; with `second` the factor is another input's."""
    graph = Graph(Block([], [], []))
    x, z = (Value(name, TensorType(kind, shape)) for name in ("x", "z"))
    graph.block.inputs.extend([x, z] if second else [x])
    b, zero = Builder(graph), np.array(-3 if kind == "int8" else 117, kind)
    own = [graph.constant("scale", np.float32(0.04)), graph.constant("zero", zero)]
    half = [graph.constant("half", np.float32(1 / 255)), graph.constant("low", np.array(0, "uint8"))]
    (real,) = b.node("DequantizeLinear", [x, *own])
    (gate,) = b.node("DequantizeLinear", [b.node("QuantizeLinear", [b.node("Sigmoid", [real])[0], *half])[0], *half])
    (factor,) = b.node("DequantizeLinear", [z if second else x, *own])
    graph.outputs.extend(b.node("QuantizeLinear", [b.node("Mul", [factor, gate])[0], *own]))
    infer_graph(graph)
    return graph


@pytest.mark.parametrize("kind", ["uint8", "int8"])
def test_silu_is_a_table(kind: str, tier: str) -> None:
    graph = silu(kind, (1, 4, 8, 8))
    small = optimize(graph)
    assert [node.kind for node in small.nodes] == ["headrace.QLookup"]
    feeds = {"x": np.arange(256).astype(np.uint8).view(kind).reshape(1, 4, 8, 8)}
    found = lower(small, 1).run(feeds)
    assert found is not None
    for name, want in run_graph(graph, feeds).items():
        np.testing.assert_array_equal(found[name], want)


def test_a_function_of_two_values_stays() -> None:
    kinds = [node.kind for node in optimize(silu("uint8", (2, 8), second=True)).nodes]
    assert kinds.count("Mul") == 1
    assert "headrace.QLookup" in kinds  # the gate alone is one


def test_a_sum_of_integers_is_fused_before_it_is_a_table() -> None:
    """x + x is a function of x alone, but the integer sum is what convolutions are fused with."""
    graph = Graph(Block([], [], []))
    x = Value("x", TensorType("uint8", (2, 8)))
    graph.block.inputs.append(x)
    b = Builder(graph)
    own = [graph.constant("scale", np.float32(0.04)), graph.constant("zero", np.uint8(7))]
    (left,), (right,) = (b.node("DequantizeLinear", [x, *own]) for _ in range(2))
    graph.outputs.extend(b.node("QuantizeLinear", [b.node("Add", [left, right])[0], *own]))
    infer_graph(graph)
    assert [node.kind for node in optimize(graph).nodes] == ["headrace.QAdd"]


def test_a_long_chain_stays() -> None:
    """Longer than what one table may stand for, and than what may be walked by recursion."""
    graph = Graph(Block([], [], []))
    value = x = Value("x", TensorType("uint8", (2, 300)))
    graph.block.inputs.append(x)
    b = Builder(graph)
    own = [graph.constant("scale", np.float32(0.04)), graph.constant("zero", np.uint8(7))]
    (value,) = b.node("DequantizeLinear", [value, *own])
    for _ in range(2000):
        (value,) = b.node("Sigmoid", [value])
    graph.outputs.extend(b.node("QuantizeLinear", [value, *own]))
    infer_graph(graph)
    assert lookup.run(graph) is graph
