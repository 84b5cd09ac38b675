"""Every verb of the protocol, one function each. No protobuf, HTTP or JSON type is known here, and no status code.

Verbs other than `infer` answer with plain dictionaries that carry the field names of the protocol.
"""

import contextlib
import functools
import logging
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from headrace.runtime.errors import InputError
from headrace.serve import answers, cache, controls, incidents
from headrace.serve.access import AccessLog
from headrace.serve.answers import Answer
from headrace.serve.config import SharedMemory
from headrace.serve.errors import (
    Meaning,
    ServeError,
    bad_argument,
    forbidden,
    not_found,
    overloaded,
    quoted,
    unavailable,
    unsupported,
)
from headrace.serve.generate import GenerateQueue
from headrace.serve.manager import Manager
from headrace.serve.rejections import INFLIGHT
from headrace.serve.request import InferRequest, InferResponse
from headrace.serve.scheduler import Job
from headrace.serve.shared_memory import Regions
from headrace.serve.slow import KEPT
from headrace.serve.statistics import record
from headrace.serve.tracing import Tracer
from headrace.serve.validate import Port
from headrace.serve.version import ModelVersion

log = logging.getLogger("headrace.serve")

EXTENSIONS: tuple[str, ...] = (
    "classification",
    "model_repository",
    "model_repository(unload_dependents)",
    "model_configuration",
    "binary_tensor_data",
    "parameters",
    "sequence",
    "sequence(string_id)",
    "statistics",
    "logging",
)
DEFAULT_MAX_INFLIGHT = 1024


@functools.cache
def package_version() -> str:
    """The version of the installed distribution, or "0" from a bare source tree."""
    import importlib.metadata  # slow to import, and asked for rarely

    try:
        return importlib.metadata.version("headrace")
    except importlib.metadata.PackageNotFoundError:
        return "0"


