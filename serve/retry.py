"""Which failed calls a client makes again, when, and how many altogether.

Only calls that may be repeated, only when the server is unavailable or overloaded, never past the deadline of the call, and
within a budget: where most calls fail, repeating them makes things worse. Source: gRPC's design A6 (client retries).
"""

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from headrace.serve.errors import Meaning, ServeError

REPEATED = (Meaning.UNAVAILABLE, Meaning.OVERLOADED)


@dataclass(frozen=True, slots=True)
class Retry:
    """`attempts` in all; the pause before the second is up to `first_s` seconds, then up to twice the one before, at most
    `longest_s`, or what the server asks for. The budget holds `tokens`: a failure takes one, a success gives `refill`
    back, and nothing is repeated while it is half empty or less."""

    attempts: int = 3
    first_s: float = 0.05
    longest_s: float = 2.0
    tokens: float = 10.0
    refill: float = 0.1


class Budget:
    """The tokens of one client."""

    def __init__(self, retry: Retry) -> None:
        self._most, self._refill, self._half = retry.tokens, retry.refill, retry.tokens / 2
        self._tokens, self._lock = retry.tokens, threading.Lock()

    def succeeded(self) -> None:
        with self._lock:
            self._tokens = min(self._most, self._tokens + self._refill)

    def failed(self) -> bool:
        """Whether another attempt is in the budget."""
        with self._lock:
            self._tokens = max(0.0, self._tokens - 1)
            return self._tokens > self._half


class Attempts:
    """The attempts of one call, `timeout` seconds for all of them. `retry` None, or not `repeatable`: only one."""

    def __init__(
        self,
        retry: Retry | None,
        budget: Budget | None,
        timeout: float,
        repeatable: bool,
        *,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._retry = retry if repeatable else None
        self._budget, self._clock, self._chance = budget, clock, chance
        self._end = clock() + timeout
        self._made = 1

    def left(self) -> float:
        """Seconds for this attempt."""
        return max(0.001, self._end - self._clock())

    def succeeded(self) -> None:
        if self._budget is not None:
            self._budget.succeeded()

    def failed(self, error: ServeError) -> float | None:
        """Seconds to wait before the next attempt; None: the error is the answer."""
        retry = self._retry
        if retry is None or error.meaning not in REPEATED:
            return None
        affordable = self._budget.failed() if self._budget is not None else True
        asked = error.retry_after_ms
        if not affordable or self._made >= retry.attempts or (asked is not None and asked < 0):
            return None
        pause = min(retry.longest_s, retry.first_s * 2 ** (self._made - 1)) * self._chance()
        if asked is not None:
            pause = asked / 1000
        self._made += 1
        return pause if self._clock() + pause < self._end else None


__all__ = ["Attempts", "Budget", "Retry"]
