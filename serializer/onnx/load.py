"""ONNX to a program: `open_program(path | bytes | ModelProto)`.

Order of the walk: the file is parsed and its counts are bounded; every operator that does not exist here is listed at
once; then graphs are read node by node, functions inlined, Constant nodes and initializers turned into constants of
the graph, older operators upgraded, and types inferred as the walk goes. Names stay as the file has them.

Sources: onnx.proto and IR.md of ONNX 1.23 (IR versions 3 to 14).
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from headrace.runtime.check import check
from headrace.runtime.errors import HeadraceError, LoadError
from headrace.runtime.graph import OPSETS, Program
from headrace.runtime.interface import Contents, Opened
from headrace.serializer.message_scan import cut
from headrace.serializer.onnx.external import ExternalData
from headrace.serializer.onnx.functions import Functions, domain_of
from headrace.serializer.onnx.reader import read_main
from headrace.serializer.onnx.support import require_operators

IR_VERSIONS = range(3, 15)
LARGE = 4096  # bytes; from here on a tensor's are not copied into the message and out of it again
ALIGNMENT = 8
CHUNK = 1 << 17  # bytes: moving more by less than a cache line at once takes ten times as long
# Private memory with all pages at once: as many faults take longer than the copy, those of shared memory longer still.
_OWN = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_POPULATE", 0)
FILE_LIMIT = (1 << 31) - 1  # protobuf's own bound on one message


def open_program(source: Any) -> Opened:
    """Read an ONNX model: a path, the bytes of a file, or an `onnx.ModelProto`.

    External data is read beside the file, never for bytes. Initializers that are inputs too become constants.
    Raises LoadError naming the file and the place inside it; UnsupportedOperator listing every missing operator.
    """
    name = str(source) if isinstance(source, str | os.PathLike) else "the ONNX model"
    try:
        return _open(source)
    except LoadError as error:
        raise type(error)(f"{name}: {error}") from error.__cause__
    except HeadraceError as error:
        raise LoadError(f"{name}: {error}") from error
    except OSError as error:
        raise LoadError(f"{name}: cannot be read: {error.strerror}") from None
    except (TypeError, UnicodeError) as error:  # a ModelProto made from bytes that are no texts
        raise LoadError(f"{name}: a field has the wrong kind of value: {error}") from error
    except RecursionError:
        raise LoadError(f"{name}: the graph is nested too deep") from None


def _open(source: Any) -> Opened:
    model, external = _parse(source)
    if model.ir_version not in IR_VERSIONS:
        raise LoadError(
            f"IR version {model.ir_version} is not supported; allowed: {IR_VERSIONS[0]} to {IR_VERSIONS[-1]}"
        )
    if not model.HasField("graph"):
        raise LoadError("there is no graph in it")
    functions = Functions(model.functions)
    functions.expanded_size(model.graph.node)
    opsets = read_opsets(model.opset_import, model.ir_version)
    require_operators(model, functions, opsets)
    graph = read_main(model, opsets, functions, external)
    check(graph)
    properties = _metadata(model.metadata_props, "the model")
    graph.metadata = _metadata(model.graph.metadata_props, "the graph")
    return Opened(Contents(Program({graph.name: graph}, dict(properties)), properties))


def _parse(source: Any) -> tuple[Any, ExternalData]:
    """The ModelProto, and where the bytes of tensors lie that are not in it."""
    import onnx
    from google.protobuf.message import DecodeError

    if isinstance(source, onnx.ModelProto):
        return source, ExternalData(None)
    folder = None
    if isinstance(source, str | os.PathLike):
        folder, data = Path(source).parent, _read(source)
    elif isinstance(source, bytes | bytearray | memoryview):
        data = memoryview(bytes(source))
    else:
        raise LoadError(f"cannot be read from {type(source).__name__}; allowed: a path, bytes, an onnx.ModelProto")
    raw_data = onnx.TensorProto.DESCRIPTOR.fields_by_name["raw_data"]
    message, places = cut(data, onnx.ModelProto.DESCRIPTOR, raw_data, LARGE)
    try:
        model = onnx.ModelProto.FromString(message)
    except DecodeError:
        raise LoadError("this is no ONNX file: it does not parse as a ModelProto") from None
    return model, ExternalData(folder, _aligned(data, places))


def _read(path: str | os.PathLike[str]) -> memoryview:
    """A file in memory of our own: mapped, it could change or end under a model that runs."""
    with open(path, "rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        if size > FILE_LIMIT:
            raise LoadError(
                f"the file has {size} bytes; an ONNX file may have {FILE_LIMIT}, with weights as external data"
            )
        data, filled = memoryview(mmap.mmap(-1, max(size, 1), flags=_OWN))[:size], 0
        while count := file.readinto(data[filled:]):
            filled += count
    return data[:filled]


def _aligned(data: memoryview, places: Mapping[bytes, tuple[int, int]]) -> dict[bytes, memoryview]:
    """Those bytes, moved to where elements lie as kernels read them, over what stands before them and is read no more."""
    found, free = {}, 0
    address = np.frombuffer(data, np.uint8).ctypes.data
    for token, (start, end) in places.items():
        shift = (address + start) % ALIGNMENT
        if shift and not data.readonly and start - shift >= free:
            for at in range(start, end, CHUNK):
                part = bytes(data[at : min(end, at + CHUNK)])
                data[at - shift : at - shift + len(part)] = part
            start, end = start - shift, end - shift
        found[token], free = data[start:end].toreadonly(), end
    return found


def read_opsets(protos: Any, ir_version: int) -> dict[str, int]:
    """domain -> version. A missing default domain takes the newest operator set of the file's IR version."""
    opsets: dict[str, int] = {}
    for proto in protos:
        domain, version = domain_of(proto), int(proto.version)
        if opsets.get(domain, version) != version:
            raise LoadError(
                f"operator set {domain or 'ai.onnx'!r} is imported twice, as version {opsets[domain]} and {version}"
            )
        newest = OPSETS.get(domain, version)
        if not 1 <= version <= newest and domain in OPSETS:
            raise LoadError(
                f"operator set {domain or 'ai.onnx'!r} version {version} is not supported; allowed: 1 to {newest}"
            )
        opsets[domain] = version
    return {"": _opset_of(ir_version), **opsets}


def _opset_of(ir_version: int) -> int:
    """The newest default operator set that was released with an IR version."""
    import onnx

    versions = [row[2] for row in onnx.helper.VERSION_TABLE if row[1] <= ir_version]
    return min(max(versions), OPSETS[""])


def _metadata(protos: Any, where: str) -> dict[str, str]:
    found: Mapping[str, str] = {entry.key: entry.value for entry in protos}
    if len(found) != len(protos):
        raise LoadError(f"a key of the metadata of {where} is given twice")
    return dict(found)
