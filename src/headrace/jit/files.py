"""Captured programs on disk: `.hr` archives, which hold data only and load without the code they came from."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from headrace.jit.arguments import as_array
from headrace.jit.exported import Exported
from headrace.runtime.graph import Graph, Program
from headrace.runtime.interface import Golden, TensorSpec
from headrace.runtime.model import Model
from headrace.runtime.session import Session
from headrace.tensors import Tensor, wrap


def save(exported: Any, path: str | os.PathLike[str], example_inputs: Any = None) -> None:
    """Write an Exported, a Loaded, a Program or a Graph as a `.hr` archive; a Module or function is traced first with
    `example_inputs`, what `@script` made is compiled. The example of a capture and its outputs are stored as golden data."""
    from headrace.serializer import archive

    if callable(exported) and not isinstance(exported, Exported | Loaded):
        from headrace.jit.trace import trace

        if example_inputs is None:
            raise TypeError("a Module is captured by running it: save(module, path, example_inputs)")
        capture = getattr(exported, "capture", None)  # of a Scripted
        exported = trace(exported, example_inputs) if capture is None else capture(example_inputs)
    golden = None
    if isinstance(exported, Exported):
        golden = _golden(exported)
        exported = exported.program
    archive.save(exported.program if isinstance(exported, Loaded) else exported, path, golden=golden, optimized=True)


def load(path: str | os.PathLike[str]) -> Loaded:
    """Open a `.hr` or `.onnx` file. LoadError names what is wrong with it."""
    from headrace.runtime.model import load as load_model

    return Loaded(load_model(path))


class Loaded:
    """A program from a file. Call it with tensors or arrays in the order of its inputs, or by their names."""

    def __init__(self, model: Model) -> None:
        self.model = model

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return self.model.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return self.model.outputs

    @property
    def graph(self) -> Graph:
        return self.model.graph

    @property
    def program(self) -> Program:
        return Program({name: self.model.entry(name).graph for name in self.entries})

    @property
    def entries(self) -> tuple[str, ...]:
        """The names of the entry points."""
        return self.model.entries

    def entry(self, name: str) -> Loaded:
        """One of the entry points. Raises InputError naming those that exist."""
        return Loaded(self.model.entry(name))

    def session(self, initial: Mapping[str, Any] | None = None) -> Session:
        """What keeps the states of the program between calls. See Model.session."""
        return self.model.session(initial)

    @property
    def code(self) -> str:
        """The program as Python. See Exported.code."""
        from headrace.jit.code import graph_code

        return graph_code(self.graph)

    def run(self, *arrays: Any, **named: Any) -> tuple[np.ndarray, ...]:
        """Outputs as arrays."""
        feeds = {spec.name: as_array(array) for spec, array in zip(self.inputs, arrays)}
        if len(arrays) > len(self.inputs) or feeds.keys() & named.keys():
            raise TypeError(f"the inputs are {', '.join(map(str, self.inputs))}; each is given once")
        return tuple(self.model.run({**feeds, **{name: as_array(array) for name, array in named.items()}}).values())

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor | tuple[Tensor, ...]:
        """The output as a tensor; several as a tuple."""
        found = tuple(map(wrap, self.run(*args, **kwargs)))
        return found[0] if len(found) == 1 else found

    def eval(self) -> Loaded:
        """A captured program is in evaluation mode already."""
        return self

    def __repr__(self) -> str:
        return f"Loaded({self.model!r})"


def _golden(exported: Exported) -> Golden:
    inputs = dict(zip((value.name for value in exported.graph.inputs), exported.examples))
    outputs = dict(zip((value.name for value in exported.graph.outputs), exported.run(*exported.examples)))
    return Golden([inputs], [outputs])
