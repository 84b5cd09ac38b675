"""The graph checker: everything that must hold before a kernel runs.

Structure first (names, definition before use, nesting, sizes, attribute kinds), then types by inference. Every error is
a GraphError that names the node. A graph that passes can still fail while running (an index out of range, a size that
only data decides), but never by its form.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np

from headrace.runtime import dtypes
from headrace.runtime.errors import GraphError
from headrace.runtime.graph import Block, Graph, Node, Value
from headrace.runtime.infer import arity_text, expand_formals, infer_graph
from headrace.runtime.ops import find
from headrace.runtime.ops.base import Operator
from headrace.runtime.shapes import Expr, equal
from headrace.runtime.types import MapType, OptionalType, SequenceType, TensorType, Type

MAX_NODES = 1_000_000
MAX_DEPTH = 64
MAX_NAME = 4096
MAX_RANK = 64
MAX_BYTES = 1 << 40  # of one tensor whose size is known before running


def check(graph: Graph) -> None:
    """Raise GraphError where the graph breaks a rule; fills in the types of all values."""
    check_structure(graph)
    declared = [value.type for value in graph.outputs]
    infer_graph(graph)
    for node in graph.block.walk():
        for value in node.outputs:
            if value is not None:
                _check_type(value, node)
    for value, type in zip(graph.outputs, declared):
        if type is not None and not compatible(type, value.type):
            raise GraphError(f"output {value.name!r} is declared {type}, but it is {value.type}")
    _check_states(graph)


def check_structure(graph: Graph) -> None:
    """What can be said without types: names, order, arity, attributes, nesting, sizes."""
    defined: dict[str, Value] = {}
    for name, array in graph.constants.items():
        value = graph.values.get(name)
        if value is None or value.name != name:
            raise GraphError(f"the constant {name!r} has no value of its name")
        _define(value, defined, "constants")
        _check_constant(value, array)
    if extra := set(graph.values) - set(graph.constants):
        raise GraphError(f"values without a constant: {', '.join(sorted(extra)[:5])}")
    _check_inputs(graph.block, defined, "the graph")
    for value in graph.inputs:
        _check_type(value, f"input {value.name!r}")
    count = _check_nodes(graph.block, defined, 1, 0)
    if count > MAX_NODES:
        raise GraphError(f"the graph has more than {MAX_NODES} nodes")
    _check_outputs(graph.block, defined, "the graph")
    names = [value.name for value in graph.outputs]
    if len(set(names)) != len(names):
        raise GraphError("two outputs of the graph have the same name")


def _check_nodes(block: Block, defined: dict[str, Value], depth: int, count: int) -> int:
    """Check a block's nodes in order; `defined` gains what they define. Answers the number of nodes so far."""
    if depth > MAX_DEPTH:
        raise GraphError(f"blocks are nested more than {MAX_DEPTH} deep")
    for node in block.nodes:
        count += 1
        if count > MAX_NODES:
            return count
        operator = find(node.operator, node.domain)
        if operator is None:
            raise GraphError(f"{node.label()}: there is no operator {node.kind}")
        for value in node.inputs:
            if value is not None and defined.get(value.name) is not value:
                raise GraphError(f"{node.label()}: %{value.name} is read before anything defines it")
        _check_arity(node, operator)
        _check_attributes(node, operator)
        for key, inner in node.blocks.items():
            outside, where = len(defined), f"{node.label()}, {key}"
            _check_inputs(inner, defined, where)
            count = _check_nodes(inner, defined, depth + 1, count)
            _check_outputs(inner, defined, where)
            # Names stay unique in the whole graph, though inner values end here. What the block defined is the dict's tail.
            for name in list(islice(reversed(defined), len(defined) - outside)):
                defined[name] = _Ended(defined[name])  # type: ignore[assignment]
        for value in node.outputs:
            if value is not None:
                _define(value, defined, node)
    return count


class _Ended:
    """Takes the place of a value whose block has ended: its name is used, but nothing may read it."""

    __slots__ = ("name",)

    def __init__(self, value: Any) -> None:
        self.name = value.name


def _place(where: str | Node) -> str:
    return where.label() if isinstance(where, Node) else where


def _define(value: Value, defined: dict[str, Value], where: str | Node) -> None:
    name = value.name
    if not isinstance(name, str) or not name or len(name) > MAX_NAME or not name.isprintable():
        raise GraphError(
            f"{_place(where)}: {str(name)[:60]!r} is no name; allowed: 1 to {MAX_NAME} printable characters"
        )
    if name in defined:
        raise GraphError(f"{_place(where)}: %{name} is defined twice")
    defined[name] = value


def _check_inputs(block: Block, defined: dict[str, Value], where: str) -> None:
    for value in block.inputs:
        _define(value, defined, f"{where}, inputs")


def _check_outputs(block: Block, defined: Mapping[str, Value], where: str) -> None:
    for value in block.outputs:
        if defined.get(value.name) is not value:
            raise GraphError(f"{where}: the output %{value.name} is not defined")


