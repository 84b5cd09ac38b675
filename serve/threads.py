"""Threads for many short tasks.

What `concurrent.futures.ThreadPoolExecutor` does for a task that nobody waits for, without its future: that costs a fifth of a
call of the portable gRPC front.
"""

import logging
import queue
import threading
from collections.abc import Callable
from typing import Any

log = logging.getLogger("headrace.serve")


class Task:
    """A step that was submitted; as much of a future as grpcio asks for."""

    __slots__ = ("_callback", "_ended", "_lock", "_rest", "_step")

    def __init__(self, lock: threading.Lock, step: Callable[..., object], rest: tuple[Any, ...]) -> None:
        self._lock, self._step, self._rest = lock, step, rest
        self._ended = False
        self._callback: Callable[[Any], object] | None = None

    def add_done_callback(self, callback: Callable[[Any], object]) -> None:
        """Call `callback(self)` when the step has ended, at once where it has. One at most."""
        with self._lock:
            if not self._ended:
                self._callback = callback
                return
        callback(self)

    def run(self) -> None:
        try:
            self._step(*self._rest)
        except Exception:
            log.exception("a task failed")
        with self._lock:
            self._ended = True
        if self._callback is not None:
            self._callback(self)


class Threads:
    """At most `most` threads, started when a task finds none that is idle; they end with `shutdown`, or the process."""

    def __init__(self, most: int, name: str) -> None:
        self._most, self._name = most, name
        self._tasks: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._started = 0
        self._idle = 0  # less the tasks that no thread has taken yet

    def submit(self, step: Callable[..., object], /, *rest: Any) -> Task:
        """Run `step(*rest)` on a thread, in the order of the calls."""
        task = Task(self._lock, step, rest)
        with self._lock:
            self._idle -= 1
            starts = self._idle < 0 and self._started < self._most
            if starts:
                self._started += 1
                self._idle += 1
                name = f"{self._name}_{self._started}"
        self._tasks.put(task)
        if starts:
            threading.Thread(target=self._work, name=name, daemon=True).start()
        return task

    def shutdown(self) -> None:
        """End the threads when they have done what was submitted before. No more may be submitted."""
        for _ in range(self._started):
            self._tasks.put(None)

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            task.run()
            del task  # it holds a request and its answer
            with self._lock:
                self._idle += 1


__all__ = ["Task", "Threads"]
