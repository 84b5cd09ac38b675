"""Where a model starts to deviate: the first value of the optimized graph that is beyond the bound.

The native kernels run the graph as it will be served, all its values given out. Each is compared with what the maker of
the model computed under that name, where known; else with the graph as it was read, in double precision.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from headrace.runtime.double import run_double
from headrace.runtime.errors import HeadraceError
from headrace.runtime.golden import allowed, error_of
from headrace.runtime.graph import Block, Graph
from headrace.runtime.model import Model
from headrace.runtime.types import TensorType

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Deviation:
    """One value beyond the bound: the node that computes it, its largest absolute error, and against what."""

    value: str
    node: str
    path: str
    error: float
    bound: float
    against: str

    def __str__(self) -> str:
        module = f" of module {self.path!r}" if self.path else ""
        return (
            f"the first value that deviates is {self.value!r} ({self.node}{module}): "
            f"{self.error:.3g} from {self.against}, allowed {self.bound:.3g}"
        )


def first_deviation(graph: Graph, feeds: Arrays, rtol: float, atol: float, known: Arrays | None = None, maker: str = "the maker") -> Deviation | None:  # fmt: skip
    """The first deviating value in the order of computation, or None where every one is within the bound.

    known: values that `maker` computed for these feeds, by their names in the graph.
    Raises HeadraceError where the graph does not run.
    """
    from headrace.runtime.passes import optimize

    optimized = optimize(graph)
    ours = _every_value(optimized, feeds)
    known = known or {}
    double = run_double(graph, feeds)
    for node in optimized.nodes:
        for value in node.outputs:
            if value is None or value.name not in ours:
                continue
            for against, values in ((f"{maker}'s own value", known), ("its definition in float64", double)):
                if value.name not in values:
                    continue
                want = np.asarray(values[value.name])
                if want.dtype.kind not in "fiub":
                    continue
                error, bound = error_of(ours[value.name], want), allowed(want.astype(np.float64), rtol, atol)
                if error > bound:
                    return Deviation(value.name, node.label(), node.path, error, bound, against)
    return None


def _every_value(graph: Graph, feeds: Arrays) -> dict[str, np.ndarray]:
    """The graph's run with every tensor of its main block as an output."""
    made = [value for node in graph.nodes for value in node.outputs if value is not None]
    outputs = [value for value in made if isinstance(value.type, TensorType)]
    watched = Graph(Block(graph.inputs, graph.nodes, outputs), graph.constants, graph.values, graph.name)
    with Model(watched, optimize=False) as model:
        return model.run(feeds)


def blame(graph: Graph, feeds: Arrays, rtol: float, atol: float, known: Arrays | None = None, maker: str = "the maker") -> str:  # fmt: skip
    """What `first_deviation` finds, as the end of a sentence."""
    try:
        found = first_deviation(graph, feeds, rtol, atol, known, maker)
    except HeadraceError as error:
        return f"where it starts could not be found: {error}"
    if found is None:
        return f"no single node is beyond that bound: the captured graph itself differs from {maker}"
    return str(found)
