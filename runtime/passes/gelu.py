"""Gelu, as exporters spell it out, becomes one node: 0.5 * x * (1 + erf(x / sqrt(2))), and the form with tanh.

Source: Hendrycks and Gimpel, "Gaussian Error Linear Units", 2016, section 2.
"""

from __future__ import annotations

import math

from headrace.runtime.graph import Graph, Node
from headrace.runtime.passes.pattern import Pattern, any_value, match, one_of, op
from headrace.runtime.passes.rewrite import Patch, rewrite
from headrace.runtime.passes.scope import Scope

PORTABLE = True
ORDER = 42


def run(graph: Graph) -> Graph:
    return rewrite(graph, {"Mul": _gelu, "Div": _gelu})


def _halved(x: Pattern, rest: Pattern) -> Pattern:
    """0.5 * x * rest, in any association."""
    return one_of(x / 2.0 * rest, (x * rest) / 2.0, x * (rest / 2.0))


def _exact() -> Pattern:
    x = any_value("x")
    return _halved(x, op("Erf", x / math.sqrt(2.0)) + 1.0)


def _tanh() -> Pattern:
    x = any_value("x")
    cube = one_of(x**3.0, (x * x) * x, (x**2.0) * x)
    square = one_of(x**2.0, x * x)
    root = math.sqrt(2.0 / math.pi)
    inner = one_of(
        (x + cube * 0.044715) * root, (x * root) * (square * 0.044715 + 1.0), x * (square * 0.044715 + 1.0) * root
    )
    return _halved(x, op("Tanh", inner) + 1.0)


_FORMS = ((_exact(), "none"), (_tanh(), "tanh"))


def _gelu(node: Node, scope: Scope) -> Patch | None:
    for pattern, approximate in _FORMS:
        found = match(pattern, node, scope)
        if found is not None:
            return Patch(
                found.nodes,
                [scope.node("Gelu", [found["x"]], node.outputs[0], {"approximate": approximate}, like=node)],
            )
    return None
