"""A captured program: its graph, its text, and how to run it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

import numpy as np

from headrace.jit.code import graph_code
from headrace.jit.structure import Structure
from headrace.runtime.graph import Graph, Program
from headrace.tensors import Tensor, concrete, wrap


class Exported:
    """What `jit.trace` and `jit.load` answer.

    program: the captured entry points.   graph: the main one; its str is the text form.   code: the same as Python.
    report: one line about the comparison with eager.   weights: the constants by name, as tensors.
    Calling it takes and answers tensors as the original did; `run` takes and answers arrays by name.
    """

    def __init__(
        self,
        program: Program,
        *,
        structure: Structure | None = None,
        origin: Callable[..., Any] | None = None,
        examples: tuple[Any, ...] = (),
        report: str = "",
    ) -> None:
        self.program, self.structure, self.origin, self.examples, self.report = program, structure, origin, examples, report

    @property
    def graph(self) -> Graph:
        return self.program.main

    @property
    def code(self) -> str:
        return graph_code(self.graph)

    @property
    def weights(self) -> dict[str, Tensor]:
        return {name: wrap(array) for name, array in self.graph.constants.items()}

    @cached_property
    def model(self) -> Any:
        """The graph ready to run."""
        from headrace.runtime.model import Model

        return Model(self.graph)

    def run(self, feeds: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Run the graph: arrays by input name to arrays by output name."""
        return self.model.run({name: as_array(value) for name, value in feeds.items()})  # type: ignore[no-any-return]

    def __call__(self, *args: Any) -> Any:
        """Run the graph on tensors; the answer has the structure that the original had."""
        names = [value.name for value in self.graph.inputs]
        given = self.structure.arrays(args) if self.structure is not None else [as_array(a) for a in args]
        if len(given) != len(names):
            raise TypeError(f"the program takes {len(names)} tensors ({', '.join(names)}), got {len(given)}")
        answers = self.run(dict(zip(names, given)))
        values = [wrap(np.asarray(answers[value.name])) for value in self.graph.outputs]
        if self.structure is not None:
            return self.structure.rebuild(values)
        return values[0] if len(values) == 1 else tuple(values)

    forward = __call__

    def eager(self, *inputs: Any) -> tuple[np.ndarray, ...]:
        """What the original itself answers to these arrays, in the order of the graph's outputs."""
        if self.origin is None or self.structure is None:
            raise TypeError("a program that was read from a file has no original to run")
        answer = self.origin(*self.structure.arguments([wrap(as_array(x)) for x in inputs]))
        return tuple(concrete(t.detach(), "eager()") for t in self.structure.flatten(answer))

    def __repr__(self) -> str:
        inputs = ", ".join(map(repr, self.graph.inputs))
        outputs = ", ".join(map(repr, self.graph.outputs))
        return f"Exported(({inputs}) -> ({outputs}), {len(self.graph.nodes)} nodes)"


def as_array(value: Any) -> np.ndarray:
    """A tensor or anything array-like as a NumPy array."""
    return value.detach().numpy() if isinstance(value, Tensor) else np.asarray(value)
