"""One queue a model version, merged into batches by the callers themselves.

The caller that finds an idle instance leads: it takes the head of the queue, merges what fits, runs the model and
hands every caller its rows. Then it promotes the next waiting caller and returns. A model that is idle is so entered
without a thread hand-over, and under load the queue that gathered during one run is the next batch. Where a run takes
long (`INLINE_SECONDS`) a background thread leads instead, so that every caller stays free to expire or be cancelled.

Each job ends exactly once: completion, expiry, cancellation and closing race for its ticket.
"""

import contextlib
import itertools
import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from headrace.serve import batch
from headrace.serve.datatypes import Array
from headrace.serve.errors import Meaning, ServeError, overloaded, unavailable
from headrace.serve.pending import BatchPolicy, Pending
from headrace.serve.quarantine import Quarantine
from headrace.serve.rejections import QUEUE
from headrace.serve.request import NO_PARAMETERS, Parameters

log = logging.getLogger("headrace.serve")

INLINE_SECONDS = 0.010
FORGETTING = 1.05  # a run: the best time of a row counts for less and less
TOO_LATE = "the queue is too long for the deadline of the request"
_ISOLATED = "isolated"  # release reason of jobs run again alone after their batch failed

LOST, NOBODY = 3, 4  # as hr_outcome has them
_current = threading.local()

Run = Callable[[Mapping[str, Array]], dict[str, Array]]
Watch = Callable[[Callable[[], None]], bool]  # registers a cancel callback; False: the client is gone already


class Lost(ServeError):
    """From a `run` in another process: that one died (`outcome` LOST), or there was none in time (NOBODY)."""

    def __init__(self, text: str, outcome: int) -> None:
        super().__init__(Meaning.UNAVAILABLE, text)
        self.outcome = outcome


def running_until() -> float | None:
    """When the callers of the batch that this thread runs have all given up; None: never."""
    until: float | None = getattr(_current, "until", None)
    return until


@dataclass(frozen=True, slots=True)
class Execution:
    """What one run of the model did; times in seconds on the monotonic clock."""

    rows: int
    reason: str
    started: float
    assembled: float
    computed: float
    finished: float
    failed: bool
    number: int = 0  # of the runs of its version, from 1


class Job:
    """One request in the scheduler. `end` may be called by anyone, any number of times: the first call counts."""

    __slots__ = (
        "_ticket", "_wake", "deadline", "delay_at", "delayed", "enqueued", "execution", "feeds", "key", "lead", "level",
        "outcome", "parameters", "rows", "urgency",
    )  # fmt: skip

    def __init__(
        self,
        feeds: Mapping[str, Array],
        rows: int,
        deadline: float | None,
        level: int = 1,
        delay_at: float | None = None,
        parameters: Parameters = NO_PARAMETERS,
    ) -> None:
        self.feeds = feeds
        self.parameters = parameters  # of the request
        self.rows = rows
        self.key: tuple[Any, ...] | None = None
        self.deadline = deadline
        self.level, self.delay_at, self.delayed = level, delay_at, False  # see `Pending`
        self.enqueued = self.urgency = 0.0
        self.lead = False
        self.outcome: dict[str, Array] | BaseException | None = None
        self.execution: Execution | None = None
        self._ticket = threading.Lock()
        self._wake = threading.Lock()
        self._wake.acquire()

    @property
    def ended(self) -> bool:
        return self._ticket.locked()

    def end(self, outcome: dict[str, Array] | BaseException) -> bool:
        """Give the job its only outcome; False when it had one already."""
        if not self._ticket.acquire(blocking=False):
            return False
        self.outcome = outcome
        self.wake()
        return True

    def cancel(self) -> None:
        """The client went away."""
        self.end(ServeError(Meaning.CANCELLED, "the request was cancelled by the client"))

    def promote(self) -> None:
        """Make the waiting caller the leader of the next batch; `lead` stays set, so that no leader is made one twice."""
        self.lead = True
        self.wake()

    def wake(self) -> None:
        with contextlib.suppress(RuntimeError):  # woken already: end and promote may both come
            self._wake.release()

    def wait(self, timeout: float) -> None:
        self._wake.acquire(timeout=min(timeout, threading.TIMEOUT_MAX))


