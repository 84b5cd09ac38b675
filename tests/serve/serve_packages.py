"""Real packages for tests of serving."""

from __future__ import annotations

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


def package(path: Path, factor: float, off: float = 0.0, bound: float = 1e-3) -> None:
    """y = factor * x, with golden outputs that are `off` by so much."""
    graph = Graph(Block([], [], []))
    build = Builder(graph)
    x = build.input("x", TensorType("float32", (symbol("batch"), 2)))
    (y,) = build.node("Mul", [x, build.constant(np.float32(factor))], outputs=["y"])
    graph.block.outputs.append(y)
    golden = Golden([{"x": X}], [{"y": X * np.float32(factor) + np.float32(off)}], rtol=0.0, atol=bound)
    path.parent.mkdir(parents=True, exist_ok=True)
    archive.save(Program({"main": graph}), path, golden=golden)
