"""How each kind of node goes channels last. A rule answers False where it leaves the node as it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from headrace.runtime.graph import Node, Value
from headrace.runtime.ops import find

if TYPE_CHECKING:
    from headrace.runtime.passes.machine.channels_last import Layouts

Rule = Callable[[Node, "Layouts"], bool]
RANKS = (3, 4, 5)


def _axis(axis: int, rank: int) -> int:
    """Where an axis of the channels-first form lies in the channels-last form."""
    axis %= rank
    return axis if axis == 0 else rank - 1 if axis == 1 else axis - 1


def _input(node: Node, index: int) -> Value | None:
    return node.inputs[index] if index < len(node.inputs) else None


def _window(kind: str, data: tuple[int, ...], weight: int | None, types: Mapping[int, tuple[str, ...]]) -> Rule:
    """A convolution or pool: `data` are the inputs with channels, `types` what the kernel takes. With a weight it asks
    for channels last; a pool only follows."""

    def rule(node: Node, at: Layouts) -> bool:
        x, full = _input(node, data[0]), f"{at.domain}.{kind}"
        if x is None or at.rank(x) not in RANKS or at.rank(node.outputs[0]) not in RANKS or full not in at.caps:
            return False
        if not at.allows(node):
            return False
        if any(
            _input(node, i) is not None and at.dtype(_input(node, i)) not in allowed for i, allowed in types.items()
        ):
            return False
        if any(value is not None for value in node.outputs[1:]):
            return False
        if weight is None and not at.only_last(x):
            return False
        inputs = [at.last(v) if v is not None and i in data else v for i, v in enumerate(node.inputs)]
        for i, value in enumerate(node.inputs):
            if i not in data:
                at.first(value)
        at.add(node, inputs, kind=kind)
        return True

    return rule


def follow_elementwise(node: Node, at: Layouts) -> bool:
    """An operator that works element by element over inputs that broadcast."""
    operator = find(node.operator, node.domain)
    if operator is None or not type(operator).__module__.startswith("headrace.runtime.ops.elementwise"):
        return False
    return _broadcast(node, at, range(len(node.inputs)))


def _quantized_add(node: Node, at: Layouts) -> bool:
    return _broadcast(node, at, (0, 3))


def _broadcast(node: Node, at: Layouts, data: range | tuple[int, ...]) -> bool:
    rank = at.rank(node.outputs[0])
    if rank not in RANKS or len(node.outputs) != 1 or not any(at.only_last(_input(node, i)) for i in data):
        return False
    inputs = list(node.inputs)
    plan: list[tuple[int, Value]] = []
    for i in data:
        value = _input(node, i)
        if value is None or at.rank(value) == 0:
            continue
        if at.rank(value) == rank and at.array(value) is None:
            plan.append((i, value))
            continue
        moved = at.broadcast_constant(value, rank)
        if moved is None:
            return False
        inputs[i] = moved
    for i, value in plan:
        inputs[i] = at.last(value)
    for i, value in enumerate(node.inputs):
        if i not in data:
            at.first(value)
    at.add(node, inputs)
    return True


def _along_axis(default: int | None) -> Rule:
    """Input 0 holds the channels, the attribute `axis` says where the operator works; other inputs are parameters."""

    def rule(node: Node, at: Layouts) -> bool:
        x, axis = _input(node, 0), node.attributes.get("axis", default)
        rank = at.rank(x)
        if (
            x is None
            or not at.only_last(x)
            or rank not in RANKS
            or not isinstance(axis, int)
            or node.attributes.get("block_size")
        ):
            return False
        assert rank is not None
        for value in node.inputs[1:]:
            at.first(value)
        at.add(node, [at.last(x), *node.inputs[1:]], attributes={**node.attributes, "axis": _axis(axis, rank)})
        return True

    return rule


def _concat(node: Node, at: Layouts) -> bool:
    axis, rank = node.attributes.get("axis"), at.rank(node.outputs[0])
    if rank not in RANKS or not isinstance(axis, int) or not any(map(at.only_last, node.inputs)):
        return False
    assert rank is not None
    if any(value is None or at.rank(value) != rank for value in node.inputs):
        return False
    at.add(
        node,
        [at.last(value) for value in node.inputs if value is not None],
        attributes={**node.attributes, "axis": _axis(axis, rank)},
    )
    return True


def _global(reduction: str) -> Rule:
    """A global pool is a reduction over the spatial axes, which exists for every layout."""

    def rule(node: Node, at: Layouts) -> bool:
        x = _input(node, 0)
        rank = at.rank(x)
        if x is None or rank not in RANKS or not at.only_last(x):
            return False
        assert rank is not None
        axes = at.constant(np.arange(1, rank - 1), "spatial_axes")
        at.add(Node(reduction, [], node.outputs, {"keepdims": 1}, name=node.name, path=node.path), [at.last(x), axes])
        return True

    return rule


def _reduce(node: Node, at: Layouts) -> bool:
    x, given = _input(node, 0), at.array(_input(node, 1))
    rank = at.rank(x)
    axes = given.ravel().tolist() if given is not None else node.attributes.get("axes")
    if x is None or rank not in RANKS or not at.only_last(x) or not isinstance(axes, list | tuple) or not axes:
        return False
    assert rank is not None
    moved = [_axis(int(axis), rank) for axis in axes]
    inputs: list[Value | None] = [at.last(x)]
    attributes = dict(node.attributes)
    if given is not None:
        inputs.append(at.constant(np.array(moved, np.int64), "axes_last"))
    else:
        attributes["axes"] = tuple(moved)
    if node.attributes.get("keepdims", 1):
        at.add(node, inputs, attributes=attributes)
        return True
    if sorted(moved) != list(range(1, rank - 1)):
        return False
    at.emit(node, inputs, attributes)  # [N, C] has one layout
    return True


def _resize(node: Node, at: Layouts) -> bool:
    x = _input(node, 0)
    if x is None or at.rank(x) not in RANKS or not at.only_last(x) or node.attributes.get("axes") is not None:
        return False
    if node.attributes.get("coordinate_transformation_mode") == "tf_crop_and_resize":
        return False
    inputs: list[Value | None] = [at.last(x), None]
    for i in (2, 3):
        value, array = _input(node, i), at.array(_input(node, i))
        if value is not None and array is None:
            return False
        empty = array is None or array.size == 0
        inputs.append(
            None
            if array is None or empty
            else at.constant(np.ascontiguousarray(array[[0, *range(2, array.size), 1]]), "resize_last")
        )
    at.add(node, inputs)
    return True


def _slice(node: Node, at: Layouts) -> bool:
    x, axes = _input(node, 0), at.array(_input(node, 3))
    rank = at.rank(x)
    if x is None or rank not in RANKS or not at.only_last(x) or axes is None:
        return False
    assert rank is not None
    moved = at.constant(np.array([_axis(int(axis), rank) for axis in axes.ravel()], np.int64), "axes_last")
    for i in (1, 2, 4):
        at.first(_input(node, i))
    at.add(node, [at.last(x), node.inputs[1], node.inputs[2], moved, *node.inputs[4:]])
    return True


def _pad(node: Node, at: Layouts) -> bool:
    x, pads = _input(node, 0), at.array(_input(node, 1))
    rank = at.rank(x)
    if x is None or rank not in RANKS or not at.only_last(x) or pads is None or _input(node, 3) is not None:
        return False
    assert rank is not None
    order = [0, *range(2, rank), 1]
    moved = at.constant(np.ascontiguousarray(pads.reshape(2, rank)[:, order].ravel()), "pads_last")
    at.first(_input(node, 2))
    at.add(node, [at.last(x), moved, *node.inputs[2:]])
    return True


def _transpose(node: Node, at: Layouts) -> bool:
    """A transpose of the graph itself composes with the layout; one that undoes it costs nothing."""
    x, y = _input(node, 0), node.outputs[0]
    rank, perm = at.rank(x), node.attributes.get("perm")
    if x is None or y is None or rank not in RANKS or not isinstance(perm, list | tuple):
        return False
    assert rank is not None
    if tuple(perm) == (0, rank - 1, *range(1, rank - 1)) and at.array(x) is None:  # channels last in the graph already
        at.first(x)
        at.alias(y, x)
        return True
    if not at.only_last(x):
        return False
    composed = tuple(_axis(axis, rank) for axis in perm)
    if composed == tuple(range(rank)):
        at.emit(Node("Identity", [], [y], name=node.name, path=node.path), [at.last(x)], {})
    else:
        at.emit(node, [at.last(x)], {**node.attributes, "perm": composed})
    return True


_F32, _INT8 = ("float32",), ("uint8", "int8")
_QUANTIZED = {0: _INT8, 1: _F32, 3: _INT8, 4: _F32, 6: _F32, 9: _INT8, 10: _F32}
RULES: dict[str, Rule] = {
    "Conv": _window("Conv", (0,), 1, {0: _F32, 1: _F32}),
    "headrace.FusedConv": _window("Conv", (0, 3), 1, {0: _F32, 1: _F32}),
    "headrace.QConv": _window("QConv", (0, 9), 3, _QUANTIZED),
    "QLinearConv": _window("QConv", (0,), 3, _QUANTIZED),
    "ConvTranspose": _window("ConvTranspose", (0,), 1, {0: _F32, 1: _F32}),
    "MaxPool": _window("MaxPool", (0,), None, {0: _F32 + _INT8}),
    "AveragePool": _window("AveragePool", (0,), None, {0: _F32}),
    "GlobalAveragePool": _global("ReduceMean"),
    "GlobalMaxPool": _global("ReduceMax"),
    "headrace.QAdd": _quantized_add,
    "headrace.QLookup": lambda node, at: _broadcast(node, at, (0,)),
    "QuantizeLinear": _along_axis(1),
    "DequantizeLinear": _along_axis(1),
    "Softmax": _along_axis(-1),
    "Split": _along_axis(0),
    "Concat": _concat,
    "Resize": _resize,
    "Slice": _slice,
    "Pad": _pad,
    "Transpose": _transpose,
    **dict.fromkeys(("ReduceMean", "ReduceMax", "ReduceMin", "ReduceSum"), _reduce),
}
