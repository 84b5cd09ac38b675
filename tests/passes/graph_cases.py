"""Graphs by hand: `make` builds one from a function over the F namespace of the graph builder, `same` compares runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from headrace.runtime.builder import Builder
from headrace.runtime.executor import run_graph
from headrace.runtime.graph import Block, Graph, Value
from headrace.runtime.shapes import Dim, symbol
from headrace.runtime.types import TensorType


class Ops:
    """`ops.Relu(x)` adds a node; keyword arguments are attributes; `ops.const(array)` a constant."""

    def __init__(self, builder: Builder) -> None:
        self.builder = builder

    def const(self, value: Any, name: str = "c", dtype: Any = None) -> Value:
        array = np.asarray(value, dtype)
        return self.builder.constant(array.astype(np.float32) if array.dtype == np.float64 else array, name)

    def domain(self, domain: str, name: str, *inputs: Value | None, **attributes: Any) -> Value:
        return self.builder.node(name, list(inputs), attributes, domain=domain)[0]

    def __getattr__(self, name: str) -> Callable[..., Value]:
        return lambda *inputs, **attributes: self.builder.node(name, list(inputs), attributes)[0]


def make(body: Callable[..., Value | Sequence[Value]], **inputs: tuple[str, tuple[Any, ...]]) -> Graph:
    """A graph of inputs name=(dtype, shape), shape entries integers or names; outputs named y, y1, ..."""
    values = [Value(name, TensorType(dtype, tuple(_dim(d) for d in shape))) for name, (dtype, shape) in inputs.items()]
    graph = Graph(Block(values, [], []))
    results = body(Ops(Builder(graph)), *values)
    graph.block.outputs = list(results) if isinstance(results, tuple | list) else [results]
    return graph


def _dim(dim: Any) -> Dim:
    return symbol(dim) if isinstance(dim, str) else dim


def kinds(graph: Graph) -> list[str]:
    return [node.kind for node in graph.nodes]


def count(graph: Graph) -> Counter[str]:
    return Counter(node.kind for node in graph.block.walk())


def feeds_of(graph: Graph, rng: np.random.Generator, **sizes: int) -> dict[str, np.ndarray]:
    """Random feeds: normal floats, small integers; symbols from `sizes`, else 2."""
    found = {}
    for value in graph.inputs:
        dims = [dim if isinstance(dim, int) else sizes.get(str(dim), 2) for dim in value.type.shape]
        if value.type.dtype.startswith("float"):
            found[value.name] = rng.standard_normal(dims).astype(value.type.dtype)
        elif value.type.dtype == "bool":
            found[value.name] = rng.random(dims) < 0.5
        else:
            found[value.name] = rng.integers(0, 5, dims).astype(value.type.dtype)
    return found


def same(
    before: Graph,
    after: Graph,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    feeds: Mapping[str, Any] | None = None,
    **sizes: int,
) -> None:
    """Both graphs answer the same names with the same values, within a tolerance, on random inputs."""
    rng = np.random.default_rng(0)
    feeds = feeds or feeds_of(before, rng, **sizes)
    left, right = run_graph(before, feeds), run_graph(after, feeds)
    assert list(left) == list(right)
    for name in left:
        assert left[name].dtype == right[name].dtype and left[name].shape == right[name].shape, name
        np.testing.assert_allclose(
            right[name].astype(np.float64), left[name].astype(np.float64), rtol=rtol, atol=atol, err_msg=name
        )
