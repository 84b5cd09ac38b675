"""The server: puts repository, manager, data plane and fronts together, and takes them down in the right order."""

import contextlib
import functools
import logging
import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from google.protobuf.internal import api_implementation

from headrace.runtime.caches import cache_folder
from headrace.serve.checker import CheckedLoader, load
from headrace.serve.config import ConfigError, Drain, Listen, Log, Settings, Tls
from headrace.serve.model import Loader
from headrace.serve.repository import Repository
from headrace.serve.schema import checked
from headrace.serve.supervisor import DEFAULT_LOADER, Spec, Supervisor

log = logging.getLogger("headrace.serve")


def make_loader(spec: Spec, settings: Settings, supervisor: Supervisor) -> Loader:
    """Loads models as `spec` says: into workers, or checked first where the settings want that."""
    store = settings.repository
    if settings.workers.count:
        from headrace.serve.workers import WorkerModel

        return functools.partial(
            WorkerModel,
            spec=spec,
            supervisor=supervisor,
            settings=settings.workers,
            load_timeout=store.load_timeout_s,
            load_memory=store.load_memory_bytes,
        )
    if not store.check:
        return lambda path: load(spec, path)
    folder = None
    if spec.loader == DEFAULT_LOADER:
        with contextlib.suppress(OSError, RuntimeError):  # no home, or not to be written: every model is checked
            folder = cache_folder("proven")
    timeout, memory = store.load_timeout_s, store.load_memory_bytes
    return CheckedLoader(spec, supervisor, timeout=timeout, memory_bytes=memory, folder=folder)


