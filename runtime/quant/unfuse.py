"""The way back: fused float operators become the ONNX operators that they stand for.

A saved graph may hold headrace.FusedConv and FusedMatMul. Quantization looks at Conv, MatMul, Gemm, Add and activations
one by one, so it takes them apart first; the fusing passes put together again what is left.
"""

from __future__ import annotations

import numpy as np

from headrace.runtime import dtypes
from headrace.runtime.graph import Graph, Node, Value
from headrace.runtime.passes.rewrite import Patch, rewrite
from headrace.runtime.passes.scope import Scope, dtype, made, number, rank

_CONV = ("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides")


def unfuse(graph: Graph) -> Graph:
    """The graph without FusedConv and FusedMatMul (of activations that ONNX has)."""
    return rewrite(graph, {"headrace.FusedConv": _conv, "headrace.FusedMatMul": _matmul})


def _conv(node: Node, scope: Scope) -> Patch | None:
    x, w, bias, r = [*node.inputs, None, None][:4]
    attributes = {key: value for key, value in node.attributes.items() if key in _CONV}
    first = scope.node("Conv", [x, w, bias], f"{made(node).name}_conv", attributes, type=made(node).type, like=node)
    return _finish(node, [first], None, r, scope)


def _matmul(node: Node, scope: Scope) -> Patch | None:
    a, b, bias, r = [*node.inputs, None, None][:4]
    nodes: list[Node] = []
    sides: list[Value | None] = [a, b]
    for index, key in enumerate(("transA", "transB")):
        if node.attributes.get(key):
            turned = _turned(sides[index], scope, node)
            nodes += [turned] if isinstance(turned, Node) else []
            sides[index] = turned.outputs[0] if isinstance(turned, Node) else turned
    type = made(node).type
    nodes.append(scope.node("MatMul", sides, f"{made(node).name}_product", type=type, like=node))
    alpha = number(node, "alpha", 1.0)
    if alpha != 1.0:
        factor = scope.constant(np.array(alpha, dtypes.of(dtype(nodes[-1].outputs[0]) or "float32").numpy), "alpha")
        nodes.append(scope.node("Mul", [nodes[-1].outputs[0], factor], "scaled", type=type, like=node))
    return _finish(node, nodes, bias, r, scope)


def _turned(value: Value | None, scope: Scope, node: Node) -> Node | Value | None:
    """The value with its last two axes swapped: a constant at once, anything else by a Transpose."""
    array, axes = scope.array(value), rank(value)
    if value is not None and array is not None:
        return scope.constant(np.ascontiguousarray(np.swapaxes(array, -1, -2)), value.name)
    if axes is None:
        return value
    return scope.node("Transpose", [value], "turned", {"perm": (*range(axes - 2), axes - 1, axes - 2)}, like=node)


def _finish(node: Node, nodes: list[Node], bias: Value | None, r: Value | None, scope: Scope) -> Patch | None:
    type = made(node).type
    for added in (bias, r):
        if added is not None:
            nodes.append(scope.node("Add", [nodes[-1].outputs[0], added], "sum", type=type, like=node))
    last = _activation(node, nodes[-1].outputs[0], scope)
    if last is None:
        return None
    if last:
        nodes.append(last[0])
    nodes[-1].outputs = [node.outputs[0]]
    return Patch([node], nodes)


def _activation(node: Node, x: Value | None, scope: Scope) -> list[Node] | None:
    """No node, the activation's node, or None for one that ONNX does not have."""
    name = str(node.attributes.get("activation", "") or "")
    given: dict[str, object] = {key: number(node, key) for key in ("alpha", "beta") if key in node.attributes}
    if not name:
        return []
    if name == "Clip":
        kind = dtypes.of(dtype(x) or "float32").numpy
        bounds = [node.attributes.get(key) for key in ("clip_min", "clip_max")]
        inputs = [None if bound is None else scope.constant(np.array(bound, kind), "bound") for bound in bounds]
        return [scope.node("Clip", [x, *inputs], None, like=node)]
    known: dict[str, tuple[str, dict[str, object]]] = {
        "Relu": ("Relu", {}), "HardSwish": ("HardSwish", {}), "Sigmoid": ("Sigmoid", {}), "Tanh": ("Tanh", {}),
        "Silu": ("Swish", {"alpha": 1.0}), "LeakyRelu": ("LeakyRelu", given), "HardSigmoid": ("HardSigmoid", given),
        "Gelu": ("Gelu", {}), "GeluTanh": ("Gelu", {"approximate": "tanh"}),
    }  # fmt: skip
    if name not in known:
        return None
    operator, attributes = known[name]
    return [scope.node(operator, [x], None, attributes, like=node)]
