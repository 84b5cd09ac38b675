"""A program to ONNX: `to_model(program, opset=...)`, `save(program, path)`.

Headrace operators stay, each with a function that says it in standard ones (`bodies`), or become these (`decompose`); each
node is said in the target operator set (`downgrade`), and the graph is written with its names and symbolic dimensions.
Training states are plain inputs and outputs in ONNX.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from headrace.runtime import atomic
from headrace.runtime.errors import GraphError, HeadraceError
from headrace.runtime.graph import OPSETS, Block, Graph, Node, Program, Value
from headrace.runtime.types import TensorType
from headrace.serializer.onnx.attributes import node_proto
from headrace.serializer.onnx.bodies import OVERLOADS_IR, Bodies, expansion
from headrace.serializer.onnx.decompose import decompose
from headrace.serializer.onnx.downgrade import downgrade
from headrace.serializer.onnx.tensors import write_tensor
from headrace.serializer.onnx.types import PATH_KEY, write_type

OLDEST, DEFAULT = 13, 20
SIZE_LIMIT = (1 << 31) - 1
# Bytes of the smallest weight that goes to the data file, where there is one.
_EXTERNAL_MINIMUM = 1024


def to_model(source: Program | Graph, *, opset: int | None = None, functions: bool = True) -> Any:
    """The entry point "main" as an `onnx.ModelProto`.

    `opset` is the version of ai.onnx, 13 or newer; None takes 20, or the lowest above it that all nodes allow. Operators of
    the domain "headrace" stay as calls of functions in standard operators; without `functions`, for readers that know
    none, their bodies take their place.
    Raises GraphError naming the node that has no form there, or HeadraceError beyond protobuf's 2 GiB.
    """
    program = Program({source.name: source}) if isinstance(source, Graph) else source
    graph = decompose(program.main, opset, functions=functions)
    if graph.weight_bytes > SIZE_LIMIT:
        raise HeadraceError(
            f"the weights have {graph.weight_bytes} bytes; one ONNX file holds {SIZE_LIMIT}: use save(..., external_data=True)"
        )
    return _Writer(graph, program.metadata, _versions(graph, opset)).model()


def save(
    source: Program | Graph,
    path: str | os.PathLike[str],
    *,
    opset: int | None = None,
    external_data: bool = False,
    functions: bool = True,
) -> None:
    """Write an ONNX file as `to_model` says; with `external_data` the weights go to `<name>.data` beside it. Files are replaced
    whole."""
    path = Path(path)
    if not external_data:
        atomic.replace(path, [to_model(source, opset=opset, functions=functions).SerializeToString(deterministic=True)])
        return
    program = Program({source.name: source}) if isinstance(source, Graph) else source
    graph = decompose(program.main, opset, functions=functions)
    writer = _Writer(graph, program.metadata, _versions(graph, opset), f"{path.name}.data")
    model = writer.model()
    atomic.replace(path.with_name(f"{path.name}.data"), writer.data)
    atomic.replace(path, [model.SerializeToString(deterministic=True)])


def _versions(graph: Graph, opset: int | None) -> dict[str, int]:
    """domain -> version: the one asked for, or the first that every node allows."""
    if opset is not None and not OLDEST <= opset <= OPSETS[""]:
        raise HeadraceError(f"opset {opset} cannot be written; allowed: {OLDEST} to {OPSETS['']}")
    nodes = [(node, graph) for node in graph.block.walk()]
    for body in [expansion(node, opset) for node, _ in nodes if node.domain == "headrace"]:
        nodes += [(node, body) for node in body.block.walk()]
    versions = {"": opset or _first(nodes, "", range(DEFAULT, OPSETS[""] + 1))}
    for domain in sorted({node.domain for node, _ in nodes} - {""}):
        newest = OPSETS.get(domain, 1)
        versions[domain] = _first(nodes, domain, [*range(min(3, newest), newest + 1), *range(1, min(3, newest))])
    return versions


def _first(nodes: Iterable[tuple[Node, Graph]], domain: str, candidates: Iterable[int]) -> int:
    own = [(node, graph) for node, graph in nodes if node.domain == domain]
    failure: GraphError | None = None
    for version in candidates:
        try:
            for node, graph in own:
                downgrade(node, version, graph, _scratch)
            return version
        except GraphError as error:
            failure = error
    raise failure or GraphError(f"no version of operator set {domain!r} can be written")


def _scratch(array: np.ndarray, name: str) -> Value:
    return Value(name, TensorType(str(array.dtype), tuple(array.shape)))


class _Writer:
    """Writes one graph at fixed operator-set versions."""

    def __init__(
        self, graph: Graph, metadata: dict[str, str], versions: dict[str, int], data_name: str | None = None
    ) -> None:
        self.graph, self.metadata, self.versions, self.data_name = graph, metadata, versions, data_name
        self.used: dict[str, np.ndarray] = {}
        self._constants = dict(graph.constants)
        self.names = graph.names()
        self.bodies = Bodies(versions)
        self.data: list[memoryview] = []
        self._end = 0

    def model(self) -> Any:
        import onnx

        proto = onnx.ModelProto(producer_name="headrace")
        proto.opset_import.extend(
            onnx.OperatorSetIdProto(domain=domain, version=version) for domain, version in self.versions.items()
        )
        proto.metadata_props.extend(
            onnx.StringStringEntryProto(key=key, value=value) for key, value in sorted(self.metadata.items())
        )
        proto.graph.CopyFrom(self._main())
        proto.functions.extend(self.bodies.protos)
        proto.ir_version = self._ir_version()
        return proto

    def _ir_version(self) -> int:
        """The IR version that was released with the operator set, or the one that functions and element types need."""
        import onnx

        row = min((row[1], row[2]) for row in onnx.helper.VERSION_TABLE if row[2] >= self.versions[""])
        return max(OVERLOADS_IR if any(body.overload for body in self.bodies.protos) else 8, row[0])

    def _main(self) -> Any:
        import onnx

        proto = onnx.GraphProto(name=self.graph.name)
        for value in self.graph.outputs:
            if self.graph.constant_of(value) is not None:
                proto.node.append(self._constant_output(value))
        proto.node.extend(self._nodes(self.graph.block))
        proto.input.extend(map(self._info, self.graph.inputs))
        proto.output.extend(map(self._info, self.graph.outputs))
        for name in sorted(self.used):
            proto.initializer.append(self._initializer(name, self.used[name]))
        return proto

    def _info(self, value: Value) -> Any:
        import onnx

        if value.type is None:
            raise GraphError(f"value {value.name!r} has no type")
        return onnx.ValueInfoProto(name=value.name, type=write_type(value.type))

    def _constant_output(self, value: Value) -> Any:
        """A constant that is an output: an initializer under another name, passed on by the first of all nodes."""
        array = self.graph.constants[value.name]
        del self._constants[value.name]
        return node_proto(Node("Identity", [self._constant(array, value.name)], [value]))

    def _initializer(self, name: str, array: np.ndarray) -> Any:
        proto = write_tensor(array, name) if self.data_name is None or array.nbytes < _EXTERNAL_MINIMUM else None
        return proto if proto is not None else self._external(name, array)

    def _external(self, name: str, array: np.ndarray) -> Any:
        """A tensor that points into the data file, at a multiple of 64 bytes."""
        import onnx

        whole = write_tensor(array, name)
        if not whole.HasField("raw_data"):
            return whole
        raw = whole.raw_data
        self.data += [memoryview(bytes(-self._end % 64)), memoryview(raw)]
        start = self._end + -self._end % 64
        self._end = start + len(raw)
        proto = onnx.TensorProto(
            name=name, data_type=whole.data_type, dims=whole.dims, data_location=onnx.TensorProto.EXTERNAL
        )
        for key, value in (("location", self.data_name), ("offset", start), ("length", len(raw))):
            proto.external_data.add(key=key, value=str(value))
        return proto

    def _nodes(self, block: Block) -> Iterable[Any]:
        for node in block.nodes:
            written = downgrade(node, self.versions[node.domain], self.graph, self._constant)
            for value in written.inputs:
                self._use(value)
            proto = node_proto(written, self._block)
            if node.domain == "headrace":
                proto.overload = self.bodies.overload(node)
            if node.path:
                proto.metadata_props.add(key=PATH_KEY, value=node.path)
            yield proto

    def _block(self, block: Block, name: str) -> Any:
        """An inner graph. Sizes may differ from trip to trip, so only element types and ranks are declared."""
        import onnx

        proto = onnx.GraphProto(name=name)
        proto.node.extend(self._nodes(block))
        own = {id(value) for node in block.nodes for value in node.outputs}
        outputs = [value if id(value) in own else self._passed_on(value, proto) for value in block.outputs]
        for values, infos in ((block.inputs, proto.input), (outputs, proto.output)):
            for value in values:
                self._use(value)
                type = None if value.type is None else write_type(value.type)
                for dim in () if type is None else type.tensor_type.shape.dim:
                    dim.Clear()
                infos.append(onnx.ValueInfoProto(name=value.name, type=type))
        return proto

    def _passed_on(self, value: Value, proto: Any) -> Value:
        """A value from elsewhere as an output of an inner graph, which must be made inside."""
        copy = Value(self._fresh(value.name), value.type)
        proto.node.append(node_proto(Node("Identity", [self._use(value)], [copy])))
        return copy

    def _use(self, value: Value | None) -> Value | None:
        """Note that a value is read: a constant that somebody reads becomes an initializer."""
        if value is not None and value.name in self._constants and self.graph.constant_of(value) is not None:
            self.used[value.name] = self._constants[value.name]
        return value

    def _constant(self, array: np.ndarray, name: str) -> Value:
        value = Value(self._fresh(name), TensorType(str(array.dtype), tuple(array.shape)))
        self.used[value.name] = array
        return value

    def _fresh(self, name: str) -> str:
        candidate, count = name, 1
        while candidate in self.names:
            count += 1
            candidate = f"{name}_{count}"
        self.names.add(candidate)
        return candidate
