"""Fuzz target: `graph.pb` and the graph checker, then the graph as the native executor takes it."""

from __future__ import annotations

from headrace.runtime.check import check
from headrace.runtime.model import Model
from headrace.serializer.graph_codec import decode


def read(data: bytes) -> None:
    program = decode(data, {})
    for graph in program.entries.values():
        check(graph)
    Model(program.main, threads=1)
