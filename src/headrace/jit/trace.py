"""trace: a graph from one run of a Module or function.

    exported = trace(model, (x,))                                  dimension 0 of every input may have any size
    exported = trace(model, (x,), dynamic={"x": {1: "length"}})    and dimension 1 of x too
    exported = trace(model, (x,), dynamic={})                      all sizes as in the example

The run is an ordinary one: the same functions call the same operators, on tensors that know their dtype and shape but not
their values. So the example's sizes never leak into the graph, and an example batch of 1 or 0 is as good as any other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from headrace.autograd.mode import MODE, no_grad
from headrace.jit.arguments import Arguments, Dynamic, unique
from headrace.jit.compare import compare
from headrace.jit.errors import TraceError
from headrace.jit.exported import Exported, Origin, output_leaves
from headrace.jit.sizes import symbolic_len
from headrace.jit.state import State
from headrace.jit.tracer import Tracer
from headrace.runtime.graph import Graph, Program, Value
from headrace.runtime.passes.edit import drop_dead
from headrace.tensors import Tensor


def trace(
    module_or_function: Callable[..., Any], example_inputs: Any, *, dynamic: Dynamic = None, name: str = "main"
) -> Exported:
    """Capture a Module or a function of tensors as a graph, in evaluation mode and without gradients.

    example_inputs: what it is called with: one tensor or array, a tuple of arguments, or a dict of named ones. Tensors may
        stand inside tuples, lists and dicts.
    dynamic: which dimensions are symbolic. None: dimension 0 of every input ("batch"; inputs whose dimension 0 has another
        size than the first input's get a symbol of their own, "mask_0"). {}: none. Else {input name or index: {axis: symbol} or [axis, ...]} on top of
        dimension 0; a symbol of None makes that dimension static, an empty dict the whole input.
    name: the name of the entry point.

    Inputs are called as forward's parameters, outputs "output", or "output_0", ... of a tuple, or as the keys of a dict;
    constants as in the state_dict. The module is left as it was. The graph is run on the example and compared with the
    module itself. Raises TraceError naming file, line, construct and a rewrite for what no graph can express, for a
    forward that writes to its own buffers, and where the graph's answer deviates by more than 1e-4 of the output's range.
    """
    arguments = Arguments(module_or_function, example_inputs)
    shapes = arguments.shapes(dynamic)
    state = State(module_or_function)
    origin = Origin(module_or_function, arguments, state)
    with state.unchanged():
        expected = origin(*arguments.examples)  # first, so that the original's own errors are seen as they are
    graph, tree = _record(module_or_function, arguments, shapes, state, name)
    exported = Exported(Program({name: graph}), arguments, tree, origin)
    exported.report = compare(exported, expected)
    return exported


def _record(
    function: Callable[..., Any], arguments: Arguments, shapes: dict[str, Any], state: State, name: str
) -> tuple[Graph, Any]:
    """The graph, and the tree of its outputs."""
    if MODE.tracer is not None:
        raise TraceError("a trace runs already: trace() cannot be called inside traced code")
    tracer = Tracer(name, state)
    inputs = [tracer.input(key, array, shapes[key]) for key, array in zip(arguments.names, arguments.examples)]
    with state.unchanged(), state.evaluation(), no_grad(), symbolic_len():
        MODE.tracer = tracer
        try:
            tree = arguments.call(function, inputs)
            leaves = output_leaves(tree)
            values = _outputs(tracer, leaves)
        finally:
            MODE.tracer = None
    tracer.graph.block.outputs.extend(values)
    return drop_dead(tracer.graph), tree


def _outputs(tracer: Tracer, leaves: list[tuple[str, Tensor]]) -> list[Value]:
    """One value for each output, called as the output is."""
    values: list[Value] = []
    names = [tracer.builder.fresh(n) for n in unique([n for n, _ in leaves])]
    tracer.operators.path = ""
    for name, (_, leaf) in zip(names, leaves):
        value = tracer.value(leaf)
        assert value is not None
        made_by_node = any(value in node.outputs for node in reversed(tracer.graph.nodes))
        if not made_by_node or any(value is other for other in values):
            (value,) = tracer.builder.node("Identity", [value])
        value.name = name
        values.append(value)
    return values


__all__ = ["trace"]
