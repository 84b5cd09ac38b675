"""Nodes and constants that no output depends on go."""

from __future__ import annotations

from headrace.runtime.graph import Graph
from headrace.runtime.passes.edit import drop_dead

PORTABLE = True
ORDER = 90


def run(graph: Graph) -> Graph:
    return drop_dead(graph)
