"""GraphProto to Graph: names to values, node by node, inner graphs and function bodies included."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from headrace.runtime.builder import Builder
from headrace.runtime.errors import GraphError, LoadError
from headrace.runtime.graph import Block, Graph, Node, Value
from headrace.runtime.ops import find
from headrace.runtime.types import SequenceType, TensorType, Type
from headrace.serializer.onnx import bodies, gradient, upgrade
from headrace.serializer.onnx.attributes import read_attributes
from headrace.serializer.onnx.external import ExternalData
from headrace.serializer.onnx.functions import DEPTH_LIMIT, NODE_LIMIT, Functions, domain_of, schema_function
from headrace.serializer.onnx.support import called
from headrace.serializer.onnx.tensors import SPARSE_LIMIT, read_sparse, read_tensor
from headrace.serializer.onnx.types import PATH_KEY, Symbols, read_type

_ARITY_LIMIT = 4096  # inputs or outputs of one node
# Bytes of function bodies that are read again for a second and later call: a short file can call a long function often.
_REPEAT_LIMIT = 16 << 20
# Where torch's exporter writes the module path of a node.
_TORCH_SCOPES = "pkg.torch.onnx.name_scopes"


def read_main(model: Any, opsets: Mapping[str, int], functions: Functions, external: ExternalData) -> Graph:
    """The model's graph as the entry point "main"."""
    proto = model.graph
    if not proto.output:
        raise LoadError("the graph has no outputs")
    if len(proto.node) + len(proto.initializer) > NODE_LIMIT:
        raise LoadError(
            f"the graph has {len(proto.node)} nodes and {len(proto.initializer)} initializers; allowed are {NODE_LIMIT} together"
        )
    symbols = Symbols()
    weights = {tensor.name for tensor in proto.initializer} | {
        tensor.values.name for tensor in proto.sparse_initializer
    }
    inputs = [Value(info.name, _input_type(info, symbols)) for info in proto.input if info.name not in weights]
    if len({value.name for value in inputs}) != len(inputs) or any(not value.name for value in inputs):
        raise LoadError("an input of the graph has no name, or two have the same")
    graph = Graph(Block(inputs, [], []))
    scope = Scope(opsets, names={value.name: value for value in inputs})
    # Values of the main graph keep their names: nothing that is made on the way may take one.
    builder = Builder(graph)
    builder.names.update(name for node in proto.node for name in node.output)
    Reader(builder, symbols, functions, external).main(proto, scope)
    _drop_unread(graph)
    return graph


def _drop_unread(graph: Graph) -> None:
    """Forget constants that nothing reads: those of branches not taken, and what upgrades turned into attributes."""
    read = {id(value) for node in graph.block.walk() for value in node.inputs}
    for node in graph.block.walk():
        read.update(id(value) for block in node.blocks.values() for value in block.outputs)
    read.update(map(id, graph.outputs))
    for name in [name for name, value in graph.values.items() if id(value) not in read]:
        del graph.constants[name], graph.values[name]


def _input_type(info: Any, symbols: Symbols) -> Type:
    found = read_type(info.type, symbols, info.name)
    if found is None:
        raise LoadError(f"input {info.name!r} has no type")
    return found


@dataclass
class Scope:
    """What names mean at one place: in the main graph, an inner graph (which sees the scopes around it), or a function
    body (which sees only its own formals)."""

    opsets: Mapping[str, int]
    names: dict[str, Value | None] = field(default_factory=dict)
    outer: Scope | None = None
    call: Mapping[str, Any] | None = None  # attributes of the enclosing function call
    prefix: str = ""  # before node and value names, inside a function body
    path: str = ""
    depth: int = 0

    @property
    def is_main(self) -> bool:
        return self.depth == 0

    def inner(self) -> Scope:
        return Scope(self.opsets, {}, self, self.call, self.prefix, self.path, self.depth + 1)

    def find(self, name: str, where: str) -> Value | None:
        """The value behind a name; None for the empty name of an absent input."""
        if not name:
            return None
        scope: Scope | None = self
        while scope is not None:
            if name in scope.names:
                return scope.names[name]
            scope = scope.outer
        raise LoadError(f"{where}: input {name!r} is not defined before its use")

    def define(self, name: str, value: Value | None, where: str) -> None:
        if name in self.names:
            raise LoadError(f"{where}: the name {name!r} is defined twice")
        self.names[name] = value


