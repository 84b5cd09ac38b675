"""Exported: what a trace answers. The program, its text, its Python code, and the original to compare with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import Any

import numpy as np

from headrace.autograd.mode import MODE, no_grad
from headrace.jit.arguments import Arguments, as_array, as_tensor
from headrace.jit.code import graph_code
from headrace.jit.errors import TraceError
from headrace.jit.sizes import SymInt
from headrace.jit.state import State
from headrace.jit.tree import flatten, is_leaf, rebuild
from headrace.runtime.graph import Graph, Program
from headrace.runtime.model import Model
from headrace.tensors import Tensor, wrap


class Origin:
    """What was traced, as a function of arrays in the order of the graph's inputs."""

    def __init__(self, function: Callable[..., Any], arguments: Arguments, state: State) -> None:
        self.function, self._arguments, self._state = function, arguments, state

    def __call__(self, *arrays: Any) -> tuple[np.ndarray, ...]:
        _check_count(arrays, self._arguments.names)
        with self._state.evaluation(), no_grad():
            answer = self._arguments.call(
                self.function, (as_tensor(array.copy()) for array in map(as_array, arrays))
            )  # a copy: forward may write
        return tuple(as_array(leaf) for _, leaf in output_leaves(answer))


class Exported:
    """A captured program. Call it with tensors as the original, or `run` it on arrays.

    program: the entry points; `structure`: the arguments that it was traced with; `origin`: the original; `report`: one line
    about how near the graph comes to it.
    """

    def __init__(self, program: Program, structure: Arguments, tree: Any, origin: Origin) -> None:
        self.program, self.structure, self.origin, self.report = program, structure, origin, ""
        self._tree = tree

    @property
    def graph(self) -> Graph:
        """The entry point; `str(graph)` is its text."""
        return self.program.main

    @property
    def code(self) -> str:
        """Python that computes the same under headrace: `forward(<inputs>, weights)`, with `weights` as below."""
        return graph_code(self.graph)

    @property
    def weights(self) -> dict[str, Tensor]:
        """The constants of the graph by name, sharing its memory: not to be written."""
        return {name: wrap(array) for name, array in self.graph.constants.items()}

    @cached_property
    def model(self) -> Model:
        """The program loaded into the runtime."""
        return Model(self.graph)

    def run(self, *arrays: Any) -> tuple[np.ndarray, ...]:
        """The graph's outputs for arrays (or tensors) in the order of its inputs."""
        names = self.structure.names
        _check_count(arrays, names)
        answers = self.model.run({name: as_array(array) for name, array in zip(names, arrays)})
        return tuple(answers[value.name] for value in self.graph.outputs)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """As the original: the same arguments, and tensors in the same tuples and dicts as answer."""
        arrays = self.structure.arrays(args, kwargs)
        return rebuild(self._tree, map(wrap, self.run(*arrays)), _is_output)

    def eager(self, *arrays: Any) -> tuple[np.ndarray, ...]:
        """The outputs of the original itself, in evaluation mode and without gradients, in the order of the graph's."""
        return self.origin(*arrays)

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
    return is_leaf(value) or isinstance(value, bool | int | float | SymInt)


def _is_item(value: Any) -> bool:
    return not isinstance(value, tuple | list | Mapping)


def _items(tree: Any) -> Iterator[Any]:
    if _is_item(tree):
        yield tree
    else:
        for item in tree.values() if isinstance(tree, Mapping) else tree:
            yield from _items(item)


def _tensor(value: Any) -> Any:
    """An item of an answer as a tensor; None and texts stay as they are."""
    if isinstance(value, SymInt):
        return MODE.tracer.size_tensor(value)
    if _is_output(value) and not isinstance(value, Tensor):
        return as_tensor(np.asarray(value, np.float32) if isinstance(value, float) else value)
    if isinstance(value, Tensor) or value is None or isinstance(value, str):
        return value
    raise TraceError(f"an output is a {type(value).__name__}; allowed: tensors, and tuples, lists and dicts of them")
