"""TypeProto -> types of the runtime; dimension names of a file -> symbols."""

from __future__ import annotations

import keyword
import re
from typing import Any

from headrace.runtime.dtypes import BY_NAME
from headrace.runtime.errors import LoadError
from headrace.runtime.shapes import Dim, Shape, parse, symbol, symbols
from headrace.runtime.types import MapType, OptionalType, SequenceType, TensorType, Type
from headrace.serializer.onnx.tensors import MAX_RANK, element_type

# The key of a node's metadata under which our own export keeps its module path.
PATH_KEY = "headrace.path"

_DEPTH_LIMIT = 16
# What exporters write where they mean "no name".
_NAMELESS = frozenset({"none", "unknown", "dynamic", "nan"})
_MAX_DIM = (1 << 63) - 1


class Symbols:
    """The dimension names of one file. Equal names become equal symbols; a dimension without a usable name becomes a
    symbol of its own, because two unknown sizes are not known to be equal."""

    def __init__(self) -> None:
        self._known: dict[str, Dim] = {}
        self._used: set[str] = set()

    def named(self, text: str, hint: str) -> Dim:
        """The dimension that a file calls `text`."""
        if text.isascii() and text.isdigit() and int(text) <= _MAX_DIM:
            return int(text)
        if not re.search(r"[A-Za-z0-9_]", text) or text.lower() in _NAMELESS or re.fullmatch(r"-\d+", text):
            return self.fresh(hint)
        if text not in self._known:
            self._known[text] = self._expression(text) or self._take(text)
        return self._known[text]

    def fresh(self, hint: str) -> Dim:
        """A symbol that nothing else in the file means."""
        return self._take(hint)

    def _expression(self, text: str) -> Dim | None:
        """A name such as "2*n" is what our own export writes for a computed size."""
        if not re.search(r"[*+%() ]|//", text):
            return None
        try:
            dim = parse(text)
        except (ValueError, ZeroDivisionError):
            return None
        names = symbols(dim)
        if not names or any(name in self._used and name not in self._known for name in names):
            return None
        for name in names:
            self._used.add(name)
            self._known.setdefault(name, symbol(name))
        return dim

    def _take(self, text: str) -> Dim:
        name = re.sub(r"[^A-Za-z0-9_]+", "_", text).strip("_")[:80] or "dim"
        if name[0].isdigit() or keyword.iskeyword(name):
            name = f"d_{name}"
        candidate, count = name, 1
        while candidate in self._used:
            count += 1
            candidate = f"{name}_{count}"
        self._used.add(candidate)
        return symbol(candidate)


def read_type(proto: Any, names: Symbols, hint: str, depth: int = 0) -> Type | None:
    """The type that a TypeProto describes; None where it says nothing. `hint` names what is typed."""
    if depth > _DEPTH_LIMIT:
        raise LoadError(f"value {hint!r}: its type is nested more than {_DEPTH_LIMIT} deep")
    kind = proto.WhichOneof("value")
    if kind is None:
        return None
    if kind == "tensor_type":
        dtype = element_type(proto.tensor_type.elem_type, f"value {hint!r}").name
        shape = _shape(proto.tensor_type.shape, names, hint) if proto.tensor_type.HasField("shape") else None
        return TensorType(dtype, shape)
    if kind in ("sequence_type", "optional_type"):
        inner = read_type(getattr(proto, kind).elem_type, names, hint, depth + 1)
        if inner is not None:
            return SequenceType(inner) if kind == "sequence_type" else OptionalType(inner)
    if kind == "map_type":
        key = element_type(proto.map_type.key_type, f"value {hint!r}")
        inner = read_type(proto.map_type.value_type, names, hint, depth + 1)
        if inner is not None and key.kind in "ius":
            return MapType(key.name, inner)
    raise LoadError(
        f"value {hint!r}: type {kind} is incomplete or not supported; allowed: tensor, sequence, optional, map"
    )


def _shape(proto: Any, names: Symbols, hint: str) -> Shape:
    if len(proto.dim) > MAX_RANK:
        raise LoadError(f"value {hint!r}: rank {len(proto.dim)} is more than {MAX_RANK}")
    dims: list[Dim] = []
    for axis, dim in enumerate(proto.dim):
        own = f"{hint}_dim{axis}"
        if dim.WhichOneof("value") == "dim_value" and dim.dim_value >= 0:
            dims.append(int(dim.dim_value))
        elif dim.WhichOneof("value") == "dim_param":
            dims.append(names.named(dim.dim_param, own))
        else:
            dims.append(names.fresh(own))
    return tuple(dims)


def write_type(type: Type) -> Any:
    """The TypeProto of a type; symbolic dimensions as dim_param text."""
    import onnx

    proto = onnx.TypeProto()
    match type:
        case TensorType(dtype=dtype, shape=shape):
            proto.tensor_type.elem_type = BY_NAME[dtype].onnx
            if shape is not None:
                proto.tensor_type.shape.SetInParent()
                for dim in shape:
                    item = proto.tensor_type.shape.dim.add()
                    if isinstance(dim, int):
                        item.dim_value = dim
                    else:
                        item.dim_param = str(dim)
        case SequenceType(element=element):
            proto.sequence_type.elem_type.CopyFrom(write_type(element))
        case OptionalType(element=element):
            proto.optional_type.elem_type.CopyFrom(write_type(element))
        case MapType(key=key, value=value):
            proto.map_type.key_type = BY_NAME[key].onnx
            proto.map_type.value_type.CopyFrom(write_type(value))
    return proto
