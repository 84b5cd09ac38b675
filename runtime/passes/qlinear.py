"""The QLinear operators of ONNX become the quantized operators of headrace, integers unchanged."""

from __future__ import annotations

from headrace.runtime.graph import Graph, Node
from headrace.runtime.passes.rewrite import Patch, rewrite
from headrace.runtime.passes.scope import Scope, rank

PORTABLE = True
ORDER = 64


def run(graph: Graph) -> Graph:
    return rewrite(graph, {"QLinearConv": _conv, "QLinearMatMul": _matmul})


def _conv(node: Node, scope: Scope) -> Patch | None:
    """x, x_scale, x_zp, w, w_scale, w_zp, y_scale, y_zp, bias: the same inputs in the same order."""
    if scope.array(node.inputs[3]) is None:
        return None
    return Patch(
        [node], [scope.node("QConv", node.inputs, node.outputs[0], node.attributes, domain="headrace", like=node)]
    )


def _matmul(node: Node, scope: Scope) -> Patch | None:
    """Only with constant weights of rank 2 and one scale, or one for each column."""
    weights, scale = scope.array(node.inputs[3]), scope.array(node.inputs[4])
    if weights is None or scale is None or weights.ndim != 2 or scale.ndim > 1 or scope.array(node.inputs[1]) is None:
        return None
    if scope.array(node.inputs[1]).size != 1 or (rank(node.inputs[0]) or 0) < 2:  # type: ignore[union-attr]
        return None
    return Patch([node], [scope.node("QGemm", node.inputs, node.outputs[0], domain="headrace", like=node)])
