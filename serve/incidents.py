"""What went wrong inside, for the log: clients get the incident's number only. A flood of one kind is one line a second and a
count of those that were held back.
"""

import logging
import threading
import time
import uuid
from collections.abc import Callable

from headrace.serve.errors import Meaning, ServeError
from headrace.serve.log_budget import Budget

log = logging.getLogger("headrace.serve")

LINES_A_SECOND = 1  # of one kind


class Incidents:
    """`later` calls a function after so many seconds, on a thread of its own: a flood may end with the process going on."""

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        later: Callable[[float, Callable[[], None]], None] | None = None,
    ) -> None:
        self._clock, self._later = clock, later or _later
        self._budget = Budget(LINES_A_SECOND)
        self._lock = threading.Lock()
        self._waits = False  # for the end of a second in which something was held back

    def tell(
        self, where: str, incident: str, text: str = "", more: int = 0, error: BaseException | None = None
    ) -> None:
        """A line, or one more of those that are counted; `more` others of this kind were already lost on their way here."""
        kind = f"{where}, {type(error).__name__}" if error is not None else where
        with self._lock:
            now = self._clock()
            self._sum_up(now)
            taken = self._budget.takes(kind)
            self._budget.hold_back(kind, more)
            if (more or not taken) and not self._waits:
                self._waits = True
                self._later(int(now) + 1 - now, self._end_of_second)
        if taken:
            log.error("incident %s, %s%s", incident, where, f": {text}" if text else "", exc_info=error)

    def _end_of_second(self) -> None:
        with self._lock:
            self._waits = False
            self._sum_up(self._clock())

    def _sum_up(self, now: float) -> None:
        for _, kind, count in self._budget.passed(int(now * 1000)):
            log.error("%d more incidents in the same second: %s", count, kind)


def _later(seconds: float, step: Callable[[], None]) -> None:
    timer = threading.Timer(seconds + 0.001, step)
    timer.daemon = True
    timer.start()


def new_number() -> str:
    """By which a client's answer and a line of the log find each other."""
    return uuid.uuid4().hex[:12]


tell = Incidents().tell  # for everything in this process


def internal(where: str, error: BaseException) -> ServeError:
    """Tell of a failure; what its client may know."""
    number = new_number()
    tell(where, number, error=error)
    return ServeError(Meaning.INTERNAL, f"internal error, incident {number}")


__all__ = ["Incidents", "internal", "new_number", "tell"]
