"""ModelInfer messages to requests and back. Large tensors are never copied through protobuf.

A small message is parsed as it is. A large one is scanned first: entries are counted and their sizes checked before
any message object exists, because two wire bytes can become dozens of bytes of objects, a million times over; its raw
tensor entries are taken out as views, and only the rest is parsed.
"""

from collections.abc import Iterator
from typing import Any

from google.protobuf.message import DecodeError

from headrace.protos import inference_pb2 as pb
from headrace.serializer.message_scan import varint
from headrace.serve.datatypes import Buffer, to_wire
from headrace.serve.errors import Meaning, ServeError, bad_argument, quoted
from headrace.serve.request import (
    NO_PARAMETERS,
    Elements,
    InferRequest,
    InferResponse,
    InputTensor,
    Parameters,
    RequestedOutput,
)

SMALL = 16 * 1024  # bytes a message may have to be parsed without a scan
MAX_ENTRIES = 1024  # inputs, outputs, raw tensors, parameters: far more than an interface has
MAX_SMALL_BYTES = 128 * 1024  # any field that is no tensor: the largest is a parameter
MAX_TYPED_BYTES = 4 * 1024 * 1024  # packed varints: up to eight bytes of memory for one on the wire
MAX_TYPED_STRINGS = 256 * 1024

_INPUTS, _RAW = 5, 7
_CONTENTS = 5  # in InferInputTensor
_FIXED_CONTENTS = (6, 7)  # fp32_contents, fp64_contents: as large in memory as on the wire
_BYTES_CONTENTS = 8


def read_infer(data: bytes) -> InferRequest:
    """A ModelInferRequest message as a request. ServeError when it is malformed or over a cap."""
    raw: list[Buffer] | None = None
    if len(data) > SMALL:
        data, raw = _take_raw(memoryview(data))
    try:
        message = pb.ModelInferRequest.FromString(data)
    except (DecodeError, ValueError):
        raise bad_argument("the message is not a valid inference.ModelInferRequest") from None
    if raw is None:
        raw = list(message.raw_input_contents)
    inputs = message.inputs
    return InferRequest(
        message.model_name,
        message.model_version,
        [_input(tensor, data) for tensor, data in zip(inputs, raw)] if len(raw) == len(inputs) else _pair(inputs, raw),
        message.id,
        read_parameters(message.parameters),
        [RequestedOutput(o.name, read_parameters(o.parameters)) for o in message.outputs] if message.outputs else [],
        front="grpc",
    )


def _input(tensor: Any, data: Buffer) -> InputTensor:
    if tensor.HasField("contents"):
        raise bad_argument(f"input {quoted(tensor.name)}: contents and raw_input_contents exclude each other")
    return InputTensor(tensor.name, tensor.datatype, tuple(tensor.shape), data, read_parameters(tensor.parameters))


def _pair(inputs: Any, raw: list[Buffer]) -> list[InputTensor]:
    """Inputs when there is not one raw entry for each: typed contents, shared memory, or an error."""
    if not raw:
        return [_typed(tensor) for tensor in inputs]
    if len(raw) + sum("shared_memory_region" in t.parameters for t in inputs) == len(inputs):
        rest = iter(raw)
        return [_input(t, b"" if "shared_memory_region" in t.parameters else next(rest)) for t in inputs]
    if len(raw) < len(inputs):
        where = f"input {quoted(inputs[len(raw)].name)} has no raw_input_contents entry"
    elif len(inputs):
        where = f"entry {len(inputs)} follows that of the last input {quoted(inputs[-1].name)}"
    else:
        where = "there is no input"
    raise bad_argument(f"raw_input_contents has {len(raw)} entries for {len(inputs)} inputs: {where}")


def _typed(tensor: Any) -> InputTensor:
    used = [field.name for field, _ in tensor.contents.ListFields()]
    if len(used) > 1:
        raise bad_argument(f"input {quoted(tensor.name)}: contents uses {' and '.join(used)}, allowed is one field")
    source = used[0] if used else _FIELDS.get(tensor.datatype, "") if tensor.HasField("contents") else ""
    if not used and 0 in tensor.shape:
        source = _FIELDS.get(tensor.datatype, "")
    values = getattr(tensor.contents, source) if source else ()
    parameters = read_parameters(tensor.parameters)
    return InputTensor(tensor.name, tensor.datatype, tuple(tensor.shape), Elements(source, values), parameters)


