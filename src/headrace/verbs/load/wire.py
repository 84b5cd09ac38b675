"""One inference as bytes, sent over and over: what a load generator needs of a protocol."""

from __future__ import annotations

from typing import Any, Protocol

from headrace.serve.client_types import Ask, ClientTls, Connection, Inference, connection_of, is_rest

STREAMS = 64  # calls at a time on one HTTP/2 connection: below what servers allow


class Wire(Protocol):
    """Sends the inference it was made for."""

    async def send(self, timeout: float) -> bytes:
        """The answer as it came. ServeError."""
        ...

    def read(self, data: bytes) -> Inference: ...
    async def close(self) -> None: ...


def open_wire(url: str, ask: Ask, concurrent: int, tls: ClientTls | str | None = None, token: str = "") -> Wire:
    """For up to `concurrent` calls at a time; it belongs to the running loop."""
    connection = connection_of(url, 60.0, tls, token, "")
    return _Rest(connection, ask) if is_rest(url) else _Grpc(connection, ask, concurrent)


class _Grpc:
    def __init__(self, connection: Connection, ask: Ask, concurrent: int) -> None:
        import grpc.aio

        from headrace.serve.client_grpc import metadata_of, opener_of, request_of
        from headrace.serve.grpc_codes import SERVICE

        self._metadata = metadata_of(connection)
        self._target, self._data = connection.url, request_of(ask).SerializeToString()
        self._error = grpc.RpcError
        self._channels = [
            opener_of(connection, ("headrace.channel", n))(grpc.aio)  # a connection each
            for n in range(max(1, -(-concurrent // STREAMS)))
        ]
        self._calls = [channel.unary_unary(f"/{SERVICE}/ModelInfer") for channel in self._channels]
        self._next = 0

    async def send(self, timeout: float) -> bytes:
        from headrace.serve.client_grpc import failure

        self._next = (self._next + 1) % len(self._calls)
        try:
            answer: bytes = await self._calls[self._next](self._data, timeout=timeout, metadata=self._metadata)
        except self._error as error:
            raise failure(error, self._target) from None
        return answer

    def read(self, data: bytes) -> Inference:
        from headrace.protos import inference_pb2 as pb
        from headrace.serve.client_grpc import read_answer

        return read_answer(pb.ModelInferResponse.FromString(data))

    async def close(self) -> None:
        for channel in self._channels:
            await channel.close()


class _Rest:
    def __init__(self, connection: Connection, ask: Ask) -> None:
        from headrace.serve.client_async_rest import AsyncRestTransport
        from headrace.serve.client_rest import infer_exchange

        self._exchange = infer_exchange(ask, connection)
        self._transport = AsyncRestTransport(connection)
        self._headers: dict[str, str] = {}

    async def send(self, timeout: float) -> bytes:
        from headrace.serve.client_rest import finish

        status, headers, data = await self._transport.raw(self._exchange, timeout)
        if status != 200:
            finish(self._exchange, status, headers, data)
        self._headers = headers
        return data

    def read(self, data: bytes) -> Inference:
        found: Any = self._exchange.read(200, self._headers, data)
        answer: Inference = found
        return answer

    async def close(self) -> None:
        await self._transport.close()


__all__ = ["Wire", "open_wire"]
