"""The client's REST transport, and what it shares with the asyncio one: bodies from requests, answers from bodies."""

import http.client
import json
import socket
import ssl
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlsplit

import numpy as np

from headrace.serve.client_types import Ask, ClientTls, Connection, Inference, SharedTensor, read_array
from headrace.serve.datatypes import DATATYPES, of_array, to_wire
from headrace.serve.errors import Meaning, ServeError
from headrace.serve.rest_front import STATUS

LENGTH = "Inference-Header-Content-Length"


@dataclass(frozen=True, slots=True)
class Exchange:
    """A request of HTTP and what its answer says. `allow`: statuses besides 200 that are no failure."""

    method: str
    path: str
    read: Callable[[int, Mapping[str, str], bytes], Any]  # status, headers (lower case), body
    body: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    allow: tuple[int, ...] = ()


class RestTransport:
    """A `client.Transport` with one connection a thread."""

    def __init__(self, connection: Connection) -> None:
        self._connection_facts = connection
        self._host, self._port = address_of(connection)
        self._context = None if connection.tls is None else context_of(connection.tls)
        self._local = threading.local()  # a connection a thread
        self._open: list[http.client.HTTPConnection] = []

    def infer(self, ask: Ask, timeout: float) -> Inference:
        answer: Inference = self._exchange(infer_exchange(ask, self._connection_facts), timeout)
        return answer

    def stream(self, asks: Iterable[Ask], timeout: float | None) -> Iterator[Inference]:
        raise no_streams()

    def call(self, verb: str, arguments: Mapping[str, Any], timeout: float) -> Any:
        return self._exchange(VERBS[verb](**arguments), timeout)

    def _exchange(self, exchange: Exchange, timeout: float) -> Any:
        connection = self._connection(timeout)
        method, path, body = exchange.method, exchange.path, exchange.body
        sent = {**headers_of(self._connection_facts), **exchange.headers}
        used = connection.sock is not None
        try:
            try:
                connection.request(method, path, body, sent)
                answer = connection.getresponse()
            except ConnectionError:  # an idle connection that the server closed meanwhile: once more on a new one
                connection.close()
                if not used:
                    raise
                connection.request(method, path, body, sent)
                answer = connection.getresponse()
            data = answer.read()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise broken(error, f"{self._host}:{self._port}", timeout) from None
        return finish(exchange, answer.status, {k.lower(): v for k, v in answer.getheaders()}, data)

    def _connection(self, timeout: float) -> http.client.HTTPConnection:
        connection: http.client.HTTPConnection | None = getattr(self._local, "connection", None)
        if connection is None:
            if self._context is None:
                connection = http.client.HTTPConnection(self._host, self._port)
            else:
                connection = http.client.HTTPSConnection(self._host, self._port, context=self._context)
            self._local.connection = connection
            self._open.append(connection)
        connection.timeout = timeout
        if connection.sock is not None:
            connection.sock.settimeout(timeout)
        return connection

    def close(self) -> None:
        for connection in self._open:
            connection.close()


# ---- connections ----


def address_of(connection: Connection) -> tuple[str, int]:
    """ServeError for a url that names none."""
    parts = urlsplit(connection.url)
    if not parts.hostname or parts.path not in ("", "/"):
        text = f"url {connection.url!r}: expected http://host:port or https://host:port"
        raise ServeError(Meaning.BAD_ARGUMENT, text)
    return parts.hostname, parts.port or (80 if connection.tls is None else 443)


def context_of(tls: ClientTls) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=tls.authority or None)
        if tls.certificate:
            context.load_cert_chain(tls.certificate, tls.key or None, password=lambda: b"")
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or "not in PEM form"
        raise ServeError(Meaning.BAD_ARGUMENT, f"tls: authority, certificate or key cannot be used: {reason}") from None
    return context


def headers_of(connection: Connection) -> dict[str, str]:
    """Those of every call."""
    return {"Authorization": f"Bearer {connection.token}"} if connection.token else {}


def no_streams() -> ServeError:
    return ServeError(Meaning.UNSUPPORTED, "REST has no streams; connect to the gRPC port (host:port, without http://)")


def broken(error: Exception, where: str, timeout: float) -> ServeError:
    """What a connection that failed means, in our words."""
    if isinstance(error, TimeoutError):
        return ServeError(Meaning.EXPIRED, f"no answer from {where} within {timeout:g} s")
    if isinstance(error, http.client.BadStatusLine) and not isinstance(error, ConnectionError):
        text = f"{where} does not speak HTTP/1.1; if it is the gRPC port, write {where} without http://"
    elif isinstance(error, ssl.SSLError):
        reason = getattr(error, "verify_message", None) or error.reason or "no TLS there"
        text = f"the TLS handshake with {where} failed: {reason}"
    elif isinstance(error, (ConnectionRefusedError, socket.gaierror)):
        why = "nothing listens there" if isinstance(error, ConnectionRefusedError) else "the name is unknown"
        text = f"no server at {where} ({why}); start one with: headrace serve REPOSITORY"
    else:
        text = f"the connection to {where} broke ({type(error).__name__})"
    return ServeError(Meaning.UNAVAILABLE, text)


