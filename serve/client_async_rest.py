"""The asyncio client's REST transport: HTTP/1.1 over a pool of connections, messages read and written by h11."""

import asyncio
import contextlib
import http.client
from collections.abc import AsyncIterator, Mapping
from typing import Any

import h11

from headrace.serve.client_rest import (
    VERBS,
    Exchange,
    address_of,
    broken,
    context_of,
    finish,
    headers_of,
    infer_exchange,
    no_streams,
)
from headrace.serve.client_types import Ask, Connection, Inference

PIECE = 256 * 1024  # bytes read at a time


class AsyncRestTransport:
    """A `client_async.AsyncTransport`: as many connections as there are calls at a time; idle ones are kept."""

    def __init__(self, connection: Connection) -> None:
        self._facts = connection
        self._host, self._port = address_of(connection)
        self._context = None if connection.tls is None else context_of(connection.tls)
        self._idle: list[_Wire] = []

    async def infer(self, ask: Ask, timeout: float) -> Inference:
        answer: Inference = await self.exchange(infer_exchange(ask, self._facts), timeout)
        return answer

    async def stream(self, asks: AsyncIterator[Ask], timeout: float | None) -> AsyncIterator[Inference]:
        raise no_streams()
        yield  # makes this a generator

    async def call(self, verb: str, arguments: Mapping[str, Any], timeout: float) -> Any:
        return await self.exchange(VERBS[verb](**arguments), timeout)

    async def exchange(self, exchange: Exchange, timeout: float) -> Any:
        """One request and its answer. ServeError."""
        status, headers, data = await self.raw(exchange, timeout)
        return finish(exchange, status, headers, data)

    async def raw(self, exchange: Exchange, timeout: float) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of the answer."""
        try:
            async with asyncio.timeout(timeout):
                return await self._once_more(exchange)
        except (OSError, http.client.HTTPException) as error:
            raise broken(error, f"{self._host}:{self._port}", timeout) from None

    async def _once_more(self, exchange: Exchange) -> tuple[int, dict[str, str], bytes]:
        while self._idle:
            wire = self._idle.pop()
            try:
                return await self._on(wire, exchange)
            except ConnectionError:  # an idle connection that the server closed meanwhile
                continue
        return await self._on(await self._connect(), exchange)

    async def _connect(self) -> "_Wire":
        name = self._host if self._context is not None else None
        reader, writer = await asyncio.open_connection(self._host, self._port, ssl=self._context, server_hostname=name)
        return _Wire(reader, writer, f"{self._host}:{self._port}")

    async def _on(self, wire: "_Wire", exchange: Exchange) -> tuple[int, dict[str, str], bytes]:
        try:
            answer = await wire.exchange(exchange, headers_of(self._facts))
        except BaseException:
            wire.close()
            raise
        if wire.reusable():
            self._idle.append(wire)
        else:
            wire.close()
        return answer

    async def close(self) -> None:
        while self._idle:
            wire = self._idle.pop()
            wire.close()
            await wire.closed()


class _Wire:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str) -> None:
        self._reader, self._writer, self._host = reader, writer, host
        self._state = h11.Connection(h11.CLIENT)

    async def exchange(self, exchange: Exchange, headers: Mapping[str, str]) -> tuple[int, dict[str, str], bytes]:
        body = exchange.body or b""
        sent = {"Host": self._host, "Content-Length": str(len(body)), **headers, **exchange.headers}
        request = h11.Request(method=exchange.method, target=exchange.path, headers=list(sent.items()))
        parts = [self._state.send(request), self._state.send(h11.Data(data=body)) if body else b""]
        parts.append(self._state.send(h11.EndOfMessage()))
        self._writer.writelines([part for part in parts if part])
        await self._writer.drain()
        status, got, pieces = 0, {}, []
        while True:
            event = await self._event()
            if isinstance(event, h11.Response):
                status = event.status_code
                got = {name.decode().lower(): value.decode("latin-1") for name, value in event.headers}
            elif isinstance(event, h11.Data):
                pieces.append(bytes(event.data))
            elif isinstance(event, h11.EndOfMessage):
                return status, got, b"".join(pieces)

    async def _event(self) -> Any:
        while True:
            try:
                event = self._state.next_event()
            except h11.RemoteProtocolError as error:
                raise http.client.BadStatusLine(str(error)) from None
            if event is not h11.NEED_DATA:
                if isinstance(event, h11.ConnectionClosed):
                    raise ConnectionResetError("the server closed the connection")
                return event
            data = await self._reader.read(PIECE)
            if not data and self._state.their_state is h11.SEND_RESPONSE:
                raise ConnectionResetError("the server closed the connection")
            self._state.receive_data(data)

    def reusable(self) -> bool:
        if self._state.our_state is not h11.DONE or self._state.their_state is not h11.DONE:
            return False
        self._state.start_next_cycle()
        return True

    def close(self) -> None:
        self._writer.close()

    async def closed(self) -> None:
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()


__all__ = ["AsyncRestTransport"]
