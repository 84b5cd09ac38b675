"""What follows an integer product with float32 results goes into it: an Add of a value of the same shape, an activation, and where
a QuantizeLinear ends it, that and a Mul by a row before it, or a DynamicQuantizeLinear. Transformers have all of these. Other QuantizeLinear take up such a Mul
as well (SmoothQuant's factors, which a graph multiplies activations with before it quantizes them).

The steps stay what they were, each rounded to float32; only no pass over memory lies between them.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from headrace.runtime.graph import Graph, Node, Value
from headrace.runtime.passes.activations import allowed, fused_form
from headrace.runtime.passes.quantized import quantizer
from headrace.runtime.passes.rewrite import Patch, rewrite
from headrace.runtime.passes.scope import Scope, dtype, made, other_input, rank, same_shape, shape

DOMAIN = "headrace.cpu"


def integer_tails(graph: Graph, caps: Collection[str]) -> Graph:
    """The graph with such products as headrace.cpu.QGemm (or DynamicMatMul), and such QuantizeLinear of that domain, where there are kernels for them."""
    if not {f"{DOMAIN}.QGemm", f"{DOMAIN}.QuantizeLinear"} <= set(caps):
        return graph
    rules = {"headrace.QGemm": _gemm, "headrace.MatMulIntegerToFloat": _product, "headrace.DynamicMatMul": _dynamic}
    graph = rewrite(graph, rules)
    return rewrite(graph, {"QuantizeLinear": _quantize})


def _gemm(node: Node, scope: Scope) -> Patch | None:
    x, x_scale, x_zp, w, w_scale, w_zp, y_scale, _, bias, r = (*node.inputs, *(None,) * 10)[:10]
    if y_scale is not None or r is not None:
        return None
    return _with_tail(node, [x, x_scale, x_zp, w, w_scale, w_zp, bias], scope)


def _product(node: Node, scope: Scope) -> Patch | None:
    a, b, a_scale, b_scale, a_zp, b_zp, bias = (*node.inputs, *(None,) * 7)[:7]
    return _with_tail(node, [a, a_scale, a_zp, b, b_scale, b_zp, bias], scope)


def _dynamic(node: Node, scope: Scope) -> Patch | None:
    """A product that quantizes its rows itself takes up the Add alone."""
    add, added = _residual(node, scope)
    if add is None or scope.array(node.inputs[1]) is None:
        return None
    inputs = [*(*node.inputs, None)[:4], added]
    return Patch(
        [node, add], [scope.node("DynamicMatMul", inputs, made(add), dict(node.attributes), domain=DOMAIN, like=node)]
    )


def _residual(node: Node, scope: Scope) -> tuple[Node | None, Value | None]:
    """The Add of another value of the same shape right behind a product without activation, and that value."""
    output = made(node)
    following = scope.user(output, "Add")
    other = other_input(following, output)
    if node.attributes.get("activation") or other is None or not _fits(other, output) or scope.array(other) is not None:
        return None, None
    return following, other


def _with_tail(node: Node, inputs: list[Value | None], scope: Scope) -> Patch | None:
    nodes, output, form = [node], made(node), dict(node.attributes)
    add, added = _residual(node, scope)
    if add is not None:
        output = made(add)
        nodes.append(add)
    if not form.get("activation"):
        following = scope.user(output)
        found = fused_form(following, scope)
        if following is not None and found is not None and allowed("MatMulIntegerToFloat", found):
            form, output = found, made(following)
            nodes.append(following)
    factor, last = _closing(output, scope)
    ends: list[Value | None] = []
    if last:
        ends, output = [factor, *last[-1].inputs[1:3]], made(last[-1])
        nodes += last
    results: list[Value | None] = [output]
    if not last and (ranged := scope.user(output, "DynamicQuantizeLinear")) is not None:
        results = [*ranged.outputs, None, None][:3]
        nodes.append(ranged)
    weights = scope.array(inputs[3])
    if len(nodes) == 1 or weights is None or weights.ndim != 2:
        return None
    fused = Node("QGemm", [*inputs, added, *ends], results, form, domain=DOMAIN, name=node.name, path=node.path)
    return Patch(nodes, [fused])


def _fits(other: Value, output: Value) -> bool:
    return other is not output and dtype(other) == "float32" and same_shape(other, output)


def _closing(value: Value, scope: Scope) -> tuple[Value | None, list[Node]]:
    """A Mul by a row (its factors, or None) and the QuantizeLinear that ends it; no nodes where there is no such end."""
    scaled = scope.user(value, "Mul")
    factor = _row(scaled, value, scope)
    before = [scaled] if scaled is not None and factor is not None else []
    last = scope.user(made(before[0]) if before else value, "QuantizeLinear")
    if last is None or quantizer(last, scope) is None:
        return None, []
    return factor, [*before, last]


def _row(node: Node | None, value: Value, scope: Scope) -> Value | None:
    """The constant that `node` multiplies every row of `value` with, as one vector of its width."""
    other = other_input(node, value)
    array, sizes = scope.array(other), shape(value)
    if other is None or array is None or not sizes or array.dtype != np.float32 or array.ndim > len(sizes):
        return None
    if array.shape[-1:] != sizes[-1:] or array.size != array.shape[-1]:
        return None
    return other if array.ndim == 1 else scope.constant(np.ascontiguousarray(array.reshape(-1)), other.name)


def _quantize(node: Node, scope: Scope) -> Patch | None:
    """QuantizeLinear(x * row), where nobody else reads the product."""
    value = node.inputs[0]
    scaled = scope.producer(value, "Mul")
    if (
        scaled is None
        or id(value) in scope.outputs
        or any(quantizer(user, scope) is None for user in scope.users(value))
    ):
        return None
    for x in scaled.inputs:
        row = _row(scaled, x, scope) if x is not None and rank(x) == rank(made(scaled)) else None
        if row is not None and dtype(x) == "float32" and scope.array(x) is None:
            inputs = [x, *(*node.inputs[1:], None)[:2], row]
            return Patch([node], [scope.node("QuantizeLinear", inputs, made(node), domain=DOMAIN, like=node)])
    return None
