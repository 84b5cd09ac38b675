"""Weights that no integer kernel takes are dequantized now, once, and not in every run."""

from __future__ import annotations

from headrace.runtime.graph import Graph, Node
from headrace.runtime.passes.fold import compute
from headrace.runtime.passes.rewrite import Patch, rewrite
from headrace.runtime.passes.scope import Scope

PORTABLE = True
ORDER = 70


def run(graph: Graph) -> Graph:
    return rewrite(graph, {"DequantizeLinear": _dequantize})


def _dequantize(node: Node, scope: Scope) -> Patch | None:
    arrays = [None if value is None else scope.array(value) for value in node.inputs]
    if (
        any(array is None for value, array in zip(node.inputs, arrays) if value is not None)
        or id(node.outputs[0]) in scope.outputs
    ):
        return None
    results = compute(node, arrays)
    output = node.outputs[0]
    if results is None or output is None:
        return None
    return Patch([node], rename={output: scope.constant(results[0], output.name)})
