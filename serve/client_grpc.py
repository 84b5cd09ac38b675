"""The client's gRPC transport, and what it shares with the asyncio one: messages from requests, answers from messages."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import grpc

from headrace.protos import inference_pb2 as pb
from headrace.serve.client_types import Ask, Connection, Inference, SharedTensor, read_array
from headrace.serve.datatypes import Array, of_array, to_wire
from headrace.serve.errors import Meaning, ServeError
from headrace.serve.grpc_codec import read_parameters, write_parameters
from headrace.serve.grpc_codes import CODES, SERVICE

MAX_MESSAGE_BYTES = 2**31 - 1
MEANINGS = {code: meaning for meaning, code in CODES.items() if meaning is not Meaning.TOO_LARGE}
STREAM = f"/{SERVICE}/ModelStreamInfer"
STRICT = ("triton_grpc_error", "true")  # an error ends the stream with its status

Call = tuple[str, Any, Callable[[Any], Any]]  # method, request, what the answer says


class GrpcTransport:
    """A `client.Transport` over one channel."""

    def __init__(self, connection: Connection) -> None:
        self._target = connection.url
        self._metadata = metadata_of(connection)
        self._channel = opener_of(connection)(grpc)
        self._methods: dict[str, Any] = {}

    def infer(self, ask: Ask, timeout: float) -> Inference:
        return read_answer(self._send("ModelInfer", request_of(ask), timeout))

    def stream(self, asks: Iterable[Ask], timeout: float | None) -> Iterator[Inference]:
        method = self._channel.stream_stream(
            STREAM,
            request_serializer=pb.ModelInferRequest.SerializeToString,
            response_deserializer=pb.ModelStreamInferResponse.FromString,
        )
        call = method(map(request_of, asks), timeout=timeout, metadata=(*self._metadata, STRICT))
        try:
            for answer in call:
                found = read_streamed(answer)
                if found is not None:
                    yield found
        except grpc.RpcError as error:
            raise failure(error, self._target) from None
        finally:
            call.cancel()

    def call(self, verb: str, arguments: Mapping[str, Any], timeout: float) -> Any:
        method, request, read = VERBS[verb](**arguments)
        return read(self._send(method, request, timeout))

    def _send(self, method: str, request: Any, timeout: float) -> Any:
        call = self._methods.get(method)
        if call is None:
            call = self._methods[method] = self._channel.unary_unary(f"/{SERVICE}/{method}", *codecs(method, request))
        try:
            return call(request, timeout=timeout, metadata=self._metadata)
        except grpc.RpcError as error:
            raise failure(error, self._target) from None

    def close(self) -> None:
        self._channel.close()


# ---- connections ----


def opener_of(connection: Connection, *more: tuple[str, int]) -> Callable[[Any], Any]:
    """What opens a channel of the module it gets, grpc or grpc.aio, with `more` options. ServeError for a file that cannot be
    used."""
    options = [
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        ("grpc.use_local_subchannel_pool", 1),  # a connection of our own: one HTTP/2 stream limit a client
        *more,
    ]
    codings = {"": None, "gzip": grpc.Compression.Gzip, "deflate": grpc.Compression.Deflate}
    credentials = None
    if connection.tls is not None:
        files = (connection.tls.authority, connection.tls.key, connection.tls.certificate)
        credentials = grpc.ssl_channel_credentials(*(_file(name) if name else None for name in files))
    compression = codings[connection.compression]

    def opened(api: Any) -> Any:
        if credentials is None:
            return api.insecure_channel(connection.url, options, compression)
        return api.secure_channel(connection.url, credentials, options, compression)

    return opened


def metadata_of(connection: Connection) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {connection.token}"),) if connection.token else ()


def _file(name: str) -> bytes:
    try:
        return Path(name).read_bytes()
    except OSError as error:
        raise ServeError(Meaning.BAD_ARGUMENT, f"tls: {name}: {error.strerror}") from None


# ---- messages ----


def codecs(method: str, request: Any) -> tuple[Callable[[Any], bytes], Callable[[bytes], Any]]:
    """What serializes the request of a unary method, and reads its answer."""
    return type(request).SerializeToString, getattr(pb, f"{method}Response").FromString


def request_of(ask: Ask) -> Any:
    """A ModelInferRequest."""
    request = pb.ModelInferRequest(model_name=ask.model, model_version=ask.version, id=ask.id)
    for name, tensor in ask.inputs.items():
        if isinstance(tensor, SharedTensor):
            row = request.inputs.add(name=name, datatype=tensor.datatype, shape=tensor.shape)
            _put(row.parameters, tensor.parameters)
        else:
            request.inputs.add(name=name, datatype=of_array(tensor).name, shape=tensor.shape)
            request.raw_input_contents.append(bytes(to_wire(tensor)))
    for name, place in ask.outputs.items():
        output = request.outputs.add(name=name)
        if place is not None:
            _put(output.parameters, place.parameters)
    _put(request.parameters, ask.parameters)
    return request


def _put(to: Any, parameters: Mapping[str, Any]) -> None:
    for key, value in write_parameters(parameters).items():
        to[key].CopyFrom(value)


def read_answer(answer: Any) -> Inference:
    """What a ModelInferResponse says; outputs that went to shared memory are left out."""
    raw = answer.raw_output_contents
    if len(raw) != len(answer.outputs):
        raise ServeError(Meaning.INTERNAL, "the server answered without raw contents")
    outputs: dict[str, Array] = {
        output.name: read_array(output.datatype, output.shape, data)
        for output, data in zip(answer.outputs, raw)
        if "shared_memory_region" not in output.parameters
    }
    said = read_parameters(answer.parameters)
    return Inference(outputs, answer.model_name, answer.model_version, answer.id, said)


def read_streamed(answer: Any) -> Inference | None:
    """What a ModelStreamInferResponse says; None for one that only ends its request."""
    if answer.error_message:
        raise ServeError(Meaning.INTERNAL, answer.error_message)
    return read_answer(answer.infer_response) if answer.infer_response.outputs else None


def failure(error: Any, target: str) -> ServeError:
    """What a call ended with, in our words where the connection itself is the matter."""
    text = error.details() or error.code().name
    if "http1.x" in text or "Failed parsing HTTP/2" in text:
        text = f"{target} does not speak gRPC; if it is the REST port, write http://{target}"
    elif "andshake" in text or "SSL" in text:
        text = f"the TLS handshake with {target} failed: wrong authority, certificate or host name, or no TLS there"
    elif "Failed to connect" in text or "lookup" in text:
        why = "the name is unknown" if "lookup" in text else "nothing listens there"
        text = f"no server at {target} ({why}); start one with: headrace serve REPOSITORY"
    elif text.startswith("failed to connect to all addresses") and ("reset" in text or "closed" in text):
        text = f"{target} closed the connection at once; where it has TLS, give its authority (--ca, Client(tls=...))"
    meaning = MEANINGS.get(error.code().value[0], Meaning.INTERNAL)
    return ServeError(meaning, text, retry_after_ms=_pushback(error))


def _pushback(error: Any) -> int | None:
    """Milliseconds that the server asks to wait; negative: it asks not to come back."""
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-retry-pushback-ms":
            try:
                return int(value)
            except ValueError:
                return -1
    return None


# ---- verbs ----


def _ready(model: str, version: str) -> Call:
    if not model:
        return "ServerReady", pb.ServerReadyRequest(), lambda answer: answer.ready
    return "ModelReady", pb.ModelReadyRequest(name=model, version=version), lambda answer: answer.ready


def _metadata(model: str, version: str) -> Call:
    if not model:
        return "ServerMetadata", pb.ServerMetadataRequest(), plain
    return "ModelMetadata", pb.ModelMetadataRequest(name=model, version=version), plain


def _config(model: str, version: str) -> Call:
    return "ModelConfig", pb.ModelConfigRequest(name=model, version=version), lambda answer: plain(answer.config)


def _statistics(model: str, version: str) -> Call:
    request = pb.ModelStatisticsRequest(name=model, version=version)
    return "ModelStatistics", request, lambda answer: [plain(row) for row in answer.model_stats]


def _index() -> Call:
    keys = ("name", "version", "state", "reason")
    read = lambda answer: [{key: getattr(row, key) for key in keys} for row in answer.models]  # noqa: E731
    return "RepositoryIndex", pb.RepositoryIndexRequest(), read


def _load(model: str) -> Call:
    return "RepositoryModelLoad", pb.RepositoryModelLoadRequest(model_name=model), _nothing


def _unload(model: str) -> Call:
    return "RepositoryModelUnload", pb.RepositoryModelUnloadRequest(model_name=model), _nothing


def _share(name: str, key: str, byte_size: int, offset: int) -> Call:
    request = pb.SystemSharedMemoryRegisterRequest(name=name, key=key, byte_size=byte_size, offset=offset)
    return "SystemSharedMemoryRegister", request, _nothing


def _unshare(name: str) -> Call:
    return "SystemSharedMemoryUnregister", pb.SystemSharedMemoryUnregisterRequest(name=name), _nothing


def _shared(name: str) -> Call:
    request = pb.SystemSharedMemoryStatusRequest(name=name)
    return "SystemSharedMemoryStatus", request, lambda answer: [plain(row) for row in answer.regions.values()]


def _nothing(_: Any) -> None:
    return None


VERBS: dict[str, Callable[..., Call]] = {
    "ready": _ready,
    "metadata": _metadata,
    "config": _config,
    "statistics": _statistics,
    "index": _index,
    "load": _load,
    "unload": _unload,
    "share": _share,
    "unshare": _unshare,
    "shared": _shared,
}


def plain(message: Any) -> Any:
    """The set fields of a message as dictionaries and lists, names as in the protocol."""
    out: dict[str, Any] = {}
    for field, value in message.ListFields():
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            out[field.name] = {k: v if isinstance(v, (str, int)) else plain(v) for k, v in value.items()}
        elif field.message_type is not None:
            out[field.name] = plain(value) if not hasattr(value, "append") else [plain(item) for item in value]
        elif field.enum_type is not None:
            out[field.name] = field.enum_type.values_by_number[value].name
        else:
            out[field.name] = list(value) if hasattr(value, "append") else value
    return out


__all__ = ["VERBS", "GrpcTransport"]