class Server:
    """Serves a repository until stopped. A context manager: entered when every start-up model was tried and the
    listeners accept, left after a drain.

    `settings` (see `config.settings_from`) replaces ports and host; `repository`, when given, beats theirs.
    `repository` is a folder, a file, `name=path`, or a sequence of them. Port 0 takes a free port (see `.grpc_port`,
    `.http_port`, `.metrics_port`), a negative port switches that listener off. OSError when a port is taken,
    RepositoryError when the repository cannot be read; a model that does not load is a state, not an error.
    `loader` is another way to load a model: a function of its path, or a Spec, which worker processes can follow too.
    """

    def __init__(
        self,
        repository: str | Path | Sequence[str | Path] = (),
        grpc_port: int = 0,
        http_port: int = 0,
        metrics_port: int = 0,
        host: str = "127.0.0.1",
        *,
        settings: Settings | None = None,
        loader: Loader | Spec | None = None,
    ) -> None:
        if api_implementation.Type() != "upb":
            raise RuntimeError("protobuf runs without its upb parser, which bounds recursion; refusing to serve")
        if settings is None:  # a server inside a program: no balancer to wait for, no lines
            listen = Listen(host, grpc_port, http_port, metrics_port)
            settings = Settings(listen=listen, drain=Drain(lame_duck_s=0), log=Log(access="off"))
        self.settings = settings = checked(settings)
        paths = [repository] if isinstance(repository, (str, Path)) else list(repository)
        store = settings.repository
        found = Repository(paths or store.paths, store.model_name)
        workers = settings.workers
        self._supervisor = Supervisor(workers.heartbeat_timeout_s, spares=1 if workers.count else 0)
        compute = store.threads or (max(1, len(os.sched_getaffinity(0)) // workers.count) if workers.count else 0)
        kept = store.packed_bytes if store.keep_packed else 0
        spec = loader or Spec(options=(("device", store.device), ("threads", compute), ("cache", kept)))
        if workers.count and not isinstance(spec, Spec):
            raise ConfigError("workers.count is above 0, but the loader is a function of this process; give a Spec")
        self._loader = make_loader(spec, settings, self._supervisor) if isinstance(spec, Spec) else spec
        if isinstance(self._loader, CheckedLoader):
            self._loader.start_for(found)
        # What follows is imported while that process starts: half of the time to ready, where a model is new to this host.
        from headrace.serve.access import AccessLog
        from headrace.serve.dataplane import DataPlane
        from headrace.serve.file_watch import FileWatch
        from headrace.serve.fronts import RESERVED_THREADS
        from headrace.serve.guard import Guard
        from headrace.serve.manager import Manager
        from headrace.serve.poller import Poller
        from headrace.serve.tls import Certificates
        from headrace.serve.tracing import Tracer

        self._access = AccessLog(settings.log)
        self._tracer = Tracer(settings.trace)
        self._manager = Manager(
            found,
            self._loader,
            drain_seconds=settings.drain.grace_s,
            access=self._access,
        )
        self._access.follow(lambda: [version.take_access() for version in self._manager.versions()])
        threads = {"grpc": settings.limits.grpc_threads, "http": settings.limits.http_threads}
        caps = {front: max(1, count - RESERVED_THREADS) for front, count in threads.items()}
        self._plane = DataPlane(
            self._manager,
            max_inflight=caps,
            control=store.control,
            access=self._access,
            shared_memory=settings.shared_memory,
            readiness=store.readiness,
            tracer=self._tracer,
        )
        self._poller = Poller(found, self._manager, store.poll_s) if store.control == "poll" else None
        self._certificates = Certificates(settings.tls) if settings.tls != Tls() else None
        self._guard = Guard(settings.auth)
        if (
            settings.auth.tokens
            and settings.tls == Tls()
            and settings.listen.host not in ("127.0.0.1", "::1", "localhost")
        ):
            log.warning("tokens travel in plain text: set [tls], or let something before this server end TLS")
        self._watches: list[FileWatch] = []
        if self._guard.files:
            self._watches.append(FileWatch(self._guard.files, self._guard.reload))
        if self._certificates is not None:
            self._watches.append(FileWatch(self._certificates.files, self._certificates.reload))
        self._fronts: list[Any] = []
        self._stopped = threading.Event()
        self._stopping = threading.Lock()
        self.grpc_port = self.http_port = self.metrics_port = -1

    def start(self) -> "Server":
        """Listen, then load the repository. Clients that come during the load see a live server that is not ready."""
        try:
            self._access.start()
            self._open_fronts()
            for front in self._fronts:
                front.start()
            for watch in self._watches:
                watch.start()
            if self._poller is not None:
                self._poller.look()  # what is there before the load: a change during it is seen
            self._manager.start()
        except BaseException:
            self.stop(0, 0)
            raise
        self._plane.server_ready()  # where it is, it stays so
        if self._poller is not None:
            self._poller.start()
        return self

    def _open_fronts(self) -> None:
        from headrace.serve.fronts import open_fronts

        opened = open_fronts(self._plane, self.settings, self._certificates, self._guard)
        self._fronts = opened.fronts
        self._plane.connections = lambda: {
            type(front).__name__.removesuffix("Front").removesuffix("Server").lower(): front.open_connections
            for front in self._fronts
            if hasattr(front, "open_connections")
        }
        self.grpc_port, self.http_port, self.metrics_port = opened.grpc_port, opened.http_port, opened.metrics_port

    def __enter__(self) -> "Server":
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def host(self) -> str:
        return self.settings.listen.host

    @property
    def ready(self) -> bool:
        """What clients are told: whether the models that `repository.readiness` names were ready once."""
        return bool(self._plane.server_ready()["ready"])

    def describe(self) -> list[str]:
        """A line for every version: its state, and whether it is batched or why not."""
        batching = {(v.name, v.number): v.properties["headrace.batching"] for v in self._manager.versions()}
        lines = []
        for name, number, state, reason in self._manager.index():
            detail = reason or f"batching {batching.get((name, number), 'unknown')}"
            lines.append(f"{name} {number} {state}: {detail}".replace("  ", " "))
        return lines or ["no model yet: expected NAME/VERSION/model.hr (or model.onnx) in the repository"]

    def reload(self) -> None:
        """Look now for other certificates and tokens; a thread does it every second."""
        for watch in self._watches:
            watch.look()

    def queues(self) -> list[str]:
        """A line for every loaded version: what waits, what runs, how many hold it."""
        rows = []
        for version in self._manager.versions():
            scheduler = getattr(version, "scheduler", None)  # gone when it was unloaded meanwhile
            waiting = scheduler.pending if scheduler is not None else 0
            rows.append(
                f"{version.name} {version.number}: {waiting} waiting, {version.refs + version.inflight} in progress"
            )
        return [f"inferences in progress: {self._plane.inflight}", *sorted(rows)]

    def wait(self, timeout: float | None = None) -> bool:
        """Block until the server has stopped; False when `timeout` seconds passed before."""
        return self._stopped.wait(timeout)

    def stop(self, grace: float | None = None, lame_duck: float | None = None) -> None:
        """Drain and stop; returns when all is down. Safe to call more than once. None: as the settings say.

        Not ready first; `lame_duck` seconds of serving on, because the removal from a balancer races with the signal;
        then new calls are refused and accepted ones get `grace` seconds; only then models are unloaded.
        """
        drain = self.settings.drain
        grace = drain.grace_s if grace is None else grace
        lame_duck = drain.lame_duck_s if lame_duck is None else lame_duck
        with self._stopping:
            if self._stopped.is_set():
                return
            self._plane.set_draining()
            for front in self._fronts:
                getattr(front, "leave", lambda: None)()
            for watch in self._watches:
                watch.stop()
            if self._poller is not None:
                self._poller.stop()
            if lame_duck > 0:
                time.sleep(lame_duck)
            self._plane.set_refusing()
            for front in self._fronts:
                getattr(front, "refuse", lambda: None)()
            end = time.monotonic() + grace
            while self._plane.inflight and time.monotonic() < end:
                time.sleep(0.005)
            for front in self._fronts:
                front.stop(max(0.0, end - time.monotonic()))
            self._manager.close()
            self._access.stop()
            self._tracer.close()
            getattr(self._loader, "close", lambda: None)()
            self._supervisor.close()
            self._plane.close()
            self._stopped.set()
