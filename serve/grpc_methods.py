"""Every method of the gRPC services, as functions of bytes: one table behind every gRPC front.

A front finds a method by its path, gives it the messages it receives and a `Call`, and sends what it answers. A
`ServeError` that a method raises is the call's status; a front turns its meaning into a code.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from google.protobuf.message import DecodeError

from headrace.protos import inference_pb2 as pb
from headrace.serve import grpc_reflection as reflection
from headrace.serve.config import Limits, Listen
from headrace.serve.dataplane import DataPlane
from headrace.serve.errors import bad_argument, overloaded
from headrace.serve.grpc_codec import is_typed, read_infer, read_parameters, read_settings, write_infer, write_typed
from headrace.serve.grpc_codes import SERVICE
from headrace.serve.grpc_health import HEALTH_SERVICE, Health
from headrace.serve.grpc_stream import Run, answers
from headrace.serve.guard import Guard
from headrace.serve.rejections import STREAMS
from headrace.serve.request import InferRequest
from headrace.serve.tracing import read_traced, traced

if TYPE_CHECKING:
    from headrace.serve.routes import Routes

ALIAS_SERVICE = "inference.model_repository.ModelRepositoryService"  # the same three verbs, as MLServer names them
INFER_PATH = f"/{SERVICE}/ModelInfer"
NO_DEADLINE_SECONDS = 3.0e7  # a call without a deadline may come as one in the far future
MAX_SMALL_BYTES = 1024 * 1024  # no request but an inference is ever that long


class Call(Protocol):
    """What a method may ask of the call it answers."""

    @property
    def local(self) -> bool:
        """The client is on this machine."""
        ...

    @property
    def metadata(self) -> Sequence[tuple[str, Any]]: ...

    def remaining(self) -> float | None:
        """Seconds to the deadline; None: there is none."""
        ...

    def watch(self, callback: Callable[[], None]) -> bool:
        """Call back when the call ends early; False: it has."""
        ...

    def is_active(self) -> bool: ...


Unary = Callable[[bytes, Call], bytes]
Streaming = Callable[[Iterator[bytes], Call], Iterator[bytes]]
Verb = tuple[Any, Any, Callable[[Any, bool], dict[str, Any]]]  # request, response, (message, trusted) -> fields
Admit = Callable[[Call], bool]  # whether the caller may change the server; ServeError where it may not call at all


@dataclass(frozen=True, slots=True)
class Method:
    """A method: `unary`, or `streaming` (any number of messages either way; `one_request` of them from the client).
    `quick`: answers from memory, without waiting for anybody."""

    unary: Unary | None = None
    streaming: Streaming | None = None
    one_request: bool = False
    quick: bool = False


class Methods:
    """The methods over one data plane, by path. `routes`: of a front whose inferences all come here, those that need not go on
    to the plane."""

    def __init__(
        self,
        plane: DataPlane,
        listen: Listen,
        limits: Limits,
        guard: Guard | None = None,
        routes: "Routes | None" = None,
    ) -> None:
        self._plane, self._routes = plane, routes
        self._guard = guard or Guard()
        self._typed_answers = listen.typed_answers
        self._long = threading.BoundedSemaphore(max(1, limits.grpc_threads // 4))  # streams hold a thread each
        self._streamed = ThreadPoolExecutor(limits.grpc_threads // 2, thread_name_prefix="headrace-grpc-streamed")
        self._admit_inference, self._admit_reflection = self._admit("ModelInfer"), self._admit("ServerMetadata")
        self._health = Health(plane, SERVICE)
        self.table: dict[str, Method] = {}
        for name, verb in _verbs(plane).items():
            unary = _unary(*verb, self._admit(name))
            self.table[f"/{SERVICE}/{name}"] = Method(unary=unary, quick=name not in _SLOW)
        for name in ("RepositoryIndex", "RepositoryModelLoad", "RepositoryModelUnload"):
            self.table[f"/{ALIAS_SERVICE}/{name}"] = self.table[f"/{SERVICE}/{name}"]
        self.table[INFER_PATH] = Method(unary=self._infer)
        self.table[f"/{SERVICE}/ModelStreamInfer"] = Method(streaming=self._stream)
        self.table[f"/{HEALTH_SERVICE}/Check"] = Method(unary=lambda data, _: self._health.check(data), quick=True)
        self.table[f"/{HEALTH_SERVICE}/Watch"] = Method(streaming=self._watch, one_request=True)
        if listen.reflection:
            self._reflection = reflection.Reflection()
            for service in reflection.SERVICES:
                self.table[f"/{service}/{reflection.METHOD}"] = Method(streaming=self._reflect)

    def _admit(self, name: str) -> Admit:
        group = group_of(name)
        return lambda call: self._guard.check("grpc", group, _headers(call), call.local)

    def stop(self) -> None:
        """End what would go on for ever: watches of the health."""
        self._health.stop()

    def close(self) -> None:
        """No call is left."""
        self._streamed.shutdown(wait=False)

    # ---- inference ----

    def _infer(self, data: bytes, call: Call) -> bytes:
        plane, tracer = self._plane, self._plane.tracer
        if self._routes is not None and not tracer.on:
            answer = self._routes.infer(data, call.remaining(), lambda: call.metadata, call.watch, plane.room("grpc"))
            if answer is not None:
                return answer
        self._admit_inference(call)
        if not tracer.on:
            return self._answer(self._read(data, call), len(data), call)
        with traced(tracer, _headers(call), "grpc") as reading:
            return self._answer(reading.read(lambda: self._read(data, call)), len(data), call)

    def _read(self, data: bytes, call: Call) -> InferRequest:
        with self._plane.reading("grpc", len(data), lambda: self._guard.name_of(_headers(call))):
            return read_infer(data)

    def _answer(self, request: InferRequest, size: int, call: Call) -> bytes:
        request.size = size
        typed = self._typed_answers and is_typed(request)
        response = self._plane.infer(self._placed(request, call))
        return (write_typed(response) if typed else None) or write_infer(response)

    def _placed(self, request: InferRequest, call: Call) -> InferRequest:
        """The request with what its call knows: when it is late, whether the client is still there, and who it is."""
        left = call.remaining()
        if left is not None and left < NO_DEADLINE_SECONDS:
            request.deadline = time.monotonic() + left
        request.watch = call.watch
        request.principal = self._guard.name_of(_headers(call))
        return request

    def _stream(self, messages: Iterator[bytes], call: Call) -> Iterator[bytes]:
        """Answers in the order of the requests; an error leaves the stream open unless the client asks for its end."""
        self._admit_inference(call)
        strict = any(key == "triton_grpc_error" and value == "true" for key, value in call.metadata)
        with self._long_call():
            yield from answers(messages, lambda data: self._streamed_request(data, call), self._streamed, strict)

    def _streamed_request(self, data: bytes, call: Call) -> tuple[InferRequest, Run]:
        request, through = read_traced(self._plane.tracer, _headers(call), "grpc", lambda: self._read(data, call))
        return request, lambda request: through(self._plane.stream(self._placed(request, call)))

    @contextlib.contextmanager
    def _long_call(self) -> Iterator[None]:
        """A call that holds a thread for as long as the client likes: of these only a part of the threads."""
        if not self._long.acquire(blocking=False):
            self._plane.rejections.add(STREAMS)
            raise overloaded("too many streams are open", STREAMS)
        try:
            yield
        finally:
            self._long.release()

    # ---- health and reflection ----

    def _watch(self, messages: Iterator[bytes], call: Call) -> Iterator[bytes]:
        yield from self._health.watch(next(iter(messages), b""), call.is_active)

    def _reflect(self, messages: Iterator[bytes], call: Call) -> Iterator[bytes]:
        self._admit_reflection(call)
        with self._long_call():
            for data in messages:
                yield self._reflection.answer(data)


_GROUPS = {
    "ServerLive": "health",
    "ServerReady": "health",
    "ModelReady": "health",
    "ServerMetadata": "metadata",
    "ModelMetadata": "metadata",
    "ModelInfer": "inference",
    "ModelStreamInfer": "inference",
    "ModelConfig": "model-config",
    "ModelStatistics": "statistics",
    "TraceSetting": "trace",
    "LogSettings": "logging",
}


def group_of(name: str) -> str:
    """The group that a method belongs to, as restrictions and roles name it."""
    if name in _GROUPS:
        return _GROUPS[name]
    return "shared-memory" if "SharedMemory" in name else "model-repository"


def _headers(call: Call) -> Callable[[str], str | None]:
    return lambda name: next((value for key, value in call.metadata if key == name and isinstance(value, str)), None)


_SLOW = ("RepositoryModelLoad", "RepositoryModelUnload", "RepositoryIndex", "ModelConfig", "ModelStatistics")


def _unary(request: Any, response: Any, verb: Callable[[Any, bool], dict[str, Any]], admit: Admit) -> Unary:
    def handle(data: bytes, call: Call) -> bytes:
        trusted = admit(call)
        return bytes(response(**verb(_parse(request, data), trusted)).SerializeToString())

    return handle


def _parse(kind: Any, data: bytes) -> Any:
    if len(data) > MAX_SMALL_BYTES:
        raise bad_argument("the message is longer than 1 MiB")
    try:
        return kind.FromString(data)
    except (DecodeError, ValueError):
        raise bad_argument(f"the message is not a valid {kind.DESCRIPTOR.full_name}") from None


def _verbs(plane: DataPlane) -> dict[str, Verb]:
    verbs: dict[str, Verb] = {
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
            lambda m, trusted: plane.load(*_repository(m), read_parameters(m.parameters), trusted),
        ),
        "RepositoryModelUnload": (
            pb.RepositoryModelUnloadRequest,
            pb.RepositoryModelUnloadResponse,
            lambda m, trusted: plane.unload(*_repository(m), read_parameters(m.parameters), trusted),
        ),
        "TraceSetting": (
            pb.TraceSettingRequest,
            pb.TraceSettingResponse,
            lambda m, trusted: _trace(plane.trace_setting(m.model_name, read_settings(m.settings), trusted)),
        ),
        "LogSettings": (
            pb.LogSettingsRequest,
            pb.LogSettingsResponse,
            lambda m, trusted: _log(plane.log_settings(read_settings(m.settings), trusted)),
        ),
    }
    memory: dict[str, Callable[[Any, bool], dict[str, Any]]] = {
        "SystemSharedMemoryStatus": lambda m, _: plane.shared_memory_status(m.name),
        "SystemSharedMemoryRegister": lambda m, trusted: plane.shared_memory_register(
            m.name, m.key, m.offset, m.byte_size, trusted
        ),
        "SystemSharedMemoryUnregister": lambda m, trusted: plane.shared_memory_unregister(m.name, trusted),
        "CudaSharedMemoryStatus": lambda m, _: plane.cuda_shared_memory_status(m.name),
        "CudaSharedMemoryRegister": lambda m, _: plane.cuda_shared_memory_register(),
        "CudaSharedMemoryUnregister": lambda m, _: plane.cuda_shared_memory_unregister(m.name),
    }
    for name, verb in memory.items():
        verbs[name] = (getattr(pb, f"{name}Request"), getattr(pb, f"{name}Response"), verb)
    return verbs


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
