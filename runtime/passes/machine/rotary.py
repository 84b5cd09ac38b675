"""Rotary position embeddings, as exporters spell them out, become one headrace.cpu.Rotary:

    x * cos + concat(-x[..., half:], x[..., :half]) * sin

with tables as wide as x, which broadcast to it.

Source: Su et al., "RoFormer: Enhanced Transformer with Rotary Position Embedding", 2021, section 3.4.2.
"""

from __future__ import annotations

from collections.abc import Collection

from headrace.runtime.graph import Graph, Node, Value
from headrace.runtime.passes.rewrite import Patch, rewrite
from headrace.runtime.passes.scope import Scope, attribute, dtype, made, other_input, same_shape, shape

DOMAIN, KIND = "headrace.cpu", "headrace.cpu.Rotary"


def rotary(graph: Graph, caps: Collection[str]) -> Graph:
    """The graph with such embeddings in one node each, where there is a kernel for them."""
    return rewrite(graph, {"Concat": _rotary}) if KIND in caps else graph


def _rotary(node: Node, scope: Scope) -> Patch | None:
    """From the Concat on: what it joins, then the products and their sum."""
    turned = _halves(node, scope)
    if turned is None:
        return None
    x, nodes = turned
    second = scope.user(made(node), "Mul")
    total = scope.user(made(second), "Add") if second is not None else None
    first = scope.producer(other_input(total, made(second)), "Mul") if second is not None else None
    if second is None or total is None or first is None or not scope.single(made(first)) or x not in first.inputs:
        return None
    cos, sin = other_input(first, x), other_input(second, made(node))
    if cos is None or sin is None or cos is x or not same_shape(x, made(total)):
        return None
    if not all(dtype(value) == "float32" and _as_wide(value, x) for value in (x, cos, sin)):
        return None
    nodes = [*nodes, node, first, second, total]
    return Patch(nodes, [scope.node("Rotary", [x, cos, sin], made(total), domain=DOMAIN, like=total)])


def _as_wide(table: Value, x: Value) -> bool:
    """A table that has all of the last axis, and no more axes than x."""
    sizes, wanted = shape(table), shape(x)
    return sizes is not None and wanted is not None and sizes[-1:] == wanted[-1:] and 0 < len(sizes) <= len(wanted)


def _halves(node: Node, scope: Scope) -> tuple[Value, list[Node]] | None:
    """What a Concat joins the halves of, the second one first and negated; and the nodes that take them."""
    if len(node.inputs) != 2 or not _last(attribute(node, "axis"), made(node)):
        return None
    negated = scope.producer(node.inputs[0], "Neg")
    if negated is None or not scope.single(made(negated)):
        return None
    second, first = negated.inputs[0], node.inputs[1]
    one, other = scope.producer(second), scope.producer(first)
    if one is None or other is None or first is None or second is None:
        return None
    x = one.inputs[0]
    sizes = shape(x)
    size = sizes[-1] if sizes else None
    if x is None or x is not other.inputs[0] or not isinstance(size, int) or size % 2:
        return None
    if not (scope.single(first) and _takes(one, second, size // 2, size // 2, scope)):
        return None
    if not (scope.single(second) and _takes(other, first, 0, size // 2, scope)):
        return None
    return x, [negated, one] if one is other else [negated, one, other]


def _takes(node: Node, value: Value, begin: int, count: int, scope: Scope) -> bool:
    """Whether `value` is `count` elements of the last axis of what a Slice or a Split reads, from `begin` on."""
    if node.kind == "Split":
        sizes = [shape(output) for output in node.outputs]
        place = next((i for i, output in enumerate(node.outputs) if output is value), 0)
        whole = len(sizes) == 2 and all(dims is not None and dims[-1] == count for dims in sizes)
        return whole and _last(attribute(node, "axis", 0), node.inputs[0]) and place * count == begin
    if node.kind != "Slice":
        return False
    starts, ends, axes, steps = (scope.integers(part) for part in (*node.inputs[1:], None, None)[:4])
    if not starts or not ends or not axes or len(axes) != 1 or steps not in (None, (1,)):
        return False
    taken = range(2 * count)[starts[0] : ends[0]]
    return _last(axes[0], node.inputs[0]) and taken == range(begin, begin + count)


def _last(axis: int | None, value: Value | None) -> bool:
    sizes = shape(value)
    return axis is not None and sizes is not None and axis in (-1, len(sizes) - 1)
