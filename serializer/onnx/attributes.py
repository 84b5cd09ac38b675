"""AttributeProto <-> Python values, and nodes with them. Graph-valued attributes become blocks; the caller says how."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from headrace.runtime.errors import GraphError, LoadError
from headrace.runtime.graph import Block, Node
from headrace.runtime.types import MapType, OptionalType, SequenceType, TensorType
from headrace.serializer.onnx.external import ExternalData
from headrace.serializer.onnx.tensors import read_sparse, read_tensor, write_tensor
from headrace.serializer.onnx.types import Symbols, read_type, write_type

ATTRIBUTE_LIMIT = 256  # on one node

# AttributeProto.AttributeType -> the field that holds the value.
_FIELDS = {1: "f", 2: "i", 3: "s", 4: "t", 5: "g", 6: "floats", 7: "ints", 8: "strings", 11: "sparse_tensor", 13: "tp"}
_SINGLE = ("f", "i", "s", "t", "g", "sparse_tensor", "tp")
_REFUSED = {9: "TENSORS", 10: "GRAPHS", 12: "SPARSE_TENSORS", 14: "TYPE_PROTOS"}


def read_attributes(
    protos: Any,
    call: Mapping[str, Any] | None,
    external: ExternalData,
    read_block: Callable[[Any, str], Block],
    spend: Callable[[int], None],
    where: str,
) -> dict[str, Any]:
    """The attributes of one node. `call` holds those of the enclosing function call, for references to them: a
    reference to an attribute that the call does not have leaves the attribute absent."""
    if len(protos) > ATTRIBUTE_LIMIT:
        raise LoadError(f"{where}: {len(protos)} attributes; allowed are {ATTRIBUTE_LIMIT}")
    values: dict[str, Any] = {}
    for proto in protos:
        if not proto.name or proto.name in values:
            raise LoadError(f"{where}: attribute {proto.name!r} has no name or is given twice")
        if proto.ref_attr_name:
            if call is None:
                raise LoadError(
                    f"{where}: attribute {proto.name!r} refers to {proto.ref_attr_name!r} outside a function"
                )
            if proto.ref_attr_name in call:
                values[proto.name] = call[proto.ref_attr_name]
            continue
        values[proto.name] = _read(proto, external, read_block, spend, f"{where}, attribute {proto.name!r}")
    return values


def _read(
    proto: Any,
    external: ExternalData,
    read_block: Callable[[Any, str], Block],
    spend: Callable[[int], None],
    where: str,
) -> Any:
    match _field(proto, where):
        case "f":
            return float(proto.f)
        case "i":
            return int(proto.i)
        case "s":
            return _text(proto.s)
        case "floats":
            return tuple(proto.floats)
        case "ints":
            return tuple(proto.ints)
        case "strings":
            return tuple(map(_text, proto.strings))
        case "t":
            return read_tensor(proto.t, external, where)
        case "sparse_tensor":
            return read_sparse(proto.sparse_tensor, external, where, spend)
        case "tp":
            return read_type(proto.tp, Symbols(), proto.name)
        case _:
            return read_block(proto.g, proto.name)


def _field(proto: Any, where: str) -> str:
    if proto.type in _FIELDS:
        return _FIELDS[proto.type]
    if proto.type in _REFUSED:
        raise LoadError(f"{where}: type {_REFUSED[proto.type]} is not supported")
    if proto.type != 0:
        raise LoadError(f"{where}: type {proto.type} is unknown")
    # Files of the first IR versions leave the type out: the field that is set tells.
    found = [name for name in _SINGLE if proto.HasField(name)] + [
        name for name in ("floats", "ints", "strings") if len(getattr(proto, name))
    ]
    if len(found) != 1:
        raise LoadError(f"{where}: has no type, and {len(found)} values to guess it from")
    return found[0]


def _text(value: bytes) -> str | bytes:
    """Text where the bytes are UTF-8, as they should be."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value


def write_attribute(name: str, value: Any, write_block: Callable[[Block, str], Any]) -> Any:
    """The AttributeProto of one value. Raises TypeError for what has no form."""
    import onnx

    proto: Any = onnx.AttributeProto(name=name)
    match value:
        case bool() | int() | np.integer():
            proto.type, proto.i = 2, int(value)
        case float() | np.floating():
            proto.type, proto.f = 1, float(value)
        case str() | bytes():
            proto.type, proto.s = 3, value.encode() if isinstance(value, str) else value
        case np.ndarray():
            proto.type = 4
            proto.t.CopyFrom(write_tensor(value))
        case Block():
            proto.type = 5
            proto.g.CopyFrom(write_block(value, name))
        case TensorType() | SequenceType() | OptionalType() | MapType():
            proto.type = 13
            proto.tp.CopyFrom(write_type(value))
        case tuple() | list():
            _write_list(proto, value)
        case _:
            raise TypeError(f"attribute {name!r}: {type(value).__name__} has no ONNX form")
    return proto


def _write_list(proto: Any, values: Any) -> None:
    empty = {"Floats": 6, "Strings": 8}.get(type(values).__name__, 7)
    if not values:
        proto.type = empty
    elif all(isinstance(value, int | np.integer) for value in values):
        proto.type = 7
        proto.ints.extend(map(int, values))
    elif all(isinstance(value, int | float | np.integer | np.floating) for value in values):
        proto.type = 6
        proto.floats.extend(map(float, values))
    elif all(isinstance(value, str | bytes) for value in values):
        proto.type = 8
        proto.strings.extend(value.encode() if isinstance(value, str) else value for value in values)
    else:
        raise TypeError(f"attribute {proto.name!r}: a list of mixed types has no ONNX form")


def node_proto(node: Node, write_block: Callable[[Block, str], Any] | None = None) -> Any:
    """One node as a NodeProto. Raises GraphError where an attribute has no ONNX form."""
    import onnx

    proto = onnx.NodeProto(
        op_type=node.operator, domain=node.domain, name=node.name,
        input=["" if value is None else value.name for value in node.inputs],
        output=["" if value is None else value.name for value in node.outputs],
    )  # fmt: skip
    for key, value in sorted(node.attributes.items()):
        if value is None:
            continue
        try:
            proto.attribute.append(write_attribute(key, value, write_block or _no_block))
        except TypeError as error:
            raise GraphError(f"{node.label()}: {error}") from None
    return proto


def _no_block(block: Block, name: str) -> Any:
    raise TypeError(f"attribute {name!r}: a graph has no form here")