def finish(exchange: Exchange, status: int, headers: Mapping[str, str], data: bytes) -> Any:
    """What an answer says, or its error."""
    coding = headers.get("content-encoding", "identity")
    if coding in ("gzip", "deflate"):
        data = zlib.decompress(data, 31 if coding == "gzip" else 15)
    if status == 200 or status in exchange.allow:
        return exchange.read(status, headers, data)
    meaning = next((m for m, known in STATUS.items() if known == status), Meaning.INTERNAL)
    try:
        text = str(json.loads(data)["error"])
    except (ValueError, KeyError, TypeError):
        text = f"HTTP status {status}"
    after = headers.get("retry-after", "")
    raise ServeError(meaning, text, retry_after_ms=int(after) * 1000 if after.isdigit() else None)


# ---- inference ----


def infer_exchange(ask: Ask, connection: Connection) -> Exchange:
    """The request of an inference: binary tensors both ways."""
    tensors: list[dict[str, Any]] = []
    parts: list[Any] = []
    for name, tensor in ask.inputs.items():
        if isinstance(tensor, SharedTensor):
            datatype, parameters = tensor.datatype, tensor.parameters
        else:
            data = to_wire(tensor)
            parts.append(data)
            datatype, parameters = of_array(tensor).name, {"binary_data_size": len(data)}
        tensors.append({"name": name, "datatype": datatype, "shape": list(tensor.shape), "parameters": parameters})
    document: dict[str, Any] = {"inputs": tensors, "parameters": {**ask.parameters, "binary_data_output": True}}
    if ask.id:
        document["id"] = ask.id
    if ask.outputs:
        document["outputs"] = [
            {"name": name, "parameters": {"binary_data": True} if place is None else place.parameters}
            for name, place in ask.outputs.items()
        ]
    head = json.dumps(document).encode()
    body, headers = b"".join([head, *parts]), {LENGTH: str(len(head))}
    if connection.compression:
        deflate = zlib.compressobj(6, zlib.DEFLATED, 31 if connection.compression == "gzip" else 15)
        body = deflate.compress(body) + deflate.flush()
        headers |= {"Content-Encoding": connection.compression, "Accept-Encoding": connection.compression}
    return Exchange("POST", f"{_path(ask.model, ask.version)}/infer", _read_inference, body, headers)


def _read_inference(_: int, headers: Mapping[str, str], body: bytes) -> Inference:
    at = int(headers.get(LENGTH.lower()) or len(body))
    document, result = json.loads(body[:at]), {}
    for output in document["outputs"]:
        parameters = output.get("parameters", {})
        if "shared_memory_region" in parameters:
            continue
        size = parameters.get("binary_data_size")
        if size is None:
            row = DATATYPES[output["datatype"]]
            flat = [item.encode() for item in output["data"]] if row.size == 0 else output["data"]
            result[output["name"]] = np.array(flat, row.dtype).reshape(output["shape"])
        else:
            data = memoryview(body)[at : at + size]
            result[output["name"]] = read_array(output["datatype"], output["shape"], data)
            at += size
    model, version, name = (document.get(key) or "" for key in ("model_name", "model_version", "id"))
    return Inference(result, model, version, name, document.get("parameters", {}))


# ---- verbs ----


def _json(_: int, __: Mapping[str, str], body: bytes) -> Any:
    return json.loads(body)


def _nothing(*_: Any) -> None:
    return None


def _ready(model: str, version: str) -> Exchange:
    path = f"{_path(model, version)}/ready" if model else "/v2/health/ready"
    return Exchange("GET", path, lambda status, *_: status == 200, allow=(400,))


def _metadata(model: str, version: str) -> Exchange:
    return Exchange("GET", _path(model, version) if model else "/v2", _json)


def _config(model: str, version: str) -> Exchange:
    return Exchange("GET", f"{_path(model, version)}/config", _json)


def _statistics(model: str, version: str) -> Exchange:
    path = _path(model, version) if model else "/v2/models"
    return Exchange("GET", f"{path}/stats", lambda *answer: _json(*answer)["model_stats"])


def _index() -> Exchange:
    return Exchange("POST", "/v2/repository/index", _json, b"{}")


def _load(model: str) -> Exchange:
    return Exchange("POST", f"/v2/repository/models/{quote(model, safe='')}/load", _nothing, b"{}")


def _unload(model: str) -> Exchange:
    return Exchange("POST", f"/v2/repository/models/{quote(model, safe='')}/unload", _nothing, b"{}")


def _share(name: str, key: str, byte_size: int, offset: int) -> Exchange:
    body = json.dumps({"key": key, "byte_size": byte_size, "offset": offset}).encode()
    return Exchange("POST", f"{_region(name)}/register", _nothing, body)


def _unshare(name: str) -> Exchange:
    return Exchange("POST", f"{_region(name)}/unregister", _nothing, b"{}")


def _shared(name: str) -> Exchange:
    return Exchange("GET", f"{_region(name)}/status", _json)


VERBS: dict[str, Callable[..., Exchange]] = {
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


def _region(name: str) -> str:
    return f"/v2/systemsharedmemory/region/{quote(name, safe='')}" if name else "/v2/systemsharedmemory"


def _path(name: str, version: str) -> str:
    path = f"/v2/models/{quote(name, safe='')}"
    return f"{path}/versions/{quote(version, safe='')}" if version else path


__all__ = ["VERBS", "RestTransport"]
