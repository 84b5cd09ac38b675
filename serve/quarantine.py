"""Requests that were running when a worker process died, for the queue in Python; `serve/native/quarantine.h` does the same.

What was there at two deaths is refused for a while; what was there at one runs alone meanwhile, so that the second death tells
who it was.
"""

import hashlib
import threading
import time
from collections.abc import Callable, Mapping

from headrace.serve.datatypes import Array, to_wire

SECONDS = 60.0
MOST = 4096


class Quarantine:
    """Digests of suspects and when they are forgotten. From any thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._deaths: dict[bytes, tuple[int, float]] = {}

    def deaths(self, feeds: Mapping[str, Array]) -> int:
        """How many deaths the same request was there at, in the last while. Costs nothing while there are no suspects."""
        if not self._deaths:
            return 0
        now = self._clock()
        with self._lock:
            self._deaths = {key: row for key, row in self._deaths.items() if row[1] > now}
            return self._deaths.get(_digest(feeds), (0, 0.0))[0] if self._deaths else 0

    def accuse(self, feeds: Mapping[str, Array]) -> int:
        """It was running at a death; at how many by now."""
        key = _digest(feeds)
        with self._lock:
            if len(self._deaths) >= MOST:
                self._deaths.clear()
            count = self._deaths.get(key, (0, 0.0))[0] + 1
            self._deaths[key] = count, self._clock() + SECONDS
        return count


def _digest(feeds: Mapping[str, Array]) -> bytes:
    digest = hashlib.sha256()
    for name, array in sorted(feeds.items()):
        digest.update(f"{name} {array.shape} ".encode())
        digest.update(to_wire(array))
    return digest.digest()