class DataPlane:
    """The verbs over one manager. `max_inflight` bounds the inferences of each front (by name), so that
    other verbs never wait behind them. `control` other than "explicit" refuses load and unload."""

    def __init__(
        self,
        manager: Manager,
        *,
        max_inflight: Mapping[str, int] | None = None,
        control: str = "explicit",
        shared_memory: SharedMemory | None = None,
        access: AccessLog | None = None,
        tracer: Tracer | None = None,
        readiness: str | Sequence[str] = "all",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.manager = manager
        self.rejections = manager.rejections
        self.max_inflight = dict(max_inflight or {})
        self._inflight: dict[str, int] = {}
        self.beside: dict[str, Callable[[], int]] = {}  # by front: inferences on its threads that need not come here
        self.refusals: dict[tuple[str, str], int] = {}  # (front, meaning) of requests that never reached a model
        self._control = control
        self.access = access or AccessLog()
        self.tracer = tracer or Tracer()
        self._readiness = readiness
        self.connections: Callable[[], dict[str, int]] = dict  # how many each front has
        self.regions = Regions(shared_memory or SharedMemory())
        self._clock = clock
        self._log_control = controls.LogControl()
        log.addFilter(self._log_control)
        self._lock = threading.Lock()
        self._started = False
        self._draining = False
        self._refusing = False

    # ---- life of the server ----

    def set_draining(self) -> None:
        """Readiness goes first; requests are still served."""
        self._draining = True

    def set_refusing(self) -> None:
        """New inferences are refused as unavailable; accepted ones finish. When `inflight` is 0 afterwards, it stays."""
        with self._lock:
            self._refusing = True

    def close(self) -> None:
        """Forget what clients have set; for the end of the server."""
        self.regions.close()
        log.removeFilter(self._log_control)

    @property
    def inflight(self) -> int:
        """Inferences in progress."""
        return sum(self._inflight.values()) + sum(version.inflight for version in self.manager.versions())

    def inflight_by_front(self) -> dict[str, int]:
        """Inferences in progress, by the front that they came through."""
        with self._lock:
            found = dict(self._inflight)
        direct = sum(version.inflight for version in self.manager.versions())
        return found | {"grpc": found.get("grpc", 0) + direct}

    def room(self, front: str) -> int:
        """How many more inferences of a front may come; of those that are `beside` this plane, all count."""
        return self.max_inflight.get(front, DEFAULT_MAX_INFLIGHT) - self._inflight.get(front, 0)

    def _beside(self, front: str) -> int:
        return self.beside[front]() if front in self.beside else 0

    def load_report(self, front: str) -> dict[str, float]:
        """How busy the server is, for a balancer: the share of a front's inferences that it takes at a time, and counts."""
        queues = [getattr(version, "scheduler", None) for version in self.manager.versions()]
        most = self.max_inflight.get(front, DEFAULT_MAX_INFLIGHT)
        return {
            "application_utilization": round((self._inflight.get(front, 0) + self._beside(front)) / most, 4),
            "inflight": self.inflight,
            "waiting": sum(queue.pending for queue in queues if queue is not None),
        }

    @property
    def draining(self) -> bool:
        return self._draining

    def server_live(self) -> Answer:
        return {"live": True}

    def server_ready(self) -> Answer:
        if not self._started and not self._draining and self.manager.all_ready(self._readiness):
            self._started = True
        return {"ready": self._started and not self._draining and self.manager.all_alive()}

    def server_metadata(self) -> Answer:
        enabled = {"trace": self.tracer.able, "system_shared_memory": self.regions.enabled}
        extensions = [*EXTENSIONS, *(name for name, on in enabled.items() if on)]
        return {"name": "headrace", "version": package_version(), "extensions": extensions}

    # ---- models ----

    def model_ready(self, name: str, version: str) -> Answer:
        return {"ready": not self._draining and self.manager.ready(name, version)}

    def model_metadata(self, name: str, version: str) -> Answer:
        with self._handle(name, version) as found:
            return answers.metadata(found, [v.number for v in self.manager.versions() if v.name == name])

    def model_config(self, name: str, version: str) -> Answer:
        with self._handle(name, version) as found:
            return answers.config(found)

    def statistics(self, name: str, version: str) -> Answer:
        versions = self.manager.versions()
        if name:
            with self._handle(name, version) as found:
                versions = [v for v in versions if v.name == name and (not version or v is found)]
        rows = [{"name": v.name, "version": v.number} | v.count().show() for v in versions]
        return {"model_stats": sorted(rows, key=lambda row: (row["name"], int(row["version"])))}

    def slow(self) -> Answer:
        """The slowest requests of the last minutes over all loaded models, the slowest first."""
        rows: list[Answer] = [
            {"model": version.name, "version": version.number, **one.show()}
            for version in self.manager.versions()
            for one in version.count().slowest.show()
        ]
        return {"requests": sorted(rows, key=lambda row: -row["total_us"])[:KEPT]}

    # ---- inference ----

    def infer(self, request: InferRequest) -> InferResponse:
        """Validate, queue, run, answer. Raises ServeError and nothing else."""
        with self._accepted(request) as one, self.regions.placed(request) as placed:
            one.version.post.check_placed(placed.outputs)
            if one.version.decoupled:
                raise unsupported(
                    f"model {quoted(request.model)} answers in parts: ask by ModelStreamInfer, generate or generate_stream"
                )
            return placed.keep(self._only(request, one))

    def stream(self, request: InferRequest) -> Generator[InferResponse, None, None]:
        """As `infer`, for models that answer in parts as well: one answer after the other. Closing it is a cancel."""
        with self._accepted(request) as one, self.regions.placed(request) as placed:
            one.version.post.check_placed(placed.outputs)
            version, asked = one.version, bool(request.parameters.get("triton_enable_empty_final_response"))
            if not version.decoupled:
                yield placed.keep(self._only(request, one))
                return
            ports = self._queued(request, one)
            assert one.job is not None and isinstance(version.scheduler, GenerateQueue)
            for number, (outputs, final) in enumerate(version.scheduler.stream(one.job, request.watch)):
                answer = one.answered(answers.inference(request, version, ports, outputs, one.job))
                answer.part, answer.final = True, final and not asked
                version.statistics.respond(number, one.job.execution, self._clock() - one.started)
                if request.trace is not None:
                    request.trace.ran(one.job.enqueued, one.job.execution)
                yield placed.keep(answer)
            if asked:
                yield InferResponse(request.model, version.number, request.id, [], part=True)

    @contextlib.contextmanager
    def reading(
        self, front: str, size: int, principal: Callable[[], str], model: str = "", version: str = ""
    ) -> Iterator[None]:
        """While a front makes a request of a message of `size` bytes: one that cannot be read is accounted as refused, too."""
        started = self._clock()
        try:
            yield
        except ServeError as error:
            request = InferRequest(model, version, [], front=front, size=size, principal=principal())
            self._refused(request, error.meaning, self._clock() - started)
            raise

    def _only(self, request: InferRequest, one: "_Accepted") -> InferResponse:
        ports = self._queued(request, one)
        assert one.job is not None
        outputs = self._run(request, one.version, one.job, ports)
        return one.answered(answers.inference(request, one.version, ports, outputs, one.job))

    def _queued(self, request: InferRequest, one: "_Accepted") -> tuple[Port, ...]:
        """Check the request and make its job; the outputs to return."""
        feeds, rows, ports = one.version.interface.check(request)
        one.job = self._job(request, one.version, feeds, rows, one.started)
        return ports

    @contextlib.contextmanager
    def _accepted(self, request: InferRequest) -> Iterator["_Accepted"]:
        """A request in progress, with a handle on its version; accounted at its end, however it ends."""
        started = self._clock()
        try:
            version = self._enter(request)
        except ServeError as error:
            self._limited(error)
            self._refused(request, error.meaning, self._clock() - started)
            raise
        one = _Accepted(version, started)
        meaning: Meaning | None = None
        try:
            yield one
        except ServeError as error:
            meaning = error.meaning
            self._limited(error)
            raise
        except GeneratorExit:  # of a stream: the client left
            meaning = Meaning.CANCELLED
            raise
        except Exception as error:
            failure = _translate(error, request)
            meaning = failure.meaning
            raise failure from None
        finally:
            if request.trace is not None and one.job is not None:
                request.trace.ran(one.job.enqueued, one.job.execution)
            version.account(request, meaning, self._clock() - started, one.job, one.sent)
            self.manager.release(version)
            with self._lock:
                self._inflight[request.front] -= 1

    def _run(self, request: InferRequest, version: ModelVersion, job: Job, ports: tuple[Port, ...]) -> cache.Outputs:
        """From the model's cache, or through its queue."""
        if version.cache is None or (key := cache.key_of(request, job.feeds, ports)) is None:
            return version.scheduler.run(job, request.watch)
        asked = self._clock()
        found = version.cache.get(key)
        looked = self._clock() - asked
        if found is not None:
            version.statistics.look_up(True, looked)
            return found
        outputs = version.scheduler.run(job, request.watch)
        answered = self._clock()
        version.cache.put(key, {port.name: outputs[port.name] for port in ports})
        version.statistics.look_up(False, looked + self._clock() - answered)
        return outputs

    def _enter(self, request: InferRequest) -> ModelVersion:
        front = request.front
        with self._lock:
            if self._refusing:
                raise unavailable("the server is shutting down")
            if self.room(front) <= self._beside(front):
                most = self.max_inflight.get(front, DEFAULT_MAX_INFLIGHT)
                raise overloaded(f"{most} requests are in flight, the most this server takes", INFLIGHT)
            self._inflight[front] = self._inflight.get(front, 0) + 1
        try:
            return self.manager.acquire(request.model, request.version)
        except BaseException:
            with self._lock:
                self._inflight[front] -= 1
            raise

    @staticmethod
    def _job(request: InferRequest, version: ModelVersion, feeds: Mapping[str, Any], rows: int, started: float) -> Job:
        """The request as the queue sees it: its level, and when it is late, by the client's deadline and the level's rules."""
        policy = version.scheduler.policy
        level = policy.level_of(request.parameters)
        timeout = policy.timeout_of(level, request.parameters)
        late = None if timeout is None else started + timeout
        if policy.levels[level - 1].delay:
            return Job(feeds, rows, request.deadline, level, late, request.parameters)
        deadline = min((t for t in (request.deadline, late) if t is not None), default=None)
        return Job(feeds, rows, deadline, level, None, request.parameters)

    def _limited(self, error: ServeError) -> None:
        if error.limit:
            self.rejections.add(error.limit)

    def _refused(self, request: InferRequest, meaning: Meaning, seconds: float) -> None:
        if self.access.wants(False, seconds):
            self.access.add(request.model, request.version, record(request, 0, meaning, seconds, 0.0, None))
        key = (request.front, meaning.value)
        with self._lock:
            self.refusals[key] = self.refusals.get(key, 0) + 1

    # ---- repository ----

    def repository_index(self, repository: str, only_ready: bool) -> Answer:
        self._no_repository(repository)
        rows = self.manager.index()
        keys = ("name", "version", "state", "reason")
        return {"models": [dict(zip(keys, row)) for row in rows if not only_ready or row[2] == "READY"]}

    def load(self, repository: str, name: str, parameters: Mapping[str, Any], trusted: bool) -> Answer:
        self._manage(repository, trusted)
        for key in parameters:
            if key == "config" or key.startswith("file:"):
                raise unsupported(f"parameter {quoted(key)}: overrides of a load are refused; change the repository")
            raise bad_argument(f"parameter {quoted(key)} is unknown for a load")
        self.manager.load(name)
        return {"model_name": name, "isLoaded": True}

    def unload(self, repository: str, name: str, parameters: Mapping[str, Any], trusted: bool) -> Answer:
        self._manage(repository, trusted)
        for key, value in parameters.items():
            if key != "unload_dependents" or not isinstance(value, bool):
                raise bad_argument(f"parameter {quoted(key)}: an unload takes only unload_dependents, true or false")
        self.manager.unload(name, dependents=bool(parameters.get("unload_dependents")))
        return {"model_name": name, "isUnloaded": True}

    def _manage(self, repository: str, trusted: bool) -> None:
        _only_trusted(trusted, "models are loaded and unloaded")
        self._no_repository(repository)
        if self._control != "explicit":
            raise unsupported(f"load and unload are off: the repository alone decides (control is {self._control})")
        if self._refusing:
            raise unavailable("the server is shutting down")

    @staticmethod
    def _no_repository(repository: str) -> None:
        if repository:
            raise not_found(f"repository {quoted(repository)} is unknown; leave the repository name empty")

    # ---- shared memory, trace, log ----

    def shared_memory_status(self, name: str) -> Answer:
        return {"regions": self.regions.status(name)}

    def shared_memory_register(self, name: str, key: str, offset: int, byte_size: int, trusted: bool) -> Answer:
        try:
            self.regions.register(name, key, offset, byte_size, trusted)
        except ServeError as error:
            self._limited(error)
            raise
        return {}

    def shared_memory_unregister(self, name: str, trusted: bool) -> Answer:
        if self.regions.enabled:
            _only_trusted(trusted, "shared memory is unregistered")
        self.regions.unregister(name)
        return {}

    def cuda_shared_memory_status(self, name: str) -> Answer:
        if name:
            raise not_found(f"CUDA shared memory region {quoted(name)} is not registered")
        return {"regions": {}}

    def cuda_shared_memory_register(self) -> Answer:
        raise unsupported("CUDA shared memory is not supported")

    def cuda_shared_memory_unregister(self, name: str) -> Answer:
        return {}

    def trace_setting(self, name: str, changes: Mapping[str, Any], trusted: bool) -> Answer:
        if name:
            self._handle(name, "").close()
        if changes:
            _only_trusted(trusted, "trace settings are changed")
        return {"settings": self.tracer.change(changes, name)}

    def log_settings(self, changes: Mapping[str, Any], trusted: bool) -> Answer:
        if changes:
            _only_trusted(trusted, "log settings are changed")
        return {"settings": self._log_control.change(changes)}

    def _handle(self, name: str, version: str) -> "_Handle":
        return _Handle(self.manager, self.manager.acquire(name, version))


@dataclass(slots=True)
class _Accepted:
    """A request that has a handle on `version`."""

    version: ModelVersion
    started: float
    job: Job | None = None
    sent: int = 0  # bytes of tensors that go back

    def answered(self, response: InferResponse) -> InferResponse:
        self.sent += sum(output.array.nbytes for output in response.outputs)
        return response


class _Handle:
    """A handle on a version for the length of a `with` block."""

    def __init__(self, manager: Manager, version: ModelVersion) -> None:
        self._manager, self._version = manager, version

    def __enter__(self) -> ModelVersion:
        return self._version

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._manager.release(self._version)


def _only_trusted(trusted: bool, what: str) -> None:
    if not trusted:
        raise forbidden(f"{what} from the server's own machine only, or with a token of the role manage")


def _translate(error: Exception, request: InferRequest) -> ServeError:
    """A failure of the model: a feed it refuses is the client's, everything else an incident of ours."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, InputError):  # an operator that refuses its data is wrapped
        cause = cause.__cause__
    if isinstance(cause, InputError):
        error = cause
        return bad_argument(str(error).splitlines()[0] if str(error) else "the model refused an input")
    return incidents.internal(f"model {request.model}", error)


__all__ = ["EXTENSIONS", "DataPlane", "package_version"]
