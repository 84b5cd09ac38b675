"""What changes nothing goes: Identity, Dropout at inference, Cast to the same type, x + 0, x * 1, Transpose of a
Transpose, Reshape of a Reshape, Concat of one, slices, pads and reshapes that keep everything.
"""

from __future__ import annotations

import numpy as np

from headrace.runtime.graph import Graph, Node, Value
from headrace.runtime.passes.rewrite import Patch, Rule, rewrite
from headrace.runtime.passes.scope import Scope, attribute, dtype, rank, same_shape

PORTABLE = True
ORDER = 20


def run(graph: Graph) -> Graph:
    return rewrite(graph, _RULES)


def _drop(node: Node, scope: Scope, source: Value | None) -> Patch | None:
    """The node's first output is `source`; its other outputs must be unread (the mask of Dropout)."""
    output = node.outputs[0]
    if output is None or source is None or not scope.replaceable(output, source):
        return None
    if any(other is not None and (scope.users(other) or id(other) in scope.outputs) for other in node.outputs[1:]):
        return None
    return Patch([node], rename={output: source})


def _identity(node: Node, scope: Scope) -> Patch | None:
    return _drop(node, scope, node.inputs[0])


def _dropout(node: Node, scope: Scope) -> Patch | None:
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        training = scope.array(node.inputs[2])
        if training is None or bool(training.any()):
            return None
    return _drop(node, scope, node.inputs[0])


def _cast(node: Node, scope: Scope) -> Patch | None:
    wanted, given = dtype(node.outputs[0]), dtype(node.inputs[0])
    return _drop(node, scope, node.inputs[0]) if wanted is not None and wanted == given else None


def _of_one(node: Node, scope: Scope) -> Patch | None:
    return _drop(node, scope, node.inputs[0]) if len(node.inputs) == 1 else None


_VIEWS = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")  # they keep the elements in row order


def _same_shape(node: Node, scope: Scope) -> Patch | None:
    """The same shape means the same value; also behind a chain of views."""
    source = node.inputs[0]
    while not same_shape(source, node.outputs[0]):
        before = scope.producer(source, *_VIEWS) if node.kind in _VIEWS else None
        if before is None:
            return None
        source = before.inputs[0]
    return _drop(node, scope, source)


def _slice(node: Node, scope: Scope) -> Patch | None:
    steps = scope.integers(node.inputs[4]) if len(node.inputs) > 4 and node.inputs[4] is not None else (1,)
    return _same_shape(node, scope) if steps is not None and all(step == 1 for step in steps) else None


def _pad(node: Node, scope: Scope) -> Patch | None:
    pads = scope.integers(node.inputs[1]) if len(node.inputs) > 1 else None
    return _drop(node, scope, node.inputs[0]) if pads is not None and not any(pads) else None


def _clip(node: Node, scope: Scope) -> Patch | None:
    return _drop(node, scope, node.inputs[0]) if all(value is None for value in node.inputs[1:]) else None


def _neutral(number: float, either_side: bool) -> Rule:
    """A rule for operators with a neutral constant on the right (or on either side)."""

    def rule(node: Node, scope: Scope) -> Patch | None:
        for index in (1, 0) if either_side else (1,):
            array, other = scope.array(node.inputs[index]), node.inputs[1 - index]
            if array is None or array.size == 0 or array.dtype.kind in "OSU" or not np.all(array == number):
                continue
            scalar = array.ndim == 0 or (array.size == 1 and (rank(other) or 0) >= array.ndim)
            if (scalar or same_shape(other, node.outputs[0])) and dtype(other) == dtype(node.outputs[0]):
                return _drop(node, scope, other)
        return None

    return rule


def permutation(node: Node) -> tuple[int, ...] | None:
    """The permutation of a Transpose; the reversal of all axes where it has none."""
    given = attribute(node, "perm")
    if given is not None:
        return tuple(int(axis) for axis in given)
    axes = rank(node.inputs[0])
    return None if axes is None else tuple(reversed(range(axes)))


def _transpose(node: Node, scope: Scope) -> Patch | None:
    perm = permutation(node)
    if perm is None:
        return None
    if perm == tuple(range(len(perm))):
        return _drop(node, scope, node.inputs[0])
    first = scope.producer(node.inputs[0], "Transpose")
    inner = permutation(first) if first is not None else None
    if first is None or inner is None:
        return None
    joined = tuple(inner[axis] for axis in perm)
    if joined == tuple(range(len(joined))):
        return _drop(node, scope, first.inputs[0])
    if not scope.single(node.inputs[0]):
        return None
    return Patch(
        [node, first], [scope.node("Transpose", [first.inputs[0]], node.outputs[0], {"perm": joined}, like=node)]
    )


def _reshape(node: Node, scope: Scope) -> Patch | None:
    gone = _same_shape(node, scope)
    if gone is not None:
        return gone
    first = scope.producer(node.inputs[0], *_VIEWS)
    target = scope.integers(node.inputs[1])
    if first is None or target is None or 0 in target:
        return None  # 0 copies a dimension of the value in between
    return Patch(
        [node], [scope.node("Reshape", [first.inputs[0], node.inputs[1]], node.outputs[0], node.attributes, like=node)]
    )


_RULES = {
    "Identity": _identity,
    "Dropout": _dropout,
    "Cast": _cast,
    "CastLike": _cast,
    "Concat": _of_one,
    "Sum": _of_one,
    "Mean": _of_one,
    "Max": _of_one,
    "Min": _of_one,
    "Expand": _same_shape,
    "Flatten": _same_shape,
    "Squeeze": _same_shape,
    "Unsqueeze": _same_shape,
    "Tile": _same_shape,
    "Slice": _slice,
    "Pad": _pad,
    "Clip": _clip,
    "Add": _neutral(0.0, True),
    "Sub": _neutral(0.0, False),
    "Mul": _neutral(1.0, True),
    "Div": _neutral(1.0, False),
    "Pow": _neutral(1.0, False),
    "Transpose": _transpose,
    "Reshape": _reshape,
}
