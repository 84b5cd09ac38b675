"""Dynamic quantization: int8 weights, activations quantized row by row while running. Needs no data.

MatMul and Gemm with constant weights become headrace.DynamicMatMul, with the bias and an activation that follow. Each row
has its own scale and zero point, so a row's answer does not depend on the rows beside it.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from headrace.runtime.graph import Graph, Node, Value
from headrace.runtime.passes.activations import allowed, fused_form
from headrace.runtime.passes.rewrite import Patch, Scope, attribute, other_input, rank, rewrite
from headrace.runtime.quant import schemes
from headrace.runtime.quant.static import Layer, layers_of, prepare

LEAST = 32  # weights with a smaller side are not worth it: quantizing the rows costs more than the product saves


def dynamic_layers(graph: Graph) -> list[Layer]:
    """The layers that dynamic quantization takes, in order."""
    return [layer for layer in layers_of(graph) if layer.node.kind != "Conv" and _large_enough(layer, graph)]


def _large_enough(layer: Layer, graph: Graph) -> bool:
    weights = graph.constant_of(layer.node.inputs[1])
    return weights is not None and min(weights.shape) >= LEAST


def quantize_dynamic(graph: Graph, *, kept: Collection[str] = ()) -> Graph:
    """The graph with DynamicMatMul for every layer that is not named in `kept`."""
    prepared = prepare(graph)
    layers = {id(layer.node): layer for layer in dynamic_layers(prepared) if layer.name not in kept}

    def rule(node: Node, scope: Scope) -> Patch | None:
        return _replace(layers[id(node)], scope) if id(node) in layers else None

    return rewrite(prepared, {"MatMul": rule, "Gemm": rule})


def _replace(layer: Layer, scope: Scope) -> Patch:
    node = layer.node
    array: np.ndarray = scope.array(node.inputs[1])  # type: ignore[assignment]
    if node.kind == "Gemm" and attribute(node, "transB", 0):
        array = np.ascontiguousarray(array.T)
    integers, scheme = schemes.weights(array, 1)
    nodes, output = [node], node.outputs[0]
    bias = _vector(node.inputs[2] if len(node.inputs) > 2 else None, array.shape[1], output, scope)
    following = scope.user(output, "Add")
    if bias is None and following is not None:
        other = other_input(following, output)
        bias = _vector(other, array.shape[1], output, scope)
        if bias is not None:
            output = following.outputs[0]
            nodes.append(following)
    form = fused_form(following := scope.user(output), scope)
    attributes: dict[str, object] = {}
    if following is not None and following.inputs[0] is output and allowed("DynamicMatMul", form):
        attributes, output = form or {}, following.outputs[0]
        nodes.append(following)
    name = node.inputs[1].name  # type: ignore[union-attr]
    weights = scope.constant(integers, f"{name}_quantized")
    scale = scope.constant(scheme.scale, f"{name}_scale")
    new = scope.node("DynamicMatMul", [node.inputs[0], weights, scale, bias], output, attributes, domain="headrace", like=node)
    return Patch(nodes, [new])


def _vector(value: Value | None, width: int, output: Value | None, scope: Scope) -> Value | None:
    """A constant that adds one row, as a vector of `width` elements."""
    array = scope.array(value)
    if value is None or array is None or array.dtype != np.float32 or array.ndim > (rank(output) or 0):
        return None
    if array.size not in (1, width) or any(size != 1 for size in array.shape[:-1]):
        return None
    if array.shape == (width,):
        return value
    return scope.constant(np.ascontiguousarray(np.broadcast_to(array.reshape(-1), (width,))), value.name)
