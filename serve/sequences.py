"""Sequences: requests that belong together, in order, with states of the model that the server keeps between them.

A sequence begins with a request that says so, takes one request after the other in the order of their arrival, and is gone
after the one that says `sequence_end`, after a request that was cancelled or came too late (what follows would miss a step),
or when nothing came for a while. Its states go into a run as inputs; so requests of different sequences meet in one run
(strategy "oldest") wherever any requests may.
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from headrace.serve.config import ConfigError, ModelConfig, SequenceControl
from headrace.serve.config import Sequence as Settings
from headrace.serve.datatypes import Array
from headrace.serve.errors import Meaning, ServeError, bad_argument, overloaded, quoted, unavailable
from headrace.serve.model import Model
from headrace.serve.rejections import SEQUENCES, STATES
from headrace.serve.request import Parameters
from headrace.serve.scheduler import Job, Queue, Watch
from headrace.serve.states import State, Steps, Values, check_sizes, size_of, states_of
from headrace.serve.validate import Interface, Port

LOOK_SECONDS = 1.0  # at most, between looks for idle sequences

Id = int | str


class _Sequence:
    """One sequence. Its requests take tickets and turns, guarded by the queue's lock."""

    __slots__ = ("bytes", "ending", "next", "over", "rows", "serving", "states", "turn", "used")

    def __init__(self, lock: threading.Lock, now: float) -> None:
        self.states: Values | None = None  # None: its first request has not run
        self.bytes = self.rows = 0
        self.next = self.serving = 0
        self.ending = False
        self.over = ""  # why it is gone
        self.used = now
        self.turn = threading.Condition(lock)

    @property
    def is_idle(self) -> bool:
        return self.serving == self.next


