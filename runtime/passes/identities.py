"""What changes nothing goes: Identity, Dropout at inference, Cast to the same type, x + 0, x * 1, Transpose of a
Transpose, Reshape of a Reshape, Concat of one, slices, pads and reshapes that keep everything.
"""

from __future__ import annotations

import numpy as np

from headrace.runtime.graph import Graph, Node, Value
from headrace.runtime.passes.rewrite import Patch, Scope, attribute, dtype, rank, rewrite, same_shape

PORTABLE = True
ORDER = 20


def run(graph: Graph) -> Graph:
    return rewrite(graph, _RULES)


def _drop(node: Node, scope: Scope, source: Value | None) -> Patch | None:
    """The node's first output is `source`; its other outputs must be unread."""
    output = node.outputs[0]
    if not scope.replaceable(output, source) or any(other is not None for other in node.outputs[1:]):
        return None
    return Patch(remove=[node], rename={output: source})  # type: ignore[dict-item]


def _identity(node: Node, scope: Scope) -> Patch | None:
    return _drop(node, scope, node.inputs[0])


def _dropout(node: Node, scope: Scope) -> Patch | None:
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        training = scope.array(node.inputs[2])
        if training is None or bool(training.any()):
            return None
    mask = node.outputs[1] if len(node.outputs) > 1 else None
    if mask is not None:
        if scope.users(mask) or id(mask) in scope.outputs:
            return None
    output = node.outputs[0]
    if not scope.replaceable(output, node.inputs[0]):
        return None
    return Patch(remove=[node], rename={output: node.inputs[0]})  # type: ignore[dict-item]


def _cast(node: Node, scope: Scope) -> Patch | None:
    wanted, given = dtype(node.outputs[0]), dtype(node.inputs[0])
    return _drop(node, scope, node.inputs[0]) if wanted is not None and wanted == given else None


def _of_one(node: Node, scope: Scope) -> Patch | None:
    return _drop(node, scope, node.inputs[0]) if len(node.inputs) == 1 else None


def _same_shape(node: Node, scope: Scope) -> Patch | None:
    """Operators that only arrange elements in row order: the same shape means the same value."""
    return _drop(node, scope, node.inputs[0]) if same_shape(node.inputs[0], node.outputs[0]) else None


def _slice(node: Node, scope: Scope) -> Patch | None:
    steps = scope.integers(node.inputs[4]) if len(node.inputs) > 4 and node.inputs[4] is not None else (1,)
    return _same_shape(node, scope) if steps is not None and all(step == 1 for step in steps) else None


def _pad(node: Node, scope: Scope) -> Patch | None:
    pads = scope.integers(node.inputs[1]) if len(node.inputs) > 1 else None
    return _drop(node, scope, node.inputs[0]) if pads is not None and not any(pads) else None


def _clip(node: Node, scope: Scope) -> Patch | None:
    return _drop(node, scope, node.inputs[0]) if all(value is None for value in node.inputs[1:]) else None


def _neutral(number: float, either_side: bool):  # type: ignore[no-untyped-def]
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
        return tuple(int(axis) for axis in given)  # type: ignore[attr-defined]
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
    return Patch([node, first], [scope.node("Transpose", [first.inputs[0]], node.outputs[0], {"perm": joined}, like=node)])


def _reshape(node: Node, scope: Scope) -> Patch | None:
    if same_shape(node.inputs[0], node.outputs[0]):
        return _drop(node, scope, node.inputs[0])
    first = scope.producer(node.inputs[0], "Reshape", "Flatten", "Squeeze", "Unsqueeze")
    target = scope.integers(node.inputs[1])
    if first is None or target is None or 0 in target:
        return None  # 0 copies a dimension of the value in between
    return Patch([node], [scope.node("Reshape", [first.inputs[0], node.inputs[1]], node.outputs[0], node.attributes, like=node)])


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
