"""Conv with what follows it, Add of a value of the same shape and an activation, becomes headrace.FusedConv."""

from __future__ import annotations

from headrace.runtime import dtypes
from headrace.runtime.graph import Graph, Node, Value
from headrace.runtime.passes.activations import allowed, fused_form
from headrace.runtime.passes.rewrite import Patch, rewrite
from headrace.runtime.passes.scope import Scope, dtype, other_input, same_shape

PORTABLE = True
ORDER = 80


def run(graph: Graph) -> Graph:
    return rewrite(graph, {"Conv": _conv, "headrace.FusedConv": _conv})


def _conv(node: Node, scope: Scope) -> Patch | None:
    if node.attributes.get("activation") or dtype(node.outputs[0]) not in dtypes.FLOAT:
        return None
    inputs: list[Value | None] = [*node.inputs, None, None][:4]
    nodes, output = [node], node.outputs[0]
    form: dict[str, object] = {}
    following = scope.user(output, "Add")
    if following is not None and inputs[3] is None:
        other = other_input(following, output)
        if same_shape(other, output) and other is not output:
            inputs[3], output = other, following.outputs[0]
            nodes.append(following)
    following = scope.user(output)
    found = fused_form(following, scope)
    if following is not None and following.inputs[0] is output and allowed("FusedConv", found):
        form, output = found or {}, following.outputs[0]
        nodes.append(following)
    if len(nodes) == 1:
        return None
    attributes = {**node.attributes, **form}
    return Patch(nodes, [scope.node("FusedConv", inputs, output, attributes, domain="headrace", like=node)])
