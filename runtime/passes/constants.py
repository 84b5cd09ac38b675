"""Constant nodes become constants of the graph, so that every pass finds weights in one place.

Some files have all weights in Constant nodes and no initializer at all.
"""

from __future__ import annotations

import numpy as np

from headrace.runtime.graph import Graph, Node
from headrace.runtime.passes.rewrite import Patch, rewrite
from headrace.runtime.passes.scope import Scope

PORTABLE = True
ORDER = 10

_DTYPES = {
    "value_float": np.float32,
    "value_floats": np.float32,
    "value_int": np.int64,
    "value_ints": np.int64,
    "value_string": object,
    "value_strings": object,
}


def run(graph: Graph) -> Graph:
    return rewrite(graph, {"Constant": _constant})


def _constant(node: Node, scope: Scope) -> Patch | None:
    array = value_of(node)
    output = node.outputs[0]
    if array is None or output is None:
        return None
    return Patch(remove=[node], rename={output: scope.constant(array, output.name)})


def value_of(node: Node) -> np.ndarray | None:
    """The array that a Constant node answers; None for the sparse form."""
    for key, value in node.attributes.items():
        if key == "value" and isinstance(value, np.ndarray):
            return value
        if key in _DTYPES:
            plain = [_text(x) for x in value] if isinstance(value, tuple | list) else _text(value)
            return np.array(plain, _DTYPES[key])
    return None


def _text(value: object) -> object:
    return value.decode() if isinstance(value, bytes) else value
