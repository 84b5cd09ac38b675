"""The gRPC front: a synchronous grpcio server over the data plane. It translates, and does nothing else.

Handlers are registered with raw bytes. grpc.aio is never used: one header with a non-UTF-8 byte ends its accept loop.
"""

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NoReturn

os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # read on import: lines of its own on stderr are no part of our log
import grpc
from google.protobuf.message import DecodeError

from headrace.protos import inference_pb2 as pb
from headrace.serve import grpc_reflection as reflection
from headrace.serve.config import Limits, Listen
from headrace.serve.dataplane import DataPlane
from headrace.serve.errors import Meaning, ServeError, bad_argument, overloaded
from headrace.serve.grpc_codec import read_infer, read_parameters, read_settings, write_infer
from headrace.serve.grpc_health import HEALTH_SERVICE, Health
from headrace.serve.grpc_stream import answers
from headrace.serve.request import InferRequest, InferResponse
from headrace.serve.sockets import close_sockets

SERVICE = "inference.GRPCInferenceService"
ALIAS_SERVICE = "inference.model_repository.ModelRepositoryService"  # the same three verbs, as MLServer names them
RESERVED_THREADS = 16  # never taken by inferences and streams, so that health and metadata do not wait behind them
NO_DEADLINE_SECONDS = 3.0e7  # a call without a deadline may come as one in the far future
FLUSH_SECONDS = 0.1  # for the last answers to leave

CODES = {
    Meaning.BAD_ARGUMENT: grpc.StatusCode.INVALID_ARGUMENT,
    Meaning.NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    Meaning.EXISTS: grpc.StatusCode.ALREADY_EXISTS,
    Meaning.UNSUPPORTED: grpc.StatusCode.UNIMPLEMENTED,
    Meaning.UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
    Meaning.OVERLOADED: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Meaning.EXPIRED: grpc.StatusCode.DEADLINE_EXCEEDED,
    Meaning.CANCELLED: grpc.StatusCode.CANCELLED,
    Meaning.TOO_LARGE: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Meaning.UNAUTHENTICATED: grpc.StatusCode.UNAUTHENTICATED,
    Meaning.FORBIDDEN: grpc.StatusCode.PERMISSION_DENIED,
    Meaning.INTERNAL: grpc.StatusCode.INTERNAL,
}

Handler = Callable[[bytes, Any], bytes]


def options(limits: Limits) -> list[tuple[str, int]]:
    """Every limit of the transport, explicitly; grpcio ignores misspelt names, so tests check the effects."""
    return [
        ("grpc.max_receive_message_length", limits.max_message_bytes),
        ("grpc.max_send_message_length", limits.max_message_bytes),
        ("grpc.max_concurrent_streams", limits.max_concurrent_streams),
        ("grpc.max_metadata_size", limits.max_metadata_bytes),
        ("grpc.absolute_max_metadata_size", limits.max_metadata_bytes),
        ("grpc.server_handshake_timeout_ms", round(limits.header_timeout_s * 1000)),
        ("grpc.max_connection_idle_ms", 300_000),
        ("grpc.max_connection_age_ms", 3_600_000),
        ("grpc.max_connection_age_grace_ms", 30_000),
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.http2.min_ping_interval_without_data_ms", 300_000),
        ("grpc.http2.max_ping_strikes", 2),
        ("grpc.max_allowed_incoming_connections", limits.max_connections),
        ("grpc.so_reuseport", 0),
    ]


