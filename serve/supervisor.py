"""The worker processes of a server: started by exec, watched by descriptor and by heartbeat, ended with the server.

One thread starts and watches them all. It must be the same one: the system kills a worker when the thread that started it
ends (`worker_process._die_with`), so that none outlives its server.
"""

import collections
import contextlib
import json
import logging
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headrace.runtime.background import gives_way, giving_way
from headrace.runtime.errors import HeadraceError, InputError
from headrace.serve import frames
from headrace.serve.datatypes import Array
from headrace.serve.frames import Frame, FrameError, Inbox, Kind, Outbox, Segment

log = logging.getLogger("headrace.serve")

LOOK_SECONDS = 0.25
START_SECONDS = 60.0
EXIT_SECONDS = 5.0
BEHIND = 10  # the nice value of a process that only prepares
DEFAULT_LOADER = "headrace.runtime:load"


class WorkerError(HeadraceError):
    """What a worker answered instead of a result."""


class WorkerLost(HeadraceError):
    """The worker died, or was ended because it was stuck, before it answered."""


@dataclass(frozen=True, slots=True)
class Spec:
    """How a model is loaded: a function by name ("module:function"), called with the path and options."""

    loader: str = DEFAULT_LOADER
    options: tuple[tuple[str, Any], ...] = ()


class Packed:
    """A model's packed weights: sealed memory that one of its workers made and the others map. The server only hands it on."""

    def __init__(self) -> None:
        self._descriptor: int | None = None
        self._lock = threading.Lock()
        self._closed = False

    def lend(self) -> int | None:
        """A descriptor to close after use; None: no worker has made one."""
        with self._lock:
            return None if self._descriptor is None else os.dup(self._descriptor)

    def take(self, descriptor: int | None) -> None:
        """From a worker that made its own: the newest is kept."""
        if descriptor is None:
            return
        unwanted: int | None = descriptor
        with self._lock:
            if not self._closed:
                unwanted, self._descriptor = self._descriptor, descriptor
        if unwanted is not None:
            os.close(unwanted)

    def close(self) -> None:
        """The workers' mappings stay."""
        with self._lock:
            self._closed, unwanted, self._descriptor = True, self._descriptor, None
        if unwanted is not None:
            os.close(unwanted)