class Queue(Protocol):
    """What the data plane needs of the queue of a version."""

    policy: BatchPolicy

    @property
    def pending(self) -> int:
        """Jobs waiting."""
        ...

    def run(self, job: Job, watch: Watch | None = None) -> dict[str, Array]: ...

    def close(self, why: str | None = None) -> None: ...


class Scheduler:
    """Runs jobs of one model version. `run` must be thread-safe when `policy.instances` is above 1."""

    def __init__(
        self,
        run: Run,
        policy: BatchPolicy,
        *,
        observe: Callable[[Execution], None] = lambda execution: None,
        inline: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.policy = policy
        self._run = run
        self._observe = observe
        self._clock = clock
        self._lock = threading.Lock()
        self._arrived = threading.Condition(self._lock)
        self._queue: Pending[Job] = Pending(policy)
        self._idle = policy.instances
        self._gathering = 0
        self._closed = False
        self._run_seconds = 0.0  # of the latest run
        self._best_row = 0.0  # seconds of a row in the best run of late; 0: nothing ran yet
        self._inline = inline  # callers may run batches themselves
        self._quarantine = Quarantine(clock)
        self._runs = itertools.count(1)

    @property
    def oldest_seconds(self) -> float:
        """How long the job that has waited longest waits; 0: none does."""
        with self._lock:
            oldest = min((job.enqueued for job in self._queue if not job.ended), default=None)
        return 0.0 if oldest is None else max(0.0, self._clock() - oldest)

    @property
    def pending(self) -> int:
        """Jobs waiting; those that ended meanwhile are counted until they reach the head."""
        return len(self._queue)

    def run(self, job: Job, watch: Watch | None = None) -> dict[str, Array]:
        """Block until `job` has ended. Returns its rows of every output, or raises its ServeError.

        `watch` registers the cancel callback; it is asked only when the caller has to wait for somebody else.
        """
        job.enqueued = self._clock()
        if job.deadline is not None and job.deadline <= job.enqueued:
            raise _expired()
        if self.policy.max_rows:
            job.key = batch.signature(job.feeds)
        if deaths := self._quarantine.deaths(job.feeds):
            if deaths > 1:
                raise unavailable(_REFUSED)
            job.key = (object(),)  # alone
        with self._lock:
            if self._closed:
                raise unavailable("the model is being unloaded")
            if late := self._queue.lateness(job, job.enqueued, self._best_row, self._run_seconds):
                raise overloaded(TOO_LATE, QUEUE, max(1, round(late * 1000)))
            if (full := self._queue.push(job, job.enqueued)) is not None:
                raise overloaded(full, QUEUE)
            lead = self._idle > 0
            inline = lead and self._inline and self._run_seconds <= INLINE_SECONDS
            if lead:
                self._idle -= 1
                job.lead = inline
            elif self._gathering:
                self._arrived.notify_all()
        if inline:
            self._lead(job)
        else:
            if lead:
                self._lead_in_background()
            self._follow(job, watch)
        outcome = job.outcome
        if isinstance(outcome, dict):
            return outcome
        raise outcome if outcome is not None else ServeError(Meaning.INTERNAL, "a request ended without an outcome")

    def close(self, why: str | None = None) -> None:
        """Refuse new jobs and end the waiting ones as unavailable; running ones finish."""
        with self._lock:
            self._closed = True
            waiting = [job for job in self._queue if not job.lead]
        for job in waiting:
            job.end(unavailable(why or "the model was unloaded before the request ran"))

    def _follow(self, job: Job, watch: Watch | None) -> None:
        """Wait for the outcome, or for being promoted to leader."""
        if watch is not None and not watch(job.cancel):
            job.cancel()
        while not job.ended:
            left = -1.0 if job.deadline is None else job.deadline - self._clock()
            if job.deadline is not None and left <= 0:
                job.end(_expired())
                break
            job.wait(left)
            if job.lead:
                break
        with self._lock:  # a promotion may have come after the end: the leadership must not be lost
            lead = job.lead
        if lead:
            self._lead(job)

    def _lead(self, own: Job | None = None) -> None:
        while (taken := self._take(own)) is not None:
            self._execute(*taken)

    def _take(self, own: Job | None) -> tuple[list[Job], str] | None:
        """The next batch and why it was released; None when this leader is done and has given its instance away."""
        with self._lock:
            while True:
                self._drop(self._queue.settle(self._clock()))
                head = self._queue.head
                if head is None or (own is not None and own.ended):
                    self._hand_over()
                    return None
                waited = self._gather(head)
                if self._queue.head is head and not head.ended:
                    return self._pop_batch(waited)

    def _hand_over(self) -> None:
        """Pass the instance to a waiting caller, or to a background thread where runs are long, or mark it idle."""
        heir = next((job for job in self._queue if not job.lead and not job.ended), None)
        if heir is None:
            self._idle += 1
        elif self._run_seconds > INLINE_SECONDS or not self._inline:
            self._lead_in_background()
        else:
            heir.promote()

    def _lead_in_background(self) -> None:
        threading.Thread(target=self._lead, name="headrace-batch", daemon=True).start()

    def _drop(self, jobs: list[Job]) -> None:
        for job in jobs:
            job.end(_expired())  # those that ended otherwise keep that

    def _gather(self, head: Job) -> bool:
        """Wait for more rows, at most until the delay of the head job or its deadline. True when the delay ran out."""
        policy = self.policy
        if not policy.max_delay or policy.max_rows < 2:
            return False
        until = head.enqueued + policy.max_delay
        if head.deadline is not None:
            until = min(until, head.deadline - self._run_seconds)
        self._gathering += 1
        try:
            while self._queue.head is head and not self._queue.is_formed(self._clock()):
                left = until - self._clock()
                if left <= 0 or self._closed or head.ended:
                    return left <= 0
                self._arrived.wait(left)
            return False
        finally:
            self._gathering -= 1

    def _pop_batch(self, waited: bool) -> tuple[list[Job], str]:
        jobs, reason, dropped = self._queue.pop(self._clock(), waited)
        self._drop(dropped)
        return jobs, reason

    def _accuse(self, jobs: list[Job]) -> None:
        guilty = sum(self._quarantine.accuse(job.feeds) > 1 for job in jobs)
        if guilty:
            log.error("%d requests were in progress at two deaths of workers, and are refused for a minute", guilty)

    def _execute(self, jobs: list[Job], reason: str) -> None:
        clock = self._clock
        started = assembled = computed = clock()
        number = next(self._runs)
        error: BaseException | None = None
        parts: list[dict[str, Array]] = []
        try:
            feeds = batch.merge([job.feeds for job in jobs]) if len(jobs) > 1 else jobs[0].feeds
            assembled = clock()
            times = [job.deadline for job in jobs]
            _current.until = None if None in times else max(time for time in times if time is not None)
            outputs = self._run(feeds)
            computed = clock()
            parts = batch.split(outputs, [job.rows for job in jobs]) if len(jobs) > 1 else [outputs]
        except Exception as caught:
            computed = max(computed, clock())
            error = caught
        finished = clock()
        self._run_seconds = computed - assembled
        if error is None:
            row = self._run_seconds / max(1, sum(job.rows for job in jobs))
            self._best_row = min(row, self._best_row * FORGETTING or row)
        if isinstance(error, Lost) and error.outcome == LOST:
            self._accuse(jobs)
        elif (
            error is not None and not isinstance(error, Lost) and len(jobs) > 1
        ):  # find the guilty row: each alone, once
            for job in jobs:
                if not job.ended:
                    self._execute([job], _ISOLATED)
            return
        execution = Execution(
            sum(job.rows for job in jobs), reason, started, assembled, computed, finished, error is not None, number
        )
        self._observe(execution)
        for i, job in enumerate(jobs):
            job.execution = execution
            job.end(error if error is not None else parts[i])


_REFUSED = "this request was in progress when two workers of the model ended; it is refused for a while"


def _expired() -> ServeError:
    return ServeError(Meaning.EXPIRED, "the deadline passed before the request ran")


__all__ = ["BatchPolicy", "Execution", "Job", "Lost", "Queue", "Scheduler", "Watch"]
