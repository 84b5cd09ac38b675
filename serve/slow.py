"""The slowest requests of the last minutes, with their phases: what to look at first when the tail is long."""

import heapq
import threading
import time
from collections.abc import Callable

from headrace.serve.records import Record

KEPT = 100
WINDOW_SECONDS = 300.0  # what is shown reaches back one to two of these


class Slowest:
    """The `KEPT` slowest of this window and of the one before."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._lock = clock, threading.Lock()
        self._since = clock()
        self._now: list[Record] = []  # a heap, the fastest first
        self._before: list[Record] = []

    def is_slow(self, seconds: float) -> bool:
        """Whether a request that took so long would be kept: a look without the lock, before one is described."""
        return (
            len(self._now) < KEPT
            or seconds * 1e6 > self._now[0].total_us
            or self._clock() - self._since >= WINDOW_SECONDS
        )

    def add(self, request: Record) -> None:
        with self._lock:
            self._turn()
            if len(self._now) < KEPT:
                heapq.heappush(self._now, request)
            elif request > self._now[0]:
                heapq.heapreplace(self._now, request)

    def show(self) -> list[Record]:
        """The slowest first."""
        with self._lock:
            self._turn()
            return sorted(self._now + self._before, reverse=True)[:KEPT]

    def _turn(self) -> None:
        passed = self._clock() - self._since
        if passed >= WINDOW_SECONDS:
            self._before = self._now if passed < 2 * WINDOW_SECONDS else []
            self._now = []
            self._since = self._clock()


__all__ = ["KEPT", "Slowest"]
