"""The reference executor in double precision: what a graph means, free of the rounding of its own element types.

Floating values of float64's range and less (float16, bfloat16, float8, float32) are widened wherever a node reads them.
A node that cannot work on float64 runs in its own types. For finding where a model starts to deviate, not for answers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from headrace.runtime import dtypes
from headrace.runtime.errors import RunError
from headrace.runtime.executor import Run
from headrace.runtime.graph import Graph, Node, Value
from headrace.runtime.types import TensorType


def run_double(graph: Graph, feeds: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Every tensor that the main block computes, by name, where floating point is float64. Raises as `run_graph` does."""
    run = _Run(graph)
    run.feed(feeds)
    run.nodes(graph.nodes)
    made = [value for node in graph.nodes for value in node.outputs if value is not None]
    return {value.name: run.scope[value] for value in made if isinstance(run.scope[value], np.ndarray)}


class _Run(Run):
    def __init__(self, graph: Graph) -> None:
        super().__init__(graph)
        self._narrow = False
        self._wide: dict[str, np.ndarray] = {}  # constants

    def read(self, value: Value | None) -> Any:
        found = super().read(value)
        if value is None or not isinstance(found, np.ndarray):
            return found
        if self._narrow:
            return _cast(found, value)
        if self.graph.constant_of(value) is None:
            return _widened(found)
        if value.name not in self._wide:
            self._wide[value.name] = _widened(found)
        return self._wide[value.name]

    def node(self, node: Node) -> None:
        try:
            super().node(node)
        except RunError:
            if self._narrow:
                raise
            self._narrow = True
            try:
                super().node(node)
            finally:
                self._narrow = False


def _widened(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float64) if array.dtype.kind in "fV" and dtypes.of(array).kind == "f" else array


def _cast(array: np.ndarray, value: Value) -> np.ndarray:
    """Back to the type that the graph gives the value."""
    wanted = dtypes.BY_NAME[value.type.dtype].numpy if isinstance(value.type, TensorType) else array.dtype
    return array if array.dtype == wanted or array.dtype.kind != "f" else array.astype(wanted)
