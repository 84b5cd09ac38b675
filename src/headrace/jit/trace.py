"""trace: run a Module (or function) once on abstract data and keep the operators it calls."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from headrace.autograd.mode import MODE, no_grad
from headrace.jit.abstract import Abstract, TraceError
from headrace.jit.exported import Exported
from headrace.jit.structure import Structure
from headrace.jit.tracer import Tracer
from headrace.nn.module import Module
from headrace.runtime import dtypes
from headrace.runtime.executor import run_graph
from headrace.runtime.graph import Graph, Program
from headrace.runtime.shapes import Dim, symbol
from headrace.tensors import Tensor, wrap

Dynamic = Mapping[str, Any]


def trace(
    model: Callable[..., Any],
    example_inputs: Any,
    *,
    dynamic: Dynamic | None = None,
    training: bool = False,
    check: bool = True,
    rtol: float = 1e-3,
    atol: float = 1e-5,
) -> Exported:
    """Capture `model` (a Module or a function) as a graph.

    example_inputs: a tensor or array, or a tuple of arguments. They only give types and shapes; no values enter the graph.
    dynamic: which dimensions differ from run to run. Dimension 0 of every input does, under the name "batch" (inputs
        whose dimension 0 has another example size get a name of their own). {"x": [2, 3]} or {"x": {0: "batch", 2: "h"}}
        adds more, {"x": ()} makes all of x static.
    training: capture the training mode; otherwise modules are put into evaluation mode while they are traced.
    check: run the graph and `model` on the example (and on one more row) and compare. `.report` says how far they differ.

    Raises TraceError, naming file, line and a rewrite, where the program looks at values, and where the comparison fails.
    """
    args = tuple(example_inputs) if isinstance(example_inputs, tuple | list) else (example_inputs,)
    args = tuple(wrap(a) if isinstance(a, np.ndarray) else a for a in args)
    structure = Structure(args, _argument_names(model, len(args)))
    leaves = [wrap(a) if isinstance(a, np.ndarray) else a for a in structure.flatten(args)]
    shapes = input_shapes(structure.names, [tuple(t.shape) for t in leaves], dynamic or {})
    with _mode(model, training):
        graph = _record(model, structure, leaves, shapes)
        exported = Exported(Program({"main": graph}), structure=structure, origin=_origin(model, training), examples=args)
        if check:
            exported.report = _compare(exported, leaves, shapes, rtol, atol)
    return exported


def _argument_names(model: Any, count: int) -> list[str]:
    call = model.forward if isinstance(model, Module) else model
    try:
        names = [n for n, p in inspect.signature(call).parameters.items() if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    except (TypeError, ValueError):
        names = []
    return [*names, *(f"input_{i}" for i in range(len(names), count))][:count]


def input_shapes(names: Sequence[str], shapes: Sequence[tuple[int, ...]], dynamic: Dynamic) -> list[tuple[Dim, ...]]:
    """Symbolic shapes of the inputs. TraceError for names and axes that do not exist."""
    for name in dynamic:
        if name not in names:
            raise TraceError(f"dynamic names {name!r}, but the inputs are {', '.join(names) or 'none'}")
    batch = next((shape[0] for name, shape in zip(names, shapes) if shape and dynamic.get(name, True) not in ((), None, [])), None)
    found = []
    for name, shape in zip(names, shapes):
        axes: dict[int, str] = {}
        given = dynamic.get(name, {})
        if shape and (name not in dynamic or given not in ((), None, [])):
            axes[0] = "batch" if shape[0] == batch else f"{name}_0"
        for axis in given or ():
            if not -len(shape) <= axis < len(shape):
                raise TraceError(f"dynamic names axis {axis} of {name!r}, which has {len(shape)} dimensions")
            place = axis % len(shape)
            label = given[axis] if isinstance(given, Mapping) else None
            axes[place] = label or axes.get(place, f"{name}_{place}")
        found.append(tuple(symbol(axes[i]) if i in axes else d for i, d in enumerate(shape)))
    return found


@contextlib.contextmanager
def _mode(model: Any, training: bool) -> Iterator[None]:
    """Evaluation (or training) mode inside, what it was before after."""
    modules = list(model.modules()) if isinstance(model, Module) else []
    before = [m.training for m in modules]
    for m in modules:
        m.training = training
    try:
        with no_grad():
            yield
    finally:
        for m, flag in zip(modules, before):
            m.training = flag


def _origin(model: Any, training: bool) -> Callable[..., Any]:
    def run(*args: Any) -> Any:
        with _mode(model, training):
            return model(*args)

    return run


def _record(model: Any, structure: Structure, leaves: Sequence[Tensor], shapes: Sequence[tuple[Dim, ...]]) -> Graph:
    """The graph of one run on abstract data."""
    names: dict[int, str] = {}
    paths: dict[int, str] = {}
    if isinstance(model, Module):
        paths = {id(m): path for path, m in model.named_modules()}
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            names.setdefault(id(tensor), name)
    tracer = Tracer(names, paths)
    before, MODE.tracer = MODE.tracer, tracer
    try:
        inputs = [tracer.input(n, dtypes.of(t._data.dtype).name, s) for n, t, s in zip(structure.names, leaves, shapes)]
        answer = model(*structure.arguments(inputs))
        outputs = structure.remember(answer)
        _finish(tracer, outputs)
    finally:
        MODE.tracer = before
    return tracer.graph


def _finish(tracer: Tracer, outputs: Sequence[tuple[str, Tensor]]) -> None:
    """Name the outputs; what is an input, a constant or returned twice gets a node of its own."""
    from headrace.autograd.tape import sync

    taken = {id(value) for value in tracer.graph.inputs}
    for name, tensor in outputs:
        sync(tensor)
        value = tracer.value(tensor)
        assert value is not None
        if id(value) in taken or type(tensor._data) is not Abstract:
            (value,) = tracer.builder.node("Identity", [value], outputs=[name])
        else:
            value.name = tracer.builder.fresh(name)
        taken.add(id(value))
        tracer.graph.outputs.append(value)
    _prune(tracer.graph)


def _prune(graph: Graph) -> None:
    """Drop nodes and constants that no output needs."""
    needed = set(graph.outputs)
    kept = []
    for node in reversed(graph.nodes):
        if any(value in needed for value in node.outputs if value is not None):
            kept.append(node)
            needed.update(value for value in node.inputs if value is not None)
    graph.nodes[:] = reversed(kept)
    for name in [n for n, value in graph.values.items() if value not in needed]:
        del graph.constants[name], graph.values[name]


def _compare(exported: Exported, leaves: Sequence[Tensor], shapes: Sequence[tuple[Dim, ...]], rtol: float, atol: float) -> str:
    """Run graph and original on the example, and on one more row where the batch is symbolic."""
    cases = [[t.detach().numpy() for t in leaves]]
    batch = symbol("batch")
    if any(shape and shape[0] == batch for shape in shapes) and all(isinstance(d, int) or d == batch for s in shapes for d in s[:1]):
        cases.append([np.concatenate([a, a[:1]]) if s and s[0] == batch and len(a) else a for a, s in zip(cases[0], shapes)])
    worst = 0.0
    for number, case in enumerate(cases):
        try:
            wanted = exported.eager(*case)
        except Exception:
            if number == 0:
                raise
            continue  # the program itself wants this batch size only
        answers = run_graph(exported.graph, dict(zip((v.name for v in exported.graph.inputs), case)))
        for value, want in zip(exported.graph.outputs, wanted):
            worst = max(worst, _difference(value.name, np.asarray(answers[value.name]), want, rtol, atol))
    return f"{len(exported.graph.nodes)} nodes; largest difference from eager {worst:.2g} over {len(exported.graph.outputs)} output(s) and {len(cases)} batch size(s)"


def _difference(name: str, got: np.ndarray, want: np.ndarray, rtol: float, atol: float) -> float:
    if got.shape != want.shape or got.dtype != want.dtype:
        raise TraceError(f"output {name!r} of the graph is {got.dtype}{list(got.shape)}; eager gives {want.dtype}{list(want.shape)}")
    a, b = (v.astype(np.complex128 if v.dtype.kind == "c" else np.float64) for v in (got, want))
    if not np.allclose(a, b, rtol, atol, equal_nan=True):
        raise TraceError(f"output {name!r} of the graph differs from eager by {np.nanmax(np.abs(a - b)):.3g}; does the program depend on values, on state, or on chance?")
    both = np.isfinite(a) & np.isfinite(b)
    return float(np.max(np.abs(a - b)[both], initial=0.0))
