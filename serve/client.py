"""A client of any Open Inference Protocol server: gRPC for `host:port`, REST for `http://host:port`.

Tensors travel in raw form both ways. Errors are `ServeError` with the meaning that the server's status stands for.
"""

import http.client
import json
import threading
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Protocol
from urllib.parse import quote, urlsplit

import numpy as np

from headrace.serve.datatypes import DATATYPES, Array, Buffer, decode_bytes, of_array, to_wire
from headrace.serve.errors import Meaning, ServeError

MAX_MESSAGE_BYTES = 2**31 - 1


class Transport(Protocol):
    """The verbs as one protocol carries them."""

    def infer(self, name: str, version: str, inputs: Mapping[str, Array], outputs: list[str]) -> dict[str, Array]: ...
    def call(self, verb: str, name: str, version: str) -> Any: ...
    def close(self) -> None: ...


class Client:
    """A connection to one server; a context manager; safe for use by several threads."""

    def __init__(self, url: str, *, timeout: float = 60.0) -> None:
        """`url` is `host:port` (gRPC) or `http://host:port` (REST); `timeout` seconds bound every call."""
        self._transport: Transport
        if url.startswith("http://"):
            self._transport = _Rest(url, timeout)
        elif "://" in url:
            raise ServeError(Meaning.BAD_ARGUMENT, f"url {url!r}: expected host:port or http://host:port")
        else:
            self._transport = _Grpc(url, timeout)

    def infer(
        self, model: str, /, *, version: str | int = "", outputs: list[str] | None = None, **arrays: Any
    ) -> dict[str, Array]:
        """Run `model` on the arrays, one an input name; all outputs, or those named, by name.

        BYTES inputs may be arrays of str or bytes; BYTES outputs are object arrays of bytes. Float inputs are sent as
        the dtype they have. Raises ServeError.
        """
        feeds = {name: np.asarray(array) for name, array in arrays.items()}
        for name, array in feeds.items():
            try:
                of_array(array)
            except KeyError:
                raise ServeError(Meaning.BAD_ARGUMENT, f"input {name!r}: {array.dtype} has no wire form") from None
        return self._transport.infer(model, str(version), feeds, outputs or [])

    def metadata(self, model: str = "", version: str | int = "") -> dict[str, Any]:
        """The interface and properties of a model, or name, version and extensions of the server."""
        answer: dict[str, Any] = self._transport.call("metadata", model, str(version))
        return answer

    def config(self, model: str, version: str | int = "") -> dict[str, Any]:
        """The model's configuration (max_batch_size, dynamic_batching, ...)."""
        answer: dict[str, Any] = self._transport.call("config", model, str(version))
        return answer

    def statistics(self, model: str = "", version: str | int = "") -> list[dict[str, Any]]:
        """Cumulative statistics of a model's versions, or of all."""
        answer: list[dict[str, Any]] = self._transport.call("statistics", model, str(version))
        return answer

    def ready(self, model: str = "", version: str | int = "") -> bool:
        """Whether the model, or the server, takes requests. False when the server cannot be reached."""
        try:
            return bool(self._transport.call("ready", model, str(version)))
        except ServeError as error:
            if error.meaning in (Meaning.UNAVAILABLE, Meaning.EXPIRED):
                return False
            raise

    def index(self) -> list[dict[str, str]]:
        """Every version the server knows: name, version, state, reason."""
        answer: list[dict[str, str]] = self._transport.call("index", "", "")
        return answer

    def load(self, model: str) -> None:
        """Load, or load again and switch; returns when the model is ready."""
        self._transport.call("load", model, "")

    def unload(self, model: str) -> None:
        """Unload; returns when the last request has finished and the memory is free."""
        self._transport.call("unload", model, "")

    def close(self) -> None:
        self._transport.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _array(datatype: str, shape: Any, data: Buffer) -> Array:
    row = DATATYPES[datatype]
    shape = tuple(int(size) for size in shape)
    if row.size == 0:
        return decode_bytes(data, int(np.prod(shape, dtype=np.int64))).reshape(shape)
    return np.frombuffer(data, row.dtype).reshape(shape)


class _Grpc:
    def __init__(self, target: str, timeout: float) -> None:
        import grpc

        from headrace.protos import inference_pb2 as pb
        from headrace.serve.grpc_front import CODES, SERVICE

        self._pb, self._grpc, self._timeout = pb, grpc, timeout
        limit = MAX_MESSAGE_BYTES
        self._channel = grpc.insecure_channel(
            target,
            options=[
                ("grpc.max_receive_message_length", limit),
                ("grpc.max_send_message_length", limit),
                ("grpc.use_local_subchannel_pool", 1),  # a connection of our own: one HTTP/2 stream limit a client
            ],
        )
        self._meanings = {code: meaning for meaning, code in CODES.items() if meaning is not Meaning.TOO_LARGE}
        self._methods: dict[str, Any] = {}
        self._service = SERVICE

    def infer(self, name: str, version: str, inputs: Mapping[str, Array], outputs: list[str]) -> dict[str, Array]:
        pb = self._pb
        request = pb.ModelInferRequest(model_name=name, model_version=version)
        for key, array in inputs.items():
            request.inputs.add(name=key, datatype=of_array(array).name, shape=array.shape)
            request.raw_input_contents.append(bytes(to_wire(array)))
        for key in outputs:
            request.outputs.add(name=key)
        answer = self._send("ModelInfer", request)
        raw = answer.raw_output_contents
        if len(raw) != len(answer.outputs):
            raise ServeError(Meaning.INTERNAL, "the server answered without raw contents")
        return {o.name: _array(o.datatype, o.shape, data) for o, data in zip(answer.outputs, raw)}

    def call(self, verb: str, name: str, version: str) -> Any:
        pb = self._pb
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
                f"/{self._service}/{method}",
                request_serializer=type(request).SerializeToString,
                response_deserializer=getattr(self._pb, f"{method}Response").FromString,
            )
        try:
            return call(request, timeout=self._timeout)
        except self._grpc.RpcError as error:
            meaning = self._meanings.get(error.code(), Meaning.INTERNAL)
            raise ServeError(meaning, error.details() or error.code().name) from None

    def close(self) -> None:
        self._channel.close()


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


