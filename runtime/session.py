"""A session: the states of a model between calls.

    session = model.session()
    for x in stream:
        y = session.run({"x": x})["y"]
    session.reset()

Graphs have no memory: a state is an input and an output. A session keeps the values, feeds them, and takes the new ones.
Entry points of one program share states of one name, as the prefill and the step of a cache do.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from headrace.runtime import dtypes
from headrace.runtime.errors import InputError
from headrace.runtime.graph import Graph, State
from headrace.runtime.types import TensorType

if TYPE_CHECKING:
    from headrace.runtime.model import Model


class Session:
    """States of one caller; not for use by several threads at once. `states`: state input -> its value now."""

    def __init__(self, model: Model, initial: Mapping[str, Any] | None = None) -> None:
        self.model = model
        self.states: dict[str, np.ndarray] = {}
        self.reset(initial)

    def reset(self, initial: Mapping[str, Any] | None = None) -> None:
        """Begin again: from the values that the file says (zeros where it says none), or from those in `initial` by the
        name of the state's input. Raises InputError for a name that is no state, and for a state of unknown size."""
        given = dict(initial or {})
        states: dict[str, np.ndarray] = {}
        for name in self.model.entries:
            graph = self.model.entry(name).graph
            for state in graph.states:
                if state.input in given:
                    states[state.input] = np.asarray(given.pop(state.input))
                elif state.input not in states:
                    states[state.input] = _initial(graph, state)
        if given:
            known = ", ".join(states) or "none"
            raise InputError(f"the model has no state {next(iter(given))!r}; its states: {known}")
        self.states = states

    def run(self, feeds: Mapping[str, Any], entry: str | None = None) -> dict[str, Any]:
        """One call of an entry point (None: the main one): inputs and outputs without the states. Where the call fails,
        the states stay as they were."""
        model = self.model if entry is None else self.model.entry(entry)
        held = {state.input: state.output for state in model.graph.states}
        for name in feeds:
            if name in held:
                raise InputError(f"the session holds the state {name!r}; reset({{{name!r}: value}}) sets it")
        outputs = model.run({**feeds, **{name: self.states[name] for name in held}})
        for name, output in held.items():
            self.states[name] = outputs.pop(output)
        return outputs


def _initial(graph: Graph, state: State) -> np.ndarray:
    if state.initial is not None:
        return state.initial
    (value,) = (value for value in graph.inputs if value.name == state.input)
    shape = value.type.shape if isinstance(value.type, TensorType) else None
    if shape is None or not all(isinstance(dim, int) for dim in shape):
        raise InputError(
            f"the state {state.input!r} is {value.type}, whose size is free: give its first value, session({{{state.input!r}: array}})"
        )
    assert isinstance(value.type, TensorType)
    return np.zeros(shape, dtypes.of(value.type.dtype).numpy)  # type: ignore[arg-type]
