"""Operators of the domain "headrace" as functions: an exported file keeps such a node, and beside it a function whose body
says the same in standard operators, for those who do not have the operator.

A body is made for one node: for its attributes, and for the ranks and element types of its inputs. Nodes with the same body share
one function; others of the same operator are overloads ("2", "3", ... from IR version 10 on).

Import takes a node as the operator only where the file's body is the very one that would be written for it (`is_own`). So a
file that says something else under our name is computed as it says.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from headrace.runtime.builder import Builder
from headrace.runtime.errors import GraphError, HeadraceError
from headrace.runtime.graph import OPSETS, Block, Graph, Node, Value
from headrace.runtime.infer import Inference
from headrace.runtime.ops import find
from headrace.serializer.onnx.attributes import node_proto
from headrace.serializer.onnx.decompose import decompose, expand
from headrace.serializer.onnx.downgrade import downgrade
from headrace.serializer.onnx.functions import domain_of

OLDEST = 13  # operator set that export writes
OVERLOADS_IR = 10  # the first IR version with overloads


class Bodies:
    """The functions of one file, each body once. `versions`: domain -> operator set of the file."""

    def __init__(self, versions: Mapping[str, int]) -> None:
        self._versions = versions
        self._overloads: dict[tuple[str, bytes], str] = {}
        self._counts: dict[str, int] = {}
        self.protos: list[Any] = []

    def overload(self, node: Node) -> str:
        """Under which overload the node finds its body."""
        proto = body(node, self._versions)
        key = node.operator, proto.SerializeToString(deterministic=True)
        if key not in self._overloads:
            count = self._counts[node.operator] = self._counts.get(node.operator, 0) + 1
            proto.overload = self._overloads[key] = str(count) if count > 1 else ""
            self.protos.append(proto)
        return self._overloads[key]


def expansion(node: Node, opset: int | None) -> Graph:
    """What the node computes, as a graph of standard operators (with `opset` those of that set) over inputs with the operator's
    own names. Raises GraphError where it has no form."""
    operator = find(node.operator, node.domain)
    formals = operator.inputs if operator is not None else ()
    graph = Graph(Block([], [], []))
    builder = Builder(graph)
    inputs = [
        None if value is None else builder.input(formal.name, value.type) for formal, value in zip(formals, node.inputs)
    ]
    graph.outputs.extend(expand(node, inputs, builder)[: len(node.outputs)])
    try:
        return decompose(graph, opset)
    except GraphError as error:
        raise GraphError(f"{node.label()}: {error}") from error


def body(node: Node, versions: Mapping[str, int]) -> Any:
    """The node's function in the operator sets `versions`, as a FunctionProto."""
    import onnx

    graph = expansion(node, versions[""])
    constant = Builder(graph).constant
    try:
        nodes = [downgrade(inner, versions[inner.domain], graph, constant) for inner in graph.nodes]
    except GraphError as error:
        raise GraphError(f"{node.label()}: {error}") from error
    read = {value.name for inner in nodes for value in inner.inputs if value is not None}
    constants = [
        Node("Constant", [], [Value(name)], {"value": array})
        for name, array in sorted(graph.constants.items())
        if name in read
    ]
    given = iter(graph.inputs)
    proto = onnx.FunctionProto(
        domain=node.domain,
        name=node.operator,
        input=[f"absent_{i}" if value is None else next(given).name for i, value in enumerate(node.inputs)],
        output=[value.name for value in graph.outputs],
        attribute=sorted(key for key, value in node.attributes.items() if value is not None),
        node=map(node_proto, [*constants, *nodes]),
    )
    for domain in sorted({inner.domain for inner in nodes} | {""}):
        proto.opset_import.add(domain=domain, version=versions[domain])
    return proto


def is_own(node: Node, function: Any) -> bool:
    """Whether `function` is the body that export writes for this node of our domain."""
    versions = {domain_of(item): int(item.version) for item in function.opset_import}
    if not OLDEST <= versions.get("", 0) <= OPSETS[""]:
        return False
    try:
        Inference(Graph(Block([], [], []))).node(node)  # the node itself keeps the operator's rules
        wanted = body(node, versions)
    except (HeadraceError, ValueError, TypeError, LookupError, ArithmeticError, AttributeError):
        return False  # the operator does not allow the node, or the body needs a set that the function does not import
    return all(
        list(getattr(function, field)) == list(getattr(wanted, field))
        for field in ("input", "output", "attribute", "attribute_proto", "node")
    )
