"""Ensembles: a graph of models behind one name. Tensors go from step to step by reference; every step goes through the
queue of its own model and meets other requests there.

Steps that do not need each other run beside each other. The graph is checked when the ensemble is loaded. A request takes handles on all members first, so that none is unloaded or
switched under it; a member that was replaced meanwhile by one that does not fit is found by its own validator.
"""

import functools
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from headrace.serve.config import ConfigError, EnsembleStep, ModelConfig
from headrace.serve.datatypes import Array, of_array
from headrace.serve.errors import Meaning, ServeError, unavailable
from headrace.serve.pending import BatchPolicy
from headrace.serve.request import InferRequest, InputTensor
from headrace.serve.scheduler import Execution, Job, Watch
from headrace.serve.statistics import Statistics
from headrace.serve.validate import Port, Shape

if TYPE_CHECKING:
    from headrace.serve.repository import Entry
    from headrace.serve.version import ModelVersion

BRANCHES = 32  # steps of one ensemble that run beside others
FRONT = "ensemble"  # what the members' numbers call their caller


class Members(Protocol):
    """Where handles on members come from: the manager."""

    def acquire(self, name: str, version: str) -> "ModelVersion": ...
    def release(self, version: "ModelVersion") -> None: ...


def members_of(name: str, find: Callable[[str], "Entry | None"]) -> list[str]:
    """The models that `name` needs, those that others need first; `find` looks into the repository. ConfigError where an
    ensemble contains itself."""
    found: dict[str, None] = {}

    def visit(model: str, chain: tuple[str, ...]) -> None:
        if model in chain:
            circle = " -> ".join((*chain[chain.index(model) :], model))
            raise ConfigError(f"ensemble: {circle}: an ensemble cannot contain itself")
        entry = find(model)
        for step in entry.config.ensemble.steps if entry is not None else ():
            visit(step.model, (*chain, model))
            found.setdefault(step.model)

    visit(name, ())
    return list(found)


@dataclass(frozen=True, slots=True)
class _Spec:
    name: str
    dtype: str
    shape: Shape


@dataclass(frozen=True, slots=True)
class _Rows:
    independent: bool
    reason: str = ""


