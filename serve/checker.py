"""A model is loaded, proven and run for the first time in a process of its own before the server takes it in: what crashes,
loops or takes too much memory there harms nobody.

What was proven on this host with the kernels it has now need not be proven again: a small file in the cache folder says so
for a digest. It only saves the process; the server runs the golden data itself in any case.
"""

import contextlib
import functools
import hashlib
import importlib
import logging
import threading
from pathlib import Path
from typing import Any

import msgspec

from headrace.runtime.errors import HeadraceError
from headrace.runtime.notes import Notes, identity, name_of, settled
from headrace.serve.config import ModelConfig
from headrace.serve.model import Loader
from headrace.serve.repository import Repository
from headrace.serve.startup import prepare_loading
from headrace.serve.supervisor import DEFAULT_LOADER, Process, Spec, Supervisor, WorkerError, WorkerLost

log = logging.getLogger("headrace.serve")

IDLE_SECONDS = 5.0
LEAST_MEMORY = 2 << 30
FILES_OF_MEMORY = 4  # times the size of the file
DEFAULT = ModelConfig()


class CheckError(HeadraceError):
    """The model did not get through its check in a process of its own; the text says how it ended there."""


class CheckedLoader:
    """Loads models as `spec` says, each checked first. One check at a time; the process is used again for a while."""

    def __init__(
        self, spec: Spec, supervisor: Supervisor, *, timeout: float, memory_bytes: int, folder: Path | None
    ) -> None:
        self._spec, self._supervisor = spec, supervisor
        self._timeout, self._memory_bytes = timeout, memory_bytes
        self._known = Known(folder, spec) if folder is not None else None
        self._lock = threading.Lock()
        self._process: Process | None = None
        self._idle: threading.Timer | None = None
        self._imported = spec.loader != DEFAULT_LOADER

    def for_config(self, config: ModelConfig) -> Loader:
        """The loader of a model that is configured so: its first runs are those that it will then have."""
        return functools.partial(self, config=config)

    def __call__(self, path: Path, config: ModelConfig = DEFAULT) -> Any:
        """Check, then load here. CheckError, and what the loader raises."""
        before = identity(path.stat())
        if self._known is None or not self._known.has(path, config):
            self.check(path, config)
            if self._known is not None and identity(path.stat()) == before:
                self._known.add(path, config)
        model = load(self._spec, path)
        if identity(path.stat()) != before:
            model.close()
            raise CheckError(f"{path.name} was exchanged while it was loaded; load it again")
        return model

    def check(self, path: Path, config: ModelConfig = DEFAULT) -> None:
        """Load, prove and run it in the other process. CheckError with the reason."""
        with self._lock:
            limit = self._memory_bytes or memory_of_load(path)
            serving = self._process is None or self._process.gone  # and not a process of the start, for which all wait
            process = self._started()
            process.limit_memory(limit)
            if serving:
                process.yield_to_others()  # to those whose requests are answered meanwhile
            importing = self._import_here()  # while the process works
            doing = "checked"
            try:
                process.load(path, self._spec, self._timeout)
                doing = "run for the first time"
                ended = process.rehearse(_runs_of(config), self._timeout)
                if ended:
                    process.unload(self._timeout)
            except WorkerError as error:
                raise CheckError(_with_limit(str(error), limit)) from None
            except WorkerLost as error:
                self._process = None
                raise CheckError(f"{doing} in a process of its own, which {error}") from None
            finally:
                if importing is not None:
                    importing.join()
                process.yield_to_others()
                self._rest_later()
            if not ended:
                log.warning("%s runs on and on when it is fed zeros", path.name)
                self._process = None
                process.kill("its model did not come to an end")

    def start_for(self, repository: Repository) -> threading.Thread:
        """Start the process in the background, on the thread, where the first load of something in the repository will want
        it."""
        thread = threading.Thread(target=self._start_for, args=(repository,), name="headrace-checker", daemon=True)
        thread.start()
        return thread

    def _start_for(self, repository: Repository) -> None:
        with contextlib.suppress(HeadraceError, OSError):  # the load tells it
            for name in repository.names():
                entry = repository.find(name)
                for key in entry.wanted() if entry is not None else ():
                    assert entry is not None
                    if self._known is None or not self._known.has(entry.files[key], entry.config):
                        with self._lock:
                            self._started()
                            self._rest_later()
                        return

    def _started(self) -> Process:
        """The process, started where it is not there (lock held)."""
        if self._idle is not None:
            self._idle.cancel()
        if self._process is None or self._process.gone:
            self._process = self._supervisor.start(self._gone)
        return self._process

    def _rest_later(self) -> None:
        self._idle = threading.Timer(IDLE_SECONDS, self.rest)
        self._idle.daemon = True
        self._idle.start()

    def _import_here(self) -> threading.Thread | None:
        """On the thread, what loading needs; None: it is there."""
        if self._imported:
            return None
        self._imported = True
        thread = threading.Thread(target=prepare_loading)
        thread.start()
        return thread

    def rest(self) -> None:
        """End the process; the next check starts another one."""
        with self._lock:
            process, self._process = self._process, None
        if process is not None:
            process.kill("it had nothing to do")

    def close(self) -> None:
        """For the end of the server."""
        if self._idle is not None:
            self._idle.cancel()
        self.rest()

    def _gone(self, process: Process, how: str) -> None:
        log.debug("the checking process %d %s", process.pid, how)


