"""Shape arithmetic that is known becomes constant.

Type inference carries the values of small tensors along (Shape -> Gather -> Concat -> Reshape). What it knows fully is a
constant now; and the target of a Reshape, known up to one dimension, is a constant with -1 in it.
"""

from __future__ import annotations

import numpy as np

from headrace.runtime.graph import Graph, Node
from headrace.runtime.infer import Inference, infer_graph
from headrace.runtime.passes.edit import clone
from headrace.runtime.passes.rewrite import Patch, rewrite
from headrace.runtime.passes.scope import Scope, attribute, shape
from headrace.runtime.shapes import Shape

PORTABLE = True
ORDER = 25

_KEPT = {"DequantizeLinear", "Identity"}  # see fold


def run(graph: Graph) -> Graph:
    if not any(node.kind in ("Shape", "Size", "Reshape", "Expand") for node in graph.block.walk()):
        return graph
    typed = clone(graph)
    known = _Known(infer_graph(typed))
    result = rewrite(typed, {"*": known, "Reshape": known.reshape, "Expand": known.expand})
    return graph if result is typed else result


class _Known:
    """The rules over what one inference has learnt."""

    def __init__(self, inference: Inference) -> None:
        self.known = inference.known

    def __call__(self, node: Node, scope: Scope) -> Patch | None:
        """A node whose results are all known is not needed."""
        results = [value for value in node.outputs if value is not None]
        if node.kind in _KEPT or any(value not in self.known or id(value) in scope.outputs for value in results):
            return None
        return Patch([node], rename={value: scope.constant(self.known[value], value.name) for value in results})

    def reshape(self, node: Node, scope: Scope) -> Patch | None:
        if scope.array(node.inputs[1]) is not None or attribute(node, "allowzero", 0):
            return self(node, scope)
        return _with_target(node, scope, reshape_target(shape(node.inputs[0]), shape(node.outputs[0])))

    def expand(self, node: Node, scope: Scope) -> Patch | None:
        dims = shape(node.outputs[0]) or ()
        target = tuple(dim for dim in dims if isinstance(dim, int))
        if scope.array(node.inputs[1]) is not None or not target or len(target) < len(dims):
            return self(node, scope)
        return _with_target(node, scope, target)


def _with_target(node: Node, scope: Scope, target: tuple[int, ...] | None) -> Patch | None:
    output = node.outputs[0]
    if target is None or output is None:
        return None
    wanted = scope.constant(np.array(target, np.int64), f"{output.name}_shape")
    return Patch([node], [scope.node(node.operator, [node.inputs[0], wanted], output, node.attributes, like=node)])


def reshape_target(before: Shape | None, after: Shape | None) -> tuple[int, ...] | None:
    """The constant target of a Reshape that has `after` as its result: numbers, 0 (the same dimension as before) and
    one -1; None where that cannot say it."""
    if after is None or 0 in after:
        return None
    target: list[int] = []
    for index, dim in enumerate(after):
        if isinstance(dim, int):
            target.append(dim)
        elif before is not None and index < len(before) and before[index] == dim:
            target.append(0)
        else:
            target.append(-1)
    return tuple(target) if target.count(-1) <= 1 else None
