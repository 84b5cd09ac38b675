"""The jobs of one model version that wait: in which order they go, which are too many, and what the next batch is.

No thread, no clock, no model: every decision is a function of what was pushed and the time that is given. The queue in C++
(`serve/native/pending.h`) decides alike, which is a property that the tests check.
"""

import bisect
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from headrace.serve.request import Parameters


@dataclass(frozen=True, slots=True)
class Level:
    """One priority: at most `max_queue` waiting requests (0: as many as the queue takes), `timeout` seconds in the queue
    (0: no end), which a request may shorten where `override`. After it a request is refused, or with `delay` runs after those
    of its level that are in time."""

    max_queue: int = 0
    timeout: float = 0.0
    override: bool = True
    delay: bool = False


@dataclass(frozen=True, slots=True)
class BatchPolicy:
    """How requests are merged: up to `max_rows` rows (0: never), waiting at most `max_delay` seconds for them, or until one
    of the sizes `preferred` is reached. `levels` are the priorities, the first goes first; requests that name none have
    `default_level`, counted from 1. Instance i runs on processor `cpus[i % len(cpus)]` (none: anywhere)."""

    max_rows: int = 0
    max_delay: float = 0.0
    instances: int = 1
    max_queue: int = 1024
    preferred: tuple[int, ...] = ()
    levels: tuple[Level, ...] = (Level(),)
    default_level: int = 1
    ordered: bool = False  # those of a level by arrival, whatever their deadlines
    cpus: tuple[int, ...] = ()

    def level_of(self, parameters: Parameters) -> int:
        """The level that a request asks for with `priority`; the default one for 0 and for numbers beyond the last."""
        priority = parameters.get("priority", 0)
        return priority if isinstance(priority, int) and 1 <= priority <= len(self.levels) else self.default_level

    def timeout_of(self, level: int, parameters: Parameters) -> float | None:
        """Seconds that a request of `level` may wait: the level's, or its own `timeout` (microseconds) where that is less."""
        rules, asked = self.levels[level - 1], parameters.get("timeout", 0)
        ends = [rules.timeout] if rules.timeout else []
        if rules.override and isinstance(asked, int) and asked > 0:
            ends.append(asked / 1e6)
        return min(ends, default=None)


class Waiting(Protocol):
    """What the order of a job depends on; times in seconds on one clock, None: never."""

    rows: int
    key: tuple[Any, ...] | None
    level: int
    deadline: float | None
    delay_at: float | None
    delayed: bool
    urgency: float

    @property
    def ended(self) -> bool: ...


J = TypeVar("J", bound=Waiting)
PATIENCE = 10.0


class Pending(Generic[J]):
    """Jobs by level, in time before delayed, then by deadline; one without a deadline, or with a late one, as if it had one
    `PATIENCE` seconds after its arrival. Those that ended meanwhile stay until a batch passes them."""

    def __init__(self, policy: BatchPolicy) -> None:
        self._policy = policy
        self._jobs: list[J] = []

    def __len__(self) -> int:
        return len(self._jobs)

    def __iter__(self) -> Iterator[J]:
        return iter(self._jobs)

    @property
    def head(self) -> J | None:
        return self._jobs[0] if self._jobs else None

    def push(self, job: J, now: float) -> str | None:
        """Put a job at its place; or the reason why it is one too many."""
        policy, level = self._policy, self._policy.levels[job.level - 1]
        if self._is_full(job.level):
            self._jobs = [other for other in self._jobs if not _is_over(other, now)]
        if len(self._jobs) >= policy.max_queue:
            return f"the queue of the model is full ({policy.max_queue} requests)"
        if self._is_full(job.level):
            return f"the queue of the model is full for priority {job.level} ({level.max_queue} requests)"
        job.urgency = self._urgency(job, now)
        bisect.insort_right(self._jobs, job, key=_place)
        return None

    def lateness(self, job: J, now: float, row_seconds: float, run_seconds: float) -> float:
        """By how many seconds a job would be late if it waited for those before it, where rows take `row_seconds` each and a run
        at least `run_seconds`; 0 where it is in time, or would be late even without the queue."""
        if job.deadline is None:
            return 0.0
        own, left = max(job.rows * row_seconds, run_seconds), job.deadline - now
        place = (job.level, False, self._urgency(job, now))
        rows = sum(other.rows for other in self._jobs if _place(other) <= place and not _is_over(other, now))
        late = own + rows * row_seconds / self._policy.instances - left
        return late if own <= left and late > 0 else 0.0

    def _urgency(self, job: J, now: float) -> float:
        if self._policy.ordered:
            return now
        return now + PATIENCE if job.deadline is None else min(job.deadline, now + PATIENCE)

    def settle(self, now: float) -> list[J]:
        """Bring the order up to the time: what is late goes behind. The jobs that were dropped because they are over."""
        if any(level.delay for level in self._policy.levels):
            for job in self._jobs:
                job.delayed = job.delayed or (job.delay_at is not None and job.delay_at <= now)
            self._jobs.sort(key=_place)
        over = 0
        while over < len(self._jobs) and _is_over(self._jobs[over], now):
            over += 1
        dropped, self._jobs = self._jobs[:over], self._jobs[over:]
        return dropped

    def is_formed(self, now: float) -> bool:
        """More waiting would not make the next batch better."""
        jobs, best, full = self._scan(now)
        return full or best > 0 or sum(job.rows for job in jobs) >= self._policy.max_rows

    def pop(self, now: float, waited: bool) -> tuple[list[J], str, list[J]]:
        """The next batch, why it is released (`waited`: the delay ran out), and what was dropped on the way. There is a head."""
        jobs, best, full = self._scan(now)
        if best:
            jobs = jobs[:best]
        rows, limit = sum(job.rows for job in jobs), self._policy.max_rows
        last = self._jobs.index(jobs[-1])
        passed, taken = self._jobs[: last + 1], set(map(id, jobs))
        dropped = [job for job in passed if id(job) not in taken and _is_over(job, now)]
        gone = taken | set(map(id, dropped))
        self._jobs = [job for job in passed if id(job) not in gone] + self._jobs[last + 1 :]
        if limit and rows == limit:
            return jobs, "full", dropped
        if best:
            return jobs, "preferred", dropped
        return jobs, "full" if full else "delay" if waited else "turn" if len(jobs) > 1 else "alone", dropped

    def _scan(self, now: float) -> tuple[list[J], int, bool]:
        """What fits behind the head in one batch; how many of these make the largest preferred size (0: none does); and
        whether one more was there that did not fit."""
        limit, preferred = self._policy.max_rows, self._policy.preferred
        head = self._jobs[0]
        jobs, rows, best = [head], head.rows, 1 if head.rows in preferred else 0
        for job in self._jobs[1:] if limit else ():
            if rows >= limit:
                break
            if job.key != head.key or _is_over(job, now):
                continue
            if rows + job.rows > limit:
                return jobs, best, True
            jobs.append(job)
            rows += job.rows
            best = len(jobs) if rows in preferred else best
        return jobs, best, False

    def _is_full(self, number: int) -> bool:
        policy, most = self._policy, self._policy.levels[number - 1].max_queue
        return len(self._jobs) >= policy.max_queue or (
            most > 0 and sum(job.level == number for job in self._jobs) >= most
        )


def _place(job: Waiting) -> tuple[int, bool, float]:
    return job.level, job.delayed, job.urgency


def _is_over(job: Waiting, now: float) -> bool:
    return job.ended or (job.deadline is not None and job.deadline <= now)


__all__ = ["BatchPolicy", "Level", "Pending"]
