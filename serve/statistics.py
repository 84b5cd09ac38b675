"""Cumulative numbers of one model version: what ModelStatistics and /metrics show.

Every duration is kept in nanoseconds. One short lock a request; nothing here grows with traffic.
"""

import threading
import time
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from headrace.serve.config import Metrics
from headrace.serve.errors import Meaning
from headrace.serve.records import Record, micros
from headrace.serve.request import InferRequest
from headrace.serve.scheduler import Execution
from headrace.serve.slow import Slowest

# Exponential from 0.1 ms to 30 s.
SECONDS_BUCKETS = (
    0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0,
)  # fmt: skip
MAX_RESPONSES = 64  # parts of an answer that are counted one by one
FIRST_BUCKETS_MS = (100.0, 500.0, 2000.0, 5000.0)  # as Triton has them
ROW_BUCKETS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0)


class Histogram:
    """Counts by upper bound, not cumulative; the last count is above every bound."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def join(self, other: tuple[list[int], float]) -> None:
        """Add the counts and the total of another histogram with these bounds."""
        self.counts = [mine + theirs for mine, theirs in zip(self.counts, other[0])]
        self.total += other[1]


@dataclass(slots=True)
class Duration:
    """A count and the nanoseconds it took together (`StatisticDuration` on the wire)."""

    count: int = 0
    ns: int = 0

    def add(self, seconds: float, count: int = 1) -> None:
        self.count += count
        self.ns += int(seconds * 1e9)

    def join(self, other: tuple[int, int]) -> None:
        """Add a count and its nanoseconds."""
        self.count += other[0]
        self.ns += other[1]

    def show(self) -> dict[str, int]:
        return {"count": self.count, "ns": self.ns}


@dataclass(slots=True)
class BatchRow:
    """Executions of one batch size."""

    compute_input: Duration = field(default_factory=Duration)
    compute_infer: Duration = field(default_factory=Duration)
    compute_output: Duration = field(default_factory=Duration)


class Statistics:
    """Counters of one version. `observe` is called once a run of the model, `finish` once a request."""

    def __init__(self, settings: Metrics | None = None) -> None:
        """ConfigError where the buckets of the settings do not rise."""
        settings = settings or Metrics()
        self.seconds = seconds = settings.seconds_buckets or SECONDS_BUCKETS
        first = settings.first_response_buckets_ms or FIRST_BUCKETS_MS
        self._lock = threading.Lock()
        self._since = time.monotonic()
        self.memory_bytes = 0  # of the model's weights
        self.success, self.fail, self.queue, self.cancel = Duration(), Duration(), Duration(), Duration()
        self.compute_input, self.compute_infer, self.compute_output = Duration(), Duration(), Duration()
        self.inference_count = self.execution_count = self.last_inference_ms = 0
        self.cache_hit, self.cache_miss = Duration(), Duration()
        self.batches: dict[int, BatchRow] = {}
        self.releases: dict[str, int] = {}
        self.meanings: dict[tuple[str, str], int] = {}  # (front, meaning)
        self.request_seconds: dict[str, Histogram] = {}  # by front
        self.queue_seconds, self.assemble_seconds = Histogram(seconds), Histogram(seconds)
        self.compute_seconds, self.scatter_seconds = Histogram(seconds), Histogram(seconds)
        self.first_response_ms = Histogram(first)  # of models that answer in parts
        self.batch_rows = Histogram(ROW_BUCKETS)
        self.slowest = Slowest()
        self.responses: dict[int, tuple[Duration, Duration]] = {}  # parts of answers, by their number: compute, output
        self.expired_before_run = self.cancelled_before_run = 0

    def busy_ratio(self) -> float:
        """The share of the time since these statistics began that was spent computing; above 1 with several instances."""
        return round(self.compute_seconds.total / max(time.monotonic() - self._since, 1e-9), 6)

    def observe(self, execution: Execution) -> None:
        """Account one run of the model."""
        assemble = execution.assembled - execution.started
        compute = execution.computed - execution.assembled
        scatter = execution.finished - execution.computed
        with self._lock:
            self.releases[execution.reason] = self.releases.get(execution.reason, 0) + 1
            if execution.failed:
                return
            self.execution_count += 1
            self.inference_count += execution.rows
            row = self.batches.get(execution.rows) or self.batches.setdefault(execution.rows, BatchRow())
            row.compute_input.add(assemble)
            row.compute_infer.add(compute)
            row.compute_output.add(scatter)
            self.assemble_seconds.add(assemble)
            self.compute_seconds.add(compute)
            self.scatter_seconds.add(scatter)
            self.batch_rows.add(execution.rows)

    def finish(
        self, front: str, meaning: Meaning | None, seconds: float, queued: float, execution: Execution | None
    ) -> None:
        """Account one request: `meaning` None is success; `queued` seconds waiting before its run."""
        name = meaning_text(meaning)
        with self._lock:
            key = (front, name)
            self.meanings[key] = self.meanings.get(key, 0) + 1
            timer = self.request_seconds.get(front)
            if timer is None:
                timer = self.request_seconds[front] = Histogram(self.seconds)
            timer.add(seconds)
            if meaning is not None:
                (self.cancel if meaning is Meaning.CANCELLED else self.fail).add(seconds)
                if execution is None:
                    self.expired_before_run += meaning is Meaning.EXPIRED
                    self.cancelled_before_run += meaning is Meaning.CANCELLED
                return
            self.success.add(seconds)
            self.last_inference_ms = int(time.time() * 1000)
            if execution is not None:  # else the answer was in the cache
                self.queue.add(queued)
                self.queue_seconds.add(queued)
                self.compute_input.add(execution.assembled - execution.started)
                self.compute_infer.add(execution.computed - execution.assembled)
                self.compute_output.add(execution.finished - execution.computed)

    def respond(self, number: int, execution: Execution | None, seconds: float) -> None:
        """Account one part of an answer, the `number`th from 0, `seconds` after the request came."""
        if number == 0:
            with self._lock:
                self.first_response_ms.add(seconds * 1000)
        if execution is not None and number < MAX_RESPONSES:
            with self._lock:
                infer, output = self.responses.setdefault(number, (Duration(), Duration()))
                infer.add(execution.computed - execution.assembled)
                output.add(execution.finished - execution.computed)

    def look_up(self, hit: bool, seconds: float) -> None:
        """Account a look into the response cache: what a hit took, or a miss with putting the answer there."""
        with self._lock:
            (self.cache_hit if hit else self.cache_miss).add(seconds)

    def absorb(self, front: str, counts: Mapping[str, Any]) -> None:
        """Add what a native engine counted since it was last asked (`Version.take_counts`)."""
        with self._lock:
            for name in ("success", "fail", "queue", "cancel", "compute_input", "compute_infer", "compute_output"):
                getattr(self, name).join(counts[name])
            for name in ("inference_count", "execution_count", "expired_before_run", "cancelled_before_run"):
                setattr(self, name, getattr(self, name) + counts[name])
            self.last_inference_ms = max(self.last_inference_ms, counts["last_inference_ms"])
            for kept in counts["slow"]:
                self.slowest.add(Record.of_engine(front, kept))
            for size, (assemble, compute, scatter) in counts["batches"].items():
                row = self.batches.get(size) or self.batches.setdefault(size, BatchRow())
                row.compute_input.join(assemble)
                row.compute_infer.join(compute)
                row.compute_output.join(scatter)
            for reason, count in counts["releases"].items():
                self.releases[reason] = self.releases.get(reason, 0) + count
            for meaning, count in counts["meanings"].items():
                self.meanings[front, meaning] = self.meanings.get((front, meaning), 0) + count
            timer = self.request_seconds.setdefault(front, Histogram(self.seconds))
            timer.join(counts["request_seconds"])
            for name in ("queue_seconds", "assemble_seconds", "compute_seconds", "scatter_seconds", "batch_rows"):
                getattr(self, name).join(counts[name])

    def show(self) -> dict[str, Any]:
        """The fields of `ModelStatistics` except name and version."""
        with self._lock:
            return {
                "last_inference": self.last_inference_ms,
                "inference_count": self.inference_count,
                "execution_count": self.execution_count,
                "inference_stats": {
                    "success": self.success.show(),
                    "fail": self.fail.show(),
                    "queue": self.queue.show(),
                    "compute_input": self.compute_input.show(),
                    "compute_infer": self.compute_infer.show(),
                    "compute_output": self.compute_output.show(),
                    "cache_hit": self.cache_hit.show(),
                    "cache_miss": self.cache_miss.show(),
                },
                "batch_stats": [
                    {
                        "batch_size": size,
                        "compute_input": row.compute_input.show(),
                        "compute_infer": row.compute_infer.show(),
                        "compute_output": row.compute_output.show(),
                    }
                    for size, row in sorted(self.batches.items())
                ],
                "memory_usage": [{"type": "CPU", "id": 0, "byte_size": self.memory_bytes}],
                "response_stats": self._responses(),
            }

    def _responses(self) -> dict[str, Any]:
        """By the number of the response: of a model that answers once, its only one."""
        none = Duration().show()
        if self.responses:
            return {
                str(number): {"compute_infer": infer.show(), "compute_output": output.show(), "success": infer.show()}
                | dict.fromkeys(("fail", "empty_response", "cancel"), none)
                for number, (infer, output) in sorted(self.responses.items())
            }
        if not self.success.count + self.fail.count:
            return {}
        only = {"compute_infer": self.compute_infer, "compute_output": self.compute_output, "success": self.success}
        only |= {"fail": self.fail, "cancel": self.cancel}
        return {"0": {name: duration.show() for name, duration in only.items()} | {"empty_response": none}}


def meaning_text(meaning: Meaning | None) -> str:
    """As labels and records have it."""
    return "ok" if meaning is None else meaning.value


def record(
    request: InferRequest, sent: int, meaning: Meaning | None, seconds: float, queued: float, ran: Execution | None
) -> Record:
    """The record of a request that has ended just now; `sent` bytes of tensors went back."""
    phases: tuple[int, int, int, int, int, str, int] | tuple[()] = ()
    if ran is not None:
        spans = (queued, ran.assembled - ran.started, ran.computed - ran.assembled, ran.finished - ran.computed)
        queue, assemble, compute, scatter = map(micros, spans)
        phases = (queue, assemble, compute, scatter, ran.rows, ran.reason, ran.number)
    known = (request.front, request.id, meaning_text(meaning), request.size, sent, request.principal)
    return Record(micros(seconds), int(time.time() * 1000), *known, *phases)
