"""Functions of ONNX files: which exist, and how many nodes their expansion makes, counted before any is made."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from headrace.runtime.errors import GraphError, LoadError
from headrace.runtime.graph import Node
from headrace.serializer.onnx.attributes import node_proto
from headrace.serializer.onnx.types import write_type

NODE_LIMIT = 200_000  # of a file, functions expanded
DEPTH_LIMIT = 32  # of graphs inside graphs and calls inside calls

Key = tuple[str, str, str]


def domain_of(proto: Any) -> str:
    """The domain of a node, function or operator set; "ai.onnx" is the long name of the default one."""
    return "" if proto.domain == "ai.onnx" else str(proto.domain)


def inner_graphs(node: Any) -> Iterator[tuple[str, Any]]:
    """The graphs in a node's attributes."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.name, attribute.g
        for graph in attribute.graphs:
            yield attribute.name, graph


class Functions:
    """The local functions of one model, by (domain, name, overload)."""

    def __init__(self, protos: Iterable[Any]) -> None:
        self._protos: dict[Key, Any] = {}
        for proto in protos:
            key = (domain_of(proto), proto.name, proto.overload)
            if key in self._protos:
                raise LoadError(f"function {_text(key)} is defined twice")
            self._protos[key] = proto
        self._sizes: dict[Key, int] = {}
        self._bytes: dict[Key, int] = {}
        self._repeated = 0

    def find(self, node: Any) -> Any | None:
        """The function that a node calls, or None."""
        return self._protos.get((domain_of(node), node.op_type, node.overload))

    def repeat(self, node: Any, function: Any, limit: int) -> None:
        """Count a call. LoadError where the bodies that are read again, and their constants with them, exceed `limit` bytes."""
        key = (domain_of(node), node.op_type, node.overload)
        if key not in self._bytes:
            self._bytes[key] = function.ByteSize()
            return
        self._repeated += self._bytes[key]
        if self._repeated > limit:
            raise LoadError(f"the functions of the model, written out for each call, have more than {limit} bytes")

    def expanded_size(self, nodes: Iterable[Any], depth: int = 0, calls: tuple[Key, ...] = ()) -> int:
        """How many nodes a list of nodes becomes. LoadError for recursion, and beyond the limits."""
        if depth > DEPTH_LIMIT:
            raise LoadError(f"graphs and functions are nested more than {DEPTH_LIMIT} deep")
        total = 0
        for node in nodes:
            total += 1
            for _, graph in inner_graphs(node):
                total += self.expanded_size(graph.node, depth + 1, calls)
            function = self.find(node)
            if function is not None:
                total += self._function_size((domain_of(node), node.op_type, node.overload), function, depth, calls)
            if total > NODE_LIMIT:
                raise LoadError(f"the model has more than {NODE_LIMIT} nodes after its functions are expanded")
        return total

    def _function_size(self, key: Key, function: Any, depth: int, calls: tuple[Key, ...]) -> int:
        if key in calls:
            raise LoadError(f"function {_text(key)} calls itself")
        if key not in self._sizes:
            self._sizes[key] = self.expanded_size(function.node, depth + 1, (*calls, key))
        return self._sizes[key]


def schema_function(node: Node, version: int) -> Any | None:
    """The body that the ONNX standard itself gives an operator, as a FunctionProto; None where it has none."""
    import onnx

    try:
        schema: Any = onnx.defs.get_schema(node.operator, version, node.domain)
    except onnx.defs.SchemaError:
        return None
    if schema.has_function:
        return schema.function_body
    if not schema.has_context_dependent_function:
        return None
    types = [
        (onnx.TypeProto() if value is None or value.type is None else write_type(value.type)).SerializeToString()
        for value in node.inputs
    ]
    try:
        data = schema.get_context_dependent_function(node_proto(node).SerializeToString(), types)
    except Exception as error:
        raise GraphError(f"{node.label()}: its standard function body cannot be built: {error}") from None
    return onnx.FunctionProto.FromString(data)


def has_schema_function(operator: str, domain: str, version: int) -> bool:
    """Whether `schema_function` would find a body."""
    import onnx

    try:
        schema: Any = onnx.defs.get_schema(operator, version, domain)
    except onnx.defs.SchemaError:
        return False
    return bool(schema.has_function or schema.has_context_dependent_function)


def _text(key: Key) -> str:
    return ".".join(part for part in key if part)
