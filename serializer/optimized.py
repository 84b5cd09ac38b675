"""`optimized.pb`, `optimized.safetensors`: what the portable passes made of `graph.pb` when the archive was packed.

It saves these passes on load, nothing else: a reader with other passes (the manifest has their fingerprint) does not look at
it, and a model runs the same without it. Constants are those of `weights.safetensors` by name, and the few that passes made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from headrace.runtime import dtypes, passes
from headrace.runtime.check import check
from headrace.runtime.errors import LoadError
from headrace.runtime.graph import Graph, Program
from headrace.runtime.infer import infer_graph
from headrace.runtime.interface import Opened, Optimized, TensorSpec
from headrace.runtime.passes.edit import clone
from headrace.serializer import graph_codec, weights

GRAPH, WEIGHTS = "optimized.pb", "optimized.safetensors"
LIMIT = 4 << 20  # bytes of constants that passes made; and, where that is more,
SHARE = 8  # an eighth of the weights: beyond, the file would grow more than the load gains


def encode(written: bytes, arrays: Mapping[str, np.ndarray]) -> dict[str, Sequence[bytes | memoryview]]:
    """The members, for the program that `graph_codec.encode` wrote with weights `arrays`; none where passes make too many
    constants of their own. Passes see it as a reader does: which of two equal constants stays hangs on their order."""
    arrays = {name: array.view() for name, array in arrays.items()}  # each weight is one of its own
    program = graph_codec.decode(written, arrays)
    entries = {name: _optimized(graph) for name, graph in program.entries.items()}
    data, stored = graph_codec.encode(Program(entries, program.metadata))
    made = {name: array for name, array in stored.items() if arrays.get(name) is not array}
    limit = max(LIMIT, sum(array.nbytes for array in arrays.values()) // SHARE)
    if sum(array.nbytes for array in made.values()) > limit:
        return {}
    return {GRAPH: [data], WEIGHTS: weights.encode(made)}


def prove(opened: Opened) -> None:
    """Run the passes and compare, when every byte is proven. LoadError where what is stored is not what they make of the program."""
    opened.proof()
    for name, stored in opened.optimized.items():
        if not _agree(stored.graph, _optimized(opened.program.entries[name])):
            raise LoadError(
                f"{GRAPH}: entry point {name!r} is not what the portable passes make of graph.pb; pack the model again"
            )


def _agree(stored: Graph, made: Graph) -> bool:
    """Whether two graphs are the same, but for the rounding of constants: an exponential that a pass computed is not the same to
    the last bit on every CPU."""
    if stored.hash() == made.hash():
        return True
    if stored.constants.keys() != made.constants.keys() or _outline(stored).hash() != _outline(made).hash():
        return False
    return all(_near(array, made.constants[name]) for name, array in stored.constants.items())


def _outline(graph: Graph) -> Graph:
    """With zeros for constants."""
    zeros = {name: np.zeros(array.shape, array.dtype) for name, array in graph.constants.items()}
    return replace(graph, constants=zeros)


def _near(one: np.ndarray, two: np.ndarray) -> bool:
    """Equal, or numbers that differ by a rounding: 8-bit ones by a level."""
    if one.tobytes() == two.tobytes():
        return True
    if dtypes.of(one).name in ("uint8", "int8"):
        return bool(np.abs(one.astype(np.int16) - two.astype(np.int16)).max() <= 1)
    return dtypes.of(one).kind == "f" and np.allclose(
        one.astype(np.float64), two.astype(np.float64), rtol=1e-6, atol=0, equal_nan=True
    )


def _optimized(graph: Graph) -> Graph:
    """With the interface that `graph` itself has: what passes learn about sizes of outputs is not part of it."""
    graph = clone(graph)
    infer_graph(graph)
    types = [value.type for value in graph.outputs]
    found = passes.optimize(graph, checked=True)
    for value, type in zip(found.outputs, types):
        value.type = type
    return found


def decode(members: Mapping[str, memoryview], arrays: Mapping[str, np.ndarray]) -> Program:
    """The program in the members, not yet checked. Raises LoadError."""
    made, _ = weights.decode(members[WEIGHTS], WEIGHTS)
    return graph_codec.decode(members[GRAPH], {**arrays, **made}, GRAPH, needed=made)


def checked(program: Program) -> dict[str, Optimized]:
    """Each entry point, proven to keep the rules of graphs, with its interface. Raises GraphError."""
    found = {}
    for name, graph in program.entries.items():
        inputs, outputs = (tuple(map(TensorSpec.of, values)) for values in (graph.inputs, graph.outputs))
        check(graph)  # infers types, those of outputs as well
        found[name] = Optimized(graph, inputs, outputs)
    return found
