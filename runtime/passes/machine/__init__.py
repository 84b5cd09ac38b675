"""Machine passes: choices for this CPU, made after the portable passes and never saved.

`run(graph, caps)`; `caps` is what the native library can do: names of operators with kernels ("headrace.cpu.Conv") and
the instruction-set tier.
"""

from __future__ import annotations

from collections.abc import Collection

from headrace.runtime.graph import Graph
from headrace.runtime.passes.machine.channels_last import channels_last

PORTABLE = False


def run(graph: Graph, caps: Collection[str]) -> Graph:
    """The graph as this machine runs it best: convolutions and what lies between them with channels last."""
    return channels_last(graph, caps)
