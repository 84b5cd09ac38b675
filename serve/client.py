"""A client of any Open Inference Protocol server: gRPC for `host:port`, REST for `http://host:port` or `https://host:port`.

Tensors travel in raw form both ways. Errors are `ServeError` with the meaning that the server's status stands for.
`client_async.AsyncClient` is the same for asyncio.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Protocol, TypeVar

from headrace.serve.client_types import (
    Ask,
    ClientTls,
    Compression,
    Connection,
    Inference,
    SharedTensor,
    Wanted,
    connection_of,
    is_rest,
    make_ask,
)
from headrace.serve.datatypes import Array
from headrace.serve.errors import Meaning, ServeError
from headrace.serve.request import Parameters
from headrace.serve.retry import Attempts, Budget, Retry

T = TypeVar("T")


class Transport(Protocol):
    """The verbs as one protocol carries them."""

    def infer(self, ask: Ask, timeout: float) -> Inference: ...
    def stream(self, asks: Iterable[Ask], timeout: float | None) -> Iterator[Inference]: ...
    def call(self, verb: str, arguments: Mapping[str, Any], timeout: float) -> Any: ...
    def close(self) -> None: ...


class Client:
    """A connection to one server; a context manager; safe for use by several threads."""

    def __init__(
        self,
        url: str,
        *,
        timeout: float = 60.0,
        tls: ClientTls | str | None = None,
        token: str = "",
        compression: Compression = "",
        retry: Retry | None = None,
    ) -> None:
        """`url` is `host:port` (gRPC), `http://host:port` or `https://host:port` (REST); `timeout` seconds bound every
        call. `tls`: how to trust the server, or the file of its authority alone; None is plain text, except for https://.
        `token` is sent as the bearer token of every call. `compression`: "gzip" or "deflate" for requests, and for answers
        where the server does it. `retry`: repeat calls that found the server unavailable or overloaded (see `Retry`); None:
        never. ServeError (bad_argument) where a file cannot be used.
        """
        connection = connection_of(url, timeout, tls, token, compression)
        self._timeout, self._retry = timeout, retry
        self._budget = Budget(retry) if retry is not None else None
        self._transport = _transport(connection)

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
        return self.request(model, {**(inputs or {}), **arrays}, version=version, outputs=outputs).outputs

    def request(
        self,
        model: str,
        inputs: Mapping[str, Any],
        *,
        version: str | int = "",
        outputs: Sequence[str] | Wanted | None = None,
        parameters: Parameters | None = None,
        id: str = "",
        timeout: float | None = None,
    ) -> Inference:
        """`infer` with everything that the protocol has: request parameters (such as headrace_explain), an id, the version
        and parameters of the answer; `timeout` seconds instead of the client's, all attempts together. A `SharedTensor`
        as an input is read from shared memory, as the value of an output written there. Raises ServeError."""
        ask = make_ask(model, inputs, version, outputs, parameters, id)
        return self._attempt(lambda left: self._transport.infer(ask, left), ask.repeatable, timeout)

    def stream(
        self,
        model: str,
        requests: Iterable[Mapping[str, Any]],
        *,
        version: str | int = "",
        outputs: list[str] | None = None,
        parameters: Parameters | None = None,
        timeout: float | None = None,
    ) -> Iterator[dict[str, Array]]:
        """Send every mapping of `requests` on one stream; answers in their order, as they come (gRPC only).

        `requests` is read by another thread, ahead of the answers. The first error ends the stream and is raised as
        ServeError. `timeout` seconds bound the whole stream; leaving the iterator early cancels what is in flight.
        """
        asks = (make_ask(model, feeds, version, outputs, parameters, "") for feeds in requests)
        return (answer.outputs for answer in self._transport.stream(asks, timeout))

    def metadata(self, model: str = "", version: str | int = "") -> dict[str, Any]:
        """The interface and properties of a model, or name, version and extensions of the server."""
        answer: dict[str, Any] = self._call("metadata", model=model, version=str(version))
        return answer

    def config(self, model: str, version: str | int = "") -> dict[str, Any]:
        """The model's configuration (max_batch_size, dynamic_batching, ...)."""
        answer: dict[str, Any] = self._call("config", model=model, version=str(version))
        return answer

    def statistics(self, model: str = "", version: str | int = "") -> list[dict[str, Any]]:
        """Cumulative statistics of a model's versions, or of all."""
        answer: list[dict[str, Any]] = self._call("statistics", model=model, version=str(version))
        return answer

    def ready(self, model: str = "", version: str | int = "") -> bool:
        """Whether the model, or the server, takes requests. False when the server cannot be reached."""
        try:
            return bool(self._transport.call("ready", {"model": model, "version": str(version)}, self._timeout))
        except ServeError as error:
            if error.meaning in (Meaning.UNAVAILABLE, Meaning.EXPIRED):
                return False
            raise

    def index(self) -> list[dict[str, str]]:
        """Every version the server knows: name, version, state, reason."""
        answer: list[dict[str, str]] = self._call("index")
        return answer

    def load(self, model: str) -> None:
        """Load, or load again and switch; returns when the model is ready."""
        self._call("load", False, model=model)

    def unload(self, model: str) -> None:
        """Unload; returns when the last request has finished and the memory is free."""
        self._call("unload", False, model=model)

    def share(self, name: str, key: str, byte_size: int, offset: int = 0) -> None:
        """Register the POSIX shared memory object `key` as region `name` (see `SharedTensor`)."""
        self._call("share", False, name=name, key=key, byte_size=byte_size, offset=offset)

    def unshare(self, name: str = "") -> None:
        """Unregister a region, or all."""
        self._call("unshare", False, name=name)

    def shared(self, name: str = "") -> list[dict[str, Any]]:
        """The regions that are registered."""
        answer: list[dict[str, Any]] = self._call("shared", name=name)
        return answer

    def close(self) -> None:
        self._transport.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _call(self, verb: str, repeatable: bool = True, /, **arguments: Any) -> Any:
        return self._attempt(lambda left: self._transport.call(verb, arguments, left), repeatable)

    def _attempt(self, send: Callable[[float], T], repeatable: bool, timeout: float | None = None) -> T:
        attempts = Attempts(self._retry, self._budget, self._timeout if timeout is None else timeout, repeatable)
        while True:
            try:
                answer = send(attempts.left())
            except ServeError as error:
                if (pause := attempts.failed(error)) is None:
                    raise
                time.sleep(pause)
            else:
                attempts.succeeded()
                return answer


def _transport(connection: Connection) -> Transport:
    if is_rest(connection.url):
        from headrace.serve.client_rest import RestTransport

        return RestTransport(connection)
    from headrace.serve.client_grpc import GrpcTransport

    return GrpcTransport(connection)


__all__ = ["Client", "ClientTls", "Inference", "Retry", "SharedTensor"]
