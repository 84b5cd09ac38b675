"""Exported: what a capture answers. The program, its text, its Python code, and the original to compare with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from headrace.autograd.mode import MODE, no_grad
from headrace.jit.arguments import Arguments, as_array, as_tensor
from headrace.jit.code import graph_code
from headrace.jit.errors import TraceError
from headrace.jit.script.numbers import argument
from headrace.jit.script.specs import spec_of
from headrace.jit.script.values import List, Maybe, Number
from headrace.jit.sizes import SymInt
from headrace.jit.state import Buffer, State
from headrace.jit.tree import flatten, is_leaf, rebuild
from headrace.runtime.graph import Graph, Program
from headrace.runtime.model import Model
from headrace.runtime.session import Session
from headrace.runtime.shapes import Dim
from headrace.tensors import Tensor, wrap


@dataclass
class Cell:
    """A buffer that forward writes, as a state of the program: the input `name`, the output `output`, the value that it
    starts from, and the shape of the input."""

    name: str
    output: str
    buffer: Buffer
    initial: np.ndarray
    shape: tuple[Dim, ...]


class Origin:
    """What was captured, as a function of arrays in the order of the graph's inputs."""

    def __init__(
        self, function: Callable[..., Any], arguments: Arguments, state: State, cells: Sequence[Cell] = ()
    ) -> None:
        self.function, self._arguments, self._state, self._cells = function, arguments, state, tuple(cells)

    def __call__(self, *arrays: Any) -> tuple[np.ndarray, ...]:
        count = len(self._arguments.names)
        _check_count(arrays, [*self._arguments.names, *(cell.name for cell in self._cells)])
        if not self._cells:  # whoever captures sees what is written
            return self._run(arrays)
        with self._state.unchanged(strict=False):
            for cell, array in zip(self._cells, arrays[count:]):
                cell.buffer.tensor._data = as_array(array).copy()
            found = self._run(arrays[:count])
            after = tuple(as_array(cell.buffer.tensor).copy() for cell in self._cells)
        return (*found, *after)

    def _run(self, arrays: Sequence[Any]) -> tuple[np.ndarray, ...]:
        with self._state.evaluation(), no_grad():
            answer = self._arguments.call(
                getattr(self.function, "__headrace_script__", self.function),
                (as_tensor(array.copy()) for array in map(as_array, arrays)),
            )  # a copy: forward may write
        return tuple(as_array(leaf) for _, leaf in output_leaves(answer))


