"""A client of any Open Inference Protocol server: gRPC for `host:port`, REST for `http://host:port` or `https://host:port`.

Tensors travel in raw form both ways. Errors are `ServeError` with the meaning that the server's status stands for.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol

import numpy as np

from headrace.serve.datatypes import DATATYPES, Array, of_array
from headrace.serve.errors import Meaning, ServeError

Feeds = Mapping[str, Array]


@dataclass(frozen=True, slots=True)
class ClientTls:
    """PEM files: the authority that the server's certificate must come from ("": those of the system), and the client's
    own certificate and key where the server asks for one."""

    authority: str = ""
    certificate: str = ""
    key: str = ""


class Transport(Protocol):
    """The verbs as one protocol carries them."""

    def infer(self, name: str, version: str, inputs: Feeds, outputs: list[str]) -> dict[str, Array]: ...
    def stream(
        self, name: str, version: str, requests: Iterable[Feeds], outputs: list[str], timeout: float | None
    ) -> Iterator[dict[str, Array]]: ...
    def call(self, verb: str, name: str, version: str) -> Any: ...
    def close(self) -> None: ...


class Client:
    """A connection to one server; a context manager; safe for use by several threads."""

    def __init__(self, url: str, *, timeout: float = 60.0, tls: ClientTls | str | None = None, token: str = "") -> None:
        """`url` is `host:port` (gRPC), `http://host:port` or `https://host:port` (REST); `timeout` seconds bound every
        call. `tls`: how to trust the server, or the file of its authority alone; None is plain text, except for https://.
        `token` is sent as the bearer token of every call. ServeError (bad_argument) where a file cannot be used.
        """
        tls = ClientTls(tls) if isinstance(tls, str) else tls
        self._transport: Transport
        if url.startswith(("http://", "https://")):
            if url.startswith("http://") and tls is not None:
                raise ServeError(Meaning.BAD_ARGUMENT, f"url {url!r}: TLS is asked for; write https://")
            from headrace.serve.client_rest import RestTransport

            secure = tls or ClientTls()
            self._transport = RestTransport(url, timeout, secure if url.startswith("https://") else None, token)
        elif "://" in url:
            raise ServeError(
                Meaning.BAD_ARGUMENT, f"url {url!r}: expected host:port, http://host:port or https://host:port"
            )
        else:
            from headrace.serve.client_grpc import GrpcTransport

            self._transport = GrpcTransport(url, timeout, tls, token)

    def infer(
        self,
        model: str,
        inputs: Mapping[str, Any] | None = None,
        /,
        *,
        version: str | int = "",
        outputs: list[str] | None = None,
        **arrays: Any,
    ) -> dict[str, Array]:
        """Run `model` on arrays by input name, as keywords or as one mapping; all outputs, or those named, by name.

        The mapping takes inputs of any name, also "version" and "outputs". BYTES inputs may be arrays of str or bytes;
        BYTES outputs are object arrays of bytes. Inputs are sent as the dtype they have. Raises ServeError.
        """
        return self._transport.infer(model, str(version), _feeds({**(inputs or {}), **arrays}), outputs or [])

    def stream(
        self,
        model: str,
        requests: Iterable[Mapping[str, Any]],
        *,
        version: str | int = "",
        outputs: list[str] | None = None,
        timeout: float | None = None,
    ) -> Iterator[dict[str, Array]]:
        """Send every mapping of `requests` on one stream; answers in their order, as they come (gRPC only).

        `requests` is read by another thread, ahead of the answers. The first error ends the stream and is raised as
        ServeError. `timeout` seconds bound the whole stream; leaving the iterator early cancels what is in flight.
        """
        feeds = map(_feeds, requests)
        return self._transport.stream(model, str(version), feeds, outputs or [], timeout)

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


def _feeds(arrays: Mapping[str, Any]) -> Feeds:
    """The arrays, each of a dtype that can be sent."""
    feeds = {name: np.asarray(array) for name, array in arrays.items()}
    for name, array in feeds.items():
        try:
            of_array(array)
        except KeyError:
            known = ", ".join(row.dtype.name for row in DATATYPES.values() if row.size)
            text = f"input {name!r}: {array.dtype} has no wire form; allowed are {known} and strings"
            raise ServeError(Meaning.BAD_ARGUMENT, text) from None
    return feeds
