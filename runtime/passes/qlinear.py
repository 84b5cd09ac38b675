"""The QLinear operators of ONNX and onnxruntime become the quantized operators of headrace, integers unchanged."""

from __future__ import annotations

import numpy as np

from headrace.runtime.graph import Graph, Node
from headrace.runtime.passes.rewrite import Patch, rewrite
from headrace.runtime.passes.scope import Scope, attribute, rank, same_shape

PORTABLE = True
ORDER = 64


def run(graph: Graph) -> Graph:
    add = "com.microsoft.QLinearAdd"
    return rewrite(graph, {"QLinearConv": _conv, "QLinearMatMul": _matmul, add: _add, "com.microsoft.QGemm": _gemm})


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


def _add(node: Node, scope: Scope) -> Patch | None:
    if not same_shape(node.inputs[0], node.inputs[3]):
        return None
    return Patch([node], [scope.node("QAdd", node.inputs, node.outputs[0], domain="headrace", like=node)])


def _gemm(node: Node, scope: Scope) -> Patch | None:
    """a, a_scale, a_zp, b, b_scale, b_zp, c, y_scale, y_zp with transB at most."""
    if attribute(node, "transA", 0) or attribute(node, "alpha", 1.0) != 1.0:
        return None
    weights = scope.array(node.inputs[3])
    if weights is None or weights.ndim != 2:
        return None
    inputs = [*node.inputs, None, None, None][:9]
    if attribute(node, "transB", 0):
        inputs[3] = scope.constant(np.ascontiguousarray(weights.T), node.inputs[3].name)  # type: ignore[union-attr]
    bias = scope.array(inputs[6])
    if inputs[6] is not None:
        if bias is None or bias.size != scope.array(inputs[3]).shape[1]:  # type: ignore[union-attr]
            return None
        inputs[6] = scope.constant(bias.reshape(-1), inputs[6].name) if bias.ndim != 1 else inputs[6]
    ordered = [*inputs[:6], inputs[7], inputs[8], inputs[6]]
    return Patch([node], [scope.node("QGemm", ordered, node.outputs[0], domain="headrace", like=node)])
