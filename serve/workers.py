"""A model that runs in worker processes: it looks like a loaded one, for the queue and the engine before it.

Each process has loaded the same file and runs one batch at a time. One that dies takes the batch on it along, nothing else:
another process takes its place, at once, or after a pause where several in a row did not live long. A model whose workers keep
dying so is given up.
"""

import base64
import collections
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from headrace.runtime.golden import VerifyReport
from headrace.serve import scheduler
from headrace.serve.checker import CheckError, memory_of_load
from headrace.serve.config import Workers
from headrace.serve.datatypes import DATATYPES, Array, of_dtype
from headrace.serve.scheduler import LOST, NOBODY, Lost
from headrace.serve.supervisor import EXIT_SECONDS, Packed, Process, Spec, Supervisor, WorkerError, WorkerLost

log = logging.getLogger("headrace.serve")

GRACE_SECONDS = 1.0  # that a batch may run on after its callers have given up
SHORT_LIFE_SECONDS = 5.0  # a worker that dies younger speaks against its model
DEATHS, WITHIN_SECONDS = 5, 60.0  # so many of them give the model up
FIRST_PAUSE, LONGEST_PAUSE = 0.25, 10.0


@dataclass(frozen=True, slots=True)
class _Spec:
    name: str
    dtype: str
    shape: tuple[int | str | None, ...] | None


@dataclass(frozen=True, slots=True)
class _Rows:
    independent: bool
    reason: str


@dataclass(frozen=True, slots=True)
class _State:
    input: str
    output: str
    initial: Array | None


def _array(told: Any) -> Array | None:
    """What `worker._constant` told."""
    if told is None:
        return None
    name, shape, data = told
    return np.frombuffer(base64.b64decode(data), DATATYPES[name].dtype).reshape(shape)


