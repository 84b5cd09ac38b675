"""Small graphs for the tests of file formats."""

from __future__ import annotations

import ml_dtypes
import numpy as np
from hypothesis import strategies as st

from headrace.runtime import dtypes
from headrace.runtime.builder import Builder
from headrace.runtime.graph import Block, Graph, Value
from headrace.runtime.shapes import symbol
from headrace.runtime.types import TensorType

UNARY = ("Relu", "Tanh", "Neg", "Sigmoid", "Abs")
BINARY = ("Add", "Sub", "Mul", "Max")


def make_graph(*, seed: int = 0, wide: int = 32) -> Graph:
    """relu(x * w + b) with a large and a small constant, and a symbolic first dimension."""
    rng = np.random.default_rng(seed)
    graph = Graph(Block([Value("x", TensorType("float32", (symbol("n"), wide)))], [], []))
    builder = Builder(graph)
    w = builder.constant(rng.standard_normal((3, 1, wide)).astype(np.float32), "w")
    b = builder.constant(np.arange(wide, dtype=np.float32), "b")
    (y,) = builder.node("Mul", [graph.inputs[0], w], name="scale", path="net.scale")
    (z,) = builder.node("Add", [y, b])
    graph.outputs.append(builder.node("Relu", [z], outputs=["out"])[0])
    return graph


def inner_block(builder: Builder, operator: str, operands: list[Value]) -> Block:
    """A block without inputs that applies one operator to captured values."""
    block = Block([], [], [])
    block.outputs.append(builder.inner(block).node(operator, operands)[0])
    return block


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    """Random graphs over [n, 4] float32: chains and diamonds of unary and binary operators, constants, several outputs."""
    graph = Graph(
        Block(
            [Value(f"in{i}", TensorType("float32", (symbol("n"), 4))) for i in range(draw(st.integers(1, 3)))], [], []
        )
    )
    builder = Builder(graph)
    values = list(graph.inputs)
    for index in range(draw(st.integers(0, 3))):
        shape = (
            draw(st.sampled_from([(), (4,), (1, 4), (40, 1, 4)]))
            if index == 2
            else draw(st.sampled_from([(), (4,), (1, 4)]))
        )
        values.append(
            builder.constant(np.linspace(-1, 1, int(np.prod(shape)), dtype=np.float32).reshape(shape), f"c{index}")
        )
    for _ in range(draw(st.integers(1, 8))):
        if draw(st.booleans()):
            operator, operands = draw(st.sampled_from(UNARY)), [draw(st.sampled_from(values))]
        else:
            operator, operands = (
                draw(st.sampled_from(BINARY)),
                [draw(st.sampled_from(values)), draw(st.sampled_from(values))],
            )
        values += builder.node(operator, operands, path=draw(st.sampled_from(["", "a.b"])))
    made = [value for node in graph.nodes for value in node.outputs]
    graph.outputs.extend(draw(st.lists(st.sampled_from(made), min_size=1, max_size=3, unique_by=id)))
    return graph


def feeds_of(graph: Graph, rows: int = 3, seed: int = 0) -> dict[str, np.ndarray]:
    """Random float32 feeds; every symbolic dimension is `rows`."""
    rng = np.random.default_rng(seed)
    shapes = {value.name: [dim if isinstance(dim, int) else rows for dim in value.type.shape] for value in graph.inputs}
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def every_array() -> dict[str, np.ndarray]:
    """One array of each element type, with its extreme values."""
    rng = np.random.default_rng(1)
    arrays: dict[str, np.ndarray] = {}
    for dtype in dtypes.TABLE:
        if dtype.kind == "s":
            array = np.array([["", "é"], ["a\0b", "x" * 300]], object)
        elif dtype.name == "bool":
            array = rng.integers(0, 2, (3, 5)).astype(bool)
        elif dtype.bits < 8:
            array = (rng.integers(0, 1 << dtype.bits, (3, 5))).astype(np.uint8).view(dtype.numpy)
        else:
            array = rng.integers(0, 256, (3, 5 * dtype.itemsize), dtype=np.uint8).view(dtype.numpy)
        arrays[dtype.name] = array
    return arrays


def same(left: np.ndarray, right: np.ndarray) -> bool:
    """Equal dtype, shape and bits."""
    if left.dtype != right.dtype or left.shape != right.shape:
        return False
    return bool((left == right).all()) if left.dtype.kind == "O" else left.tobytes() == right.tobytes()


INT4 = ml_dtypes.int4