class _Rest:
    def __init__(self, url: str, timeout: float) -> None:
        parts = urlsplit(url)
        if not parts.hostname or parts.path not in ("", "/"):
            raise ServeError(Meaning.BAD_ARGUMENT, f"url {url!r}: expected http://host:port")
        self._host, self._port, self._timeout = parts.hostname, parts.port or 80, timeout
        self._local = threading.local()  # a connection a thread
        self._open: list[http.client.HTTPConnection] = []

    def infer(self, name: str, version: str, inputs: Mapping[str, Array], outputs: list[str]) -> dict[str, Array]:
        tensors, parts = [], []
        for key, array in inputs.items():
            data = to_wire(array)
            parts.append(data)
            tensors.append(
                {
                    "name": key,
                    "datatype": of_array(array).name,
                    "shape": list(array.shape),
                    "parameters": {"binary_data_size": len(data)},
                }
            )
        document: dict[str, Any] = {"inputs": tensors, "parameters": {"binary_data_output": True}}
        if outputs:
            document["outputs"] = [{"name": key, "parameters": {"binary_data": True}} for key in outputs]
        head = json.dumps(document).encode()
        headers = {"Inference-Header-Content-Length": str(len(head))}
        answer, body = self._exchange("POST", f"{_path(name, version)}/infer", b"".join([head, *parts]), headers)
        length = int(answer.getheader("Inference-Header-Content-Length") or len(body))
        result, at = {}, length
        for output in json.loads(body[:length])["outputs"]:
            size = output.get("parameters", {}).get("binary_data_size")
            if size is None:
                row = DATATYPES[output["datatype"]]
                flat = [item.encode() for item in output["data"]] if row.size == 0 else output["data"]
                result[output["name"]] = np.array(flat, row.dtype).reshape(output["shape"])
            else:
                result[output["name"]] = _array(output["datatype"], output["shape"], memoryview(body)[at : at + size])
                at += size
        return result

    def call(self, verb: str, name: str, version: str) -> Any:
        if verb == "ready":
            path = f"{_path(name, version)}/ready" if name else "/v2/health/ready"
            return self._exchange("GET", path, allow=(400,))[0].status == 200
        if verb == "index":
            return json.loads(self._exchange("POST", "/v2/repository/index", b"{}")[1])
        if verb in ("load", "unload"):
            return self._exchange("POST", f"/v2/repository/models/{quote(name, safe='')}/{verb}", b"{}")
        path = _path(name, version) if name else "/v2/models" if verb == "statistics" else "/v2"
        suffix = {"metadata": "", "config": "/config", "statistics": "/stats"}[verb]
        document = json.loads(self._exchange("GET", path + suffix)[1])
        return document["model_stats"] if verb == "statistics" else document

    def _exchange(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        allow: tuple[int, ...] = (),
    ) -> tuple[http.client.HTTPResponse, bytes]:
        from headrace.serve.rest_front import STATUS

        connection = self._connection()
        used = connection.sock is not None
        try:
            try:
                connection.request(method, path, body, dict(headers or {}))
                answer = connection.getresponse()
            except ConnectionError:  # an idle connection that the server closed meanwhile: once more on a new one
                connection.close()
                if not used:
                    raise
                connection.request(method, path, body, dict(headers or {}))
                answer = connection.getresponse()
            data = answer.read()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            expired = isinstance(error, TimeoutError)
            text = f"no answer within {self._timeout} s" if expired else f"the server cannot be reached ({error})"
            raise ServeError(Meaning.EXPIRED if expired else Meaning.UNAVAILABLE, text) from None
        if answer.status == 200 or answer.status in allow:
            return answer, data
        meaning = next((m for m, status in STATUS.items() if status == answer.status), Meaning.INTERNAL)
        try:
            text = str(json.loads(data)["error"])
        except (ValueError, KeyError, TypeError):
            text = f"HTTP status {answer.status}"
        raise ServeError(meaning, text)

    def _connection(self) -> http.client.HTTPConnection:
        connection: http.client.HTTPConnection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = http.client.HTTPConnection(self._host, self._port, timeout=self._timeout)
            self._local.connection = connection
            self._open.append(connection)
        return connection

    def close(self) -> None:
        for connection in self._open:
            connection.close()


def _path(name: str, version: str) -> str:
    path = f"/v2/models/{quote(name, safe='')}"
    return f"{path}/versions/{quote(version, safe='')}" if version else path