_FIELDS = {
    "BOOL": "bool_contents",
    **dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents"),
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents"),
    "INT64": "int64_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}


def read_parameters(parameters: Any) -> Parameters:
    """A map of InferParameter or ModelRepositoryParameter. bad_argument for an entry without a value."""
    if not parameters:
        return NO_PARAMETERS
    out = {}
    for key, value in parameters.items():
        chosen = value.WhichOneof("parameter_choice")
        if chosen is None:
            raise bad_argument(f"parameter {quoted(key)} has no value")
        out[key] = getattr(value, chosen)
    return out


def read_settings(settings: Any) -> dict[str, Any]:
    """A map of TraceSettingRequest.SettingValue (lists) or LogSettingsRequest.SettingValue; None: nothing is given."""
    out: dict[str, Any] = {}
    for key, value in settings.items():
        if "parameter_choice" in value.DESCRIPTOR.oneofs_by_name:
            chosen = value.WhichOneof("parameter_choice")
            out[key] = getattr(value, chosen) if chosen else None
        else:
            out[key] = list(value.value) or None
    return out


def write_parameters(parameters: Parameters) -> dict[str, Any]:
    """Parameters as a map of InferParameter; whole numbers go as int64."""
    kind: Any = pb.InferParameter
    fields = {bool: "bool_param", int: "int64_param", str: "string_param", float: "double_param"}
    return {key: kind(**{fields[type(value)]: value}) for key, value in parameters.items()}


def is_typed(request: InferRequest) -> bool:
    """It came with typed contents, and nothing raw."""
    return bool(request.inputs) and all(isinstance(tensor.data, Elements) for tensor in request.inputs)


def write_typed(response: InferResponse) -> bytes | None:
    """A ModelInferResponse message with typed contents; None where an output has no typed form, or lies elsewhere."""
    head = pb.ModelInferResponse(model_name=response.model, model_version=response.version, id=response.id)
    for output in response.outputs:
        field = _FIELDS.get(output.datatype)
        if field is None or output.placed:
            return None
        shown = head.outputs.add(name=output.name, datatype=output.datatype, shape=output.array.shape)
        flat = output.array.reshape(-1).tolist()
        getattr(shown.contents, field).extend([x.encode() if isinstance(x, str) else x for x in flat])
    for key, value in write_parameters(response.parameters).items():
        head.parameters[key].CopyFrom(value)
    return bytes(head.SerializeToString())


def write_infer(response: InferResponse) -> bytes:
    """A ModelInferResponse message. The tensor bytes are appended after the serialized rest: one copy."""
    head = pb.ModelInferResponse(model_name=response.model, model_version=response.version, id=response.id)
    parts: list[Buffer] = [b""]
    for output in response.outputs:
        shown = head.outputs.add(name=output.name, datatype=output.datatype, shape=output.array.shape)
        for key, value in write_parameters(output.placed).items() if output.placed else ():
            shown.parameters[key].CopyFrom(value)
        data = b"" if output.placed else to_wire(output.array)
        parts += (b"\x32" + varint(len(data)), data)  # field 6, length-delimited
    if response.parameters:
        for key, value in write_parameters(response.parameters).items():
            head.parameters[key].CopyFrom(value)
    parts[0] = head.SerializeToString()
    return b"".join(parts)


def stream_answer(answer: bytes) -> bytes:
    """A ModelStreamInferResponse around a serialized ModelInferResponse."""
    return b"\x12" + varint(len(answer)) + answer


def stream_error(request: InferRequest | None, error: ServeError) -> bytes:
    """A ModelStreamInferResponse that ends one request; the id goes back so that the client can match it."""
    echo = pb.ModelInferResponse()
    if request is not None:
        echo = pb.ModelInferResponse(id=request.id, model_name=request.model, model_version=request.version)
    return bytes(pb.ModelStreamInferResponse(error_message=error.text, infer_response=echo).SerializeToString())


# ---- the scan of large messages ----


def _take_raw(data: memoryview) -> tuple[bytes, list[Buffer]]:
    """The message without its raw tensor entries, and those as views. Caps on every repeated field are checked."""
    kept: list[memoryview] = []
    raw: list[Buffer] = []
    for count, (number, start, body, end) in enumerate(_fields(data)):
        if count >= MAX_ENTRIES:
            raise _too_many("entries")
        if number == _RAW:
            raw.append(data[body:end])
            continue
        if number == _INPUTS:
            _scan_input(data[body:end])
        elif end - start > MAX_SMALL_BYTES:
            raise bad_argument(f"field {number} of the message is longer than {MAX_SMALL_BYTES} bytes")
        kept.append(data[start:end])
    return b"".join(kept), raw


def _scan_input(data: memoryview) -> None:
    for count, (number, start, body, end) in enumerate(_fields(data)):
        if count >= MAX_ENTRIES:
            raise _too_many("fields in one input")
        if number == _CONTENTS:
            _scan_contents(data[body:end])
        elif end - start > MAX_SMALL_BYTES:
            raise bad_argument(f"field {number} of an input is longer than {MAX_SMALL_BYTES} bytes")


def _scan_contents(data: memoryview) -> None:
    packed = 0
    for count, (number, start, _, end) in enumerate(_fields(data)):
        if count >= MAX_TYPED_STRINGS:
            raise _too_many("typed elements")
        if number not in (*_FIXED_CONTENTS, _BYTES_CONTENTS):
            packed += end - start
        if packed > MAX_TYPED_BYTES:
            raise ServeError(Meaning.TOO_LARGE, f"typed contents are over {MAX_TYPED_BYTES} bytes; send raw contents")


def _fields(data: memoryview) -> Iterator[tuple[int, int, int, int]]:
    """(field number, start of the tag, start of the value, end) of every field; groups do not exist here."""
    at, end = 0, len(data)
    while at < end:
        start = at
        tag, at = _read_varint(data, at, end)
        wire = tag & 7
        if wire == 2:
            size, at = _read_varint(data, at, end)
            body, at = at, at + size
        elif wire == 0:
            body = at
            _, at = _read_varint(data, at, end)
        elif wire in (1, 5):
            body, at = at, at + (8 if wire == 1 else 4)
        else:
            raise bad_argument("the message holds a group, which no field of it is")
        if at > end:
            raise bad_argument("the message ends inside a field")
        yield tag >> 3, start, body, at


def _read_varint(data: memoryview, at: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while at < end and shift < 70:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise bad_argument("the message holds a broken number")


def _too_many(what: str) -> ServeError:
    return bad_argument(f"the message has too many {what}")
