"""`AsyncClient`: what `Client` does, for asyncio. gRPC by `grpc.aio`, REST over pooled connections."""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Protocol, TypeVar

from headrace.serve.client_types import (
    Ask,
    ClientTls,
    Compression,
    Connection,
    Inference,
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
Requests = Iterable[Mapping[str, Any]] | AsyncIterable[Mapping[str, Any]]


class AsyncTransport(Protocol):
    """The verbs as one protocol carries them."""

    async def infer(self, ask: Ask, timeout: float) -> Inference: ...
    def stream(self, asks: AsyncIterator[Ask], timeout: float | None) -> AsyncIterator[Inference]: ...
    async def call(self, verb: str, arguments: Mapping[str, Any], timeout: float) -> Any: ...
    async def close(self) -> None: ...


class AsyncClient:
    """A connection to one server, for one event loop; an asynchronous context manager. Its methods are those of `Client`."""

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
        """See `Client`."""
        self._connection = connection_of(url, timeout, tls, token, compression)
        self._timeout, self._retry = timeout, retry
        self._budget = Budget(retry) if retry is not None else None
        self._transport = _transport(self._connection)

    async def infer(
        self,
        model: str,
        inputs: Mapping[str, Any] | None = None,
        /,
        *,
        version: str | int = "",
        outputs: list[str] | None = None,
        **arrays: Any,
    ) -> dict[str, Array]:
        """See `Client.infer`."""
        answer = await self.request(model, {**(inputs or {}), **arrays}, version=version, outputs=outputs)
        return answer.outputs

    async def request(
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
        """See `Client.request`. A task that is cancelled cancels the request on the server."""
        ask = make_ask(model, inputs, version, outputs, parameters, id)
        return await self._attempt(lambda left: self._transport.infer(ask, left), ask.repeatable, timeout)

    async def stream(
        self,
        model: str,
        requests: Requests,
        *,
        version: str | int = "",
        outputs: list[str] | None = None,
        parameters: Parameters | None = None,
        timeout: float | None = None,
    ) -> AsyncIterator[dict[str, Array]]:
        """See `Client.stream`; `requests` may be an asynchronous iterable."""

        async def asks() -> AsyncIterator[Ask]:
            async for feeds in _each(requests):
                yield make_ask(model, feeds, version, outputs, parameters, "")

        async for answer in self._transport.stream(asks(), timeout):
            yield answer.outputs

    async def metadata(self, model: str = "", version: str | int = "") -> dict[str, Any]:
        """See `Client.metadata`."""
        answer: dict[str, Any] = await self._call("metadata", model=model, version=str(version))
        return answer

    async def config(self, model: str, version: str | int = "") -> dict[str, Any]:
        """See `Client.config`."""
        answer: dict[str, Any] = await self._call("config", model=model, version=str(version))
        return answer

    async def statistics(self, model: str = "", version: str | int = "") -> list[dict[str, Any]]:
        """See `Client.statistics`."""
        answer: list[dict[str, Any]] = await self._call("statistics", model=model, version=str(version))
        return answer

    async def ready(self, model: str = "", version: str | int = "") -> bool:
        """See `Client.ready`."""
        try:
            return bool(await self._transport.call("ready", {"model": model, "version": str(version)}, self._timeout))
        except ServeError as error:
            if error.meaning in (Meaning.UNAVAILABLE, Meaning.EXPIRED):
                return False
            raise

    async def index(self) -> list[dict[str, str]]:
        """See `Client.index`."""
        answer: list[dict[str, str]] = await self._call("index")
        return answer

    async def load(self, model: str) -> None:
        """See `Client.load`."""
        await self._call("load", False, model=model)

    async def unload(self, model: str) -> None:
        """See `Client.unload`."""
        await self._call("unload", False, model=model)

    async def share(self, name: str, key: str, byte_size: int, offset: int = 0) -> None:
        """See `Client.share`."""
        await self._call("share", False, name=name, key=key, byte_size=byte_size, offset=offset)

    async def unshare(self, name: str = "") -> None:
        """See `Client.unshare`."""
        await self._call("unshare", False, name=name)

    async def shared(self, name: str = "") -> list[dict[str, Any]]:
        """See `Client.shared`."""
        answer: list[dict[str, Any]] = await self._call("shared", name=name)
        return answer

    async def close(self) -> None:
        await self._transport.close()

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _call(self, verb: str, repeatable: bool = True, /, **arguments: Any) -> Any:
        return await self._attempt(lambda left: self._transport.call(verb, arguments, left), repeatable)

    async def _attempt(
        self, send: Callable[[float], Awaitable[T]], repeatable: bool, timeout: float | None = None
    ) -> T:
        attempts = Attempts(self._retry, self._budget, self._timeout if timeout is None else timeout, repeatable)
        while True:
            try:
                answer = await send(attempts.left())
            except ServeError as error:
                if (pause := attempts.failed(error)) is None:
                    raise
                await asyncio.sleep(pause)
            else:
                attempts.succeeded()
                return answer


async def _each(requests: Requests) -> AsyncIterator[Mapping[str, Any]]:
    if isinstance(requests, AsyncIterable):
        async for one in requests:
            yield one
    else:
        for one in requests:
            yield one


def _transport(connection: Connection) -> AsyncTransport:
    if is_rest(connection.url):
        from headrace.serve.client_async_rest import AsyncRestTransport

        return AsyncRestTransport(connection)
    from headrace.serve.client_async_grpc import AsyncGrpcTransport

    return AsyncGrpcTransport(connection)


__all__ = ["AsyncClient"]
