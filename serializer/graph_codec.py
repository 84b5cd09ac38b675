"""Program <-> the bytes of `graph.pb` (schema: protos/graph.proto).

`encode` answers the bytes and the arrays that belong into weights.safetensors. `decode` trusts nothing: counts and
depth are bounded, every row number is checked, every tensor's bytes equal what its type needs. That values are defined
before use and once, and that operators exist and fit, is the graph checker's part.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from headrace.protos import graph_pb2 as pb
from headrace.runtime import dtypes, type_text
from headrace.runtime.errors import GraphError, LoadError
from headrace.runtime.graph import OPSETS, Block, Graph, Node, Program, State, Value
from headrace.runtime.types import MapType, OptionalType, SequenceType, TensorType
from headrace.serializer import weights
from headrace.serializer.message_scan import MESSAGE_LIMIT, scan

INLINE_LIMIT = 256  # bytes; larger constants go to the weights
DEPTH_LIMIT = 24  # of blocks inside blocks; protobuf itself stops at 100 messages
NODE_LIMIT = 200_000
ATTRIBUTE_LIMIT = 256
SIZE_LIMIT = 256 << 20


def encode(program: Program) -> tuple[bytes, dict[str, np.ndarray]]:
    """The bytes and the large constants by weight name. Entries share a weight where name and array are the same.
    Raises GraphError for what the schema cannot hold."""
    stored: dict[str, np.ndarray] = {}
    message = pb.Program(metadata=program.metadata)
    domains = {node.domain for graph in program.entries.values() for node in graph.block.walk()}
    message.opsets.update({domain: OPSETS.get(domain, 1) for domain in domains})
    for key, graph in program.entries.items():
        _Encoder(graph, stored, message).graph(message.entries.add(), key)
    return message.SerializeToString(deterministic=True), stored


class _Encoder:
    """Writes one graph: the table of its values, and rows for what refers to them."""

    def __init__(self, graph: Graph, stored: dict[str, np.ndarray], program: Any) -> None:
        self.source, self.stored, self.opsets = graph, stored, program.opsets
        self.rows: dict[int, int] = {}
        self.values: Any = None
        self.depth = -1  # of the block that is written

    def graph(self, out: Any, key: str) -> None:
        graph = self.source
        out.name, self.values = key, out.values
        for name in sorted(graph.constants):
            self._constant(out.constants.add(), name, graph.constants[name], key)
        self._block(out.block, graph.block)
        for state in graph.states:
            item = out.states.add(input=self._row_called(state.input), output=self._row_called(state.output))
            if state.initial is not None:
                _write_tensor(item.initial, np.asarray(state.initial))
        out.metadata.update(graph.metadata)

    def _define(self, value: Value | None) -> int:
        if value is None:
            return 0
        self.rows[id(value)] = len(self.values) + 1
        self.values.add(name=value.name, type="" if value.type is None else str(value.type))
        return len(self.values)

    def _row(self, value: Value | None) -> int:
        if value is None:
            return 0
        if id(value) not in self.rows:
            raise GraphError(f"value {value.name!r} is used before it is defined")
        return self.rows[id(value)]

    def _row_called(self, name: str) -> int:
        found = next((row for row, value in enumerate(self.values, 1) if value.name == name), None)
        if found is None:
            raise GraphError(f"a state refers to {name!r}, which does not exist")
        return found

    def _constant(self, out: Any, name: str, array: np.ndarray, key: str) -> None:
        out.value = self._define(self.source.values[name])
        if array.dtype.kind == "O" or array.nbytes <= INLINE_LIMIT:
            _write_tensor(out.data, array)
            return
        weight = name
        if weight in self.stored and not _same(self.stored[weight], array):
            weight = f"{key}/{name}"
        self.stored[weight], out.weight = array, weight

    def _block(self, out: Any, block: Block) -> None:
        self.depth += 1
        if self.depth > DEPTH_LIMIT:
            raise GraphError(
                f"blocks are nested more than {DEPTH_LIMIT} deep (if inside if, or early returns one after another)"
            )
        out.inputs.extend([self._define(value) for value in block.inputs])
        for node in block.nodes:
            self._node(out.nodes.add(), node)
        out.outputs.extend([self._row(value) for value in block.outputs])
        self.depth -= 1

    def _node(self, out: Any, node: Node) -> None:
        out.operator, out.domain, out.name, out.path = node.operator, node.domain, node.name, node.path
        out.inputs.extend([self._row(value) for value in node.inputs])
        out.version = 0 if node.version == self.opsets[node.domain] else node.version
        for name, value in sorted(node.attributes.items()):
            if value is None:
                continue
            try:
                self._attribute(out.attributes.add(name=name), value)
            except (TypeError, ValueError) as error:
                raise GraphError(f"{node.label()}: attribute {name!r} cannot be stored: {error}") from None
        out.outputs.extend([self._define(value) for value in node.outputs])

    def _attribute(self, out: Any, value: Any) -> None:
        match value:
            case bool() | int() | np.integer():
                out.i = int(value)
            case float() | np.floating():
                out.f = float(value)
            case str():
                out.s = value
            case bytes():
                out.b = value
            case np.ndarray():
                _write_tensor(out.tensor, value)
            case Block():
                out.block.SetInParent()
                self._block(out.block, value)
            case TensorType() | SequenceType() | OptionalType() | MapType():
                out.type = str(value)
            case tuple() | list():
                _write_list(out, value)
            case _:
                raise TypeError(f"{type(value).__name__} has no stored form")


def _write_list(out: Any, values: Sequence[Any]) -> None:
    if all(isinstance(value, int | np.integer) for value in values):
        out.ints.SetInParent()
        out.ints.values.extend(map(int, values))
    elif all(isinstance(value, int | float | np.integer | np.floating) for value in values):
        out.floats.values.extend(map(float, values))
    elif all(isinstance(value, str) for value in values):
        out.strings.values.extend(values)
    else:
        raise TypeError("a list must hold integers, numbers or texts")


def _write_tensor(out: Any, array: np.ndarray) -> None:
    dtype = dtypes.of(array)
    out.dtype = dtype.name
    out.shape.extend(array.shape)
    if dtype.kind == "s":
        out.strings.extend(map(_text, array.reshape(-1)))
    else:
        out.data = np.ascontiguousarray(array).tobytes()


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _same(left: np.ndarray, right: np.ndarray) -> bool:
    if left is right:
        return True
    return left.dtype == right.dtype and left.shape == right.shape and left.tobytes() == right.tobytes()


def decode(
    data: bytes | memoryview,
    stored: Mapping[str, np.ndarray],
    where: str = "graph.pb",
    *,
    needed: Iterable[str] | None = None,
) -> Program:
    """The program in the bytes of a `graph.pb`, called `where`; `stored` holds the arrays of weights.safetensors, of which
    it must use `needed` (all where None). Raises LoadError."""
    from google.protobuf.message import DecodeError

    if len(data) > SIZE_LIMIT:
        raise LoadError(f"{where} has {len(data)} bytes; allowed are {SIZE_LIMIT}")
    raw = bytes(data)
    if len(raw) >= 2 * MESSAGE_LIMIT:  # a message takes two bytes at least; texts and depth the parser checks as well
        scan(raw, pb.Program.DESCRIPTOR)
    try:
        message = pb.Program.FromString(raw)
    except DecodeError:
        raise LoadError(f"{where} does not parse") from None
    for domain, version in message.opsets.items():
        if not 1 <= version <= OPSETS.get(domain, version):
            raise LoadError(
                f"{where} follows operator set {domain or 'ai.onnx'!r} version {version}; allowed: 1 to {OPSETS.get(domain, 1)}"
            )
    used: set[str] = set()
    entries: dict[str, Graph] = {}
    for entry in message.entries:
        if not entry.name or entry.name in entries:
            raise LoadError(f"{where}: the entry point {entry.name!r} has no name or exists twice")
        entries[entry.name] = _Decoder(entry, message.opsets, stored, used, where).graph()
    if not entries:
        raise LoadError(f"{where} has no entry point")
    unused = sorted(set(stored if needed is None else needed) - used)
    if unused:
        raise LoadError(f"no graph of {where} uses the array {unused[0]!r} of its weights")
    return Program(entries, dict(message.metadata))


class _Decoder:
    """Reads one graph."""

    def __init__(
        self, message: Any, opsets: Mapping[str, int], stored: Mapping[str, np.ndarray], used: set[str], where: str
    ) -> None:
        self.message, self.opsets, self.stored, self.used = message, opsets, stored, used
        self.where = f"{where}, entry point {message.name!r}"
        self.nodes = 0
        self.values = self._values()

    def graph(self) -> Graph:
        message = self.message
        graph = Graph(Block([], [], []), name=message.name, metadata=dict(message.metadata))
        for constant in message.constants:
            value = self._value(constant.value)
            if value.name in graph.constants:
                raise LoadError(f"{self.where}: constant {value.name!r} is given twice")
            graph.constants[value.name], graph.values[value.name] = self._constant(constant, value), value
        graph.block = self._block(message.block, 0)
        for state in message.states:
            initial = _read_tensor(state.initial, f"{self.where}, state") if state.HasField("initial") else None
            graph.states.append(State(self._value(state.input).name, self._value(state.output).name, initial))
        return graph

    def _values(self) -> list[Value]:
        values, names = [], set()
        for item in self.message.values:
            if not item.name or item.name in names:
                raise LoadError(f"{self.where}: the value {item.name!r} has no name or exists twice")
            names.add(item.name)
            try:
                values.append(Value(item.name, type_text.read_type(item.type) if item.type else None))
            except ValueError as error:
                raise LoadError(f"{self.where}: value {item.name!r}: {error}") from None
        return values

    def _value(self, row: int) -> Value:
        if not 1 <= row <= len(self.values):
            raise LoadError(f"{self.where}: a reference to value {row}; there are {len(self.values)}")
        return self.values[row - 1]

    def _optional(self, rows: Iterable[int]) -> list[Value | None]:
        return [None if row == 0 else self._value(row) for row in rows]

    def _constant(self, message: Any, value: Value) -> np.ndarray:
        where = f"{self.where}, constant {value.name!r}"
        if bool(message.weight) == message.HasField("data"):
            raise LoadError(f"{where}: needs either a weight's name or elements")
        shape = value.type.shape if isinstance(value.type, TensorType) else None
        if shape is None or not all(isinstance(dim, int) for dim in shape):
            raise LoadError(f"{where}: its type {value.type} has no fixed shape")
        wanted = (dtypes.BY_NAME[value.type.dtype], tuple(shape))  # type: ignore[union-attr]
        if message.HasField("data"):
            array = _read_tensor(message.data, where)
            if (dtypes.of(array), array.shape) != wanted:
                raise LoadError(f"{where}: holds {dtypes.of(array)}{list(array.shape)}, but its type is {value.type}")
            return array
        if message.weight not in self.stored:
            raise LoadError(f"{where}: weights.safetensors has no array {message.weight!r}")
        self.used.add(message.weight)
        return weights.logical(self.stored[message.weight], *wanted, where)  # type: ignore[arg-type]

    def _block(self, message: Any, depth: int) -> Block:
        if depth > DEPTH_LIMIT:
            raise LoadError(f"{self.where}: blocks are nested more than {DEPTH_LIMIT} deep")
        self.nodes += len(message.nodes)
        if self.nodes > NODE_LIMIT:
            raise LoadError(f"{self.where}: more than {NODE_LIMIT} nodes")
        inputs = [self._value(row) for row in message.inputs]
        nodes = [self._node(node, depth) for node in message.nodes]
        return Block(inputs, nodes, [self._value(row) for row in message.outputs])

    def _node(self, message: Any, depth: int) -> Node:
        inputs, outputs = self._optional(message.inputs), self._optional(message.outputs)
        where = f"{self.where}, node {message.name!r} ({message.operator})"
        if not message.operator or len(message.attributes) > ATTRIBUTE_LIMIT:
            raise LoadError(f"{where}: has no operator, or more than {ATTRIBUTE_LIMIT} attributes")
        if message.domain not in self.opsets:
            raise LoadError(f"{where}: graph.pb names no operator set for the domain {message.domain!r}")
        attributes: dict[str, Any] = {}
        for item in message.attributes:
            if not item.name or item.name in attributes:
                raise LoadError(f"{where}: attribute {item.name!r} has no name or is given twice")
            attributes[item.name] = self._attribute(item, depth, f"{where}, attribute {item.name!r}")
        version = message.version or self.opsets[message.domain]
        return Node(
            message.operator, inputs, outputs, attributes,
            domain=message.domain, name=message.name, path=message.path, version=version,
        )  # fmt: skip

    def _attribute(self, message: Any, depth: int, where: str) -> Any:
        kind = message.WhichOneof("value")
        match kind:
            case "i" | "f" | "s" | "b":
                return getattr(message, kind)
            case "ints" | "floats" | "strings":
                return tuple(getattr(message, kind).values)
            case "tensor":
                return _read_tensor(message.tensor, where)
            case "block":
                return self._block(message.block, depth + 1)
            case "type":
                try:
                    return type_text.read_type(message.type)
                except ValueError as error:
                    raise LoadError(f"{where}: {error}") from None
        raise LoadError(f"{where}: has no value")


def _read_tensor(message: Any, where: str) -> np.ndarray:
    """A small array of its own."""
    dtype, shape = dtypes.BY_NAME.get(message.dtype), tuple(message.shape)
    if dtype is None:
        raise LoadError(f"{where}: unknown element type {message.dtype[:40]!r}")
    if len(shape) > weights.MAX_RANK or any(size < 0 for size in shape):
        raise LoadError(f"{where}: shape {list(shape[:40])} must be at most {weights.MAX_RANK} numbers >= 0")
    count, data = math.prod(shape), message.data
    found, need = (len(message.strings), count) if dtype.kind == "s" else (len(data), count * dtype.itemsize)
    if found != need or (dtype.kind == "s" and data) or (dtype.kind != "s" and len(message.strings)):
        raise LoadError(f"{where}: {found} bytes or strings; {dtype}{list(shape)} needs {need}")
    if dtype.kind == "s":
        array = np.empty(count, object)
        array[:] = list(message.strings)
        return array.reshape(shape)
    raw = np.frombuffer(data, np.uint8)
    if dtype.name == "bool":
        return np.asarray(raw != 0).reshape(shape)
    if dtype.bits < 8:
        raw = raw & np.uint8((1 << dtype.bits) - 1)
    return raw.view(dtype.numpy).reshape(shape)
