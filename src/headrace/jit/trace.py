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

from headrace.jit.arguments import Dynamic
from headrace.jit.capture import Request, capture
from headrace.jit.exported import Exported


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
    `script` takes what trace cannot: control flow that depends on values, and buffers that forward writes.
    """
    return capture(Request(module_or_function, example_inputs, dynamic, name))


__all__ = ["trace"]
