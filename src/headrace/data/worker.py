"""Worker processes of a loader: forked, so that the data set needs no copying; each answers batches over a socket."""

from __future__ import annotations

import builtins
import os
import signal
import socket
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from headrace.data import wire


@dataclass(frozen=True)
class WorkerInfo:
    """Inside a worker: its number, how many there are, its seed, its copy of the data set."""

    id: int
    num_workers: int
    seed: int
    dataset: Any


_info: WorkerInfo | None = None


def get_worker_info() -> WorkerInfo | None:
    """The worker this code runs in; None in the main process."""
    return _info


class Worker:
    """One forked process. `ask(task)` sends a task, `answer()` waits for the next result."""

    def __init__(
        self, info: WorkerInfo, make: Callable[[], Callable[[Any], Any]], init: Callable[[int], None] | None
    ) -> None:
        self.id = info.id
        self.sock, far = socket.socketpair()
        self.pid = os.fork()
        if self.pid == 0:
            status = 1
            try:
                self.sock.close()
                _run(far, info, make, init)
                status = 0
            finally:
                os._exit(status)
        far.close()

    def ask(self, task: Any) -> None:
        """Send one task."""
        wire.send(self.sock, task)

    def answer(self, timeout: float) -> Any:
        """The result of the oldest task. A worker's exception is raised again with its traceback."""
        self.sock.settimeout(timeout or None)
        try:
            found = wire.receive(self.sock)
        except TimeoutError:
            raise RuntimeError(f"DataLoader timed out after {timeout} seconds") from None
        except (EOFError, ConnectionError):
            raise RuntimeError(f"DataLoader worker (pid {self.pid}) exited unexpectedly") from None
        if "error" in found:
            kind = getattr(builtins, found["error"], RuntimeError)
            if not (isinstance(kind, type) and issubclass(kind, Exception)) or kind is UnicodeDecodeError:
                kind = RuntimeError
            text = f"Caught {found['error']} in DataLoader worker process {self.id}.\nOriginal {found['trace']}"
            raise (_Lines(text) if kind is KeyError else kind(text))
        return found

    def stop(self) -> None:
        """End the process."""
        if self.pid:
            self.sock.close()
            try:
                os.kill(self.pid, signal.SIGTERM)
                os.waitpid(self.pid, 0)
            except (ProcessLookupError, ChildProcessError):
                pass
            self.pid = 0


class _Lines(KeyError):
    """A KeyError whose text keeps its lines."""

    def __str__(self) -> str:
        return str(self.args[0])


def _run(
    sock: socket.socket, info: WorkerInfo, make: Callable[[], Callable[[Any], Any]], init: Callable[[int], None] | None
) -> None:
    global _info
    _info = info
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    import random

    from headrace.generators import manual_seed

    manual_seed(info.seed)
    random.seed(info.seed)
    work: Callable[[Any], Any] | None = None
    while True:
        try:
            task = wire.receive(sock)
        except (EOFError, OSError):
            return
        try:
            if work is None:
                if init is not None:
                    init(info.id)
                work = make()
            reply: Any = {"value": work(task)}
        except StopIteration:
            reply = {"end": True}
        except Exception as error:
            reply = {"error": type(error).__name__, "trace": traceback.format_exc()}
        try:
            wire.send(sock, reply)
        except TypeError as error:
            wire.send(sock, {"error": "TypeError", "trace": f"{error}"})
        except OSError:
            return
