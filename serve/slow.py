"""The slowest requests of the last minutes, with their phases: what to look at first when the tail is long."""

import heapq
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

KEPT = 100
WINDOW_SECONDS = 300.0  # what is shown reaches back one to two of these


@dataclass(frozen=True, slots=True, order=True)
class SlowRequest:
    """One request that has ended. `ended_ms` since 1970; the phases are 0 where it never ran; `batch_rows` counts the rows
    that ran together."""

    total_us: int
    ended_ms: int
    front: str
    id: str
    meaning: str
    queue_us: int = 0
    assemble_us: int = 0
    compute_us: int = 0
    scatter_us: int = 0
    batch_rows: int = 0
    batch_release: str = ""

    def show(self) -> dict[str, int | str]:
        return asdict(self)


class Slowest:
    """The `KEPT` slowest of this window and of the one before."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._lock = clock, threading.Lock()
        self._since = clock()
        self._now: list[SlowRequest] = []  # a heap, the fastest first
        self._before: list[SlowRequest] = []

    def is_slow(self, seconds: float) -> bool:
        """Whether a request that took so long would be kept: a look without the lock, before one is described."""
        return (
            len(self._now) < KEPT
            or seconds * 1e6 > self._now[0].total_us
            or self._clock() - self._since >= WINDOW_SECONDS
        )

    def add(self, request: SlowRequest) -> None:
        with self._lock:
            self._turn()
            if len(self._now) < KEPT:
                heapq.heappush(self._now, request)
            elif request > self._now[0]:
                heapq.heapreplace(self._now, request)

    def show(self) -> list[SlowRequest]:
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


__all__ = ["SlowRequest", "Slowest"]
