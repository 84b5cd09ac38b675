"""How often each limit refused something: a request, a stream, a connection."""

import threading
from collections import Counter
from collections.abc import Callable, Mapping

QUEUE, INFLIGHT, THREADS, STREAMS, WATCHERS = "queue", "inflight", "threads", "streams", "watchers"
SEQUENCES, STATES, REGIONS = "sequences", "states", "regions"
MESSAGE, HEADERS, TIME, CONNECTIONS = (
    "message",
    "headers",
    "time",
    "connections",
)  # of the fronts; native/call.h has them

OF_STATUS = {413: MESSAGE, 414: HEADERS, 431: HEADERS, 408: TIME}  # HTTP's words for them


class Rejections:
    """Counts by the name of the limit; those of a front that counts by itself are asked for."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter({QUEUE: 0, INFLIGHT: 0})
        self._sources: list[Callable[[], Mapping[str, int]]] = []

    def add(self, limit: str, count: int = 1) -> None:
        with self._lock:
            self._counts[limit] += count

    def follow(self, source: Callable[[], Mapping[str, int]]) -> None:
        self._sources.append(source)

    def show(self) -> dict[str, int]:
        """All counts since the start."""
        with self._lock:
            total = Counter(self._counts)
        for source in self._sources:
            total.update(source())
        return dict(total)


__all__ = ["OF_STATUS", "Rejections"]
