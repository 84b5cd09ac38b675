"""Machine passes: choices for this CPU, made after the portable passes and never saved.

`run(graph, caps)`; `caps` is what the native library can do: names of operators with kernels ("headrace.cpu.Conv") and
the instruction-set tier.
"""

from __future__ import annotations

from collections.abc import Collection

from headrace.runtime.graph import Graph
from headrace.runtime.passes.machine.attention import attention
from headrace.runtime.passes.machine.channels_last import channels_last
from headrace.runtime.passes.machine.lookup import lookup
from headrace.runtime.passes.machine.low_precision import low_precision

PORTABLE = False


def run(graph: Graph, caps: Collection[str], precision: str | None = None) -> Graph:
    """The graph as this machine runs it best: attentions in one node, functions of
    8-bit numbers as tables, convolutions and what lies between them with channels last; products in
    `precision` ("bf16") where the CPU has them."""
    graph = channels_last(lookup(attention(graph, caps), caps), caps)
    return graph if precision is None else low_precision(graph, caps, precision)
