"""Integers stay integers: DequantizeLinear moves down past what only moves elements, to a QuantizeLinear, a Concat, or a product with
quantized weights.

All of these are exact: dequantizing after a Reshape, Transpose, Slice, Gather, Concat or MaxPool gives the numbers that
dequantizing before it gives; QuantizeLinear undoes DequantizeLinear of the same parameters; and a Relu or Clip before a
QuantizeLinear whose range ends at the same bounds does nothing that saturation does not do.
"""

from __future__ import annotations

import numpy as np

from headrace.runtime.graph import Graph, Node, Value
from headrace.runtime.passes.edit import copy_node
from headrace.runtime.passes.identities import permutation
from headrace.runtime.passes.quantized import Params, Quantized, activation, dequantized, quantizer
from headrace.runtime.passes.rewrite import Patch, rewrite
from headrace.runtime.passes.scope import Scope, made
from headrace.runtime.types import TensorType

PORTABLE = True
ORDER = 60

MOVES = (
    "Reshape",
    "Transpose",
    "Squeeze",
    "Unsqueeze",
    "Flatten",
    "Slice",
    "Gather",
    "Expand",
    "DepthToSpace",
    "SpaceToDepth",
    "MaxPool",
)
_PRODUCTS = ("Conv", "Gemm", "MatMul")


def run(graph: Graph) -> Graph:
    if not any(node.kind == "DequantizeLinear" for node in graph.block.walk()):
        return graph
    rules = dict.fromkeys(MOVES, _move)
    return rewrite(graph, {**rules, "Concat": _concat, "QuantizeLinear": _quantize})


def _move(node: Node, scope: Scope) -> Patch | None:
    """op(dequantize(q)) is dequantize(op(q))."""
    if len(node.outputs) != 1 or node.outputs[0] is None:
        return None
    table = scope.array(_source(node, scope)) is not None
    if table and node.kind == "Transpose":
        return _move_weights(node, scope)
    found = activation(node.inputs[0], scope)
    if found is None or not (table or _sought(node.outputs[0], scope)):
        return None
    return _below(node, found, [found.value, *node.inputs[1:]], scope)


def _sought(value: Value | None, scope: Scope) -> bool:
    """Whether a DequantizeLinear that makes `value` can go further, to where it meets another one or its end."""
    return any(
        user.kind in ("QuantizeLinear", "Concat")
        or (user.kind in MOVES and _sought(user.outputs[0], scope))
        or (user.kind in _PRODUCTS and scope.array(_source(user, scope, 1)) is not None)
        for user in scope.users(value)
    )


def _source(node: Node, scope: Scope, index: int = 0) -> Value | None:
    found = dequantized(node.inputs[index], scope)
    return found.value if found is not None else None


def _below(node: Node, found: Quantized, inputs: list[Value | None], scope: Scope, axis: int | None = None) -> Patch:
    """The operator on integers, then the DequantizeLinear."""
    output = made(node)
    shape = output.type.shape if isinstance(output.type, TensorType) else None
    integers = scope.value(f"{output.name}_quantized", TensorType(found.type, shape))
    attributes = found.node.attributes if axis is None else {**found.node.attributes, "axis": axis}
    parameters = found.node.inputs[1:]
    new = copy_node(found.node, inputs=[integers, *parameters], outputs=[output], attributes=attributes)
    return Patch([node], [copy_node(node, inputs=inputs, outputs=[integers]), new])


def _move_weights(node: Node, scope: Scope) -> Patch | None:
    """Transposed weights are transposed as integers (and folded); a scale per channel follows its axis."""
    found, perm = dequantized(node.inputs[0], scope), permutation(node)
    if found is None or perm is None:
        return None
    return _below(node, found, [found.value], scope, None if found.params.per_tensor else perm.index(found.axis))


def _concat(node: Node, scope: Scope) -> Patch | None:
    found = [activation(value, scope) for value in node.inputs]
    parts = [part for part in found if part is not None]
    if len(parts) < len(found) or not _sought(node.outputs[0], scope):
        return None
    if all(part.params.same(parts[0].params) for part in parts):
        return _below(node, parts[0], [part.value for part in parts], scope)
    return _quantize_parts(node, parts, scope)


def _quantize_parts(node: Node, parts: list[Quantized], scope: Scope) -> Patch | None:
    """Concat of differently quantized parts, then QuantizeLinear: each part is quantized before, which parts that have
    these parameters already do not need."""
    last = scope.user(node.outputs[0], "QuantizeLinear")
    params = quantizer(last, scope)
    if last is None or params is None or not any(part.params.same(params) for part in parts):
        return None
    new: list[Node] = []
    inputs: list[Value] = []
    for part in parts:
        if part.params.same(params):
            inputs.append(part.value)
            continue
        shape = part.value.type.shape if isinstance(part.value.type, TensorType) else None
        value = scope.value(f"{part.value.name}_requantized", TensorType(params.dtype, shape))
        new.append(copy_node(last, inputs=[part.node.outputs[0], *last.inputs[1:]], outputs=[value]))
        inputs.append(value)
    return Patch([node, last], [*new, copy_node(node, inputs=inputs, outputs=[last.outputs[0]])])


def _quantize(node: Node, scope: Scope) -> Patch | None:
    params = quantizer(node, scope)
    if params is None:
        return None
    found = activation(node.inputs[0], scope)
    if found is not None and found.params.same(params) and scope.replaceable(node.outputs[0], found.value):
        return Patch([node], rename={made(node): found.value})
    before = scope.producer(node.inputs[0], "Relu", "Clip")
    if before is not None and saturates(before, params, scope):
        return Patch([node], [copy_node(node, inputs=[before.inputs[0], *node.inputs[1:]])])
    return None


def saturates(node: Node, params: Params, scope: Scope) -> bool:
    """Whether quantizing to `params` cuts off everything that this Relu or Clip cuts off."""
    if node.kind == "Relu":
        return params.quantize(0.0) == params.lowest
    for value, end, sign in zip(node.inputs[1:], (params.lowest, params.highest), (-np.inf, np.inf)):
        number = scope.scalar(value) if value is not None else sign
        if number is None or params.quantize(float(number)) != end:
            return False
    return len(node.inputs) > 1
