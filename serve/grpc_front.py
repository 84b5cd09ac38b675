"""The portable gRPC front: a synchronous grpcio server over the table of methods. It translates, and does nothing else.

Handlers are registered with raw bytes. grpc.aio is never used: one header with a non-UTF-8 byte ends its accept loop.
"""

import errno
import os
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # read on import: lines of its own on stderr are no part of our log
import grpc

from headrace.serve import incidents
from headrace.serve.config import Limits, Listen
from headrace.serve.dataplane import DataPlane
from headrace.serve.errors import ServeError
from headrace.serve.grpc_codes import CODES
from headrace.serve.grpc_methods import INFER_PATH, Method, Methods, Streaming, Unary
from headrace.serve.guard import Guard
from headrace.serve.sockets import close_sockets
from headrace.serve.threads import Threads
from headrace.serve.tls import Certificates

if TYPE_CHECKING:
    from headrace.serve.routes import Routes

FLUSH_SECONDS = 0.1  # for the last answers to leave

_STATUS = {code.value[0]: code for code in grpc.StatusCode}


def options(limits: Limits) -> list[tuple[str, int]]:
    """Every limit of the transport, explicitly; grpcio ignores misspelt names, so tests check the effects."""
    return [
        ("grpc.max_receive_message_length", limits.max_message_bytes),
        ("grpc.max_send_message_length", limits.max_message_bytes),
        ("grpc.max_concurrent_streams", limits.max_concurrent_streams),
        ("grpc.max_metadata_size", limits.max_metadata_bytes),
        ("grpc.absolute_max_metadata_size", limits.max_metadata_bytes),
        ("grpc.server_handshake_timeout_ms", round(limits.header_timeout_s * 1000)),
        ("grpc.max_connection_idle_ms", round(limits.connection_idle_s * 1000)),
        ("grpc.max_connection_age_ms", round(limits.connection_age_s * 1000)),
        ("grpc.max_connection_age_grace_ms", round(limits.connection_age_grace_s * 1000)),
        ("grpc.keepalive_time_ms", round(limits.keepalive_s * 1000)),
        ("grpc.keepalive_timeout_ms", round(limits.keepalive_timeout_s * 1000)),
        ("grpc.http2.min_ping_interval_without_data_ms", 300_000),
        ("grpc.http2.max_ping_strikes", 2),
        ("grpc.max_allowed_incoming_connections", limits.max_connections),
        ("grpc.so_reuseport", 0),
    ]


def _credentials(certificates: Certificates) -> grpc.ServerCredentials:
    """Credentials that look at every handshake for another identity."""

    def configuration() -> Any:
        identity = certificates.current
        return grpc.ssl_server_certificate_configuration(
            [(identity.key, identity.certificate)], identity.authority or None
        )

    given = [certificates.current]

    def fetch() -> Any:
        if given[0] is certificates.current:
            return None
        given[0] = certificates.current
        return configuration()

    return grpc.dynamic_ssl_server_credentials(
        configuration(), fetch, require_client_authentication=bool(certificates.current.authority)
    )


class GrpcFront:
    """One listening gRPC server."""

    def __init__(
        self,
        plane: DataPlane,
        listen: Listen,
        limits: Limits,
        certificates: Certificates | None = None,
        guard: Guard | None = None,
        routes: "Routes | None" = None,
    ) -> None:
        self._methods = Methods(plane, listen, limits, guard, routes)
        self.refuse = routes.refuse if routes is not None else lambda: None  # inferences from now on, by the data plane
        self._threads = Threads(limits.grpc_threads, "headrace-grpc")
        self._server = grpc.server(
            self._threads,
            options=options(limits),
            maximum_concurrent_rpcs=limits.grpc_threads,
        )
        handlers = {path: _handler(method) for path, method in self._methods.table.items()}
        _, service, name = INFER_PATH.split("/")
        self._server.add_registered_method_handlers(service, {name: handlers[INFER_PATH]})  # known to its core
        self._server.add_generic_rpc_handlers((_Table(handlers),))
        host = f"[{listen.host}]" if ":" in listen.host else listen.host
        try:
            address = f"{host}:{listen.grpc_port}"
            self.port: int = (
                self._server.add_insecure_port(address)
                if certificates is None
                else self._server.add_secure_port(address, _credentials(certificates))
            )
        except RuntimeError:
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE)) from None

    def start(self) -> None:
        """Begin to accept."""
        self._server.start()

    def stop(self, grace: float) -> None:
        """Close every connection and the listener. The data plane refuses by now, and what it accepted has ended.

        gRPC's own shutdown cancels calls that arrive within the round trip of its GOAWAY, and clients then see
        CANCELLED, as if they had done it. A connection that closes is UNAVAILABLE, which it is.
        """
        self._methods.stop()
        time.sleep(min(grace, FLUSH_SECONDS))
        close_sockets(self.port)
        self._server.stop(grace).wait()
        self._threads.shutdown()
        self._methods.close()


class _Table(grpc.GenericRpcHandler):  # type: ignore[misc, unused-ignore]
    def __init__(self, handlers: dict[str, Any]) -> None:
        self._handlers = handlers

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        return self._handlers.get(details.method)


class _Call:
    """grpcio's context as the methods see it."""

    def __init__(self, context: grpc.ServicerContext) -> None:
        self._context = context
        self.remaining: Callable[[], float | None] = context.time_remaining
        self.watch: Callable[[Callable[[], None]], bool] = context.add_callback
        self.is_active: Callable[[], bool] = context.is_active

    @property
    def local(self) -> bool:
        return str(self._context.peer()).startswith(("ipv4:127.", "ipv6:%5B::1%5D", "ipv6:[::1]", "unix:"))

    @property
    def metadata(self) -> Sequence[tuple[str, Any]]:
        return tuple(self._context.invocation_metadata())


def _handler(method: Method) -> Any:
    if method.unary is not None:
        return grpc.unary_unary_rpc_method_handler(_unary(method.unary))
    assert method.streaming is not None
    if method.one_request:
        streaming = _streaming(method.streaming)
        return grpc.unary_stream_rpc_method_handler(lambda data, context: streaming(iter((data,)), context))
    return grpc.stream_stream_rpc_method_handler(_streaming(method.streaming))


def _unary(method: Unary) -> Callable[[bytes, grpc.ServicerContext], bytes]:
    def handle(data: bytes, context: grpc.ServicerContext) -> bytes:
        try:
            return method(data, _Call(context))
        except ServeError as error:
            _abort(context, error)
        except Exception as error:  # grpcio would tell the client
            _abort(context, incidents.internal("a method", error))

    return handle


def _streaming(method: Streaming) -> Callable[[Iterator[bytes], grpc.ServicerContext], Iterator[bytes]]:
    def handle(messages: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        try:
            yield from method(messages, _Call(context))
        except ServeError as error:
            _abort(context, error)
        except grpc.RpcError:  # of `messages`: the client left
            raise
        except Exception as error:
            _abort(context, incidents.internal("a method", error))

    return handle


def _abort(context: grpc.ServicerContext, error: ServeError) -> NoReturn:
    if error.retry_after_ms is not None:
        context.set_trailing_metadata((("grpc-retry-pushback-ms", str(error.retry_after_ms)),))
    context.abort(_STATUS[CODES[error.meaning]], error.text)
    raise AssertionError("abort does not return")
