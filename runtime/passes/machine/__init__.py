"""Machine passes: choices for this CPU, made after the portable passes and never saved.

`run(graph, caps)`; `caps` is what the native library can do: names of operators with kernels ("headrace.cpu.Conv") and
the instruction-set tier.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

from headrace.runtime.graph import Graph
from headrace.runtime.passes.machine.attention import attention
from headrace.runtime.passes.machine.chains import chains
from headrace.runtime.passes.machine.channels_last import channels_last
from headrace.runtime.passes.machine.class_names import class_names
from headrace.runtime.passes.machine.few_rows import few_rows
from headrace.runtime.passes.machine.integer_tails import integer_tails
from headrace.runtime.passes.machine.low_precision import PRECISIONS, low_precision
from headrace.runtime.passes.machine.low_values import low_values
from headrace.runtime.passes.machine.rotary import rotary
from headrace.runtime.passes.machine.separable import separable
from headrace.runtime.passes.machine.wanted_rows import wanted_rows
from headrace.runtime.passes.machine.winograd import winograd

if TYPE_CHECKING:
    from headrace.runtime.passes.report import Watch

PORTABLE = False
PASSES = (
    "class_names",
    "attention",
    "rotary",
    "wanted_rows",
    "channels_last",
    "winograd",
    "low_precision",
    "low_values",
    "few_rows",
    "separable",
    "integer_tails",
    "chains",
)  # in their order


def run(
    graph: Graph,
    caps: Collection[str],
    precision: str | None = None,
    *,
    skip: Collection[str] = (),
    watch: Watch | None = None,
) -> Graph:
    """The graph as this machine runs it best: named classes by number, attentions in one node, rotary embeddings too, nothing of rows that nobody reads, convolutions
    and what lies between them with channels last, 3x3 ones by Winograd's transforms; products in `precision` ("bf16") where the CPU has them, and what lies between convolutions, too; those of few rows without a copy of their weights; depthwise convolutions in one node with the 1x1 ones around them; integer products with what follows them; elementwise operators in chains. Passes named in
    `skip` are left out; `watch` is told what each did."""
    low = precision is not None and PRECISIONS[precision] in caps and "low_precision" not in skip
    passes: dict[str, Callable[[Graph], Graph]] = {
        "class_names": lambda graph: class_names(graph, caps),
        "attention": lambda graph: attention(graph, caps),
        "rotary": lambda graph: rotary(graph, caps),
        "wanted_rows": lambda graph: wanted_rows(graph, caps),
        "channels_last": lambda graph: channels_last(graph, caps),
        "winograd": lambda graph: winograd(graph, caps, low),
        "low_precision": lambda graph: graph if precision is None else low_precision(graph, caps, precision),
        "low_values": lambda graph: graph if precision is None else low_values(graph, caps, precision),
        "few_rows": lambda graph: few_rows(graph, caps),
        "separable": lambda graph: separable(graph, caps),
        "integer_tails": lambda graph: integer_tails(graph, caps),
        "chains": lambda graph: chains(graph, caps),
    }
    for name in PASSES:
        if name in skip:
            continue
        earlier, graph = graph, passes[name](graph)
        if watch is not None:
            watch(name, False, earlier, graph)
    return graph
