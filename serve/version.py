"""One version of a model in this process: loaded, proven, ready to take requests."""

import math
import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from headrace.runtime.errors import InputError
from headrace.serve import engine, postprocess, sequences
from headrace.serve.access import AccessLog
from headrace.serve.access import Row as AccessRow
from headrace.serve.cache import ResponseCache
from headrace.serve.config import ConfigError, ModelConfig
from headrace.serve.ensemble import Ensemble
from headrace.serve.errors import Meaning
from headrace.serve.generate import GenerateQueue, loop_of
from headrace.serve.instances import allowed_cpus, pinned
from headrace.serve.model import Loader, Model, proven
from headrace.serve.pending import BatchPolicy, Level
from headrace.serve.policy import State, VersionKey
from headrace.serve.records import Record
from headrace.serve.rejections import QUEUE, Rejections
from headrace.serve.request import InferRequest
from headrace.serve.rows import batch_rows
from headrace.serve.scheduler import Job, Queue, Scheduler
from headrace.serve.states import states_of
from headrace.serve.statistics import Statistics, record
from headrace.serve.validate import Interface
from headrace.serve.warmup import warm_up

if TYPE_CHECKING:
    from headrace.serve.workers import WorkerModel


class ModelVersion:
    """State and parts of one version. `refs` counts handles and, like `state`, is guarded by the manager's lock."""

    def __init__(
        self, name: str, key: VersionKey, access: AccessLog | None = None, rejections: Rejections | None = None
    ) -> None:
        self.name = name
        self.key = key
        self.number = str(key.number)
        self.state = State.NEW
        self.reason = ""
        self.refs = 0
        self.statistics = Statistics()
        self.properties: dict[str, str] = {}
        self.platform = "headrace"
        self.config: ModelConfig
        self.model: Model
        self.interface: Interface
        self.scheduler: Queue
        self.engines: list[engine.Engine] = []
        self.cache: ResponseCache | None = None
        self.stateful = False  # a request is a step of something that the server keeps
        self.golden: Mapping[str, tuple[float, float]] = {}  # of its golden data, run here: error and bound by output
        self.kernels = ""  # which run it, in words
        self.access = access
        self._rejections = rejections or Rejections()
        self.decoupled = False  # answers in parts
        self.post = postprocess.Postprocess()

    def bring_up(self, path: Path, config: ModelConfig, loader: Loader) -> None:
        """Load, verify the golden data, compile the interface. Any exception means not ready."""
        self.statistics = Statistics(config.metrics)
        model: Model = loader(path)
        try:
            report = proven(model)
            rows, why = batch_rows(model, config)
            self.interface = Interface(model.inputs, model.outputs, rows)
            if isinstance(model, Ensemble):
                policy = queue_policy(rows, 1, config)
                self.scheduler = model.queue(policy, self.statistics)
            elif config.generate.input or config.generate.output:
                self.stateful = self.decoupled = True
                self.scheduler = self._generation(model, rows, config)
            elif kept := sequences.kept_of(model, config):
                self.interface = kept.visible(model, rows)
                self.stateful = True
                merged = 0 if config.sequence.strategy == "direct" else rows
                queue = self._queue(model, Interface(model.inputs, model.outputs, merged), config)
                self.scheduler = sequences.SequenceQueue(
                    kept.steps(queue, self.interface), kept.controls, config.sequence
                )
            else:
                self.scheduler = self._queue(model, self.interface, config)
            check_declared(self.interface, config)
            if not (self.stateful or isinstance(model, Ensemble)):  # their golden data were enough
                pace = warm_up(model, self.interface, config, path)
                for one in self.engines if pace.runs else ():
                    one.expect(pace.seconds, pace.rows)
            self.post = postprocess.read(
                config.postprocess, self.interface.outputs, self.interface.max_batch_size > 0, path
            )
        except BaseException:
            model.close()
            raise
        self.config = config
        cached = config.cache.enabled and not self.stateful
        self.cache = ResponseCache(config.cache.max_bytes) if cached else None
        self.properties = dict(model.properties) | {
            "headrace.batching": f"on, up to {rows} rows" if rows else f"off: {why}",
            "headrace.verified": "false" if math.isnan(report.max_error) else "true",
        }
        self.golden = report.outputs
        self.statistics.memory_bytes = model.weight_bytes
        self.kernels = kernels_of(model)
        self.model = model

    def _generation(self, model: Model, rows: int, config: ModelConfig) -> GenerateQueue:
        settings = config.generate
        kept = sequences.Kept(model, config, states_of(model, config))
        self.interface = kept.visible(model, rows)
        whole = Interface(model.inputs, model.outputs, rows)
        first = kept.steps(self._queue(model, whole, config), self.interface)
        if not settings.step:
            return GenerateQueue(
                first, first, loop_of(model, settings, kept.states, model, self.interface.inputs), settings
            )
        if not hasattr(model, "entry"):
            raise ConfigError(
                "generate.step: entry points are for models that run in the server's own process (workers = 0)"
            )
        try:
            later = model.entry(settings.step)
        except InputError as error:
            raise ConfigError(f"generate.step: {error}") from None
        again = sequences.Kept(later, config, states_of(later, config))
        known = {state.port.name for state in kept.states}
        for state in again.states:
            if state.port.name not in known:
                raise ConfigError(
                    f"generate.step: {settings.step!r} has a state {state.port.name!r} that the first step lacks"
                )
        merged, _ = batch_rows(later, config)
        queue = self._queue(later, Interface(later.inputs, later.outputs, merged), config)
        loop = loop_of(later, settings, again.states, model, self.interface.inputs)
        return GenerateQueue(first, again.steps(queue, self.interface), loop, settings)

    def _queue(self, model: Model, interface: Interface, config: ModelConfig) -> Queue:
        """What merges requests with these inputs into runs: in C++ where it can be."""
        rows = interface.max_batch_size
        workers = getattr(model, "wanted", 0)
        count = config.instances.count or workers or (1 if rows else min(4, os.cpu_count() or 1))
        if config.instances.cpus and workers:
            raise ConfigError("instances.cpus is for models in the server's own process (workers.count = 0)")
        policy = queue_policy(rows, count, config)
        made = engine.make(self.name, self.number, interface, model, policy, self.statistics.seconds)
        if made is not None:
            self.engines.append(made)
            if self.access is not None:
                engine.set_access(made, self.access.policy)
            return engine.EngineScheduler(made, interface, policy)
        run = pinned(model.run, policy.cpus, policy.instances) if policy.cpus else model.run
        return Scheduler(run, policy, observe=self.statistics.observe, inline=not workers)

    @property
    def direct(self) -> engine.Engine | None:
        """The engine, where a front may put requests into it itself: not past a cache, and not without the states or what
        is done with the outputs."""
        return (
            self.engines[0] if self.engines and self.cache is None and not (self.stateful or self.post.top_k) else None
        )

    @property
    def workers(self) -> "WorkerModel | None":
        """The processes that it runs in, if it does."""
        model = getattr(self, "model", None)  # gone when it was unloaded meanwhile
        return model if hasattr(model, "alive") else None

    @property
    def alive(self) -> bool:
        """Something is there to run it."""
        workers = self.workers
        return workers is None or workers.alive > 0

    @property
    def inflight(self) -> int:
        """Requests that the engine has and that hold no handle."""
        return sum(one.inflight for one in self.engines)

    def count(self) -> Statistics:
        """The statistics, with what the engine counted since."""
        for one in self.engines:
            for front in ("grpc", "http"):
                counts = one.take_counts(front == "http")
                self.statistics.absorb(front, counts)
                self._rejections.add(QUEUE, counts["meanings"].get("overloaded", 0))
        return self.statistics

    def account(
        self, request: InferRequest, meaning: Meaning | None, seconds: float, job: Job | None, sent: int = 0
    ) -> None:
        """Count one request that came through Python, and keep its record where one is wanted: `meaning` None is success,
        `sent` bytes of tensors went back."""
        ran = job.execution if job is not None else None
        queued = ran.started - job.enqueued if ran is not None and job is not None else 0.0
        self.statistics.finish(request.front, meaning, seconds, queued, ran)
        slow = self.statistics.slowest.is_slow(seconds)
        logged = self.access is not None and self.access.wants(meaning is None, seconds)
        if slow or logged:
            one = record(request, sent, meaning, seconds, queued, ran)
            if slow:
                self.statistics.slowest.add(one)
            if logged and self.access is not None:
                self.access.add(self.name, self.number, one)

    def take_access(self) -> tuple[list[AccessRow], int]:
        """What the engine has for the access log, and how much it had no room for."""
        rows: list[AccessRow] = []
        lost = 0
        for one in self.engines:
            for front in ("grpc", "http"):
                records, missed = one.take_access(front == "http")
                rows += [(self.name, self.number, Record.of_engine(front, row)) for row in records]
                lost += missed
        return rows, lost

    def give_up(self) -> None:
        """End what waits, refuse the rest: nothing is there to run it. Handles may still be held."""
        self.scheduler.close(self.reason)
        self.model.close()

    def take_down(self) -> None:
        """Free the model. The last handle is gone."""
        self.scheduler.close()
        self.count()
        if self.access is not None:
            self.access.absorb(self.take_access())
        self.model.close()
        self.engines, self.cache = [], None
        del self.model, self.scheduler


