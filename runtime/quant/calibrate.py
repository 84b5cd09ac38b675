"""Calibration: run a graph over representative data and take the ranges of chosen values."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from headrace.runtime.errors import HeadraceError
from headrace.runtime.graph import Block, Graph, Value
from headrace.runtime.quant import observers

Feeds = Mapping[str, np.ndarray]
Progress = Callable[[int, int], None]
Ranges = dict[str, tuple[float, float]]


@dataclass
class Statistics:
    """What calibration learns: value name -> (low, high); name and axis -> the mean of each channel, where that was asked for."""

    ranges: Ranges = field(default_factory=dict)
    means: dict[tuple[str, int], np.ndarray] = field(default_factory=dict)


class ChannelMeans:
    """The mean of each channel along `axis` over all batches, in float64."""

    def __init__(self, axis: int) -> None:
        self.axis, self.count = axis, 0
        self.total: np.ndarray | float = 0.0

    def observe(self, batch: np.ndarray) -> None:
        axis = self.axis % batch.ndim
        self.total = self.total + batch.sum(axis=tuple(a for a in range(batch.ndim) if a != axis), dtype=np.float64)
        self.count += batch.size // max(batch.shape[axis], 1)

    def mean(self) -> np.ndarray:
        return np.asarray(self.total) / max(self.count, 1)


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
    graph: Graph,
    data: Sequence[Feeds],
    values: Sequence[Value],
    *,
    observer: str = "minmax",
    channels: Collection[tuple[str, int]] = (),
    progress: Progress | None = None,
) -> Statistics:
    """The ranges of `values` over all batches, and the channel means of those in `channels` (name, axis).
    `progress(done, total)` is called after each batch.

    Raises HeadraceError for no data, an unknown observer, or a value that holds NaN (naming it).
    """
    if not data:
        raise HeadraceError("calibration needs data; none was given")
    fed = {value.name for value in graph.inputs}
    watching = {value.name: observers.make(observer) for value in values}
    means = {(name, axis): ChannelMeans(axis) for name, axis in channels if name in watching}
    inner = [value for value in values if value.name not in fed]
    run = runner(with_outputs(graph, inner)) if inner else (lambda feeds: {})
    for done, feeds in enumerate(data, 1):
        seen = {**run(feeds), **{name: feeds[name] for name in fed & watching.keys()}}
        for name, watcher in watching.items():
            try:
                watcher.observe(seen[name])
            except HeadraceError as error:
                raise HeadraceError(f"calibration batch {done - 1}, value %{name}: {error}") from None
        for (name, _), mean in means.items():
            mean.observe(seen[name])
        if progress is not None:
            progress(done, len(data))
    ranges = {name: watcher.range() for name, watcher in watching.items()}
    return Statistics(ranges, {key: mean.mean() for key, mean in means.items()})


def digest(data: Iterable[Feeds]) -> str:
    """SHA-256 over names, dtypes, shapes and bytes of all batches, as hexadecimal text."""
    total = hashlib.sha256()
    for feeds in data:
        for name in sorted(feeds):
            array = np.ascontiguousarray(feeds[name])
            total.update(f"{name}:{array.dtype.str}:{array.shape};".encode())
            total.update(array.tobytes() if array.dtype.kind != "O" else "\0".join(map(str, array.ravel())).encode())
    return total.hexdigest()