class GrpcFront:
    """One listening gRPC server."""

    def __init__(self, plane: DataPlane, listen: Listen, limits: Limits) -> None:
        self._plane = plane
        self._long = threading.BoundedSemaphore(max(1, limits.grpc_threads // 4))  # streams hold a thread each
        self._streamed = ThreadPoolExecutor(limits.grpc_threads // 2, thread_name_prefix="headrace-grpc-streamed")
        self._health = Health(plane, SERVICE)
        self._reflection = reflection.Reflection() if listen.reflection else None
        self._server = grpc.server(
            ThreadPoolExecutor(limits.grpc_threads, thread_name_prefix="headrace-grpc"),
            options=options(limits),
            maximum_concurrent_rpcs=limits.grpc_threads,
        )
        self._server.add_generic_rpc_handlers((_Table(self._methods()),))
        host = f"[{listen.host}]" if ":" in listen.host else listen.host
        try:
            self.port: int = self._server.add_insecure_port(f"{host}:{listen.grpc_port}")
        except RuntimeError:
            raise OSError(f"gRPC port {listen.grpc_port} of {listen.host} cannot be taken") from None

    def start(self) -> None:
        """Begin to accept."""
        self._server.start()

    def stop(self, grace: float) -> None:
        """Close every connection and the listener. The data plane refuses by now, and what it accepted has ended.

        gRPC's own shutdown cancels calls that arrive within the round trip of its GOAWAY, and clients then see
        CANCELLED, as if they had done it. A connection that closes is UNAVAILABLE, which it is.
        """
        self._health.stop()
        time.sleep(min(grace, FLUSH_SECONDS))
        close_sockets(self.port)
        self._server.stop(grace).wait()
        self._streamed.shutdown(wait=False)

    # ---- the table of methods ----

    def _methods(self) -> dict[str, Any]:
        plane = self._plane
        verbs: dict[str, tuple[Any, Any, Callable[[Any, bool], dict[str, Any]]]] = {
            "ServerLive": (pb.ServerLiveRequest, pb.ServerLiveResponse, lambda m, _: plane.server_live()),
            "ServerReady": (pb.ServerReadyRequest, pb.ServerReadyResponse, lambda m, _: plane.server_ready()),
            "ModelReady": (
                pb.ModelReadyRequest,
                pb.ModelReadyResponse,
                lambda m, _: plane.model_ready(m.name, m.version),
            ),
            "ServerMetadata": (
                pb.ServerMetadataRequest,
                pb.ServerMetadataResponse,
                lambda m, _: plane.server_metadata(),
            ),
            "ModelMetadata": (
                pb.ModelMetadataRequest,
                pb.ModelMetadataResponse,
                lambda m, _: plane.model_metadata(m.name, m.version),
            ),
            "ModelConfig": (
                pb.ModelConfigRequest,
                pb.ModelConfigResponse,
                lambda m, _: {"config": plane.model_config(m.name, m.version)},
            ),
            "ModelStatistics": (
                pb.ModelStatisticsRequest,
                pb.ModelStatisticsResponse,
                lambda m, _: plane.statistics(m.name, m.version),
            ),
            "RepositoryIndex": (
                pb.RepositoryIndexRequest,
                pb.RepositoryIndexResponse,
                lambda m, _: plane.repository_index(m.repository_name, m.ready),
            ),
            "RepositoryModelLoad": (
                pb.RepositoryModelLoadRequest,
                pb.RepositoryModelLoadResponse,
                lambda m, local: plane.load(*_repository(m), read_parameters(m.parameters), local),
            ),
            "RepositoryModelUnload": (
                pb.RepositoryModelUnloadRequest,
                pb.RepositoryModelUnloadResponse,
                lambda m, local: plane.unload(*_repository(m), read_parameters(m.parameters), local),
            ),
            "TraceSetting": (
                pb.TraceSettingRequest,
                pb.TraceSettingResponse,
                lambda m, local: _trace(plane.trace_setting(m.model_name, read_settings(m.settings), local)),
            ),
            "LogSettings": (
                pb.LogSettingsRequest,
                pb.LogSettingsResponse,
                lambda m, local: _log(plane.log_settings(read_settings(m.settings), local)),
            ),
        }
        for kind in ("System", "Cuda"):
            name = f"{kind}SharedMemory"
            verbs |= {
                f"{name}Status": (
                    getattr(pb, f"{name}StatusRequest"),
                    getattr(pb, f"{name}StatusResponse"),
                    lambda m, _: plane.shared_memory_status(m.name),
                ),
                f"{name}Register": (
                    getattr(pb, f"{name}RegisterRequest"),
                    getattr(pb, f"{name}RegisterResponse"),
                    lambda m, _: plane.shared_memory_register(),
                ),
                f"{name}Unregister": (
                    getattr(pb, f"{name}UnregisterRequest"),
                    getattr(pb, f"{name}UnregisterResponse"),
                    lambda m, _: plane.shared_memory_unregister(m.name),
                ),
            }
        table = {f"/{SERVICE}/{name}": _unary(*verb) for name, verb in verbs.items()}
        for name in ("RepositoryIndex", "RepositoryModelLoad", "RepositoryModelUnload"):
            table[f"/{ALIAS_SERVICE}/{name}"] = table[f"/{SERVICE}/{name}"]
        table[f"/{SERVICE}/ModelInfer"] = grpc.unary_unary_rpc_method_handler(self._infer)
        table[f"/{SERVICE}/ModelStreamInfer"] = grpc.stream_stream_rpc_method_handler(self._stream)
        table[f"/{HEALTH_SERVICE}/Check"] = grpc.unary_unary_rpc_method_handler(self._check)
        table[f"/{HEALTH_SERVICE}/Watch"] = grpc.unary_stream_rpc_method_handler(self._watch)
        if self._reflection is not None:
            for service in reflection.SERVICES:
                table[f"/{service}/{reflection.METHOD}"] = grpc.stream_stream_rpc_method_handler(self._reflect)
        return table

    # ---- inference ----

    def _infer(self, data: bytes, context: grpc.ServicerContext) -> bytes:
        try:
            return write_infer(self._run(read_infer(data), context))
        except ServeError as error:
            _abort(context, error)

    def _run(self, request: InferRequest, context: grpc.ServicerContext) -> InferResponse:
        left = context.time_remaining()
        if left is not None and left < NO_DEADLINE_SECONDS:
            request.deadline = time.monotonic() + left
        request.watch = context.add_callback
        return self._plane.infer(request)

    def _stream(self, messages: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        """Answers in the order of the requests; an error leaves the stream open unless the client asks for its end."""
        strict = any(key == "triton_grpc_error" and value == "true" for key, value in context.invocation_metadata())
        with self._long_call(context):
            try:
                yield from answers(messages, lambda request: self._run(request, context), self._streamed, strict)
            except ServeError as error:
                _abort(context, error)

    @contextlib.contextmanager
    def _long_call(self, context: grpc.ServicerContext) -> Iterator[None]:
        """A call that holds a thread for as long as the client likes: of these only a part of the threads."""
        if not self._long.acquire(blocking=False):
            _abort(context, overloaded("too many streams are open"))
        try:
            yield
        finally:
            self._long.release()

    # ---- health and reflection ----

    def _check(self, data: bytes, context: grpc.ServicerContext) -> bytes:
        try:
            return self._health.check(data)
        except ServeError as error:
            _abort(context, error)

    def _watch(self, data: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        try:
            yield from self._health.watch(data, context.is_active)
        except ServeError as error:
            _abort(context, error)

    def _reflect(self, messages: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        assert self._reflection is not None
        with self._long_call(context):
            for data in messages:
                yield self._reflection.answer(data)


class _Table(grpc.GenericRpcHandler):  # type: ignore[misc, unused-ignore]
    def __init__(self, methods: dict[str, Any]) -> None:
        self._methods = methods

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        return self._methods.get(details.method)


def _unary(request: Any, response: Any, verb: Callable[[Any, bool], dict[str, Any]]) -> Any:
    def handle(data: bytes, context: grpc.ServicerContext) -> bytes:
        message = _parse(request, data, context)
        try:
            return bytes(response(**verb(message, _is_local(context.peer()))).SerializeToString())
        except ServeError as error:
            _abort(context, error)

    return grpc.unary_unary_rpc_method_handler(handle)


def _parse(kind: Any, data: bytes, context: grpc.ServicerContext) -> Any:
    if len(data) > 1024 * 1024:  # no request but an inference is ever that long
        _abort(context, bad_argument("the message is longer than 1 MiB"))
    try:
        return kind.FromString(data)
    except (DecodeError, ValueError):
        _abort(context, bad_argument(f"the message is not a valid {kind.DESCRIPTOR.full_name}"))


def _abort(context: grpc.ServicerContext, error: ServeError) -> NoReturn:
    if error.retry_after_ms is not None:
        context.set_trailing_metadata((("grpc-retry-pushback-ms", str(error.retry_after_ms)),))
    context.abort(CODES[error.meaning], error.text)
    raise AssertionError("abort does not return")


def _is_local(peer: str) -> bool:
    return peer.startswith(("ipv4:127.", "ipv6:%5B::1%5D", "ipv6:[::1]", "unix:"))


def _repository(message: Any) -> tuple[str, str]:
    """(repository, model). KServe clients put the model's name in field 1 and nothing in field 2."""
    if message.model_name:
        return message.repository_name, message.model_name
    return "", message.repository_name


def _trace(answer: dict[str, Any]) -> dict[str, Any]:
    kind: Any = pb.TraceSettingResponse.SettingValue
    return {"settings": {k: kind(value=v if isinstance(v, list) else [v]) for k, v in answer["settings"].items()}}


def _log(answer: dict[str, Any]) -> dict[str, Any]:
    kind: Any = pb.LogSettingsResponse.SettingValue
    fields = {bool: "bool_param", int: "uint32_param", str: "string_param"}
    return {"settings": {k: kind(**{fields[type(v)]: v}) for k, v in answer["settings"].items()}}