def kernels_of(model: Model) -> str:
    """Which kernels run a model, and how many nodes each: what `headrace_explain` says."""
    kernels = getattr(model, "kernels", None)
    if kernels is None:
        return ""
    counts = Counter(row["kernel"] for row in kernels())
    return ", ".join(f"{kernel} x{count}" if count > 1 else kernel for kernel, count in counts.most_common())


def queue_policy(rows: int, instances: int, config: ModelConfig) -> BatchPolicy:
    """The order and the limits of the queue, for batches of up to `rows` rows. ConfigError names what does not fit."""
    queue, batching = config.queue, config.batching
    count = queue.priority_levels
    default = Level(0, queue.timeout_ms / 1000, queue.timeout_override, queue.timeout_action == "delay")
    levels = [default] * max(1, count)
    for name, own in queue.levels.items():
        delay = own.timeout_action == "delay"
        levels[int(name) - 1] = Level(own.max_size, own.timeout_ms / 1000, own.timeout_override, delay)
    for size in batching.preferred_sizes if rows else ():
        if not 1 <= size <= rows:
            raise ConfigError(f"batching.preferred_sizes has {size}; allowed are numbers from 1 to {rows}")
    preferred = batching.preferred_sizes if rows else ()
    first = queue.default_priority or max(1, count)
    ordered = batching.preserve_ordering  # one run after the other
    runs = 1 if ordered else instances
    wait = batching.max_delay_us / 1e6
    cpus = allowed_cpus(config.instances)
    return BatchPolicy(rows, wait, runs, queue.max_size, preferred, tuple(levels), first, ordered, cpus)


def check_declared(interface: Interface, config: ModelConfig) -> None:
    """ConfigError where the configuration and the model differ about an input or output, with both values."""
    skip = 1 if config.batching.max_batch_size > 0 else 0
    for kind, ports, declared in (
        ("input", interface.inputs, config.inputs),
        ("output", interface.outputs, config.outputs),
    ):
        known = {port.name: port for port in ports}
        for item in declared:
            port = known.get(item.name)
            if port is None:
                raise ConfigError(f"the configuration has an {kind} {item.name!r}; the model has {', '.join(known)}")
            if item.datatype != port.datatype.name:
                raise ConfigError(
                    f"{kind} {item.name!r} is {item.datatype} in the configuration, {port.datatype.name} in the model"
                )
            dims = port.wire_shape[skip:]
            fits = len(dims) == len(item.dims) and all(a == b or -1 in (a, b) for a, b in zip(dims, item.dims))
            if port.shape is not None and not fits:
                raise ConfigError(
                    f"{kind} {item.name!r} has dims {list(item.dims)} in the configuration, {dims} in the model"
                    + (" (without the batch)" if skip else "")
                )
