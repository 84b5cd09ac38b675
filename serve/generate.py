"""Generation: a model that is run again and again for one request, its output fed back as its input, every step an answer.

`[generate]` of the configuration says which output goes back to which input and when to stop; no code. The states of the
model live as long as the request, and the steps of different requests meet in one run wherever requests may.
"""

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from headrace.serve.config import ConfigError
from headrace.serve.config import Generate as Settings
from headrace.serve.datatypes import Array
from headrace.serve.errors import Meaning, ServeError, bad_argument, unsupported
from headrace.serve.model import Model
from headrace.serve.request import Parameters
from headrace.serve.scheduler import Job, Watch
from headrace.serve.states import State, Steps
from headrace.serve.validate import Port

LIMIT = "max_tokens"  # the parameter by which a request asks for fewer steps


@dataclass(frozen=True, slots=True)
class Loop:
    """What is fed back: `output` of one step is `into` of the next, with a last axis of 1 where it lacks one."""

    output: str
    into: Port
    widened: bool

    def feed(self, outputs: Mapping[str, Array]) -> Array:
        found = outputs[self.output]
        return found[..., np.newaxis] if self.widened else found


def loop_of(model: Model, settings: Settings, states: Sequence[State], first: Model, given: tuple[Port, ...]) -> Loop:
    """The loop through `model`, the one of the later steps; `given` are the inputs of the client, of the model `first`.
    ConfigError names what does not fit."""
    inputs = {spec.name: Port.of(spec) for spec in model.inputs}
    for kind, name, known in (
        ("input", settings.input, list(inputs)),
        ("output", settings.output, [spec.name for spec in first.outputs]),
        ("output", settings.output, [spec.name for spec in model.outputs]),
    ):
        if name not in known:
            raise ConfigError(f"generate.{kind}: the model has no {kind} {name!r}; it has {', '.join(known)}")
    into, held = inputs[settings.input], {state.port.name for state in states}
    for name in inputs.keys() - held - {port.name for port in given} - {into.name}:
        raise ConfigError(
            f"generate: nothing gives the input {name!r} of the later steps: no state, no input of the client"
        )
    widened = False
    for end in (first, model):
        made = next(Port.of(spec) for spec in end.outputs if spec.name == settings.output)
        ranks = len(made.shape or ()), len(into.shape or ())
        widened = ranks[0] + 1 == ranks[1]
        fixed = [
            (a, b) for a, b in zip(made.shape or (), into.shape or ()) if isinstance(a, int) and isinstance(b, int)
        ]
        if made.datatype is not into.datatype or not (widened or ranks[0] == ranks[1]) or any(a != b for a, b in fixed):
            raise ConfigError(
                f"generate: output {settings.output!r} is {made.datatype.name} {made.wire_shape}, which cannot go back to input "
                f"{into.name!r}, {into.datatype.name} {into.wire_shape}"
            )
    return Loop(settings.output, into, widened)


class GenerateQueue:
    """Generation behind the interface of a queue. `first` is the first step, `later` every other (often the same)."""

    def __init__(self, first: Steps, later: Steps, loop: Loop, settings: Settings) -> None:
        self.policy = first.queue.policy
        self._first, self._later, self._loop, self._settings = first, later, loop, settings

    @property
    def pending(self) -> int:
        queues = {id(steps.queue): steps.queue for steps in (self._first, self._later)}
        return sum(queue.pending for queue in queues.values())

    def run(self, job: Job, watch: Watch | None = None) -> dict[str, Array]:
        raise unsupported("the model answers in parts: ask by ModelStreamInfer, generate or generate_stream")

    def stream(self, job: Job, watch: Watch | None = None) -> Iterator[tuple[dict[str, Array], bool]]:
        """(the outputs of a step, whether it is the last), one step after the other. Raises the request's ServeError; between
        steps, too, where the client left or the deadline passed."""
        most = self._limit(job.parameters)
        gone = threading.Event()
        if watch is not None and not watch(gone.set):
            gone.set()
        values = self._first.begin(job.feeds, job.rows)
        ended = np.zeros(job.rows, bool)
        steps, feeds = self._first, dict(job.feeds)
        for number in range(1, most + 1):
            if gone.is_set():
                raise ServeError(Meaning.CANCELLED, "the request was cancelled by the client")
            one = Job(feeds, job.rows, job.deadline, job.level, job.delay_at, job.parameters)
            try:
                values, outputs = steps.run(values, one, {}, watch if number == 1 else None)
            finally:
                job.enqueued, job.execution = one.enqueued, one.execution
            found = outputs[self._loop.output]
            if self._settings.stop:
                ended |= np.isin(found.reshape(job.rows, -1)[:, -1], self._settings.stop)
            final = number == most or bool(ended.all())
            yield outputs, final
            if final:
                return
            steps, feeds = self._later, feeds | {self._loop.into.name: self._loop.feed(outputs)}

    def close(self, why: str | None = None) -> None:
        self._first.queue.close(why)
        self._later.queue.close(why)

    def _limit(self, parameters: Parameters) -> int:
        asked, most = parameters.get(LIMIT, self._settings.max_steps), self._settings.max_steps
        if type(asked) is not int or not 1 <= asked <= most:
            raise bad_argument(f"parameter {LIMIT!r} must be a whole number from 1 to {most}")
        return asked


__all__ = ["GenerateQueue", "Loop", "loop_of"]