class SequenceQueue:
    """Sequences behind the interface of a queue: `run` takes the place of the model's own."""

    def __init__(
        self,
        steps: Steps,
        controls: Sequence[tuple[SequenceControl, Port]],
        settings: Settings,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.policy = steps.queue.policy
        self._steps, self._controls, self._settings, self._clock = steps, controls, settings, clock
        self._lock = threading.Lock()
        self._sequences: dict[Id, _Sequence] = {}
        self._bytes = 0
        self._closed = threading.Event()
        self._looking = False

    def __len__(self) -> int:
        return len(self._sequences)

    @property
    def pending(self) -> int:
        with self._lock:
            behind = sum(max(0, one.next - one.serving - 1) for one in self._sequences.values())
        return self._steps.queue.pending + behind

    def run(self, job: Job, watch: Watch | None = None) -> dict[str, Array]:
        """The request's step of its sequence. Raises its ServeError."""
        number, start, end = identity(job.parameters)
        with self._turn(number, start, end, job, watch) as sequence:
            states = sequence.states
            if states is None:
                states, sequence.rows = self._steps.begin(job.feeds, job.rows), job.rows
                self._grow(number, sequence, size_of(states))
            if job.rows != sequence.rows:
                raise bad_argument(
                    f"a request of {job.rows} rows: the sequence {_shown(number)} has {sequence.rows} rows"
                )
            extra = {port.name: self._control(row, port, job.rows, number, start, end) for row, port in self._controls}
            sequence.states, outputs = self._steps.run(states, job, extra, watch)
            self._grow(number, sequence, size_of(sequence.states))
        return outputs

    def close(self, why: str | None = None) -> None:
        """Refuse new requests, forget all sequences."""
        self._closed.set()
        with self._lock:
            for number in list(self._sequences):
                self._drop(number, "the model is being unloaded")
        self._steps.queue.close(why)

    def sweep(self, now: float) -> None:
        """Forget the sequences that were idle for too long."""
        limit = self._settings.idle_timeout_ms / 1000
        with self._lock:
            for number, one in list(self._sequences.items()):
                if one.is_idle and now - one.used > limit:
                    self._drop(number, "it was idle for too long")

    # ---- one request's turn ----

    @contextmanager
    def _turn(self, number: Id, start: bool, end: bool, job: Job, watch: Watch | None) -> Iterator[_Sequence]:
        """Wait until the requests before this one have run. What is raised inside ends the sequence where a step is lost."""
        job.enqueued = self._clock()
        sequence, ticket = self._enter(number, start, end)
        gone = threading.Event()

        def leave() -> None:
            gone.set()
            with self._lock:
                sequence.turn.notify_all()

        if watch is not None and not watch(leave):
            gone.set()
        try:
            with self._lock:
                while sequence.serving != ticket and not sequence.over:
                    left = None if job.deadline is None else job.deadline - self._clock()
                    if gone.is_set():
                        raise ServeError(Meaning.CANCELLED, "the request was cancelled by the client")
                    if left is not None and left <= 0:
                        raise ServeError(Meaning.EXPIRED, "the deadline passed before the request ran")
                    sequence.turn.wait(left)
                if sequence.over:
                    raise bad_argument(f"the sequence {_shown(number)} has ended: {sequence.over}")
            yield sequence
        except ServeError as error:
            if error.meaning in (Meaning.CANCELLED, Meaning.EXPIRED):
                with self._lock:
                    self._end(number, sequence, f"a request of it ended early ({error.meaning.value})")
            raise
        finally:
            with self._lock:
                sequence.serving += 1
                sequence.used = self._clock()
                if end:
                    self._end(number, sequence, "its end was asked for")
                sequence.turn.notify_all()

    def _enter(self, number: Id, start: bool, end: bool) -> tuple[_Sequence, int]:
        now = self._clock()
        with self._lock:
            if self._closed.is_set():
                raise unavailable("the model is being unloaded")
            found = self._sequences.get(number)
            if start:
                if found is not None:
                    self._drop(number, "it was started again")
                found = self._create(number, now)
            elif found is None or found.ending:
                raise bad_argument(
                    f"the sequence {_shown(number)} has not begun: its first request needs sequence_start; it may have ended, or "
                    f"been idle for more than {self._settings.idle_timeout_ms} ms"
                )
            found.ending = end
            found.next += 1
            return found, found.next - 1

    def _create(self, number: Id, now: float) -> _Sequence:
        most = self._settings.max_sequences
        if len(self._sequences) >= most:
            raise overloaded(f"{most} sequences of the model are open, the most it takes", SEQUENCES)
        sequence = self._sequences[number] = _Sequence(self._lock, now)
        if not self._looking:
            self._looking = True
            threading.Thread(target=self._look, name="headrace-sequences", daemon=True).start()
        return sequence

    def _grow(self, number: Id, sequence: _Sequence, size: int) -> None:
        most = self._settings.max_state_bytes
        with self._lock:
            if sequence.over:
                return
            if self._bytes + size - sequence.bytes > most:
                self._end(number, sequence, "its states were too large")
                raise overloaded(f"the states of all sequences of the model are over {most} bytes", STATES)
            self._bytes += size - sequence.bytes
            sequence.bytes = size

    def _end(self, number: Id, sequence: _Sequence, why: str) -> None:
        if self._sequences.get(number) is sequence:
            self._drop(number, why)

    def _drop(self, number: Id, why: str) -> None:
        """Forget a sequence (lock held); requests that wait in it are told why."""
        sequence = self._sequences.pop(number)
        sequence.over = why
        sequence.states = None
        self._bytes -= sequence.bytes
        sequence.turn.notify_all()

    def _look(self) -> None:
        while not self._closed.wait(min(LOOK_SECONDS, self._settings.idle_timeout_ms / 4000)):
            self.sweep(self._clock())
            with self._lock:
                if not self._sequences:
                    self._looking = False
                    return

    # ---- what the model is told of the sequence ----

    def _control(self, row: SequenceControl, port: Port, rows: int, number: Id, start: bool, end: bool) -> Array:
        shape = tuple(
            size if isinstance(size, int) else rows if axis == 0 else 1 for axis, size in enumerate(port.shape or ())
        )
        if row.kind != "corrid":
            on = {"start": start, "end": end, "ready": True}[row.kind]
            return np.full(shape, row.on if on else row.off, port.datatype.dtype)
        if port.datatype.size == 0:
            return np.full(shape, str(number).encode(), object)
        try:
            return np.full(shape, np.array(number, port.datatype.dtype))
        except (OverflowError, ValueError):
            raise bad_argument(
                f"the sequence id {_shown(number)} does not fit the model's input {port.name!r} of {port.datatype.name}"
            ) from None


class Kept:
    """A model that is served in sequences: its states and its controls."""

    def __init__(self, model: Model, config: ModelConfig, states: Sequence[State]) -> None:
        self.states = states
        self.controls = controls_of({spec.name: Port.of(spec) for spec in model.inputs}, config.sequence)
        self._inputs = [spec.name for spec in model.inputs]
        self._shown = {item.name for item in config.outputs}

    def visible(self, model: Model, rows: int) -> Interface:
        """What a client sees. ConfigError where nothing tells the size of a state."""
        hidden = {state.port.name for state in self.states} | {port.name for _, port in self.controls}
        last = {state.output for state in self.states} - self._shown
        interface = Interface(
            [spec for spec in model.inputs if spec.name not in hidden],
            [spec for spec in model.outputs if spec.name not in last],
            rows,
        )
        check_sizes(self.states, interface.inputs)
        return interface

    def steps(self, queue: Queue, interface: Interface) -> Steps:
        return Steps(queue, self.states, interface.inputs, self._inputs)


def kept_of(model: Model, config: ModelConfig) -> Kept | None:
    """The sequences of a model; None: it is served request by request."""
    if config.sequence.strategy == "off":
        return None
    states = states_of(model, config)
    return Kept(model, config, states) if states or config.sequence.strategy or config.sequence.controls else None


def identity(parameters: Parameters) -> tuple[Id, bool, bool]:
    """(id, is the start, is the end) of a request; bad_argument where it names no sequence."""
    number = parameters.get("sequence_id", 0)
    if not number or not isinstance(number, (int, str)):
        raise bad_argument(
            "the model is served in sequences: the request needs a sequence_id (a number from 1, or text)"
        )
    return number, bool(parameters.get("sequence_start")), bool(parameters.get("sequence_end"))


def controls_of(ports: Mapping[str, Port], settings: Settings) -> list[tuple[SequenceControl, Port]]:
    """The inputs of the model that say where in a sequence a request is. ConfigError names one that cannot."""
    found = []
    for row in settings.controls:
        port = ports.get(row.input)
        if port is None:
            raise ConfigError(f"sequence.controls: the model has no input {row.input!r}; it has {', '.join(ports)}")
        fixed = [size for axis, size in enumerate(port.shape or ()) if isinstance(size, int) and size != 1]
        kinds = "iuO" if row.kind == "corrid" else "biuf"
        if fixed or port.datatype.dtype.kind not in kinds:
            raise ConfigError(
                f"sequence.controls: {row.input!r} is {port.datatype.name} {port.wire_shape}; a control has one element a row"
                f"{', a whole number or BYTES' if row.kind == 'corrid' else ''}"
            )
        found.append((row, port))
    return found


def shown(settings: Settings) -> dict[str, Any]:
    """`sequence_batching` of ModelConfig."""
    kinds = {"ready": "READY", "start": "START", "end": "END", "corrid": "CORRID"}
    answer: dict[str, Any] = {
        "max_sequence_idle_microseconds": settings.idle_timeout_ms * 1000,
        "control_input": [
            {"name": row.input, "control": [{"kind": f"CONTROL_SEQUENCE_{kinds[row.kind]}"}]}
            for row in settings.controls
        ],
        "state": [{"input_name": row.input, "output_name": row.output, "dims": row.dims} for row in settings.states],
    }
    return answer | (
        {"direct": {}}
        if settings.strategy == "direct"
        else {"oldest": {"max_candidate_sequences": settings.max_sequences}}
    )


def _shown(number: Id) -> str:
    return quoted(number) if isinstance(number, str) else str(number)


__all__ = ["Kept", "SequenceQueue", "controls_of", "identity", "kept_of", "shown"]
