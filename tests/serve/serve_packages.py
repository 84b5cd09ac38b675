"""Real packages for tests of serving."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from headrace.runtime.builder import Builder
from headrace.runtime.graph import Block, Graph, Program, State
from headrace.runtime.interface import Golden
from headrace.runtime.shapes import symbol
from headrace.runtime.types import TensorType
from headrace.serializer import archive

X = np.array([[1.0, 2.0], [3.0, 4.0]], np.float32)


def accumulator(path: Path) -> None:
    """y = x + total, which is the next total: a declared state of shape [batch, 2]."""
    graph = Graph(Block([], [], []))
    build = Builder(graph)
    x = build.input("x", TensorType("float32", (symbol("batch"), 2)))
    total = build.input("total", TensorType("float32", (symbol("batch"), 2)))
    (y,) = build.node("Add", [x, total], outputs=["y"])
    (kept,) = build.node("Identity", [y], outputs=["total_next"])
    graph.block.outputs += [y, kept]
    graph.states.append(State("total", "total_next"))
    path.parent.mkdir(parents=True, exist_ok=True)
    archive.save(Program({"main": graph}), path)


def counter(path: Path) -> None:
    """`main` reads a prompt, `step` one token: next is the token plus 1, `seen` counts the tokens of the request."""
    graphs = {}
    for name, width in (("main", symbol("n")), ("step", 1)):
        graph = Graph(Block([], [], []), name=name)
        build = Builder(graph)
        text = build.input("prompt" if name == "main" else "token", TensorType("int64", (symbol("batch"), width)))
        seen = build.input("seen", TensorType("int64", (symbol("batch"), 1)))
        one, axis = build.constant(np.ones((1, 1), np.int64)), build.constant(np.array([1], np.int64))
        ones = build.node("Sub", [text, build.node("Sub", [text, one])[0]])[0]
        (after,) = build.node("ReduceSum", [ones, axis], attributes={"keepdims": 1})
        (now,) = build.node("Add", [seen, after], outputs=["seen_next"])
        (last,) = build.node("Gather", [text, build.constant(np.array([-1], np.int64))], attributes={"axis": 1})
        (following,) = build.node("Add", [last, one], outputs=["next"])
        (length,) = build.node("Identity", [now], outputs=["length"])
        graph.block.outputs += [following, length, now]
        graph.states.append(State("seen", "seen_next"))
        graphs[name] = graph
    path.parent.mkdir(parents=True, exist_ok=True)
    archive.save(Program(graphs), path)


def package(
    path: Path, factor: float, off: float = 0.0, bound: float = 1e-3, members: Mapping[str, bytes] | None = None
) -> None:
    """y = factor * x, with golden outputs that are `off` by so much."""
    graph = Graph(Block([], [], []))
    build = Builder(graph)
    x = build.input("x", TensorType("float32", (symbol("batch"), 2)))
    (y,) = build.node("Mul", [x, build.constant(np.float32(factor))], outputs=["y"])
    graph.block.outputs.append(y)
    golden = Golden([{"x": X}], [{"y": X * np.float32(factor) + np.float32(off)}], rtol=0.0, atol=bound)
    path.parent.mkdir(parents=True, exist_ok=True)
    archive.save(Program({"main": graph}), path, golden=golden, extra_members=members)
