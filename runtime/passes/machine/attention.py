"""MatMul, scale, mask, Softmax, MatMul become one Attention node, whose kernel keeps the scores in the cache.

A query whose mask hides every key weighs nothing then, where a Softmax of -inf alone would make NaN of it.

Where heads are split and joined by Reshape and Transpose around it, the node takes and gives [batch, length, heads * size]
and they go as well; keys and values that a Concat appends to a cache are given in two parts.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from headrace.runtime.graph import Graph, Node, Value
from headrace.runtime.passes.identities import permutation
from headrace.runtime.passes.rewrite import Patch, rewrite
from headrace.runtime.passes.scope import Scope, attribute, dtype, made, number, other_input, rank, same_shape, shape

SPLIT, SPLIT_TURNED = (0, 2, 1, 3), (0, 2, 3, 1)


def attention(graph: Graph, caps: Collection[str]) -> Graph:
    """The graph with its attentions in one node each, where there is a kernel for them."""
    if "Attention" not in caps or not any(node.kind == "Softmax" for node in graph.block.walk()):
        return graph
    return rewrite(graph, {"MatMul": _attention, "headrace.FusedMatMul": _attention})


@dataclass
class Scores:
    """softmax(scale * q k' + mask), k [batch, heads, length, size]; `turned`: k is what `key` is a Transpose of."""

    q: Value
    key: Value
    turned: bool
    scale: float
    mask: Value | None
    nodes: list[Node]


def _attention(node: Node, scope: Scope) -> Patch | None:
    if node.kind != "MatMul" and (node.attributes or len(node.inputs) > 2):
        return None
    softmax = scope.producer(node.inputs[0], "Softmax")
    v = node.inputs[1]
    if softmax is None or v is None or rank(v) != 4 or not scope.single(made(softmax)) or scope.array(v) is not None:
        return None
    scores = _scores(softmax, scope) if attribute(softmax, "axis", -1) in (-1, 3) else None
    if scores is None:
        return None
    nodes = [*scores.nodes, softmax, node]
    scale = {"scale": scores.scale}
    k_past, k_new = _parts(scores.key, scope) if not scores.turned else (None, scores.key)
    v_past, v_new = _parts(v, scope)
    if k_past is None or v_past is None:
        k_past, v_past, k_new, v_new = None, None, scores.key, v
    flat = [
        _flat(scores.q, SPLIT, scope),
        _flat(k_new, SPLIT_TURNED if scores.turned else SPLIT, scope),
        _flat(v_new, SPLIT, scope),
    ]
    joined = _joined(node, scope)
    if joined is not None and all(flat) and len({found[1] for found in flat if found}) == 1:
        (q, heads), (k, _), (v, _) = (found for found in flat if found)
        inputs = [q, k, v, scores.mask, k_past, v_past]
        heads_of = {"q_num_heads": heads, "kv_num_heads": heads}
        made_node = scope.node("Attention", inputs, joined[1].outputs[0], {**scale, **heads_of}, like=node)
        return Patch([*nodes, *joined], [made_node])
    if scores.turned:
        before = scope.node("Transpose", [scores.key], "key", {"perm": (0, 1, 3, 2)}, like=node)
        inputs = [scores.q, before.outputs[0], v, scores.mask]
        return Patch(nodes, [before, scope.node("Attention", inputs, node.outputs[0], scale, like=node)])
    inputs = [scores.q, k_new, v_new, scores.mask, k_past, v_past]
    return Patch(nodes, [scope.node("Attention", inputs, node.outputs[0], scale, like=node)])


def _scores(softmax: Node, scope: Scope) -> Scores | None:
    value, mask, nodes = softmax.inputs[0], None, []
    add = scope.producer(value, "Add")
    if add is not None and scope.single(value):
        for side in add.inputs:
            product = scope.producer(side, "MatMul", "headrace.FusedMatMul")
            if product is not None and scope.single(side) and same_shape(side, value):
                mask, value = other_input(add, side), side
                nodes = [add]
                break
    node = scope.producer(value, "MatMul", "headrace.FusedMatMul")
    if node is None or not scope.single(value) or dtype(value) != "float32" or attribute(node, "transA", 0):
        return None
    q, k, bias, r = [*node.inputs, None, None][:4]
    if (
        q is None
        or k is None
        or bias is not None
        or (r is not None and mask is not None)
        or rank(q) != 4
        or rank(k) != 4
    ):
        return None
    if node.attributes.get("activation") or scope.array(k) is not None or number(node, "alpha", 1.0) <= 0:
        return None
    mask = r if r is not None else mask
    if mask is not None and not _fits(mask, value):
        return None
    turned = not attribute(node, "transB", 0)
    return Scores(q, k, turned, number(node, "alpha", 1.0) if node.kind != "MatMul" else 1.0, mask, [node, *nodes])


def _fits(mask: Value, scores: Value | None) -> bool:
    """A float32 mask of rank 2 to 4 that holds a number for every key."""
    sizes, wanted = shape(mask), shape(scores)
    if dtype(mask) != "float32" or sizes is None or wanted is None or not 2 <= len(sizes) <= 4:
        return False
    return sizes[-1] == wanted[-1] and all(a in (1, b) for a, b in zip(sizes[::-1], wanted[::-1]))


def _parts(value: Value, scope: Scope) -> tuple[Value | None, Value]:
    """A cache and what a Concat appends to it."""
    concat = scope.producer(value, "Concat")
    if concat is None or len(concat.inputs) != 2 or attribute(concat, "axis") not in (2, -2):
        return None, value
    past, new = concat.inputs
    return (None, value) if past is None or new is None else (past, new)


def _flat(value: Value, perm: tuple[int, ...], scope: Scope) -> tuple[Value, int] | None:
    """The value [batch, length, heads * size] of which this one is the heads, and their number."""
    turned = scope.producer(value, "Transpose")
    split = scope.producer(turned.inputs[0], "Reshape") if turned is not None else None
    if turned is None or split is None or permutation(turned) != perm:
        return None
    whole, heads = shape(split.inputs[0]), shape(split.outputs[0])
    if whole is None or heads is None or len(whole) != 3 or whole[:2] != heads[:2] or split.inputs[0] is None:
        return None
    count = heads[2]
    return (split.inputs[0], count) if isinstance(count, int) and count > 0 else None


def _joined(node: Node, scope: Scope) -> tuple[Node, Node] | None:
    """The Transpose and Reshape that put the heads side by side again."""
    turned = scope.user(node.outputs[0], "Transpose")
    merged = scope.user(turned.outputs[0], "Reshape") if turned is not None else None
    if turned is None or merged is None or permutation(turned) != SPLIT:
        return None
    heads, whole = shape(turned.outputs[0]), shape(merged.outputs[0])
    if heads is None or whole is None or len(whole) != 3 or heads[:2] != whole[:2]:
        return None
    return turned, merged