class Process:
    """One worker process. One question at a time; `kill` may come from any thread."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._beat = Segment.make(4096)
        passed = (theirs.fileno(), self._beat.descriptor)
        command = [sys.executable, "-P", "-m", "headrace.serve.worker_process", *map(str, passed), str(os.getpid())]
        places = {"PYTHONPATH": os.pathsep.join(place for place in sys.path if place)}  # the same modules as here
        nothing = subprocess.DEVNULL
        try:
            self._process = subprocess.Popen(
                command, stdin=nothing, stdout=nothing, pass_fds=passed, process_group=0, env={**os.environ, **places}
            )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
            self._beat.close_descriptor()
        self.pid = self._process.pid
        self.descriptor = os.pidfd_open(self.pid)
        self.gone = False
        self.lost = ""  # why it was ended
        self._asking = threading.Lock()  # one question at a time, and none of a descriptor that is closed
        self._life = threading.Lock()  # of `descriptor`
        self._connection = ours
        self._inbox, self._outbox = Inbox(), Outbox()
        self._number, self._started = 0, False
        self._seen, self._seen_at = b"", time.monotonic()

    def limit_memory(self, size: int) -> None:
        """Private memory that it may take from now on, in bytes; 0: no limit."""
        limit = size or resource.RLIM_INFINITY
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(self.pid, resource.RLIMIT_DATA, (limit, resource.RLIM_INFINITY))

    def yield_to_others(self) -> None:
        """It works when nothing else wants the processor, more or less."""
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, self.pid, BEHIND)

    def load(self, path: Path, spec: Spec, timeout: float, packed: Packed | None = None) -> dict[str, Any]:
        """Load and prove a model: the facts that `worker.Worker` answers. WorkerError with the reason, WorkerLost.

        Its packed weights come from `packed`, or go there; None: they stay its own.
        `timeout` seconds for that, the start of the process not counted."""
        if not self._started:
            self._ask(Kind.UNLOAD, b"", None, START_SECONDS, f"did not start within {START_SECONDS:g} s")
            self._started = True
        asked = {"path": str(path), "loader": spec.loader, "options": dict(spec.options), "share": packed is not None}
        asked["gives_way"] = gives_way()
        given = None if packed is None else packed.lend()
        try:
            late = f"was not ready after {timeout:g} s"
            frame = self._ask(Kind.LOAD, json.dumps(asked).encode(), given, timeout, late)
        finally:
            if given is not None:
                os.close(given)
        if frame.kind is not Kind.LOADED:
            raise self._refused(frame)
        if packed is not None:
            packed.take(frame.descriptor)
        facts: dict[str, Any] = json.loads(frame.payload)
        return facts

    def rehearse(self, config: Mapping[str, Any], timeout: float) -> bool:
        """Run the loaded model as a server with this configuration (of `config.ModelConfig`) will before it is ready: see
        `warmup.rehearse`. WorkerError, WorkerLost."""
        late = f"did not end its first runs within {timeout:g} s (repository.load_timeout_s)"
        frame = self._ask(Kind.REHEARSE, json.dumps(config).encode(), None, timeout, late)
        if frame.kind is not Kind.REHEARSED:
            raise self._refused(frame)
        return bool(json.loads(frame.payload))

    def run(self, arrays: Sequence[Array], timeout: float) -> list[Array]:
        """One batch; the outputs are copies. WorkerError, InputError, WorkerLost."""
        payload, descriptor = self._outbox.write(arrays)
        frame = self._ask(Kind.RUN, payload, descriptor, timeout, f"a batch ran for {timeout:.3g} s")
        if frame.kind is not Kind.RESULT:
            raise self._refused(frame)
        try:
            return [array.copy() if array.dtype != object else array for array in self._inbox.read(frame)]
        except FrameError as error:
            raise self._broken(str(error)) from None

    def unload(self, timeout: float) -> None:
        """Give the model back; the process can load another one."""
        self._ask(Kind.UNLOAD, b"", None, timeout, "did not unload its model")
        self._inbox, self._outbox = Inbox(), Outbox()

    def _ask(self, kind: Kind, payload: bytes, descriptor: int | None, timeout: float, late: str) -> Frame:
        """Send a question and wait for its answer. WorkerLost where there is none in time: the process is then killed."""
        with self._asking:
            return self._ask_alone(kind, payload, descriptor, timeout, late)

    def _ask_alone(self, kind: Kind, payload: bytes, descriptor: int | None, timeout: float, late: str) -> Frame:
        self._number += 1
        try:
            self._connection.settimeout(max(timeout, 1e-3))
            frames.send(self._connection, kind, self._number, payload, descriptor)
            self._outbox.sent()
            with giving_way(False):  # it only waits
                frame = frames.receive(self._connection)
        except TimeoutError:
            raise self._broken(late) from None
        except FrameError as error:
            raise self._broken(str(error)) from None
        except OSError:
            frame = None
        if frame is None:
            raise WorkerLost(self.lost or self._how_it_ended())
        if frame.number != self._number:
            raise self._broken("an answer is of another question")
        return frame

    def _broken(self, why: str) -> WorkerLost:
        self.kill(why)
        return WorkerLost(why)

    @staticmethod
    def _refused(frame: Frame) -> HeadraceError:
        told: dict[str, str] = json.loads(frame.payload)
        return InputError(told["text"]) if told["kind"] == "input" else WorkerError(told["text"])

    def _how_it_ended(self) -> str:
        """In words; it is gone, or will be in a moment."""
        try:
            status = self._process.wait(EXIT_SECONDS)
        except subprocess.TimeoutExpired:
            return "closed its connection"
        name = signal.Signals(-status).name if -status in signal.valid_signals() else ""
        return f"was ended by {name}" if name else f"ended with status {status}"

    def is_stuck(self, patience: float) -> bool:
        """True where its heart has not beaten for `patience` seconds, as seen by who asks often."""
        now, beat = time.monotonic(), bytes(self._beat.memory[:8])
        if beat != self._seen:
            self._seen, self._seen_at = beat, now
        return now - self._seen_at > patience

    def kill(self, why: str) -> None:
        """End it now. Who waits for an answer gets WorkerLost with this reason."""
        self.lost = self.lost or why
        with self._life, contextlib.suppress(ProcessLookupError):
            if self.descriptor >= 0:
                signal.pidfd_send_signal(self.descriptor, signal.SIGKILL)

    def reap(self) -> str:
        """After its end: give back what it held here. How it ended."""
        how = self.lost or self._how_it_ended()
        self._process.wait()
        self.gone = True
        with self._life:
            os.close(self.descriptor)
            self.descriptor = -1
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)  # who still waits for an answer wakes
        with self._asking:
            self._connection.close()
            self._outbox.close()
        return how


OnDeath = Callable[[Process, str], None]


class Supervisor:
    """Starts processes and tells of their deaths, once each, on its thread. `patience`: seconds without a heartbeat after
    which a loaded worker is killed. `spares` processes are kept started, so that a new one has only its model to load."""

    def __init__(self, patience: float = 4.0, spares: int = 0) -> None:
        self._patience = patience
        self._spares, self._spare = spares, collections.deque[Process]()
        self._lock = threading.Lock()
        self._wanted: list[tuple[OnDeath, Future[Process]]] = []
        self._watched: dict[int, tuple[Process, OnDeath]] = {}  # by descriptor
        self._beating: set[Process] = set()
        self._woken, self._wake = os.pipe()
        os.set_blocking(self._wake, False)
        self._thread: threading.Thread | None = None
        self._closed = False

    def start(self, on_death: OnDeath) -> Process:
        """A new process; `on_death(process, how)` is called when it has ended. From any thread."""
        future: Future[Process] = Future()
        with self._lock:
            if self._closed:
                raise WorkerLost("the server is shutting down")
            self._wanted.append((on_death, future))
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="headrace-supervisor", daemon=True)
                self._thread.start()
        self._rouse()
        return future.result()

    def watch_heart(self, process: Process) -> None:
        """From now on it must beat: its model is loaded."""
        with self._lock:
            self._beating.add(process)

    def close(self) -> None:
        """Kill what is left and stop."""
        with self._lock:
            closed, self._closed, thread = self._closed, True, self._thread
        if closed:
            return
        if thread is not None:
            self._rouse()
            thread.join()
        os.close(self._woken)
        os.close(self._wake)

    def _rouse(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.write(self._wake, b"x")

    def _work(self) -> None:
        poll = select.poll()
        poll.register(self._woken, select.POLLIN)
        while not self._closed or self._watched:
            for descriptor, _ in poll.poll(LOOK_SECONDS * 1000 if self._beating else None):
                if descriptor == self._woken:
                    os.read(self._woken, 4096)
                    self._start_wanted(poll)
                else:
                    poll.unregister(descriptor)
                    self._bury(*self._watched.pop(descriptor))
            self._look_at_hearts()
            if self._closed:
                for process, _ in self._watched.values():
                    process.kill("the server is shutting down")

    def _start_wanted(self, poll: select.poll) -> None:
        with self._lock:
            wanted, self._wanted = self._wanted, []
        for on_death, future in wanted:
            try:
                if self._closed:
                    raise WorkerLost("the server is shutting down")
                process = self._spare.popleft() if self._spare else self._start(poll)
            except Exception as error:
                future.set_exception(error)
                continue
            self._watched[process.descriptor] = process, on_death
            future.set_result(process)
        with contextlib.suppress(OSError):  # a spare is only for speed
            while not self._closed and len(self._spare) < self._spares:
                self._spare.append(self._start(poll))

    def _start(self, poll: select.poll) -> Process:
        process = Process()
        poll.register(process.descriptor, select.POLLIN)
        self._watched[process.descriptor] = process, self._drop_spare
        return process

    def _drop_spare(self, process: Process, how: str) -> None:
        if process in self._spare:
            self._spare.remove(process)

    def _bury(self, process: Process, on_death: OnDeath) -> None:
        with self._lock:
            self._beating.discard(process)
        how = process.reap()
        try:
            on_death(process, how)
        except Exception:
            log.exception("after the end of a worker")

    def _look_at_hearts(self) -> None:
        with self._lock:
            beating = list(self._beating)
        for process in beating:
            if process.is_stuck(self._patience):
                process.kill(f"its heart did not beat for {self._patience:g} s")
