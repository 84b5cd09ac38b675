"""The client's gRPC transport."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np

from headrace.protos import inference_pb2 as pb
from headrace.serve.datatypes import DATATYPES, Array, Buffer, decode_bytes, of_array, to_wire
from headrace.serve.errors import Meaning, ServeError
from headrace.serve.grpc_codes import CODES, SERVICE

if TYPE_CHECKING:
    from headrace.serve.client import ClientTls

MAX_MESSAGE_BYTES = 2**31 - 1
MEANINGS = {code: meaning for meaning, code in CODES.items() if meaning is not Meaning.TOO_LARGE}


def read_array(datatype: str, shape: Any, data: Buffer) -> Array:
    """An output from its raw form."""
    row = DATATYPES[datatype]
    shape = tuple(int(size) for size in shape)
    if row.size == 0:
        return decode_bytes(data, int(np.prod(shape, dtype=np.int64))).reshape(shape)
    return np.frombuffer(data, row.dtype).reshape(shape)


class GrpcTransport:
    """A `client.Transport` over one channel."""

    def __init__(self, target: str, timeout: float, tls: "ClientTls | None" = None, token: str = "") -> None:
        self._target, self._timeout = target, timeout
        self._metadata = (("authorization", f"Bearer {token}"),) if token else ()
        options = [
            ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
            ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
            ("grpc.use_local_subchannel_pool", 1),  # a connection of our own: one HTTP/2 stream limit a client
        ]
        if tls is None:
            self._channel = grpc.insecure_channel(target, options)
        else:
            files = (tls.authority, tls.key, tls.certificate)
            credentials = grpc.ssl_channel_credentials(*(_file(name) if name else None for name in files))
            self._channel = grpc.secure_channel(target, credentials, options)
        self._methods: dict[str, Any] = {}

    def infer(self, name: str, version: str, inputs: Mapping[str, Array], outputs: list[str]) -> dict[str, Array]:
        return _read(self._send("ModelInfer", _request(name, version, inputs, outputs)))

    def stream(
        self,
        name: str,
        version: str,
        requests: Iterable[Mapping[str, Array]],
        outputs: list[str],
        timeout: float | None,
    ) -> Iterator[dict[str, Array]]:
        method = self._channel.stream_stream(
            f"/{SERVICE}/ModelStreamInfer",
            request_serializer=pb.ModelInferRequest.SerializeToString,
            response_deserializer=pb.ModelStreamInferResponse.FromString,
        )
        messages = (_request(name, version, feeds, outputs) for feeds in requests)
        call = method(messages, timeout=timeout, metadata=(*self._metadata, ("triton_grpc_error", "true")))
        try:
            for answer in call:
                if answer.error_message:
                    raise ServeError(Meaning.INTERNAL, answer.error_message)
                if answer.infer_response.outputs:
                    yield _read(answer.infer_response)
        except grpc.RpcError as error:
            raise self._failure(error) from None
        finally:
            call.cancel()

    def call(self, verb: str, name: str, version: str) -> Any:
        if verb == "ready":
            if not name:
                return self._send("ServerReady", pb.ServerReadyRequest()).ready
            return self._send("ModelReady", pb.ModelReadyRequest(name=name, version=version)).ready
        if verb == "index":
            models = self._send("RepositoryIndex", pb.RepositoryIndexRequest()).models
            return [{"name": m.name, "version": m.version, "state": m.state, "reason": m.reason} for m in models]
        if verb == "load":
            return self._send("RepositoryModelLoad", pb.RepositoryModelLoadRequest(model_name=name))
        if verb == "unload":
            return self._send("RepositoryModelUnload", pb.RepositoryModelUnloadRequest(model_name=name))
        if verb == "metadata":
            if not name:
                return _plain(self._send("ServerMetadata", pb.ServerMetadataRequest()))
            return _plain(self._send("ModelMetadata", pb.ModelMetadataRequest(name=name, version=version)))
        if verb == "config":
            return _plain(self._send("ModelConfig", pb.ModelConfigRequest(name=name, version=version)).config)
        answer = self._send("ModelStatistics", pb.ModelStatisticsRequest(name=name, version=version))
        return [_plain(row) for row in answer.model_stats]

    def _send(self, method: str, request: Any) -> Any:
        call = self._methods.get(method)
        if call is None:
            call = self._methods[method] = self._channel.unary_unary(
                f"/{SERVICE}/{method}",
                request_serializer=type(request).SerializeToString,
                response_deserializer=getattr(pb, f"{method}Response").FromString,
            )
        try:
            return call(request, timeout=self._timeout, metadata=self._metadata)
        except grpc.RpcError as error:
            raise self._failure(error) from None

    def _failure(self, error: Any) -> ServeError:
        """What a call ended with, in our words where the connection itself is the matter."""
        text = error.details() or error.code().name
        if "http1.x" in text or "Failed parsing HTTP/2" in text:
            text = f"{self._target} does not speak gRPC; if it is the REST port, write http://{self._target}"
        elif "andshake" in text or "SSL" in text:
            text = f"the TLS handshake with {self._target} failed: wrong authority, certificate or host name, or no TLS there"
        elif "Failed to connect" in text or "lookup" in text:
            why = "the name is unknown" if "lookup" in text else "nothing listens there"
            text = f"no server at {self._target} ({why}); start one with: headrace serve REPOSITORY"
        return ServeError(MEANINGS.get(error.code().value[0], Meaning.INTERNAL), text)

    def close(self) -> None:
        self._channel.close()


def _file(name: str) -> bytes:
    try:
        return Path(name).read_bytes()
    except OSError as error:
        raise ServeError(Meaning.BAD_ARGUMENT, f"tls: {name}: {error.strerror}") from None


def _request(name: str, version: str, inputs: Mapping[str, Array], outputs: list[str]) -> Any:
    request = pb.ModelInferRequest(model_name=name, model_version=version)
    for key, array in inputs.items():
        request.inputs.add(name=key, datatype=of_array(array).name, shape=array.shape)
        request.raw_input_contents.append(bytes(to_wire(array)))
    for key in outputs:
        request.outputs.add(name=key)
    return request


def _read(answer: Any) -> dict[str, Array]:
    """The outputs of a ModelInferResponse."""
    raw = answer.raw_output_contents
    if len(raw) != len(answer.outputs):
        raise ServeError(Meaning.INTERNAL, "the server answered without raw contents")
    return {o.name: read_array(o.datatype, o.shape, data) for o, data in zip(answer.outputs, raw)}


def _plain(message: Any) -> Any:
    """The set fields of a message as dictionaries and lists, names as in the protocol."""
    out: dict[str, Any] = {}
    for field, value in message.ListFields():
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            out[field.name] = {k: v if isinstance(v, (str, int)) else _plain(v) for k, v in value.items()}
        elif field.message_type is not None:
            out[field.name] = _plain(value) if not hasattr(value, "append") else [_plain(item) for item in value]
        elif field.enum_type is not None:
            out[field.name] = field.enum_type.values_by_number[value].name
        else:
            out[field.name] = list(value) if hasattr(value, "append") else value
    return out
