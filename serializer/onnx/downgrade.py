"""Nodes of the pinned operator sets (`graph.OPSETS`) as nodes of an older one.

Most operators only gained element types and attributes: the ONNX schemas say so, and `fit` checks them. Where an
attribute became an input (ReduceMean at 18, DFT at 20) or changed its values, a rule here turns it back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import numpy as np

from headrace.runtime.errors import GraphError
from headrace.runtime.graph import Graph, Node, Value
from headrace.runtime.ops import find
from headrace.runtime.types import MapType, OptionalType, SequenceType, TensorType, Type

_REDUCTIONS = (
    "ReduceMean",
    "ReduceMax",
    "ReduceMin",
    "ReduceProd",
    "ReduceL1",
    "ReduceL2",
    "ReduceLogSum",
    "ReduceLogSumExp",
    "ReduceSumSquare",
)
# Where ONNX's name of an element type is not ours without the underscore.
_TYPE_NAMES = {"float32": "float", "float64": "double", "float4_e2m1fn": "float4e2m1", "float8_e8m0fnu": "float8e8m0"}


def downgrade(node: Node, version: int, graph: Graph, constant: Callable[[np.ndarray, str], Value]) -> Node:
    """The node in operator set `version` of its domain. `constant` adds an array to the file. Raises GraphError saying
    why it cannot be said there."""
    for rule in _RULES.get(node.operator, ()) if not node.domain else ():
        node = rule(node, version, graph, constant)
    return fit(node, version)


def fit(node: Node, version: int) -> Node:
    """The node without the attributes that the schema lacks and whose value is the default anyway."""
    schema = schema_of(node.operator, node.domain, version)
    if schema is None:
        if find(node.operator, node.domain) is not None and node.domain in ("", "ai.onnx.ml"):
            raise GraphError(f"{node.label()}: operator set {version} does not have it")
        return node
    operator = find(node.operator, node.domain)
    attributes = {}
    for key, value in node.attributes.items():
        if value is None:
            continue
        if key in schema.attributes:
            attributes[key] = _typed(value, schema.attributes[key].type.name)
        elif operator is None or key not in operator.attributes or not _equal(value, operator.attributes[key].default):
            raise GraphError(f"{node.label()}: operator set {version} does not have the attribute {key!r}")
    count = len(node.inputs)
    while count and node.inputs[count - 1] is None:
        count -= 1
    if not schema.min_input <= count <= schema.max_input or len(node.outputs) > schema.max_output:
        raise GraphError(
            f"{node.label()}: in operator set {version} it has {schema.min_input} to {schema.max_input} inputs, here {count}"
        )
    _check_types(node, version)
    return _copy(node, inputs=node.inputs[:count], attributes=attributes)


def _equal(value: Any, default: Any) -> bool:
    return not isinstance(value, np.ndarray) and bool(value == default)


@cache
def schema_of(operator: str, domain: str, version: int) -> Any:
    """The schema in force at a version; None where there is none, or a deprecated one."""
    import onnx

    try:
        schema = onnx.defs.get_schema(operator, version, domain)
    except onnx.defs.SchemaError:
        return None
    return None if schema.deprecated else schema


@cache
def _allowed(operator: str, domain: str, version: int, side: str) -> tuple[list[frozenset[str]], bool]:
    """The type texts of each formal input or output, and whether the last is variadic."""
    formals = getattr(schema_of(operator, domain, version), side)
    return [frozenset(item.types) for item in formals], bool(formals) and formals[-1].option.name == "Variadic"


def _check_types(node: Node, version: int) -> None:
    for side, values in (("inputs", node.inputs), ("outputs", node.outputs)):
        formals, variadic = _allowed(node.operator, node.domain, version, side)
        for index, value in enumerate(values):
            if value is None or value.type is None or not formals or _is_rows_of_maps(value.type):
                continue
            types = formals[min(index, len(formals) - 1)] if variadic else formals[index]
            text = type_name(value.type)
            if types and text not in types:
                raise GraphError(
                    f"{node.label()}: {side[:-1]} {index} is {text}, which operator set {version} does not take there"
                )


def _is_rows_of_maps(type: Type) -> bool:
    """What the runtime's tabular operators take where ONNX says map: one map for each row."""
    return isinstance(type, SequenceType) and isinstance(type.element, MapType)


def type_name(type: Type) -> str:
    """The text that ONNX schemas have for a type."""
    match type:
        case TensorType(dtype=dtype):
            return f"tensor({_TYPE_NAMES.get(dtype, dtype.replace('_', ''))})"
        case SequenceType(element=element):
            return f"seq({type_name(element)})"
        case OptionalType(element=element):
            return f"optional({type_name(element)})"
        case MapType(key=key, value=value):
            return f"map({key},{type_name(value)})"


def _typed(value: Any, kind: str) -> Any:
    """The value as the schema's attribute type wants it (1 for a float attribute is 1.0)."""
    match kind:
        case "FLOAT":
            return float(value)
        case "FLOATS":
            return Floats(map(float, value))
        case "INT":
            return int(value)
        case "STRINGS":
            return Strings(value)
    return value


class Floats(tuple):  # type: ignore[type-arg]
    """A tuple that is a list of floats even when it is empty."""


class Strings(tuple):  # type: ignore[type-arg]
    """A tuple that is a list of texts even when it is empty."""


