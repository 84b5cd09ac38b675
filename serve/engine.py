"""The native queue of a model version: merging, running and splitting in C++ (`serve/native/version.h`).

It keeps the contract of `scheduler.Scheduler`, which serves where the extension was not built, where an interface has
BYTES tensors, and as the oracle of the tests.
"""

import functools
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from headrace.runtime import dtypes
from headrace.serve import incidents
from headrace.serve.access import KEPT
from headrace.serve.access import Policy as AccessPolicy
from headrace.serve.datatypes import Array
from headrace.serve.errors import Meaning, ServeError, overloaded, unavailable
from headrace.serve.rejections import QUEUE
from headrace.serve.scheduler import BatchPolicy, Execution, Job
from headrace.serve.statistics import ROW_BUCKETS, SECONDS_BUCKETS
from headrace.serve.validate import Interface, Port

if TYPE_CHECKING:
    from headrace.serve.model import Model

try:
    from headrace.serve import _native
except ImportError:  # built without libnghttp2
    _native = None  # type: ignore[assignment]

Engine = Any  # a `_native.Version`
PortRow = tuple[str, str, int, int, list[int] | None]


def make(
    name: str,
    number: str,
    interface: Interface,
    model: "Model",
    policy: BatchPolicy,
    seconds: Sequence[float] = SECONDS_BUCKETS,
) -> Engine | None:
    """The engine of a version; None where it takes the queue in Python. `seconds`: the bounds of its histograms."""
    program = getattr(model, "program", None)
    if _native is None or program is None or any(not p.datatype.size for p in (*interface.inputs, *interface.outputs)):
        return None
    symbols: dict[str, int] = {}
    return _native.Version(
        name,
        number,
        [_row(port, symbols) for port in interface.inputs],
        [_row(port, {}) for port in interface.outputs],
        interface.max_batch_size,
        len(symbols),
        policy.max_delay,
        policy.instances,
        policy.max_queue,
        list(policy.preferred),
        level_rows(policy),
        policy.default_level,
        program,
        list(seconds),
        list(ROW_BUCKETS),
        policy.ordered,
        functools.partial(incidents.tell, f"model {name} version {number}"),
        list(policy.cpus),
    )


def set_access(engine: Engine, policy: AccessPolicy) -> None:
    """Which requests the engine keeps a record of, for the access log."""
    engine.set_access(policy.errors, policy.slow_s, policy.every, KEPT if policy.on else 0)


def level_rows(policy: BatchPolicy) -> list[tuple[int, float, bool]]:
    """The priorities as the extension takes them."""
    return [(level.max_queue, level.timeout, level.delay) for level in policy.levels]


def _row(port: Port, symbols: dict[str, int]) -> PortRow:
    code = dtypes.of(np.empty(0, port.datatype.dtype)).onnx
    if port.shape is None:
        return port.name, port.datatype.name, code, port.datatype.size, None
    dims = [
        -1 if size is None else size if isinstance(size, int) else -2 - symbols.setdefault(size, len(symbols))
        for size in port.shape
    ]
    return port.name, port.datatype.name, code, port.datatype.size, dims


class EngineScheduler:
    """An engine behind the interface of `scheduler.Scheduler`: for requests that came through Python."""

    def __init__(self, engine: Engine, interface: Interface, policy: BatchPolicy) -> None:
        self.policy = policy
        self._engine, self._interface = engine, interface

    @property
    def pending(self) -> int:
        return int(self._engine.pending)

    @property
    def oldest_seconds(self) -> float:
        return float(self._engine.oldest_s)

    def run(self, job: Job, watch: Callable[[Callable[[], None]], bool] | None = None) -> dict[str, Array]:
        """Block until `job` has ended. Returns its rows of every output, or raises its ServeError."""
        job.enqueued = time.monotonic()
        left = None if job.deadline is None else job.deadline - job.enqueued
        if left is not None and left <= 0:
            raise ServeError(Meaning.EXPIRED, "the deadline passed before the request ran")
        feeds = [np.ascontiguousarray(job.feeds[port.name]) for port in self._interface.inputs]
        meaning, text, outputs, times = self._engine.run(
            [(feed.ctypes.data, list(job.feeds[port.name].shape)) for feed, port in zip(feeds, self._interface.inputs)],
            job.rows,
            left,
            watch,
            job.level,
            None if job.delay_at is None else max(0.0, job.delay_at - job.enqueued),
        )
        if times is not None:
            job.execution = _execution(job.enqueued, times, meaning == "internal")
        if meaning == "ok":
            return {
                port.name: np.frombuffer(data, port.datatype.dtype).reshape(shape)
                for port, (data, shape) in zip(self._interface.outputs, outputs)
            }
        raise refusal(meaning, text, outputs)

    def close(self, why: str | None = None) -> None:
        """Refuse new jobs and end the waiting ones as unavailable; returns when running ones have finished."""
        self._engine.close(why)


def refusal(meaning: str, text: str, retry_ms: int) -> ServeError:
    """What an engine says of a request that it did not answer."""
    if meaning == "overloaded":
        return overloaded(text, QUEUE, retry_ms)
    if meaning == "unavailable":
        return unavailable(text or "the model is being unloaded")
    return ServeError(Meaning(meaning), text or "the request was cancelled by the client")


def _execution(enqueued: float, times: tuple[float, float, float, float, int, str, int], failed: bool) -> Execution:
    queued, assemble, compute, scatter, rows, reason, number = times
    started = enqueued + queued
    assembled = started + assemble
    computed = assembled + compute
    return Execution(rows, reason, started, assembled, computed, computed + scatter, failed, number)
