"""Gradient of ai.onnx.preview.training: the operator names a part of the graph around it, which is differentiated at import.

The nodes between `xs` and `y` are there already; their operators' own rules are written behind them, in reverse order. Where
the node is fed with other tensors than those it names, the part is first written again over these. A gradient of a gradient
works the same way: what was written for the first is part of the graph. Source: ONNX, ai.onnx.preview.training Gradient-1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from headrace.runtime import dtypes
from headrace.runtime.builder import Builder
from headrace.runtime.errors import GraphError
from headrace.runtime.graph import Node, Value
from headrace.runtime.namespaces import BuilderNamespace
from headrace.runtime.ops import find

KIND = ("ai.onnx.preview.training", "Gradient")


def differentiate(builder: Builder, xs: Sequence[Value], given: Sequence[Value], y: Value, wanted: int) -> list[Value]:
    """d y / d x for the first `wanted` of xs, with all of xs as given; y counts as the sum of its elements. Raises GraphError
    where y does not come from this block, or a node on the way has no gradient."""
    path = _path(builder.block.nodes, xs, y)
    if any(a is not b for a, b in zip(xs, given)):
        y, path = _again(builder, path, dict(zip(map(id, xs), given)), y)
        xs = given
    F = BuilderNamespace(builder)
    grads: dict[int, Value] = {id(y): _filled(F, y, 1)}
    ends = set(map(id, xs))
    for node in reversed(path):
        given_grads = [None if value is None else grads.get(id(value)) for value in node.outputs]
        if any(grad is not None for grad in given_grads):
            for value, grad in zip(node.inputs, _of_node(F, node, given_grads)):
                if value is None or grad is None:
                    continue
                known = grads.get(id(value))
                grads[id(value)] = grad if known is None else F.Add(known, grad)
        for value in node.outputs:
            if value is not None and id(value) not in ends:
                grads.pop(id(value), None)
    return [grads[id(x)] if id(x) in grads else _filled(F, x, 0) for x in xs[:wanted]]


def _path(nodes: Sequence[Node], xs: Sequence[Value], y: Value) -> list[Node]:
    """The nodes, in order, that y depends on and that depend on xs; those behind xs only."""
    ends, needed, behind = set(map(id, xs)), {id(y)}, set(map(id, xs))
    before: list[Node] = []
    for node in reversed(nodes):
        if any(id(value) in needed and id(value) not in ends for value in node.outputs if value is not None):
            needed.update(id(value) for value in node.inputs if value is not None)
            before.append(node)
    path = []
    for node in reversed(before):
        if any(id(value) in behind for value in node.inputs if value is not None):
            behind.update(id(value) for value in node.outputs if value is not None)
            path.append(node)
    if id(y) not in behind:
        raise GraphError(
            f"%{y.name} does not depend on the tensors in xs, by nodes of the graph that the operator is in"
        )
    return path


def _again(builder: Builder, path: Sequence[Node], now: dict[int, Value], y: Value) -> tuple[Value, list[Node]]:
    """The nodes of a path once more, over other tensors."""
    start = len(builder.nodes)
    for node in path:
        inputs = [None if value is None else now.get(id(value), value) for value in node.inputs]
        names = [None if value is None else value.name for value in node.outputs]
        made = builder.node(
            node.operator,
            inputs,
            node.attributes,
            domain=node.domain,
            outputs=names,
            path=node.path,
            version=node.version,
        )
        now |= {id(old): new for old, new in zip(node.outputs, made) if old is not None}
    return now[id(y)], builder.nodes[start:]


def _of_node(F: Any, node: Node, grads: list[Value | None]) -> list[Value | None]:
    if not any(value is not None and F.dtype(value) in dtypes.FLOAT for value in node.inputs):
        return []  # made from sizes: nothing flows through
    operator = find(node.operator, node.domain)
    if operator is None or not operator.differentiable or node.blocks:
        raise GraphError(f"{node.label()}: has no gradient")
    try:
        return list(
            operator.gradient(F, list(node.inputs), list(node.outputs), grads, operator.complete(node.attributes))
        )
    except NotImplementedError as error:
        raise GraphError(f"{node.label()}: {error}") from None


def _filled(F: Any, like: Value, number: int) -> Value:
    kind = F.dtype(like)
    if kind not in dtypes.FLOAT:
        raise GraphError(f"%{like.name} is {kind}; only floats have gradients")
    value: Value = F.ConstantOfShape(F.Shape(like), value=np.full(1, number, dtypes.of(kind).numpy))
    return value