class Reader:
    """Reads graphs into the block of one builder. `inner` gives the reader of a block inside."""

    def __init__(
        self,
        builder: Builder,
        symbols: Symbols,
        functions: Functions,
        external: ExternalData,
        spent: list[int] | None = None,
    ) -> None:
        self.builder, self.symbols, self.functions, self.external = builder, symbols, functions, external
        self._spent = [0] if spent is None else spent

    def main(self, proto: Any, scope: Scope) -> None:
        self._weights(proto, scope)
        self._nodes(proto, scope)
        for info in proto.output:
            value = scope.find(info.name, "the graph's outputs")
            if value is None:
                raise LoadError("an output of the graph has no name")
            self.builder.graph.outputs.append(self._output(value, info))

    def _output(self, value: Value, info: Any) -> Value:
        """The value under the name that the interface promises."""
        declared = read_type(info.type, Symbols(), info.name)
        if (
            isinstance(declared, TensorType)
            and isinstance(value.type, TensorType)
            and declared.dtype != value.type.dtype
        ):
            raise LoadError(f"output {info.name!r} is declared as {declared.dtype}, but computes as {value.type.dtype}")
        outputs = self.builder.graph.outputs
        taken = any(value is other for other in outputs)
        if any(info.name == other.name for other in outputs):
            raise LoadError(f"two outputs of the graph are called {info.name!r}")
        if value.name == info.name and not taken:
            return value
        result = Value(info.name)
        self.builder.append(Node("Identity", [value], [result]))
        return result

    def _name(self, name: str, scope: Scope) -> str:
        """What a value of the file is called in the graph."""
        return name if scope.is_main else self.builder.fresh(scope.prefix + name)

    def _weights(self, proto: Any, scope: Scope) -> None:
        for tensor in proto.initializer:
            where = f"initializer {tensor.name!r}"
            self._constant(read_tensor(tensor, self.external, where), tensor.name, scope, where)
        for sparse in proto.sparse_initializer:
            where = f"sparse initializer {sparse.values.name!r}"
            self._constant(read_sparse(sparse, self.external, where, self._spend), sparse.values.name, scope, where)

    def _constant(self, array: np.ndarray, name: str, scope: Scope, where: str) -> None:
        if not name:
            raise LoadError(f"{where} has no name")
        if scope.is_main:
            self.builder.names.discard(name)  # reserved for this very constant
        scope.define(name, self.builder.constant(array, scope.prefix + name), where)

    def _spend(self, size: int) -> None:
        """Sparse tensors grow when read: bound what all of them become."""
        self._spent[0] += size
        if self._spent[0] > SPARSE_LIMIT:
            raise LoadError(f"the sparse tensors of the model become more than {SPARSE_LIMIT} bytes")

    def _nodes(self, proto: Any, scope: Scope) -> None:
        hints = {info.name: info for info in (*proto.value_info, *proto.output)}
        for index, node in enumerate(proto.node):
            self.node(node, scope, hints, f"node {index} {node.name!r} ({node.op_type})")

    def node(self, proto: Any, scope: Scope, hints: Mapping[str, Any], where: str) -> None:
        """Read one node: a constant, a call of a function, or an operator."""
        if not proto.op_type or max(len(proto.input), len(proto.output)) > _ARITY_LIMIT:
            raise LoadError(f"{where}: has no operator, or more than {_ARITY_LIMIT} inputs or outputs")
        inputs = [scope.find(name, where) for name in proto.input]
        domain = domain_of(proto)
        known = self._known_condition(proto, domain, inputs)
        if known is not None:
            self._define(proto, self._branch(proto, known, scope, where), scope, where)
            return

        def read_block(graph: Any, attribute: str) -> Block:
            return self._block(graph, scope, _given_types(proto, inputs), f"{where} / {attribute}")

        attributes = read_attributes(proto.attribute, scope.call, self.external, read_block, self._spend, where)
        if proto.op_type == "Constant" and not domain:
            self._constant(_constant_array(attributes, where), proto.output[0] if proto.output else "", scope, where)
            return
        function = called(proto, self.functions)
        results: Sequence[Value | None]
        if function is not None and not self._is_own(function, proto, inputs, attributes, scope):
            self.functions.repeat(proto, function, _REPEAT_LIMIT)
            results = self._call(function, inputs, attributes, scope, proto, where)
        elif (domain, proto.op_type) == gradient.KIND:
            results = self._gradient(proto, inputs, attributes, scope, where)
        else:
            results = self._operator(proto, domain, inputs, attributes, scope, hints, where)
        self._define(proto, results, scope, where)

    @staticmethod
    def _define(proto: Any, results: Sequence[Value | None], scope: Scope, where: str) -> None:
        for name, value in zip(proto.output, results):
            if name:
                scope.define(name, value, where)

    def _operator(
        self,
        proto: Any,
        domain: str,
        inputs: list[Value | None],
        attributes: dict[str, Any],
        scope: Scope,
        hints: Mapping[str, Any],
        where: str,
    ) -> Sequence[Value | None]:
        version = scope.opsets.get(domain, 1)
        while inputs and inputs[-1] is None:
            inputs.pop()
        outputs = [self._result(name, scope, hints) for name in proto.output]
        while outputs and outputs[-1] is None:
            outputs.pop()
        name = scope.prefix + proto.name if proto.name else ""
        node = Node(
            proto.op_type,
            inputs,
            outputs,
            attributes,
            domain=domain,
            name=name,
            path=_path(proto, scope),
            version=version,
        )
        try:
            if find(proto.op_type, domain) is None:
                function = schema_function(node, version)
                if function is not None:
                    return self._call(function, inputs, attributes, scope, proto, where)
            return upgrade.append(self.builder, node, version)
        except GraphError as error:
            raise LoadError(f"{where}: {error}") from error

    def _is_own(
        self, function: Any, proto: Any, inputs: list[Value | None], attributes: dict[str, Any], scope: Scope
    ) -> bool:
        """Whether a call is one of our operators, and not only of its name."""
        domain = domain_of(proto)
        if domain != "headrace" or find(proto.op_type, domain) is None:
            return False
        outputs = [Value(name) if name else None for name in proto.output]
        node = Node(proto.op_type, inputs, outputs, attributes, domain=domain, version=scope.opsets.get(domain, 1))
        return bodies.is_own(node, function)

    def _gradient(
        self, proto: Any, inputs: Sequence[Value | None], attributes: Mapping[str, Any], scope: Scope, where: str
    ) -> Sequence[Value | None]:
        names = [*attributes.get("xs", ()), *attributes.get("zs", ())]
        wanted = len(attributes.get("xs", ()))
        if len(inputs) != len(names) or not 0 < len(proto.output) <= wanted or any(value is None for value in inputs):
            raise LoadError(f"{where}: {len(inputs)} inputs for {len(names)} names in xs and zs; allowed: one for each")
        named = [scope.find(str(name), where) for name in (*names, attributes.get("y", ""))]
        if any(value is None for value in named):
            raise LoadError(f"{where}: a name in xs, zs or y is missing")
        try:
            *xs, y = named
            return gradient.differentiate(self.builder, xs, inputs, y, len(proto.output))  # type: ignore[arg-type]
        except GraphError as error:
            raise LoadError(f"{where}: {error}") from error

    def _result(self, name: str, scope: Scope, hints: Mapping[str, Any]) -> Value | None:
        """A new value, typed by what the file says of it until inference knows better."""
        if not name:
            return None
        hint = read_type(hints[name].type, self.symbols, name) if name in hints else None
        return Value(self._name(name, scope), hint)

    def _block(self, proto: Any, outer: Scope, given: Sequence[Type | None], where: str) -> Block:
        """An inner graph. `given` types its inputs where the file does not."""
        if outer.depth >= DEPTH_LIMIT:
            raise LoadError(f"{where}: graphs are nested more than {DEPTH_LIMIT} deep")
        scope = outer.inner()
        block = Block([], [], [])
        reader = Reader(self.builder.inner(block), self.symbols, self.functions, self.external, self._spent)
        for index, info in enumerate(proto.input):
            type = read_type(info.type, self.symbols, info.name)
            value = reader.builder.input(
                scope.prefix + info.name, type if type is not None or index >= len(given) else given[index]
            )
            scope.define(info.name, value, where)
        reader._weights(proto, scope)
        reader._nodes(proto, scope)
        for info in proto.output:
            result = scope.find(info.name, f"{where}, outputs")
            if result is None:
                raise LoadError(f"{where}: an output has no name")
            block.outputs.append(result)
        return block

    def _call(
        self,
        function: Any,
        inputs: list[Value | None],
        attributes: Mapping[str, Any],
        scope: Scope,
        proto: Any,
        where: str,
    ) -> list[Value | None]:
        """The body of a function in place of a call of it."""
        if scope.depth >= DEPTH_LIMIT:
            raise LoadError(f"{where}: functions are nested more than {DEPTH_LIMIT} deep")
        if len(inputs) > len(function.input) or len(proto.output) > len(function.output):
            raise LoadError(
                f"{where}: function {function.name} takes {len(function.input)} inputs and gives {len(function.output)} outputs"
            )
        defaults = read_attributes(
            function.attribute_proto, None, self.external, lambda *_: Block([], [], []), self._spend, where
        )
        opsets = {**scope.opsets, **{domain_of(item): int(item.version) for item in function.opset_import}}
        prefix = f"{scope.prefix}{proto.name or proto.op_type}/"
        path = ".".join(filter(None, (scope.path, proto.name)))
        body = Scope(opsets, call={**defaults, **attributes}, prefix=prefix, path=path, depth=scope.depth + 1)
        for name, value in zip(function.input, [*inputs, *[None] * len(function.input)]):
            body.define(name, value, where)
        hints = {info.name: info for info in function.value_info}
        start = len(self.builder.nodes)
        for index, node in enumerate(function.node):
            self.node(node, body, hints, f"{where} / {function.name} / node {index} ({node.op_type})")
        return self._inlined(
            start, proto, [body.find(name, where) for name in function.output[: len(proto.output)]], scope
        )

    def _inlined(self, start: int, proto: Any, results: list[Value | None], scope: Scope) -> list[Value | None]:
        """What nodes from `start` on made in place of one node, under the names of that node's outputs."""
        made = {id(value) for new in self.builder.nodes[start:] for value in new.outputs}
        for name, value in zip(proto.output, results):
            if name and value is not None and id(value) in made:
                value.name = self._name(name, scope)
                made.discard(id(value))
        return results

    def _known_condition(self, proto: Any, domain: str, inputs: Sequence[Value | None]) -> bool | None:
        """The condition of an If, where it is the same whenever the If runs: not inside a loop, whose sizes may change."""
        if proto.op_type != "If" or domain or len(inputs) != 1 or self.builder.block is not self.builder.graph.block:
            return None
        array = self.builder.inference.constant(inputs[0])
        return bool(array.item()) if array is not None and array.dtype == np.bool_ and array.size == 1 else None

    def _branch(self, proto: Any, condition: bool, scope: Scope, where: str) -> list[Value | None]:
        """The branch of an If whose condition is known, in place of the If: the other one may not even be possible."""
        key = "then_branch" if condition else "else_branch"
        graph = next((item.g for item in proto.attribute if item.name == key), None)
        if graph is None or len(proto.output) > len(graph.output) or scope.depth >= DEPTH_LIMIT:
            raise LoadError(
                f"{where}: an If needs both branches with its {len(proto.output)} outputs, {DEPTH_LIMIT} deep at most"
            )
        inner, start = scope.inner(), len(self.builder.nodes)
        self._weights(graph, inner)
        self._nodes(graph, inner)
        return self._inlined(start, proto, [inner.find(info.name, where) for info in graph.output], scope)


