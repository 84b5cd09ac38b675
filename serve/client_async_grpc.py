"""The asyncio client's gRPC transport. (`grpc.aio` ends a listener on one bad header, but serves a client well.)"""

from collections.abc import AsyncIterator, Mapping
from typing import Any

import grpc
import grpc.aio

from headrace.protos import inference_pb2 as pb
from headrace.serve.client_grpc import (
    STREAM,
    STRICT,
    VERBS,
    codecs,
    failure,
    metadata_of,
    opener_of,
    read_answer,
    read_streamed,
    request_of,
)
from headrace.serve.client_types import Ask, Connection, Inference
from headrace.serve.grpc_codes import SERVICE


class AsyncGrpcTransport:
    """A `client_async.AsyncTransport` over one channel, opened with the first call: it belongs to the loop that runs then."""

    def __init__(self, connection: Connection) -> None:
        self._target, self._metadata = connection.url, metadata_of(connection)
        self._open = opener_of(connection)
        self._opened: Any = None
        self._methods: dict[str, Any] = {}

    @property
    def channel(self) -> Any:
        if self._opened is None:
            self._opened = self._open(grpc.aio)
        return self._opened

    async def infer(self, ask: Ask, timeout: float) -> Inference:
        return read_answer(await self._send("ModelInfer", request_of(ask), timeout))

    async def stream(self, asks: AsyncIterator[Ask], timeout: float | None) -> AsyncIterator[Inference]:
        method = self.channel.stream_stream(
            STREAM,
            request_serializer=pb.ModelInferRequest.SerializeToString,
            response_deserializer=pb.ModelStreamInferResponse.FromString,
        )

        async def messages() -> AsyncIterator[Any]:
            async for ask in asks:
                yield request_of(ask)

        call = method(messages(), timeout=timeout, metadata=(*self._metadata, STRICT))
        try:
            async for answer in call:
                found = read_streamed(answer)
                if found is not None:
                    yield found
        except grpc.RpcError as error:
            raise failure(error, self._target) from None
        finally:
            call.cancel()

    async def call(self, verb: str, arguments: Mapping[str, Any], timeout: float) -> Any:
        method, request, read = VERBS[verb](**arguments)
        return read(await self._send(method, request, timeout))

    async def _send(self, method: str, request: Any, timeout: float) -> Any:
        call = self._methods.get(method)
        if call is None:
            call = self._methods[method] = self.channel.unary_unary(f"/{SERVICE}/{method}", *codecs(method, request))
        try:
            return await call(request, timeout=timeout, metadata=self._metadata)
        except grpc.RpcError as error:
            raise failure(error, self._target) from None

    async def close(self) -> None:
        if self._opened is not None:
            await self._opened.close()


__all__ = ["AsyncGrpcTransport"]
