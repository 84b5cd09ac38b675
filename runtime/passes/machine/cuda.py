"""Machine passes of the CUDA device, over a graph whose sizes are fixed: integer convolutions go channels last, which is
what the tensor cores' kernel reads in 16-byte pieces; float ones stay as they are, since their kernel takes any layout.

A node in the domain headrace.cuda has no reference: only what the kernels surely do becomes one.
"""

from __future__ import annotations

import numpy as np

from headrace.runtime.graph import Graph, Node
from headrace.runtime.passes.machine.channels_last import channels_last
from headrace.runtime.plan import static_shape

DOMAIN = "headrace.cuda"
CAPS = frozenset({f"{DOMAIN}.QConv", f"{DOMAIN}.MaxPool"})


def run(graph: Graph) -> Graph:
    """The graph as the device runs it; the given one is not touched."""
    if not any(node.kind == "headrace.QConv" for node in graph.nodes):
        return graph
    return channels_last(graph, CAPS, DOMAIN, lambda node: _certain(node, graph))


def _certain(node: Node, graph: Graph) -> bool:
    """Whether the kernels do this node for sure: at most two spatial axes, and for QConv constant parameters and weights
    without a zero point."""
    shape = static_shape(node.outputs[0]) if node.outputs[0] is not None else None
    if shape is None or len(shape) > 4 or 0 in shape:
        return False
    if node.kind == "MaxPool":
        return True
    parameters = [value for index, value in enumerate(node.inputs) if value is not None and index not in (0, 9)]
    if any(graph.constant_of(value) is None for value in parameters):
        return False
    w, w_zp = graph.constant_of(node.inputs[3]), graph.constant_of(node.inputs[5])
    return (
        w is not None and w_zp is not None and not np.any(w_zp.astype(np.int64) - (128 if w.dtype == np.uint8 else 0))
    )