def _copy(
    node: Node,
    *,
    operator: str | None = None,
    inputs: list[Value | None] | None = None,
    attributes: Mapping[str, Any] | None = None,
) -> Node:
    return Node(
        operator or node.operator, node.inputs if inputs is None else inputs, node.outputs,
        node.attributes if attributes is None else attributes,
        domain=node.domain, name=node.name, path=node.path, version=node.version,
    )  # fmt: skip


def _int(node: Node, key: str) -> int:
    value = node.attributes.get(key, 0)
    return value if isinstance(value, int) else 0


def _input(node: Node, index: int) -> Value | None:
    return node.inputs[index] if index < len(node.inputs) else None


def _array(node: Node, index: int, graph: Graph, what: str, version: int) -> np.ndarray:
    found = graph.constant_of(_input(node, index))
    if found is None:
        raise GraphError(f"{node.label()}: operator set {version} needs {what} as a constant")
    return found


def _reduction(node: Node, version: int, graph: Graph, constant: Any) -> Node:
    """Before 18 the axes are an attribute, and no axes mean all of them."""
    if version >= 18:
        return node
    attributes = dict(node.attributes)
    noop = attributes.pop("noop_with_empty_axes", 0)
    axes: tuple[int, ...] = ()
    if _input(node, 1) is not None:
        axes = tuple(_array(node, 1, graph, "the axes", version).reshape(-1).tolist())
    if not axes and noop:
        raise GraphError(f"{node.label()}: operator set {version} cannot reduce over no axes")
    if axes:
        attributes["axes"] = axes
    return _copy(node, inputs=node.inputs[:1], attributes=attributes)


def _split(node: Node, version: int, graph: Graph, constant: Any) -> Node:
    """Before 18 an equal split is said by the number of outputs, and must come out even."""
    if version >= 18 or "num_outputs" not in node.attributes:
        return node
    attributes = {key: value for key, value in node.attributes.items() if key != "num_outputs"}
    data, count, axis = node.inputs[0], _int(node, "num_outputs"), _int(node, "axis")
    size = (
        data.type.shape[axis]
        if data is not None and isinstance(data.type, TensorType) and data.type.shape is not None
        else None
    )
    if not isinstance(size, int):
        raise GraphError(f"{node.label()}: operator set {version} needs the size that is split")
    step = -(-size // count)
    parts = constant(np.array([min(step, size - step * i) for i in range(count)], np.int64), "split")
    return _copy(node, inputs=[data, parts], attributes=attributes)


def _pad(node: Node, version: int, graph: Graph, constant: Any) -> Node:
    """Before 18 there are pads for every axis."""
    if version >= 18 or _input(node, 3) is None:
        return node
    data, pads = node.inputs[0], _array(node, 1, graph, "the pads", version)
    rank = data.type.rank if data is not None and isinstance(data.type, TensorType) else None
    if rank is None:
        raise GraphError(f"{node.label()}: operator set {version} needs the rank of what is padded")
    full = np.zeros((2, rank), np.int64)
    axes = _array(node, 3, graph, "the axes", version).reshape(-1)
    full[:, axes] = pads.reshape(2, -1)
    return _copy(node, inputs=[data, constant(full.reshape(-1), "pads"), _input(node, 2)])


def _grid_sample(node: Node, version: int, graph: Graph, constant: Any) -> Node:
    """20 renamed the modes."""
    if version >= 20:
        return node
    old = {"linear": "bilinear", "cubic": "bicubic"}
    mode = str(node.attributes.get("mode", "linear"))
    return _copy(node, attributes={**node.attributes, "mode": old.get(mode, mode)})


def _dft(node: Node, version: int, graph: Graph, constant: Any) -> Node:
    """20 made the axis an input."""
    if version >= 20:
        return node
    axis = int(_array(node, 2, graph, "the axis", version).item()) if _input(node, 2) is not None else -2
    return _copy(node, inputs=node.inputs[:2], attributes={**node.attributes, "axis": axis})


def _group_normalization(node: Node, version: int, graph: Graph, constant: Any) -> Node:
    """Up to 20 scale and bias are per group, since 21 per channel."""
    if version < 21:
        raise GraphError(
            f"{node.label()}: operator set {version} has another GroupNormalization; 21 is the first with this one"
        )
    return node


def _pool(node: Node, version: int, graph: Graph, constant: Any) -> Node:
    """Before 22 a window that begins in the padding behind the data counts where ceil_mode is set."""
    if version < 22 and node.attributes.get("ceil_mode"):
        raise GraphError(f"{node.label()}: operator set {version} has another ceil_mode; 22 is the first with this one")
    return node


def _roi_align(node: Node, version: int, graph: Graph, constant: Any) -> Node:
    """Before 16 there is no mode: pixels are not shifted by a half."""
    if version >= 16:
        return node
    if node.attributes.get("coordinate_transformation_mode") != "output_half_pixel":
        raise GraphError(f"{node.label()}: operator set {version} has no half_pixel; 16 is the first with it")
    rest = {key: value for key, value in node.attributes.items() if key != "coordinate_transformation_mode"}
    return _copy(node, attributes=rest)


_RULES: dict[str, tuple[Callable[..., Node], ...]] = {
    **dict.fromkeys(_REDUCTIONS, (_reduction,)),
    "Split": (_split,),
    "Pad": (_pad,),
    "GridSample": (_grid_sample,),
    "DFT": (_dft,),
    "GroupNormalization": (_group_normalization,),
    "RoiAlign": (_roi_align,),
    **dict.fromkeys(("AveragePool", "MaxPool", "LpPool"), (_pool,)),
}