class Exported:
    """A captured program. Call it with tensors as the original, or `run` it on arrays.

    program: the entry points; `structure`: the arguments that it was captured with; `origin`: the original; `report`: one
    line about how near the graph comes to it; `entries`: all entry points by name, where there are several.
    """

    def __init__(
        self, program: Program, structure: Arguments, tree: Any, origin: Origin, cells: Sequence[Cell] = ()
    ) -> None:
        self.program, self.structure, self.origin, self.report = program, structure, origin, ""
        self.fixed_batch = ""  # how the original fails with one row more than the example has, where it does
        (self._name,) = program.entries
        self._tree, self._cells = tree, tuple(cells)
        self.entries: dict[str, Exported] = {self._name: self}

    @property
    def graph(self) -> Graph:
        """The entry point; `str(graph)` is its text."""
        return self.program.entries[self._name]

    @property
    def code(self) -> str:
        """Python that computes the same under headrace: `forward(<inputs>, weights)`, with `weights` as below."""
        return graph_code(self.graph)

    @property
    def weights(self) -> dict[str, Tensor]:
        """The constants of the graph by name, sharing its memory: not to be written."""
        return {name: wrap(array) for name, array in self.graph.constants.items()}

    @property
    def examples(self) -> list[np.ndarray]:
        """Values of all inputs: the example inputs, and of the states what they start from."""
        return [*self.structure.examples, *(cell.initial for cell in self._cells)]

    @cached_property
    def model(self) -> Model:
        """The program loaded into the runtime."""
        return Model(self.graph)

    @cached_property
    def session(self) -> Session:
        """The states of the program between calls; `session.reset()` starts again."""
        return Session(self.model)

    def run(self, *arrays: Any) -> tuple[np.ndarray, ...]:
        """The graph's outputs for arrays (or tensors) in the order of its inputs, states among them."""
        names = [value.name for value in self.graph.inputs]
        _check_count(arrays, names)
        answers = self.model.run({name: as_array(array) for name, array in zip(names, arrays)})
        return tuple(answers[value.name] for value in self.graph.outputs)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """As the original: the same arguments, and tensors in the same tuples and dicts as answer. States are kept from
        call to call."""
        arrays = self.structure.arrays(args, kwargs)
        if not self.graph.states:
            return rebuild(self._tree, map(wrap, self.run(*arrays)), _is_output)
        held = {state.output: state.input for state in self.graph.states}
        feeds = {name: array for name, array in zip(self.structure.names, arrays) if name not in held.values()}
        answers = self.session.run(feeds)
        answers.update((output, self.session.states[source]) for output, source in held.items())
        found = [answers[value.name] for value in self.graph.outputs]
        return rebuild(self._tree, map(wrap, found), _is_output)

    def eager(self, *arrays: Any) -> tuple[np.ndarray, ...]:
        """The outputs of the original itself, in evaluation mode and without gradients, in the order of the graph's."""
        return self.origin(*arrays)

    def entry(self, name: str) -> Exported:
        """One of several entry points."""
        if name not in self.entries:
            raise TraceError(f"there is no entry point {name!r}; there are {', '.join(self.entries)}")
        return self.entries[name]

    def save(self, path: Any) -> None:
        """Write the program as a `.hr` archive. See jit.save."""
        from headrace.jit.files import save

        save(self, path)

    def __repr__(self) -> str:
        return f"Exported({self.report})"


def _check_count(arrays: tuple[Any, ...], names: list[str]) -> None:
    if len(arrays) != len(names):
        raise TypeError(f"the program has {len(names)} inputs ({', '.join(names)}); given: {len(arrays)}")


# -------------------------------------------------------------------- answers


def output_leaves(tree: Any) -> list[tuple[str, Tensor]]:
    """(name, tensor) of every output; numbers and sizes become tensors of rank 0. TraceError for what is none."""
    prepared = rebuild(tree, map(_tensor, _items(tree)), _is_item)
    found = flatten(prepared, "" if isinstance(tree, Mapping) or hasattr(tree, "_fields") else "output")
    if not found:
        raise TraceError(
            f"the traced code answers {type(tree).__name__} without a tensor; allowed: tensors, and tuples, lists and dicts of them"
        )
    return found


def _is_output(value: Any) -> bool:
    return is_leaf(value) or isinstance(value, bool | int | float | SymInt | Number)


def _is_item(value: Any) -> bool:
    return not isinstance(value, tuple | list | Mapping) or getattr(value, "sequence", None) is not None


def _items(tree: Any) -> Iterator[Any]:
    if _is_item(tree):
        yield tree
    else:
        for item in tree.values() if isinstance(tree, Mapping) else tree:
            yield from _items(item)


def _tensor(value: Any) -> Any:
    """An item of an answer as a tensor; None and texts stay as they are."""
    if isinstance(value, Number):
        return argument(value)
    if isinstance(value, List | Maybe):
        rewrite = "torch.stack the list" if isinstance(value, List) else "return a tensor on every way"
        raise TraceError(f"an output is {spec_of(value)}, which has no fixed form. Rewrite: {rewrite}")
    if isinstance(value, SymInt):
        return MODE.tracer.size_tensor(value)
    if _is_output(value) and not isinstance(value, Tensor):
        return as_tensor(np.asarray(value, np.float32) if isinstance(value, float) else value)
    if isinstance(value, Tensor) or value is None or isinstance(value, str):
        return value
    raise TraceError(f"an output is a {type(value).__name__}; allowed: tensors, and tuples, lists and dicts of them")
