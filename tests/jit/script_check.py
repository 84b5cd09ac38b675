"""What every compiled program must satisfy, and the way back from its code."""

from __future__ import annotations

import functools
import importlib.util
import itertools
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

import headrace as torch
from headrace import jit
from headrace.runtime.canonical import canonical_text
from headrace.runtime.executor import run_graph
from headrace.runtime.shapes import Expr
from headrace.runtime.types import TensorType

_numbers = itertools.count()


def arrays(args: Sequence[Any]) -> list[np.ndarray]:
    """Arguments as the graph takes them."""
    kinds = {bool: np.bool_, int: np.int64, float: np.float64}
    return [a.numpy() if isinstance(a, torch.Tensor) else np.asarray(a, kinds[type(a)]) for a in args]


def imported(code: str, folder: Path) -> ModuleType:
    """The text of a program as a module of its own."""
    name = f"written_program_{next(_numbers)}"
    path = folder / f"{name}.py"
    path.write_text(code)
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def compiled_again(exported: jit.Exported, folder: Path) -> jit.Exported:
    """The program compiled from its own code."""
    graph = exported.graph
    sizes: dict[str, dict[int, str | None]] = {}
    for value in graph.inputs:
        assert isinstance(value.type, TensorType) and value.type.shape is not None
        sizes[value.name] = {a: d.name if isinstance(d, Expr) else None for a, d in enumerate(value.type.shape)}
    function = functools.partial(imported(exported.code, folder).forward, weights=exported.weights)
    examples = tuple(torch.from_numpy(array.copy()) for array in exported.examples)
    states = {state.input: state.output for state in graph.states}
    return jit.script(function, examples, dynamic=sizes, name=graph.name, states=states)


def check(exported: jit.Exported, inputs: Sequence[Sequence[np.ndarray]], folder: Path) -> None:
    """Native executor, reference executor, code run eagerly, and the original agree; the code is the same graph."""
    forward = imported(exported.code, folder).forward
    names = [value.name for value in exported.graph.inputs]
    for feeds in inputs:
        wanted = exported.eager(*feeds)
        same(exported.run(*feeds), wanted)
        same(list(run_graph(exported.graph, dict(zip(names, feeds))).values()), wanted)
        found = forward(*(torch.from_numpy(array.copy()) for array in feeds), exported.weights)
        found = list(found.values()) if isinstance(found, dict) else found if isinstance(found, tuple) else [found]
        same([t.numpy() for t in found], wanted)
    again = compiled_again(exported, folder).graph
    assert canonical_text(again) == canonical_text(exported.graph)
    assert again.hash() == exported.graph.hash()


def same(got: Sequence[np.ndarray], want: Sequence[np.ndarray]) -> None:
    for a, b in zip(got, want, strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
