"""Exported: what a trace answers. The program, its text, its Python code, and the comparison with the original."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from headrace.autograd.mode import MODE
from headrace.jit.arguments import as_array
from headrace.jit.errors import TraceError
from headrace.jit.sizes import SymInt
from headrace.jit.tree import flatten, is_leaf, rebuild
from headrace.runtime.graph import Graph, Program
from headrace.runtime.model import Model
from headrace.tensors import Tensor, wrap

TOLERANCE = 1e-4  # of the largest magnitude of an output


class Exported:
    """A captured program. Call it with tensors as the original, or `run` it on arrays."""

    def __init__(self, program: Program, inputs: Sequence[str], examples: Sequence[np.ndarray], tree: Any, eager: Callable[..., Any], expected: Any) -> None:
        self.program = program
        self.examples = tuple(examples)
        self._inputs, self._tree, self._eager = tuple(inputs), tree, eager
        self.report = self._compare(expected)

    @property
    def graph(self) -> Graph:
        """The entry point; `str(graph)` is its text."""
        return self.program.main

    @property
    def code(self) -> str:
        """Python that computes the same under headrace: `main(x, ..., weights)` with the constants by name. See `weights`."""
        from headrace.jit.code import graph_code

        return graph_code(self.graph)

    @property
    def weights(self) -> dict[str, np.ndarray]:
        """The constants of the graph by name: the `weights` that `code` takes. Shared with the graph, not to be written."""
        return dict(self.graph.constants)

    @cached_property
    def model(self) -> Model:
        """The program loaded into the runtime."""
        return Model(self.graph)

    def run(self, *arrays: Any) -> tuple[np.ndarray, ...]:
        """The graph's outputs for arrays (or tensors) in the order of the inputs."""
        if len(arrays) != len(self._inputs):
            raise TypeError(f"{len(arrays)} inputs for {', '.join(self._inputs)}")
        return tuple(self.model.run({name: as_array(a) for name, a in zip(self._inputs, arrays)}).values())

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The graph's outputs as tensors, in the tree that the original answers. Arguments in the order of the inputs, or by
        their names; tensors may stand inside tuples, lists and dicts as they do in the original's arguments."""
        leaves = [leaf for arg in args for _, leaf in flatten(arg, "")]
        leaves += [leaf for name in self._inputs if name in kwargs for _, leaf in flatten(kwargs[name], "")]
        return rebuild(self._tree, map(wrap, self.run(*leaves)), _is_output)

    def eager(self, *arrays: Any) -> tuple[np.ndarray, ...]:
        """The outputs of the original itself, in evaluation mode and without gradients, flat in the order of the graph's."""
        return _arrays(self._eager(*arrays))

    def save(self, path: Any) -> None:
        """Write the program as a `.hr` archive. See jit.save."""
        from headrace.jit.files import save

        save(self, path)

    def _compare(self, expected: Any) -> str:
        """The largest deviation from the original on the examples, as one line. TraceError where it is too large."""
        worst, where = 0.0, ""
        for value, got, want in zip(self.graph.outputs, self.run(*self.examples), _arrays(expected), strict=True):
            error = deviation(got, want)
            if error > TOLERANCE:
                raise TraceError(
                    f"output {value.name!r} of the graph deviates from the original by {error:.2g} of its range on the example inputs;"
                    f" allowed are {TOLERANCE:g}. Random numbers, or state that outlives a call, do this: pass them as inputs"
                )
            if error > worst:
                worst, where = error, f" (output {value.name!r})"
        count = sum(1 for _ in self.graph.block.walk())
        return f"{self.graph.name}: {count} nodes, {len(self.graph.constants)} constants; largest deviation from the original {worst:.2g} of its range{where}"

    def __repr__(self) -> str:
        return f"Exported({self.report})"


def deviation(got: np.ndarray, want: np.ndarray) -> float:
    """The largest difference in units of the largest magnitude wanted; infinite where shapes, dtypes, NaNs or (of whole
    numbers) values differ."""
    if got.shape != want.shape or got.dtype != want.dtype:
        return float("inf")
    if want.dtype.kind not in "fV":
        return 0.0 if np.array_equal(got, want) else float("inf")
    a, b = got.astype(np.float64), want.astype(np.float64)
    unequal = ~((a == b) | (np.isnan(a) & np.isnan(b)))
    if not unequal.any():
        return 0.0
    if not np.isfinite(a[unequal]).all() or not np.isfinite(b[unequal]).all():
        return float("inf")
    largest = float(np.abs(b[np.isfinite(b)]).max())
    return float(np.abs(a - b)[unequal].max()) / max(largest, 1e-6)


def _is_output(value: Any) -> bool:
    return is_leaf(value) or isinstance(value, bool | int | float | SymInt)


def output_leaves(tree: Any) -> list[tuple[str, Tensor]]:
    """(name, tensor) of every output; numbers and sizes become tensors of rank 0. TraceError for what is none."""
    top = "" if isinstance(tree, dict) else "output"
    found = flatten(_tensors(tree), top)
    if not found:
        raise TraceError(f"the traced code answers {type(tree).__name__}, which holds no tensor; allowed: tensors, and tuples, lists and dicts of them")
    return found


def _tensors(tree: Any) -> Any:
    """The tree with numbers and sizes as tensors."""
    if isinstance(tree, SymInt):
        return MODE.tracer.size_tensor(tree)
    if isinstance(tree, bool | int | float | np.ndarray | np.generic):
        from headrace.functional.creation import tensor

        return tensor(tree)
    if isinstance(tree, Tensor) or tree is None or isinstance(tree, str):
        return tree
    if isinstance(tree, tuple | list | dict) or hasattr(tree, "items"):
        leaf = lambda value: not isinstance(value, tuple | list) and not hasattr(value, "items")  # noqa: E731
        return rebuild(tree, map(_tensors, _walk(tree, leaf)), leaf)
    raise TraceError(f"an output is a {type(tree).__name__}; allowed: tensors, and tuples, lists and dicts of them")


def _walk(tree: Any, leaf: Callable[[Any], bool]) -> Any:
    if leaf(tree):
        yield tree
    else:
        for item in tree.values() if hasattr(tree, "values") else tree:
            yield from _walk(item, leaf)


def _arrays(tree: Any) -> tuple[np.ndarray, ...]:
    return tuple(as_array(leaf) for _, leaf in output_leaves(tree))
