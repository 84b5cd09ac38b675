"""The states of a model that is served in steps: which there are, how they begin, and one step of the model with them.

Graphs have no memory: a state is an input and an output of every run. They come from the package, or from the configuration
for a model whose file does not say (an ONNX file). Clients never see them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from headrace.serve.config import ConfigError, ModelConfig
from headrace.serve.datatypes import Array
from headrace.serve.scheduler import Job, Queue, Watch
from headrace.serve.validate import Port

Values = dict[str, Array]  # by the name of the state's input


@dataclass(frozen=True, slots=True)
class State:
    """One state: the port it enters by, the name it leaves by, and its first value (None: zeros), of the state's rank."""

    port: Port
    output: str
    initial: Array | None = None

    def first(self, bound: Mapping[str, int], rows: int) -> Array:
        """Its first value for sizes `bound` by symbol; dimension 0 of an open size is `rows`."""
        shape = tuple(
            size if isinstance(size, int) else bound.get(str(size), rows if axis == 0 else 0)
            for axis, size in enumerate(self.port.shape or ())
        )
        if self.initial is None:
            return np.zeros(shape, self.port.datatype.dtype)
        open_axes = {axis for axis, size in enumerate(self.port.shape or ()) if axis and self._is_open(size, bound)}
        shape = tuple(self.initial.shape[axis] if axis in open_axes else size for axis, size in enumerate(shape))
        return np.ascontiguousarray(np.broadcast_to(self.initial, shape))

    @staticmethod
    def _is_open(size: int | str | None, bound: Mapping[str, int]) -> bool:
        return not isinstance(size, int) and size not in bound


def states_of(model: Any, config: ModelConfig) -> tuple[State, ...]:
    """The states of a loaded model. ConfigError where the configuration does not fit it."""
    inputs = {spec.name: spec for spec in model.inputs}
    outputs = {spec.name: spec for spec in model.outputs}
    declared = {state.input: state for state in getattr(model, "states", ())}
    found = {
        name: State(Port.of(inputs[name]), state.output, state.initial) for name, state in declared.items()
    }  # fmt: skip
    for item in config.sequence.states:
        for kind, name, known in (("input", item.input, inputs), ("output", item.output, outputs)):
            if name not in known:
                raise ConfigError(f"sequence.states: the model has no {kind} {name!r}; it has {', '.join(known)}")
        one, two = Port.of(inputs[item.input]), Port.of(outputs[item.output])
        if one.datatype is not two.datatype or not one.datatype.size or one.shape is None:
            raise ConfigError(
                f"sequence.states: {item.input!r} is {one.datatype.name}, {item.output!r} {two.datatype.name}; a state is "
                "of one numeric type and of a known rank"
            )
        found[item.input] = State(_narrowed(one, item.dims, config.batching.max_batch_size > 0), item.output)
    return tuple(found.values())


def _narrowed(port: Port, dims: tuple[int, ...], batched: bool) -> Port:
    """The port with the sizes that the configuration gives."""
    shape, skip = list(port.shape or ()), 1 if batched else 0
    if not dims:
        return port
    fits = len(dims) == len(shape) - skip and all(
        a == b or -1 in (a, b) or not isinstance(b, int) for a, b in zip(dims, shape[skip:])
    )
    if not fits:
        raise ConfigError(
            f"sequence.states: {port.name!r} has dims {list(dims)} in the configuration, {shape[skip:]} in the model"
        )
    shape[skip:] = [given if given >= 0 else size for given, size in zip(dims, shape[skip:])]
    return Port(port.name, port.datatype, tuple(shape))


def check_sizes(states: Sequence[State], ports: Sequence[Port]) -> None:
    """ConfigError for a state whose first size nothing tells: neither the package, nor an input of the client's."""
    symbols = {size for port in ports for size in port.shape or () if isinstance(size, str)}
    for state in states:
        for axis, size in enumerate(state.port.shape or ()):
            if state.initial is None and axis and not isinstance(size, int) and size not in symbols:
                raise ConfigError(
                    f"the size of the state {state.port.name!r} is open at dimension {axis}; say it in [[sequence.states]] "
                    "dims (0: it begins empty)"
                )


class Steps:
    """A model's queue, called with states: `begin` makes their first values, `run` is one step of the model."""

    def __init__(self, queue: Queue, states: Sequence[State], ports: Sequence[Port], inputs: Sequence[str]) -> None:
        """`ports`: the inputs that the client gives; `inputs`: the names of all that the model has."""
        self.queue = queue
        self._inputs = inputs
        self._states, self._ports = states, ports

    def begin(self, feeds: Mapping[str, Array], rows: int) -> Values:
        bound: dict[str, int] = {}
        for port in self._ports:
            for size, given in zip(port.shape or (), feeds[port.name].shape):
                if isinstance(size, str):
                    bound[size] = given
        return {state.port.name: state.first(bound, rows) for state in self._states}

    def run(self, values: Values, job: Job, extra: Mapping[str, Array], watch: Watch | None) -> tuple[Values, Values]:
        """One step: (the next states, all outputs). The execution is noted in `job`; `values` stay as they are."""
        feeds = {**job.feeds, **extra, **values}
        feeds = {name: feeds[name] for name in self._inputs}
        inner = Job(feeds, job.rows, job.deadline, job.level, job.delay_at, job.parameters)
        try:
            outputs = self.queue.run(inner, watch)
        finally:
            job.enqueued, job.execution = inner.enqueued, inner.execution
        states = {state.port.name: _own(outputs[state.output]) for state in self._states}
        return states, outputs


def _own(array: Array) -> Array:
    """The array without the batch that it is a view of."""
    return array if array.base is None else array.copy()


def size_of(values: Values) -> int:
    return sum(array.nbytes for array in values.values())


__all__ = ["State", "Steps", "Values", "check_sizes", "size_of", "states_of"]
