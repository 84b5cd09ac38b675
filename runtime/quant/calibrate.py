"""Calibration: run a graph over representative data and take the ranges of chosen values."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from headrace.runtime.errors import HeadraceError
from headrace.runtime.graph import Block, Graph, Value
from headrace.runtime.quant import observers

Feeds = Mapping[str, np.ndarray]
Progress = Callable[[int, int], None]
Ranges = dict[str, tuple[float, float]]


def runner(graph: Graph) -> Callable[[Feeds], dict[str, Any]]:
    """A function that runs the graph: natively where that is built, else by the reference."""
    try:
        from headrace.runtime.model import Model

        return Model(graph).run
    except ImportError:
        from headrace.runtime.executor import run_graph

        return lambda feeds: run_graph(graph, feeds)


def with_outputs(graph: Graph, values: Sequence[Value]) -> Graph:
    """The same graph answering these values only."""
    block = Block(graph.block.inputs, graph.block.nodes, list(values))
    return Graph(block, graph.constants, graph.values, graph.name, [], graph.metadata)


def calibrate(
    graph: Graph, data: Sequence[Feeds], values: Sequence[Value], *, observer: str = "minmax", progress: Progress | None = None
) -> Ranges:
    """Value name -> (low, high) over all batches. `progress(done, total)` is called after each batch.

    Raises HeadraceError for no data, an unknown observer, or a value that holds NaN (naming it).
    """
    if not data:
        raise HeadraceError("calibration needs data; none was given")
    fed = {value.name for value in graph.inputs}
    watching = {value.name: observers.make(observer) for value in values}
    inner = [value for value in values if value.name not in fed]
    run = runner(with_outputs(graph, inner)) if inner else (lambda feeds: {})
    for done, feeds in enumerate(data, 1):
        seen = {**run(feeds), **{name: feeds[name] for name in fed & watching.keys()}}
        for name, watcher in watching.items():
            try:
                watcher.observe(seen[name])
            except HeadraceError as error:
                raise HeadraceError(f"calibration batch {done - 1}, value %{name}: {error}") from None
        if progress is not None:
            progress(done, len(data))
    return {name: watcher.range() for name, watcher in watching.items()}


def digest(data: Iterable[Feeds]) -> str:
    """SHA-256 over names, dtypes, shapes and bytes of all batches, as hexadecimal text."""
    total = hashlib.sha256()
    for feeds in data:
        for name in sorted(feeds):
            array = np.ascontiguousarray(feeds[name])
            total.update(f"{name}:{array.dtype.str}:{array.shape};".encode())
            total.update(array.tobytes() if array.dtype.kind != "O" else "\0".join(map(str, array.ravel())).encode())
    return total.hexdigest()