def memory_of_load(path: Path) -> int:
    """What loading and proving a file may take where no setting says it."""
    return max(LEAST_MEMORY, FILES_OF_MEMORY * path.stat().st_size)


def load(spec: Spec, path: Path) -> Any:
    """Call the loader that `spec` names."""
    module, _, name = spec.loader.partition(":")
    return getattr(importlib.import_module(module), name)(path, **dict(spec.options))


class Known:
    """Files that got through a check on this host, with this build and these options: noted by their bytes, and by what the
    system says of them, so that a file that nobody has written since need not be read for it."""

    def __init__(self, folder: Path, spec: Spec) -> None:
        self._notes, self._spec = Notes(folder), spec

    def has(self, path: Path, config: ModelConfig = DEFAULT) -> bool:
        """False as well where the file is not all there is to the model."""
        if path.suffix != ".hr":
            return False
        found = path.stat()
        here = self._name(identity(found), config)
        if self._notes.has(here):
            return True
        known = self._notes.has(self._name(_digest(path, identity(found)), config))
        if known and settled(found):
            self._notes.add(here)
        return known

    def add(self, path: Path, config: ModelConfig = DEFAULT) -> None:
        """A cache folder that cannot be written costs a check the next time, nothing else."""
        if path.suffix == ".hr":
            self._notes.add(self._name(_digest(path, identity(path.stat())), config))

    def _name(self, file: str, config: ModelConfig) -> str:
        spec = (self._spec.loader, repr(self._spec.options))
        return name_of("got through a check", file, *spec, repr(_runs_of(config)), _build())


def _runs_of(config: ModelConfig) -> dict[str, Any]:
    """What of a configuration decides about the first runs."""
    found: dict[str, Any] = msgspec.to_builtins(ModelConfig(warmup=config.warmup, batching=config.batching))
    return {key: found[key] for key in ("warmup", "batching")}


def _build() -> str:
    """What else decides about a model's numbers here: the kernels and the CPU's tier."""
    try:
        from headrace.runtime import _native
    except ImportError:  # a source tree without a build
        return "reference"
    return f"{_native.cpu_tier()} {_native.build_id()}"


@functools.lru_cache(maxsize=1024)  # a start asks twice
def _digest(path: Path, identity: str) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _with_limit(text: str, limit: int) -> str:
    if "memory" in text:
        return f"{text} (repository.load_memory_bytes allows {limit})"
    return text
