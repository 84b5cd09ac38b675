"""A client of any Open Inference Protocol server: gRPC for `host:port`, REST for `http://host:port`.

Tensors travel in raw form both ways. Errors are `ServeError` with the meaning that the server's status stands for.
"""

from collections.abc import Mapping
from types import TracebackType
from typing import Any, Protocol

import numpy as np

from headrace.serve.datatypes import Array, of_array
from headrace.serve.errors import Meaning, ServeError


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
            from headrace.serve.client_rest import RestTransport

            self._transport = RestTransport(url, timeout)
        elif "://" in url:
            raise ServeError(Meaning.BAD_ARGUMENT, f"url {url!r}: expected host:port or http://host:port")
        else:
            from headrace.serve.client_grpc import GrpcTransport

            self._transport = GrpcTransport(url, timeout)

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