@dataclass(frozen=True, slots=True)
class _Verified:
    """Each member has proven its own golden data."""

    ok: bool = True
    message: str = ""
    max_error: float = 0.0
    outputs: Mapping[str, tuple[float, float]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Planned:
    """A step at its place in an order that always works: `where` names it in errors, `needs` are the tensors of other steps
    that it reads."""

    step: EnsembleStep
    where: str
    needs: frozenset[str]


class Ensemble:
    """The checked graph, in the form of a loaded model (`version.Model`). ConfigError says what is wrong with it."""

    weight_bytes = 0

    def __init__(self, config: ModelConfig, members: Members) -> None:
        self._members = members
        steps = config.ensemble.steps
        held = [_acquire(members, step, number) for number, step in enumerate(steps, 1)]
        try:
            self._check(config, list(zip(steps, held)))
        finally:
            for version in held:
                members.release(version)

    def _check(self, config: ModelConfig, steps: Sequence[tuple[EnsembleStep, "ModelVersion"]]) -> None:
        made: dict[str, tuple[Port, str]] = {}  # tensor -> the output that makes it, and the step
        read: dict[str, tuple[Port, str]] = {}  # tensor -> the narrowest input that reads it
        for number, (step, version) in enumerate(steps, 1):
            where = _where(number, step)
            _check_names(step, version, where)
            if version.decoupled:
                raise ConfigError(f"ensemble: {where} answers in parts; a step answers once")
            outputs = {port.name: port for port in version.interface.outputs}
            for name, tensor in step.outputs.items():
                if tensor in made:
                    raise ConfigError(f"ensemble: {where}: tensor {tensor!r} is made by {made[tensor][1]} already")
                made[tensor] = (outputs[name], where)
        for number, (step, version) in enumerate(steps, 1):
            for port in version.interface.inputs:
                tensor, where = step.inputs[port.name], _where(number, step)
                other = made.get(tensor) or read.get(tensor)
                if other is not None:
                    _check_fit(tensor, other, (port, where))
                if tensor not in made and (tensor not in read or _is_narrower(port, read[tensor][0])):
                    read[tensor] = (port, where)
        self._plan = _ordered([step for step, _ in steps], set(made))
        self._readers = Counter(tensor for step, _ in steps for tensor in set(step.inputs.values()))
        self._pool = ThreadPoolExecutor(
            BRANCHES, thread_name_prefix="headrace-ensemble"
        )  # makes threads as they are needed
        names = self._interface(config, made, read)
        limits = [version.interface.max_batch_size for _, version in steps]
        alone = next((step.model for (step, _), limit in zip(steps, limits) if not limit), None)
        self.rows = _Rows(alone is None, f"its step {alone!r} is not batched")
        self.max_rows = min(limits)
        self.inputs = tuple(_spec(name, read[name][0], alone is None) for name in names[0])
        self.outputs = tuple(_spec(name, made[name][0], alone is None) for name in names[1])
        self.properties = {"headrace.ensemble": " -> ".join(planned.step.model for planned in self._plan)}

    def _interface(
        self, config: ModelConfig, made: Mapping[str, Any], read: Mapping[str, Any]
    ) -> tuple[list[str], list[str]]:
        """The tensors that are inputs and outputs: as declared, or what no step makes, and what no step reads."""
        if config.inputs:
            declared = {item.name for item in config.inputs}
            for name in read:
                if name not in declared:
                    raise ConfigError(
                        f"ensemble: {read[name][1]} reads tensor {name!r}, which no step makes and no input is"
                    )
            for name in declared:
                if name in made:
                    raise ConfigError(f"ensemble: input {name!r} is also made by {made[name][1]}")
                if name not in read:
                    raise ConfigError(f"ensemble: input {name!r} is read by no step")
        for item in config.outputs:
            if item.name not in made:
                raise ConfigError(f"ensemble: output {item.name!r} is made by no step; made are {', '.join(made)}")
        used = {tensor for planned in self._plan for tensor in planned.step.inputs.values()}
        outputs = [item.name for item in config.outputs] or [name for name in made if name not in used]
        return [item.name for item in config.inputs] or list(read), outputs

    def verify(self) -> _Verified:
        return _Verified()

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """One call without a deadline, outside of any request."""
        rows = next(iter(feeds.values())).shape[0] if self.rows.independent else 1
        return self._steps(Job(feeds, rows, None), None)

    def close(self) -> None:
        self._pool.shutdown(wait=False)

    def queue(self, policy: BatchPolicy, statistics: Statistics) -> "EnsembleQueue":
        return EnsembleQueue(self._steps, policy, statistics)

    def _steps(self, job: Job, watch: Watch | None) -> dict[str, Array]:
        stop = _Stop()
        if watch is not None and not watch(stop.set):
            stop.set()
        held: list[ModelVersion] = []
        try:
            for planned in self._plan:
                held.append(self._members.acquire(planned.step.model, planned.step.version))
            return self._branches(list(zip(self._plan, held)), job, stop)
        finally:
            for version in held:
                self._members.release(version)

    def _branches(self, waiting: list[tuple[_Planned, "ModelVersion"]], job: Job, stop: "_Stop") -> dict[str, Array]:
        """Each step as soon as its tensors are there: one that is alone here, several at a time on threads. The first error
        stops the others; all have ended on return."""
        tensors, unread = dict(job.feeds), Counter(self._readers)
        kept = {spec.name for spec in self.outputs}
        running: dict[Future[dict[str, Array]], tuple[_Planned, ModelVersion]] = {}
        failure: BaseException | None = None

        def finish(planned: _Planned, outcome: Callable[[], dict[str, Array]]) -> None:
            nonlocal failure
            try:
                found = outcome()
            except BaseException as error:
                failure = failure or error
                stop.set()
                return
            tensors.update({tensor: found[name] for name, tensor in planned.step.outputs.items()})
            for tensor in set(planned.step.inputs.values()):
                unread[tensor] -= 1
                if not unread[tensor] and tensor not in kept:
                    del tensors[tensor]

        while waiting or running:
            if failure is None and waiting and stop.is_set():
                failure = ServeError(Meaning.CANCELLED, "the request was cancelled by the client")
            if failure is not None:
                waiting = []
            able, held = [], [version for _, version in running.values()]
            for one in waiting:
                in_turn = not one[1].stateful or one[1] not in held  # steps of one sequence keep their order
                held.append(one[1])
                if in_turn and one[0].needs <= tensors.keys():
                    able.append(one)
            waiting = [one for one in waiting if one not in able]
            for planned, version in able:
                feeds = {name: tensors[tensor] for name, tensor in planned.step.inputs.items()}
                step = functools.partial(_run, planned, version, feeds, job, stop.watch)
                if len(able) == 1 and not running:
                    finish(planned, step)
                else:
                    running[self._pool.submit(step)] = (planned, version)
            for future in wait(running, return_when=FIRST_COMPLETED).done if running else ():
                finish(running.pop(future)[0], future.result)
        if failure is not None:
            raise failure
        return {spec.name: tensors[spec.name] for spec in self.outputs}


class _Stop:
    """Ends what is in progress of one request: the client left, or another branch failed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._told: list[Callable[[], None]] = []
        self._set = False

    def is_set(self) -> bool:
        return self._set

    def set(self) -> None:
        with self._lock:
            self._set, told, self._told = True, self._told, []
        for callback in told:
            callback()

    def watch(self, callback: Callable[[], None]) -> bool:
        with self._lock:
            if not self._set:
                self._told.append(callback)
            return not self._set


class EnsembleQueue:
    """The steps behind the interface of a queue. It has no queue of its own: requests wait in those of the members."""

    def __init__(
        self, steps: Callable[[Job, Watch | None], dict[str, Array]], policy: BatchPolicy, statistics: Statistics
    ) -> None:
        self.policy = policy
        self._steps, self._statistics = steps, statistics
        self._closed = False

    @property
    def pending(self) -> int:
        return 0

    def run(self, job: Job, watch: Watch | None = None) -> dict[str, Array]:
        if self._closed:
            raise unavailable("the model is being unloaded")
        started = job.enqueued = time.monotonic()
        failed = True
        try:
            outputs = self._steps(job, watch)
            failed = False
            return outputs
        finally:
            finished = time.monotonic()
            job.execution = Execution(job.rows, "alone", started, started, finished, finished, failed)
            self._statistics.observe(job.execution)

    def close(self, why: str | None = None) -> None:
        self._closed = True


def _acquire(members: Members, step: EnsembleStep, number: int) -> "ModelVersion":
    try:
        version = members.acquire(step.model, step.version)
    except ServeError as error:
        raise ConfigError(f"ensemble: step {number}: {error.text}") from None
    return version


def _run(
    planned: _Planned, version: "ModelVersion", feeds: Mapping[str, Array], job: Job, watch: Watch | None
) -> dict[str, Array]:
    """One step through its model's queue, with the deadline of the whole; accounted there as any request."""
    started = time.monotonic()
    inner: Job | None = None
    meaning: Meaning | None = None
    try:
        tensors = [InputTensor(name, of_array(array).name, array.shape, b"") for name, array in feeds.items()]
        rows = version.interface.check_tensors(tensors)
        level = version.scheduler.policy.level_of(job.parameters)
        inner = Job(feeds, rows, job.deadline, level, parameters=job.parameters)
        return version.scheduler.run(inner, watch)
    except ServeError as error:
        meaning = error.meaning
        raise ServeError(meaning, f"{planned.where}: {error.text}", retry_after_ms=error.retry_after_ms) from None
    except Exception:
        meaning = Meaning.INTERNAL
        raise
    finally:
        asked = InferRequest(version.name, version.number, [], front=FRONT)
        version.account(asked, meaning, time.monotonic() - started, inner)


def _where(number: int, step: EnsembleStep) -> str:
    return f"step {number} (model {step.model!r})"


def _check_names(step: EnsembleStep, version: "ModelVersion", where: str) -> None:
    for kind, given, ports in (
        ("input", step.inputs, version.interface.inputs),
        ("output", step.outputs, version.interface.outputs),
    ):
        has = {port.name for port in ports}
        for name in given:
            if name not in has:
                raise ConfigError(f"ensemble: {where} has no {kind} {name!r}; it has {', '.join(sorted(has))}")
        for name in sorted(has - given.keys()) if kind == "input" else ():
            raise ConfigError(f"ensemble: {where}: its input {name!r} is given no tensor")
    if not step.outputs:
        raise ConfigError(f"ensemble: {where}: no output is given a tensor")


def _check_fit(tensor: str, one: tuple[Port, str], two: tuple[Port, str]) -> None:
    """ConfigError where a tensor cannot be what both of its ends say."""
    (a, first), (b, second) = one, two
    if a.datatype is not b.datatype:
        raise ConfigError(f"ensemble: tensor {tensor!r} is {a.datatype.name} in {first}, {b.datatype.name} in {second}")
    if a.shape is None or b.shape is None:
        return
    known = [(x, y) for x, y in zip(a.shape, b.shape) if isinstance(x, int) and isinstance(y, int)]
    if len(a.shape) != len(b.shape) or any(x != y for x, y in known):
        raise ConfigError(f"ensemble: tensor {tensor!r} is {a.wire_shape} in {first}, {b.wire_shape} in {second}")


def _is_narrower(a: Port, b: Port) -> bool:
    return _fixed(a) > _fixed(b)


def _fixed(port: Port) -> int:
    return sum(isinstance(size, int) for size in port.shape or ())


def _spec(name: str, port: Port, batched: bool) -> _Spec:
    """A tensor of the ensemble: symbols of one member mean nothing in another, but for the batch."""
    if port.shape is None:
        return _Spec(name, port.datatype.dtype.name, None)
    sizes: list[int | str | None] = [size if isinstance(size, int) else None for size in port.shape]
    if batched:
        sizes[0] = "batch"
    return _Spec(name, port.datatype.dtype.name, tuple(sizes))


def _ordered(steps: Sequence[EnsembleStep], made: set[str]) -> list[_Planned]:
    """The steps so that every tensor is made before it is read. ConfigError where they form a cycle."""
    waiting = list(enumerate(steps, 1))
    order: list[tuple[int, EnsembleStep]] = []
    ready: set[str] = set()
    while waiting:
        able = next((one for one in waiting if all(t in ready or t not in made for t in one[1].inputs.values())), None)
        if able is None:
            circle = ", ".join(_where(number, step) for number, step in waiting)
            raise ConfigError(f"ensemble: these steps wait for each other: {circle}")
        waiting.remove(able)
        order.append(able)
        ready |= set(able[1].outputs.values())
    return [_Planned(step, _where(n, step), frozenset(step.inputs.values()) & made) for n, step in order]


__all__ = ["Ensemble", "EnsembleQueue", "Members", "members_of"]
