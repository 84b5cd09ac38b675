"""The mean over all spatial axes is GlobalAveragePool (and a Flatten where the axes are dropped)."""

from __future__ import annotations

from headrace.runtime import dtypes
from headrace.runtime.graph import Graph, Node
from headrace.runtime.passes.rewrite import Patch, rewrite
from headrace.runtime.passes.scope import Scope, attribute, dtype, made, rank

PORTABLE = True
ORDER = 45


def run(graph: Graph) -> Graph:
    return rewrite(graph, {"ReduceMean": _mean})


def _mean(node: Node, scope: Scope) -> Patch | None:
    x, axes = node.inputs[0], rank(node.inputs[0])
    over = scope.integers(node.inputs[1]) if len(node.inputs) > 1 else None
    if over is None or axes is None or axes < 3 or dtype(x) not in dtypes.FLOAT:
        return None
    if sorted(axis % axes for axis in over) != list(range(2, axes)):
        return None
    if attribute(node, "keepdims", 1):
        return Patch([node], [scope.node("GlobalAveragePool", [x], node.outputs[0], like=node)])
    pooled = scope.node("GlobalAveragePool", [x], f"{made(node).name}_pooled", like=node)
    return Patch([node], [pooled, scope.node("Flatten", [pooled.outputs[0]], node.outputs[0], {"axis": 1}, like=node)])
