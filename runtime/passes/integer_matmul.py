"""Imported dynamic quantization: MatMulInteger, Cast, Mul by the scales (, Add of a bias)(, an activation) become one node.

The integers and the order of the float operations stay: cast * (a_scale * b_scale) + bias. DynamicQuantizeLinear stays as
it is, one range for the whole tensor, because that is what the file says.
"""

from __future__ import annotations

import numpy as np

from headrace.runtime.graph import Graph, Node, Value
from headrace.runtime.passes.activations import allowed, fused_form
from headrace.runtime.passes.rewrite import Patch, rewrite
from headrace.runtime.passes.scope import Scope, dtype, other_input, rank, shape

PORTABLE = True
ORDER = 66


def run(graph: Graph) -> Graph:
    return rewrite(graph, {"MatMulInteger": _product})


def _product(node: Node, scope: Scope) -> Patch | None:
    weights = scope.array(node.inputs[1])
    cast = scope.user(node.outputs[0], "Cast")
    scaled = scope.user(cast.outputs[0], "Mul") if cast is not None else None
    if weights is None or weights.ndim != 2 or cast is None or scaled is None or dtype(cast.outputs[0]) != "float32":
        return None
    factor = other_input(scaled, cast.outputs[0])
    scales = _scales(factor, weights.shape[1], scope)
    zeros = _zero_points(node, scope)
    if scales is None or zeros is None:
        return None
    nodes, output = [node, cast, scaled], scaled.outputs[0]
    bias = None
    following = scope.user(output, "Add")
    if following is not None:
        other = other_input(following, output)
        array = scope.array(other)
        if array is not None and array.shape == (weights.shape[1],) and array.dtype == np.float32:
            bias, output = other, following.outputs[0]
            nodes.append(following)
    activation = scope.user(output)
    form = fused_form(activation, scope)
    if activation is None or form is None or not allowed("MatMulIntegerToFloat", form):
        form = {}
    else:
        nodes.append(activation)
        output = activation.outputs[0]
    inputs = [node.inputs[0], node.inputs[1], *scales, *zeros, bias]
    return Patch(nodes, [scope.node("MatMulIntegerToFloat", inputs, output, form, domain="headrace", like=scaled)])


def _scales(factor: Value | None, columns: int, scope: Scope) -> tuple[Value, Value] | None:
    """The scale of the left side (one number) and of the right side (one number or one for each column)."""
    product = scope.producer(factor, "Mul")
    if product is not None:
        for left, right in (product.inputs, product.inputs[::-1]):
            array = scope.array(right)
            if left is None or right is None or array is None:
                continue
            if array.shape in ((), (1,), (columns,)) and shape(left) in ((), (1,)):
                return left, right
    if factor is not None and (rank(factor) == 0 or shape(factor) == (1,)):
        return factor, scope.constant(np.float32(1.0), "one")
    return None


def _zero_points(node: Node, scope: Scope) -> tuple[Value | None, Value | None] | None:
    """Zero points; None for a right side whose zero points are all 0."""
    left = node.inputs[2] if len(node.inputs) > 2 else None
    right = node.inputs[3] if len(node.inputs) > 3 else None
    if left is not None and shape(left) not in ((), (1,)):
        return None
    array = scope.array(right)
    if right is not None and array is None:
        return None
    return left, None if array is None or not array.any() else right
