"""capture: one entry point as a graph, by a run of the original on traced tensors. What trace and script share.

A buffer that forward writes is a state: an input with the buffer's value before, an output with the value after, and its
value now to begin with. Which ones are written, and which of their sizes change, is learnt from the run, which is then
made again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from headrace.autograd.mode import MODE, no_grad
from headrace.jit.arguments import Arguments, Dynamic, unique
from headrace.jit.compare import compare
from headrace.jit.errors import TraceError
from headrace.jit.exported import Cell, Exported, Origin, output_leaves
from headrace.jit.prune import prune
from headrace.jit.sizes import symbolic_len
from headrace.jit.state import Buffer, State
from headrace.jit.tracer import Tracer
from headrace.runtime import graph as ir
from headrace.runtime.graph import Graph, Node, Program, Value
from headrace.runtime.shapes import symbol
from headrace.runtime.types import TensorType

_RUNS = 8


@dataclass
class Request:
    """What is captured, and how. `compiled` makes a runnable of the original for a tracer (script), `states` names the
    inputs and outputs that are a state by declaration."""

    function: Callable[..., Any]
    examples: Any
    dynamic: Dynamic = None
    name: str = "main"
    compiler: Callable[[Tracer], Any] | None = None
    states: Mapping[str, str] | None = None


def capture(request: Request) -> Exported:
    """The entry point, compared with the original on the examples."""
    script = request.compiler is not None
    arguments = Arguments(request.function, request.examples, numbers=script)
    shapes = arguments.shapes(request.dynamic)
    state = State(request.function)
    cells: list[Cell] = []
    for _ in range(_RUNS):
        origin = Origin(request.function, arguments, state, cells)
        with state.unchanged(
            strict=not script
        ) as written:  # first, so that the original's own errors are seen as they are
            expected = origin(*arguments.examples, *(cell.initial for cell in cells))
        if _learn(cells, written, state, arguments.names):
            continue
        run = _Run(request, arguments, shapes, state, cells)
        if not _learn(cells, run.written, state, arguments.names) and not _widen(cells, run.graph):
            break
    else:
        raise TraceError("the shapes of the states do not stand still. Rewrite: keep a state's number of dimensions")
    graph = run.graph
    _declare(graph, cells, request.states or {}, dict(zip(arguments.names, arguments.examples)))
    exported = Exported(Program({request.name: graph}), arguments, run.tree, origin, cells)
    exported.report = "; ".join([compare(exported, expected), *run.notes])
    return exported


class _Run:
    """One run: the graph, the tree of the outputs, the buffers that were written, and remarks."""

    def __init__(
        self, request: Request, arguments: Arguments, shapes: dict[str, Any], state: State, cells: list[Cell]
    ) -> None:
        if MODE.tracer is not None:
            raise TraceError("a trace runs already: trace() cannot be called inside traced code")
        tracer = Tracer(request.name, state)
        inputs = [tracer.input(key, array, shapes[key]) for key, array in zip(arguments.names, arguments.examples)]
        held = [tracer.input(cell.name, cell.initial, cell.shape) for cell in cells]
        with state.unchanged(strict=request.compiler is None) as written, state.evaluation(), no_grad(), symbolic_len():
            MODE.tracer = tracer
            try:
                for cell, tensor in zip(cells, held):
                    cell.buffer.tensor._data = tensor._data
                compiler = None if request.compiler is None else request.compiler(tracer)
                call = request.function if compiler is None else compiler.entry(request.function)
                self.tree = arguments.call(call, inputs)
                leaves = output_leaves(self.tree)
                leaves += [(cell.output, cell.buffer.tensor) for cell in cells]
                values = [tracer.value(leaf) for _, leaf in leaves]
            finally:
                MODE.tracer = None
        tracer.graph.block.outputs.extend(value for value in values if value is not None)
        self.written = written
        self.notes: list[str] = [] if compiler is None else list(dict.fromkeys(compiler.notes))
        self.graph = _named(prune(tracer.graph), unique([name for name, _ in leaves]))


def _named(graph: Graph, names: list[str]) -> Graph:
    """The graph with its outputs called so; inner values that have such a name take another one. What is an input, a
    constant or an output already is passed on by an Identity."""
    taken = {value.name for value in graph.inputs} | set(graph.constants)
    fresh = [next(n for n in (name, *(f"{name}_{i}" for i in range(2, 10_000))) if n not in taken) for name in names]
    inner = [value for node in graph.block.walk() for value in node.outputs if value is not None]
    inner += [v for node in graph.block.walk() for block in node.blocks.values() for v in block.inputs]
    made = {id(value) for node in graph.nodes for value in node.outputs}
    outputs: list[Value] = []
    for value in graph.outputs:
        if id(value) not in made or value in outputs:
            passed = Value("", value.type)
            graph.nodes.append(Node("Identity", [value], [passed]))
            value = passed
        outputs.append(value)
    used = {value.name for value in inner} | taken | set(fresh)
    for value in inner:
        if value.name in fresh and value not in outputs:
            value.name = next(n for i in range(2, 10_000) if (n := f"{value.name}_{i}") not in used)
            used.add(value.name)
    for name, value in zip(fresh, outputs):
        value.name = name
    graph.block.outputs = outputs
    return graph


# -------------------------------------------------------------------- states


def _learn(cells: list[Cell], written: list[Buffer], state: State, taken: list[str]) -> bool:
    """Make cells of buffers that were seen to be written; whether there are new ones."""
    known = {cell.buffer for cell in cells}
    new = [buffer for buffer in written if buffer not in known]
    for buffer in new:
        name = state.name_of_buffer(buffer).replace(".", "_")
        name = unique([*taken, *(cell.name for cell in cells), name])[-1]
        array = np.array(buffer.tensor._data)
        cells.append(Cell(name, f"{name}_next", buffer, array, tuple(array.shape)))
    return bool(new)


def _widen(cells: list[Cell], graph: Graph) -> bool:
    """Make sizes of states that change symbolic; whether any was not."""
    wider = False
    outputs = {value.name: value.type for value in graph.outputs}
    for cell in cells:
        found = outputs[cell.output]
        assert isinstance(found, TensorType) and found.shape is not None
        if len(found.shape) != len(cell.shape) or found.dtype != str(cell.initial.dtype):
            raise TraceError(
                f"the state {cell.name!r} is {cell.initial.dtype} with {len(cell.shape)} dimensions, and {found} after a call. Rewrite:"
                " keep its dtype and number of dimensions"
            )
        for axis, (now, after) in enumerate(zip(cell.shape, found.shape)):
            if now != after and isinstance(now, int):
                sizes = list(cell.shape)
                sizes[axis] = symbol(f"{cell.name}_{axis}")
                cell.shape, wider = tuple(sizes), True
    return wider


def _declare(graph: Graph, cells: list[Cell], states: Mapping[str, str], examples: Mapping[str, np.ndarray]) -> None:
    """Note the states in the graph: those of buffers, and those that the caller names."""
    graph.states += [ir.State(cell.name, cell.output, cell.initial) for cell in cells]
    names = {value.name for value in graph.outputs}
    for source, target in states.items():
        if source not in examples or target not in names:
            raise TraceError(
                f"states: {source!r} -> {target!r} is not an input and an output; inputs: {', '.join(examples)}; outputs: {', '.join(sorted(names))}"
            )
        graph.states.append(ir.State(source, target, examples[source].copy()))