def _check_arity(node: Node, operator: Operator) -> None:
    for what, formals, actual in (
        ("inputs", operator.inputs, node.inputs),
        ("outputs", operator.outputs, node.outputs),
    ):
        expanded: Sequence[Any] | None = expand_formals(formals, len(actual))
        if expanded is None:
            raise GraphError(f"{node.label()}: {len(actual)} {what}; {operator.kind} has {arity_text(formals)}")
        if what == "inputs":
            for index, formal in enumerate(expanded):
                if not formal.optional and (index >= len(actual) or actual[index] is None):
                    raise GraphError(f"{node.label()}: input {index} ({formal.name}) of {operator.kind} is missing")


_KINDS: dict[str, Callable[[Any], bool]] = {
    "int": lambda v: isinstance(v, int | np.integer),
    "float": lambda v: isinstance(v, int | float | np.floating),
    "string": lambda v: isinstance(v, str | bytes),
    "ints": lambda v: _all(v, int | np.integer),
    "floats": lambda v: _all(v, int | float | np.floating),
    "strings": lambda v: _all(v, str | bytes),
    "tensor": lambda v: isinstance(v, np.ndarray | np.generic),
    "block": lambda v: isinstance(v, Block),
    "type": lambda v: isinstance(v, TensorType | SequenceType | OptionalType | MapType),
}


def _all(value: Any, types: Any) -> bool:
    return isinstance(value, tuple | list) and all(isinstance(item, types) for item in value)


def _check_attributes(node: Node, operator: Operator) -> None:
    try:
        operator.complete(node.attributes)
    except GraphError as error:
        raise GraphError(f"{node.label()}: {error}") from error
    for key, value in node.attributes.items():
        kind = operator.attributes[key].kind
        accepts = _KINDS.get(kind)
        if value is not None and accepts is not None and not accepts(value):
            raise GraphError(
                f"{node.label()}: the attribute {key!r} must be of kind {kind}, not {type(value).__name__}"
            )


def _check_constant(value: Value, array: Any) -> None:
    if not isinstance(array, np.ndarray):
        raise GraphError(f"the constant {value.name!r} is no array but {type(array).__name__}")
    name, shape, said = dtypes.of(array).name, array.shape, value.type
    if not isinstance(said, TensorType) or said.dtype != name or said.shape != shape:
        raise GraphError(f"the constant {value.name!r} is {TensorType(name, shape)}, but its value says {said}")


def _check_type(value: Value, where: str | Node) -> None:
    """Ranks and sizes that are known must be possible."""
    type = value.type
    while isinstance(type, SequenceType | OptionalType):
        type = type.element
    if not isinstance(type, TensorType):
        return
    if type.dtype not in dtypes.BY_NAME:
        raise GraphError(f"{_place(where)}: {type.dtype!r} is no element type")
    if type.shape is None:
        return
    if len(type.shape) > MAX_RANK:
        raise GraphError(f"{_place(where)}: rank {len(type.shape)}; allowed are {MAX_RANK}")
    for dim in type.shape:
        if not isinstance(dim, int | Expr) or (isinstance(dim, int) and dim < 0):
            raise GraphError(f"{_place(where)}: %{value.name} has the dimension {dim}")
    sizes = [dim for dim in type.shape if isinstance(dim, int)]
    if len(sizes) == len(type.shape) and math.prod(sizes) * max(1, dtypes.BY_NAME[type.dtype].itemsize) > MAX_BYTES:
        raise GraphError(f"{_place(where)}: %{value.name} is {type}, more than {MAX_BYTES} bytes")


def compatible(declared: Type | None, found: Type | None) -> bool:
    """Whether a value of type `found` may be what is declared. Symbols fit everything; None fits everything."""
    if declared is None or found is None:
        return True
    if isinstance(declared, TensorType) and isinstance(found, TensorType):
        if declared.dtype != found.dtype:
            return False
        if declared.shape is None or found.shape is None:
            return True
        return len(declared.shape) == len(found.shape) and all(
            equal(a, b) is not False for a, b in zip(declared.shape, found.shape)
        )
    if isinstance(declared, SequenceType) and isinstance(found, SequenceType):
        return compatible(declared.element, found.element)
    if isinstance(declared, OptionalType):
        return compatible(declared.element, found.element if isinstance(found, OptionalType) else found)
    if isinstance(declared, MapType) and isinstance(found, MapType):
        return declared.key == found.key and compatible(declared.value, found.value)
    return False


def _check_states(graph: Graph) -> None:
    inputs = {value.name: value for value in graph.inputs}
    outputs = {value.name: value for value in graph.outputs}
    for state in graph.states:
        if state.input not in inputs or state.output not in outputs:
            raise GraphError(
                f"the state {state.input!r} <- {state.output!r} is not an input and an output of the graph"
            )
        if not compatible(inputs[state.input].type, outputs[state.output].type):
            raise GraphError(
                f"the state {state.input!r} is {inputs[state.input].type}, but its next value is {outputs[state.output].type}"
            )
        if state.initial is not None:
            actual = TensorType(dtypes.of(state.initial).name, tuple(state.initial.shape))
            if not compatible(inputs[state.input].type, actual):
                raise GraphError(f"the state {state.input!r} is {inputs[state.input].type}, but it starts as {actual}")
