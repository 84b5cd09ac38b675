"""The client's REST transport."""

import http.client
import json
import socket
import ssl
import threading
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

import numpy as np

from headrace.serve.client_grpc import read_array
from headrace.serve.datatypes import DATATYPES, Array, of_array, to_wire
from headrace.serve.errors import Meaning, ServeError
from headrace.serve.rest_front import STATUS

if TYPE_CHECKING:
    from headrace.serve.client import ClientTls


class RestTransport:
    """A `client.Transport` with one connection a thread."""

    def __init__(self, url: str, timeout: float, tls: "ClientTls | None" = None, token: str = "") -> None:
        parts = urlsplit(url)
        if not parts.hostname or parts.path not in ("", "/"):
            raise ServeError(Meaning.BAD_ARGUMENT, f"url {url!r}: expected http://host:port or https://host:port")
        self._host, self._timeout = parts.hostname, timeout
        self._port = parts.port or (80 if tls is None else 443)
        self._context = None if tls is None else _context(tls)
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
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
                result[output["name"]] = read_array(
                    output["datatype"], output["shape"], memoryview(body)[at : at + size]
                )
                at += size
        return result

    def stream(
        self,
        name: str,
        version: str,
        requests: Iterable[Mapping[str, Array]],
        outputs: list[str],
        timeout: float | None,
    ) -> Iterator[dict[str, Array]]:
        raise ServeError(
            Meaning.UNSUPPORTED, "REST has no streams; connect to the gRPC port (host:port, without http://)"
        )

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
        connection = self._connection()
        sent = {**self._headers, **(headers or {})}
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
            expired = isinstance(error, TimeoutError)
            where = f"{self._host}:{self._port}"
            if expired:
                text = f"no answer from {where} within {self._timeout} s"
            elif isinstance(error, http.client.BadStatusLine) and not isinstance(error, ConnectionError):
                text = f"{where} does not speak HTTP/1.1; if it is the gRPC port, write {where} without http://"
            elif isinstance(error, ssl.SSLError):
                reason = getattr(error, "verify_message", None) or error.reason or "no TLS there"
                text = f"the TLS handshake with {where} failed: {reason}"
            elif isinstance(error, (ConnectionRefusedError, socket.gaierror)):
                why = "nothing listens there" if isinstance(error, ConnectionRefusedError) else "the name is unknown"
                text = f"no server at {where} ({why}); start one with: headrace serve REPOSITORY"
            else:
                text = f"the connection to {where} broke ({type(error).__name__})"
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
            if self._context is None:
                connection = http.client.HTTPConnection(self._host, self._port, timeout=self._timeout)
            else:
                connection = http.client.HTTPSConnection(
                    self._host, self._port, timeout=self._timeout, context=self._context
                )
            self._local.connection = connection
            self._open.append(connection)
        return connection

    def close(self) -> None:
        for connection in self._open:
            connection.close()


def _context(tls: "ClientTls") -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=tls.authority or None)
        if tls.certificate:
            context.load_cert_chain(tls.certificate, tls.key or None, password=lambda: b"")
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or "not in PEM form"
        raise ServeError(Meaning.BAD_ARGUMENT, f"tls: authority, certificate or key cannot be used: {reason}") from None
    return context


def _path(name: str, version: str) -> str:
    path = f"/v2/models/{quote(name, safe='')}"
    return f"{path}/versions/{quote(version, safe='')}" if version else path