def _given_types(proto: Any, inputs: Sequence[Value | None]) -> list[Type | None]:
    """What the inputs of a node say about the inputs of its inner graph. Carried sizes may change from trip to trip."""
    types = [None if value is None else value.type for value in inputs]
    match proto.op_type:
        case "Loop":
            return [TensorType("int64", ()), TensorType("bool", ()), *map(_any_shape, types[2:])]
        case "Scan":
            numbers = {item.name: list(item.ints) or [item.i] for item in proto.attribute}
            first = len(types) - numbers.get("num_scan_inputs", [0])[0]
            axes = numbers.get("scan_input_axes", [0] * len(types))
            return [*map(_any_shape, types[:first]), *map(_slice, types[first:], axes)]
        case "SequenceMap":
            return [type.element if isinstance(type, SequenceType) else type for type in types]
    return []


def _any_shape(type: Type | None) -> Type | None:
    return type.with_shape(None) if isinstance(type, TensorType) else type


def _slice(type: Type | None, axis: int) -> Type | None:
    """The type of one index along `axis`."""
    if not isinstance(type, TensorType) or not type.shape:
        return type
    dims = list(type.shape)
    del dims[axis % len(dims)]
    return type.with_shape(tuple(dims))


def _constant_array(attributes: Mapping[str, Any], where: str) -> np.ndarray:
    """The array of a Constant node (operator set 13 and older)."""
    if len(attributes) != 1:
        raise LoadError(f"{where}: a Constant has exactly one value; it has {len(attributes)}")
    (key, value), *_ = attributes.items()
    match key:
        case "value" | "sparse_value" if isinstance(value, np.ndarray):
            return value
        case "value_float" | "value_floats":
            return np.array(value, np.float32)
        case "value_int" | "value_ints":
            return np.array(value, np.int64)
        case "value_string" | "value_strings":
            array = np.empty((len(value),) if isinstance(value, tuple) else (), object)
            array[...] = value
            return array
    raise LoadError(f"{where}: a Constant cannot have the attribute {key!r}")


def _path(proto: Any, scope: Scope) -> str:
    """The module path of the layer that a node came from, where the exporter wrote one."""
    for entry in proto.metadata_props:
        if entry.key == PATH_KEY:
            return str(entry.value)
        if entry.key == _TORCH_SCOPES:
            scopes = re.findall(r"'([^']*)'", entry.value[:4096])
            return scopes[-2] if len(scopes) > 1 else ""
    if proto.name.startswith("/") and proto.name.count("/") > 1:
        return str(proto.name.strip("/").rsplit("/", 1)[0].replace("/", "."))
    return scope.path