class WorkerModel:
    """The `Model` of serving over `settings.count` processes. Made when all of them are ready: CheckError else."""

    def __init__(
        self,
        path: Path,
        spec: Spec,
        supervisor: Supervisor,
        settings: Workers,
        *,
        load_timeout: float,
        load_memory: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path, self._spec, self._supervisor, self._settings = path, spec, supervisor, settings
        self._load_timeout, self._load_memory, self._clock = load_timeout, load_memory, clock
        self._lock = threading.Condition()
        self._processes: set[Process] = set()  # all that were started and are not gone
        self._ages: dict[Process, float] = {}  # those that are ready, and since when
        self._idle: list[Process] = []
        self._short_lives: collections.deque[float] = collections.deque(maxlen=DEATHS)
        self._in_a_row = 0
        self._given_up, self._closed, self._made = "", False, False
        self._packed = Packed()
        self._on_given_up: Callable[[str], None] = lambda reason: None
        self.restarts = 0
        try:
            facts = [self._bring_up(process) for process in [self._start() for _ in range(self.wanted)]]
            self._take_facts(facts[0])
        except BaseException:
            self.close()
            raise
        self._made = True

    def _take_facts(self, facts: Mapping[str, Any]) -> None:
        self.inputs, self.outputs = (
            tuple(_Spec(name, dtype, None if shape is None else tuple(shape)) for name, dtype, shape in facts[key])
            for key in ("inputs", "outputs")
        )
        self.rows, self.fed_rows = _Rows(*facts["rows"]), _Rows(*facts["fed_rows"])
        self.states = tuple(_State(name, output, _array(initial)) for name, output, initial in facts["states"])
        self.properties: dict[str, str] = facts["properties"]
        self.weight_bytes: int = facts["weight_bytes"]
        self._report = VerifyReport(*facts["report"])

    @property
    def wanted(self) -> int:
        """How many processes there should be."""
        return self._settings.count

    @property
    def alive(self) -> int:
        """How many processes are ready."""
        return len(self._ages)

    @property
    def program(self) -> "WorkerModel | None":
        """What the engine takes a door of; None where an interface has texts."""
        kinds = [of_dtype(spec.dtype).size for spec in (*self.inputs, *self.outputs)]
        return self if all(kinds) else None

    def door(self) -> Any:
        """See `serve/native/remote.h`."""
        from headrace.runtime import dtypes
        from headrace.serve import _native

        def rows(specs: Sequence[_Spec]) -> list[tuple[int, int]]:
            kinds = [of_dtype(spec.dtype) for spec in specs]
            return [(dtypes.of(np.empty(0, kind.dtype)).onnx, kind.size) for kind in kinds]

        return _native.remote_door(self._run_views, rows(self.inputs), rows(self.outputs))

    def verify(self) -> VerifyReport:
        """What the golden data came to in the first worker."""
        return self._report

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """One batch, on the next worker that is free. InputError, WorkerError, Lost."""
        until = scheduler.running_until()
        left = None if until is None else until - self._clock()
        return dict(
            zip((spec.name for spec in self.outputs), self._run([feeds[spec.name] for spec in self.inputs], left))
        )

    def _run_views(self, inputs: list[tuple[Any, list[int]]], left: float | None) -> list[tuple[Any, tuple[int, ...]]]:
        kinds = [of_dtype(spec.dtype).dtype for spec in self.inputs]
        arrays = [np.frombuffer(data, kind).reshape(dims) for kind, (data, dims) in zip(kinds, inputs)]
        return [(output.reshape(-1).view(np.uint8).data, output.shape) for output in self._run(arrays, left)]

    def _run(self, arrays: Sequence[Array], left: float | None) -> list[Array]:
        """`left`: seconds until nobody waits for it."""
        limit = self._settings.run_timeout_s
        if left is not None:
            limit = min(limit, max(left, 0.0) + GRACE_SECONDS)
        process = self._take(limit)
        try:
            outputs = process.run(arrays, limit)
        except WorkerLost as lost:  # its death comes to `_died`
            raise Lost(f"the worker process that ran the request {lost}", LOST) from None
        except BaseException:
            self._give_back(process)
            raise
        self._give_back(process)
        return outputs

    def _take(self, limit: float) -> Process:
        with self._lock:
            if not self._lock.wait_for(lambda: self._idle or self._given_up or self._closed, limit):
                raise Lost("no worker process of the model was free in time", NOBODY)
            if self._given_up or self._closed:
                raise Lost(self._given_up or "the model is being unloaded", NOBODY)
            return self._idle.pop()

    def _give_back(self, process: Process) -> None:
        with self._lock:
            if process in self._ages:
                self._idle.append(process)
                self._lock.notify()

    # ---- life and death ----

    def _start(self) -> Process:
        process = self._supervisor.start(self._died)
        with self._lock:
            if not process.gone:
                self._processes.add(process)
        return process

    def _bring_up(self, process: Process) -> dict[str, Any]:
        """Load into a process that was started, and use it."""
        limit = self._load_memory or memory_of_load(self._path)
        process.limit_memory(limit)
        try:
            facts = process.load(self._path, self._spec, self._load_timeout, self._packed)
        except WorkerError as error:
            process.kill("its model did not load")
            raise CheckError(str(error)) from None
        except WorkerLost as error:
            raise CheckError(f"loaded in a worker process, which {error}") from None
        process.limit_memory(self._settings.memory_bytes)
        with self._lock:
            self._ages[process] = self._clock()
            self._idle.append(process)
            self._lock.notify()
        self._supervisor.watch_heart(process)
        return facts

    def _died(self, process: Process, how: str) -> None:
        """On the supervisor's thread."""
        now = self._clock()
        with self._lock:
            self._processes.discard(process)
            born = self._ages.pop(process, None)
            if process in self._idle:
                self._idle.remove(process)
            if self._closed or self._given_up or not self._made:
                self._lock.notify_all()
                return
            self.restarts += 1
            self._in_a_row = 0 if born is not None and now - born > SHORT_LIFE_SECONDS else self._in_a_row + 1
            if self._in_a_row:
                self._short_lives.append(now)
            pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** (self._in_a_row - 2)) if self._in_a_row > 1 else 0.0
            file = "/".join(self._path.parts[-3:])  # model/version/file: the name of the file alone is everybody's
            log.error("a worker of %s (process %d) %s; another one in %g s", file, process.pid, how, pause)
            if len(self._short_lives) == DEATHS and now - self._short_lives[0] < WITHIN_SECONDS:
                reason = f"{DEATHS} workers died within {now - self._short_lives[0]:.0f} s, the last one {how}"
                self._given_up = reason
                self._lock.notify_all()
                threading.Thread(target=self._on_given_up, args=(reason,), daemon=True).start()
                return
        timer = threading.Timer(pause, self._replace)
        timer.daemon = True
        timer.start()

    def _replace(self) -> None:
        if self._closed or self._given_up:
            return
        try:
            process = self._start()
        except WorkerLost:
            return  # the server is shutting down
        except OSError as error:
            log.error("no worker process could be started: %s", error.strerror)
            timer = threading.Timer(LONGEST_PAUSE, self._replace)
            timer.daemon = True
            timer.start()
            return
        try:
            self._bring_up(process)
        except CheckError as error:
            if not self._closed:
                log.error("a new worker of %s is not ready: %s", self._path.name, error)  # its death comes here, too
        if self._closed:
            process.kill("the model was unloaded")

    def when_given_up(self, told: Callable[[str], None]) -> None:
        """Call `told` with the reason when the model is given up, or now if it was."""
        with self._lock:
            self._on_given_up = told
            reason = self._given_up
        if reason:
            told(reason)

    def close(self) -> None:
        """End the processes; returns when they are gone."""
        with self._lock:
            self._closed = True
            self._lock.notify_all()
            processes = list(self._processes)
        for process in processes:
            process.kill("the model was unloaded")
        self._packed.close()
        with self._lock:
            self._lock.wait_for(lambda: not self._processes, EXIT_SECONDS)
