"""What is computed of rows that nobody reads goes: a Gather or Slice along an axis changes places with the operator before it, where
that keeps the rows of this axis apart.

    Gather(LayerNorm(f(x) + y), row 0)        becomes        LayerNorm(f(Gather(x, row 0)) + Gather(y, row 0))

Classifiers over transformers read one token of the last layer: its products are then of one row, and only the keys and values of
its attention are of all. Each row is computed as before; nothing that looks at several rows (a range over a whole tensor) is passed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

import numpy as np

from headrace.runtime.graph import Graph, Node, Value
from headrace.runtime.ops import find
from headrace.runtime.passes.rewrite import Patch, rewrite
from headrace.runtime.passes.scope import Scope, attribute, integer, made, rank, shape


def wanted_rows(graph: Graph, caps: Collection[str]) -> Graph:
    """The graph with such Gathers and Slices as early as they may be; the same graph where there are none."""
    return rewrite(graph, {"Gather": _earlier, "Slice": _earlier})


@dataclass(frozen=True)
class Pick:
    """Elements of one axis, in this order; `drops`: the axis goes, as after a Gather of a scalar."""

    axis: int
    places: tuple[int, ...]
    drops: bool

    def same(self, other: Pick | None) -> bool:
        return other is not None and (self.axis, self.places) == (other.axis, other.places)


def _earlier(node: Node, scope: Scope) -> Patch | None:
    value, pick = node.inputs[0], _pick(node, scope)
    before = scope.producer(value)
    if value is None or pick is None or before is None or id(value) in scope.outputs or before.blocks:
        return None
    readers = scope.users(value)
    found = [(reader, _pick(reader, scope)) for reader in readers if reader.inputs[0] is value]
    if len(found) != len(readers) or not all(pick.same(other) for _, other in found) or any(before.outputs[1:]):
        return None
    reads = _row_inputs(before, pick.axis, scope)
    if not reads:
        return None
    places = scope.constant(np.array(pick.places, np.int64), "wanted_rows")
    inputs, added = list(before.inputs), []
    for index in reads:
        rows = scope.node("Gather", [inputs[index], places], "rows", {"axis": pick.axis}, like=node)
        inputs[index] = made(rows)
        added.append(rows)
    result = scope.node(before.operator, inputs, f"{value.name}_rows", before.attributes, domain=before.domain, like=before)  # fmt: skip
    added.append(result)
    rename = {}
    for reader, other in found:
        if other is not None and other.drops:
            axes = scope.constant(np.array([pick.axis], np.int64), "axes")
            added.append(scope.node("Squeeze", [made(result), axes], made(reader), like=reader))
        else:
            rename[made(reader)] = made(result)
    return Patch([before, *(reader for reader, _ in found)], added, rename)


def _pick(node: Node, scope: Scope) -> Pick | None:
    """What a Gather or Slice with constant places takes, where that is less than there is."""
    axes = rank(node.inputs[0]) if node.kind in ("Gather", "Slice") else None
    if not axes:
        return None
    if node.kind == "Gather":
        array = scope.array(node.inputs[1])
        if array is None or array.ndim > 1:
            return None
        axis, places = integer(node, "axis") % axes, tuple(int(place) for place in array.reshape(-1))
        pick = Pick(axis, places, array.ndim == 0)
    else:
        starts, ends, along, steps = (scope.integers(value) for value in (*node.inputs[1:], None, None)[:4])
        size = _size(node.inputs[0], along[0] % axes) if along and len(along) == 1 else None
        if size is None or along is None or starts is None or ends is None or steps not in (None, (1,)):
            return None
        pick = Pick(along[0] % axes, tuple(range(*slice(starts[0], ends[0]).indices(size))), False)
    size = _size(node.inputs[0], pick.axis)
    return pick if 0 < len(pick.places) < (size or 2) else None


def _size(value: Value | None, axis: int) -> int | None:
    sizes = shape(value)
    return size if sizes is not None and isinstance(size := sizes[axis], int) else None


def _row_inputs(node: Node, axis: int, scope: Scope) -> list[int] | None:
    """The inputs that hold the rows along `axis` of what the node makes; None where rows meet, or that is not certain."""
    rule = RULES.get(node.kind, _elementwise)
    return rule(node, axis, scope)


def _elementwise(node: Node, axis: int, scope: Scope) -> list[int] | None:
    operator = find(node.operator, node.domain)
    if operator is None or not type(operator).__module__.startswith("headrace.runtime.ops.elementwise"):
        return None
    return _broadcast(node, axis, range(len(node.inputs)))


def _broadcast(node: Node, axis: int, data: Collection[int]) -> list[int] | None:
    """Of inputs that broadcast to the result those that have the axis."""
    out, held = shape(made(node)), []
    for index in data:
        value = node.inputs[index] if index < len(node.inputs) else None
        sizes = shape(value)
        if value is None:
            continue
        if out is None or sizes is None:
            return None
        place = axis - len(out) + len(sizes)
        if place < 0 or (sizes[place] == 1 and out[axis] != 1):
            continue
        if place != axis or sizes[place] != out[axis]:
            return None
        held.append(index)
    return held


def _product(a: int, b: int, singles: tuple[int, ...] = (), added: tuple[int, ...] = ()) -> Callable[[Node, int, Scope], list[int] | None]:  # fmt: skip
    """A product by a matrix: input `a` has the rows, those of `added` have the shape of the result, or broadcast to it; those of
    `singles` are one number for all rows."""

    def rule(node: Node, axis: int, scope: Scope) -> list[int] | None:
        axes = rank(node.inputs[a])
        if axes is None or rank(node.inputs[b]) != 2 or axis >= axes - 1 or attribute(node, "transA", 0):
            return None
        if not all(_single(node, index) for index in singles):
            return None
        held = _broadcast(node, axis, added)
        return None if held is None else [a, *held]

    return rule


def _single(node: Node, index: int) -> bool:
    value = node.inputs[index] if index < len(node.inputs) else None
    return value is None or shape(value) in ((), (1,))


def _normalization(node: Node, axis: int, scope: Scope) -> list[int] | None:
    axes = rank(node.inputs[0])
    first = integer(node, "axis", -1)
    if (
        axes is None
        or axis >= first % axes
        or any((rank(v) or 0) >= axes - axis for v in node.inputs[1:] if v is not None)
    ):
        return None
    return [0]


def _softmax(node: Node, axis: int, scope: Scope) -> list[int] | None:
    axes = rank(node.inputs[0])
    return [0] if axes is not None and integer(node, "axis", -1) % axes != axis else None


def _quantization(node: Node, axis: int, scope: Scope) -> list[int] | None:
    return [0] if _single(node, 1) and _single(node, 2) else None


def _attention(node: Node, axis: int, scope: Scope) -> list[int] | None:
    """A row of queries: the mask must be the same for all of them."""
    mask = node.inputs[3] if len(node.inputs) > 3 else None
    sizes = shape(mask)
    if axis != {3: 1, 4: 2}.get(rank(node.inputs[0]) or 0) or any(node.inputs[6:]) or integer(node, "is_causal"):
        return None
    if any(integer(node, key, -1) >= 0 for key in ("left_window_size", "right_window_size")):
        return None
    return [0] if mask is None or (sizes is not None and (len(sizes) < 2 or sizes[-2] == 1)) else None


RULES: dict[str, Callable[[Node, int, Scope], list[int] | None]] = {
    "MatMul": _product(0, 1),
    "headrace.FusedMatMul": _product(0, 1, added=(3,)),
    "headrace.DynamicMatMul": _product(0, 1),
    "headrace.MatMulIntegerToFloat": _product(0, 1, (2, 4)),
    "headrace.QGemm": _product(0, 3, (1, 2), added=(9,)),
    "headrace.QAdd": lambda node, axis, scope: _broadcast(node, axis, (0, 3)),
    "LayerNormalization": _normalization,
    "RMSNormalization": _normalization,
    "Softmax": _softmax,
    "LogSoftmax": _softmax,
    "QuantizeLinear": _quantization,
    "DequantizeLinear": _quantization,
    "Attention": _attention,
}
