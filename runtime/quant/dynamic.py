"""Dynamic quantization: int8 weights, activations quantized row by row while running. Needs no data.

MatMul and Gemm with constant weights become headrace.DynamicMatMul, with the bias and an activation that follow. Each row
has its own scale and zero point, so a row's answer does not depend on the rows beside it. Large tables that Gather reads
row by row (embeddings) become int8 with a scale for each row.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from headrace.runtime import dtypes
from headrace.runtime.graph import Graph, Node, Value
from headrace.runtime.passes.activations import allowed, fused_form
from headrace.runtime.passes.rewrite import Patch, rewrite
from headrace.runtime.passes.scope import Scope, attribute, integer, made, other_input, rank
from headrace.runtime.quant import schemes
from headrace.runtime.quant.static import Layer, layers_of, prepare

LEAST = 32  # weights with a smaller side are not worth it: quantizing the rows costs more than the product saves


TABLE = 1 << 16  # elements of the smallest table that is quantized


def dynamic_layers(graph: Graph) -> list[Layer]:
    """The layers that dynamic quantization takes: products in order, then tables."""
    products = [layer for layer in layers_of(graph) if layer.node.kind != "Conv" and _large_enough(layer, graph)]
    return products + [
        Layer(made(node).name, node, 0, made(node), weights_at=0) for node in graph.nodes if _is_table(node, graph)
    ]


def _large_enough(layer: Layer, graph: Graph) -> bool:
    weights = graph.constant_of(layer.weights)
    return weights is not None and min(weights.shape) >= LEAST


def _is_table(node: Node, graph: Graph) -> bool:
    table = graph.constant_of(node.inputs[0]) if node.kind == "Gather" else None
    return (
        table is not None
        and table.dtype == np.float32
        and table.ndim == 2
        and table.size >= TABLE
        and integer(node, "axis") == 0
    )


def quantize_dynamic(graph: Graph, *, kept: Collection[str] = ()) -> Graph:
    """The graph with DynamicMatMul for every layer that is not named in `kept`."""
    prepared = prepare(graph)
    layers = {id(layer.node): layer for layer in dynamic_layers(prepared) if layer.name not in kept}

    def rule(node: Node, scope: Scope) -> Patch | None:
        layer = layers.get(id(node))
        if layer is None:
            return None
        return replace_table(layer, scope) if node.kind == "Gather" else _replace(layer, scope)

    return rewrite(prepared, {"MatMul": rule, "Gemm": rule, "Gather": rule})


def replace_table(layer: Layer, scope: Scope) -> Patch:
    """The rows of integers, as floats, times the scales of the rows."""
    node, name, indices = layer.node, layer.weights.name, layer.node.inputs[1]
    integers, scheme = schemes.weights(np.asarray(scope.array(layer.weights)), 0)
    rows = scope.node("Gather", [scope.constant(integers, f"{name}_quantized"), indices], f"{name}_rows", like=node)
    numbers = scope.node("Cast", [rows.outputs[0]], f"{name}_numbers", {"to": dtypes.of("float32").onnx}, like=node)
    scale = scope.node(
        "Gather", [scope.constant(scheme.scale[:, None], f"{name}_scale"), indices], f"{name}_scales", like=node
    )
    product = scope.node("Mul", [numbers.outputs[0], scale.outputs[0]], node.outputs[0], like=node)
    return Patch([node], [rows, numbers, scale, product])


def product(layer: Layer, scope: Scope) -> tuple[np.ndarray, Value | None, list[Node]]:
    """What a product with constant weights computes: weights [K, N], a bias [N] or None, and the nodes that this takes, the
    last of which makes the result."""
    node = layer.node
    array: np.ndarray = scope.array(node.inputs[1])  # type: ignore[assignment]
    if node.kind == "Gemm" and attribute(node, "transB", 0):
        array = np.ascontiguousarray(array.T)
    output = node.outputs[0]
    bias = _vector(node.inputs[2] if len(node.inputs) > 2 else None, array.shape[1], output, scope)
    following = scope.user(output, "Add")
    if bias is None and following is not None:
        bias = _vector(other_input(following, output), array.shape[1], output, scope)
        if bias is not None:
            return array, bias, [node, following]
    return array, bias, [node]


def _replace(layer: Layer, scope: Scope) -> Patch:
    node = layer.node
    array, bias, nodes = product(layer, scope)
    integers, scheme = schemes.weights(array, 1)
    output = nodes[-1].outputs[0]
    form = fused_form(following := scope.user(output), scope)
    attributes: dict[str, object] = {}
    if following is not None and following.inputs[0] is output and allowed("DynamicMatMul", form):
        attributes, output = form or {}, following.outputs[0]
        nodes.append(following)
    name = node.inputs[1].name  # type: ignore[union-attr]
    weights = scope.constant(integers, f"{name}_quantized")
    scale = scope.constant(scheme.scale, f"{name}_scale")
    new = scope.node(
        "DynamicMatMul", [node.inputs[0], weights, scale, bias], output, attributes, domain="headrace", like=node
    )
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
