"""The proof that row i of every output depends only on row i of the inputs, so that requests may be merged into a batch.

The walk carries one tag for each value: the axis that holds the batch, None (the same for every batch), or MIXED. Every
operator answers how tags pass through (`Operator.rows`); what it answers is checked against the symbolic shapes, and what
is not proven counts as MIXED. Values that are computed from sizes are judged by their symbolic contents. The axis of a tag has
outer * batch * inner elements, where a reshape has folded time, heads or windows into the batch; most often both are 1.
"""

from __future__ import annotations

from dataclasses import dataclass

from headrace.runtime.errors import HeadraceError
from headrace.runtime.graph import Graph, Node, Value
from headrace.runtime.infer import Inference, infer_graph, symbols_of
from headrace.runtime.ops import find
from headrace.runtime.ops.axes import multiple
from headrace.runtime.ops.base import MIXED
from headrace.runtime.shapes import Dim, Expr, Shape, product, symbols
from headrace.runtime.types import TensorType

FOLDED = 4096  # the largest number of elements in front of the batch in its axis that is looked for


@dataclass(frozen=True)
class RowProof:
    """`independent`: rows may be merged along axis 0. `reason` names what stands in the way (empty if nothing does)."""

    independent: bool
    reason: str = ""


def prove_rows(graph: Graph, *, fed: bool = False) -> RowProof:
    """Walk the graph from its inputs, whose dimension 0 must be one shared symbol. `fed`: states are inputs like any other, of
    one row each; else a graph with states belongs to one caller."""
    batch = _batch_symbol(graph)
    if isinstance(batch, RowProof):
        return batch
    if graph.states and not fed:
        return RowProof(False, f"the state {graph.states[0].input!r} belongs to one caller")
    try:
        inference = infer_graph(graph)
    except HeadraceError as error:
        return RowProof(False, str(error))
    walk = _Walk(graph, batch, inference)
    for node in graph.nodes:
        walk.node(node)
    return walk.verdict()


def steps(graph: Graph) -> bool:
    """Whether something goes through its weights once a step of a sequence."""
    return any(getattr(find(node.operator, node.domain), "steps", False) for node in graph.nodes)


def _batch_symbol(graph: Graph) -> Expr | RowProof:
    """The symbol that all inputs share as dimension 0, or why there is none."""
    batch: Dim | None = None
    for value in graph.inputs:
        type = value.type
        if not isinstance(type, TensorType) or not type.shape:
            return RowProof(False, f"input {value.name!r} ({type}) has no batch dimension")
        first = type.shape[0]
        if not isinstance(first, Expr) or first.name is None:
            return RowProof(False, f"dimension 0 of input {value.name!r} ({type}) is fixed")
        if batch is not None and first != batch:
            return RowProof(False, f"dimension 0 of input {value.name!r} is {first}, that of others {batch}")
        batch = first
        if any(first.name in symbols(dim) for dim in type.shape[1:]):
            return RowProof(False, f"input {value.name!r} ({type}) has the batch in a second dimension")
    return batch if isinstance(batch, Expr) else RowProof(False, "the graph has no inputs")


class _Walk:
    def __init__(self, graph: Graph, batch: Expr, inference: Inference) -> None:
        self.graph, self.batch, self.inference = graph, batch, inference
        self.name = str(batch.name)
        self.tags: dict[Value, int | None] = dict.fromkeys(graph.inputs, 0)
        self.outer: dict[Value, int] = {}  # elements of the batch axis in front of the batch, where there are several
        self.reasons: dict[Value, str] = {}  # of MIXED values: the node that mixed

    def node(self, node: Node) -> None:
        reads = [value for value in node.inputs if value is not None]
        for block in node.blocks.values():
            reads += block.captured()
        mixed = next((value for value in reads if self.tags.get(value) == MIXED and value in self.reasons), None)
        reason = self.reasons[mixed] if mixed is not None else node.label()
        for value, tag in zip(node.outputs, self._asked(node, reads)):
            if value is None:
                continue
            tag = self._judged(value, tag, node, reads)
            self.tags[value] = tag
            if tag == MIXED:
                self.reasons[value] = reason

    def _asked(self, node: Node, reads: list[Value]) -> list[int | None]:
        """What the operator answers, or the safe answer."""
        operator = find(node.operator, node.domain)
        count = len(node.outputs)
        carried = any(self.tags.get(value) is not None for value in reads)
        if operator is None or node.blocks:
            return [MIXED if carried else None] * count
        context = self.inference.context(node, operator)
        context.batch = self.batch
        tags = [None if value is None else self.tags.get(value) for value in node.inputs]
        answer = list(operator.rows(tags, context))
        return answer + [MIXED] * (count - len(answer))

    def _judged(self, value: Value, tag: int | None, node: Node, reads: list[Value]) -> int | None:
        """A tag is believed only where the shape agrees with it. Only a view changes what is folded into the batch."""
        contents = self.inference.value(value)
        if contents is not None:
            items = contents if isinstance(contents, tuple) else (contents,)
            return MIXED if any(self.name in symbols(item) for item in items) else None
        if tag is None:
            return MIXED if self.name in symbols_of(value.type) else None
        shape = _shape(value)
        if shape is None:
            return MIXED
        operator = find(node.operator, node.domain)
        if operator is not None and operator.view and node.inputs[0] is not None:
            tag, outer = self._refolded(node.inputs[0], shape)
        else:
            folds = {self._fold(read, self.tags.get(read)) for read in reads if self._carries(read)} or {(1, 1)}
            outer = self.outer.get(next((read for read in reads if self._carries(read)), value), 1)
            if len(folds) > 1 or not 0 <= tag < len(shape) or (multiple(shape[tag], self.batch), outer) not in folds:
                return MIXED
        others = any(self.name in symbols(dim) for place, dim in enumerate(shape) if place != tag)
        self.outer[value] = outer
        return MIXED if others else tag

    def _refolded(self, before: Value, after: Shape) -> tuple[int, int]:
        """Where the batch is after a view, and how many elements of its axis stand in front of it: it is found by the number
        of elements in front of it, which no view changes. (MIXED, 1) where that is not certain."""
        tag, shape = self.tags.get(before), _shape(before)
        if shape is None or tag is None or tag == MIXED:
            return MIXED, 1
        ahead = product(shape[:tag]) * self.outer.get(before, 1)
        for place, size in enumerate(after):
            folded = multiple(size, self.batch) or 0
            for outer in range(1, min(folded, FOLDED) + 1):
                if folded % outer == 0 and product(after[:place]) * outer == ahead:
                    return place, outer
        return MIXED, 1

    def _carries(self, value: Value) -> bool:
        return self.tags.get(value, MIXED) not in (None, MIXED)

    def _fold(self, value: Value, tag: int | None) -> tuple[int | None, int]:
        """What is folded into the batch axis of a tagged value: outer * inner, and outer."""
        shape = _shape(value)
        return (None if shape is None or tag is None else multiple(shape[tag], self.batch)), self.outer.get(value, 1)

    def verdict(self) -> RowProof:
        for value in self.graph.outputs:
            tag = self.tags.get(value)
            if tag is None:
                return RowProof(False, f"output {value.name!r} ({value.type}) does not carry the batch")
            if tag == MIXED:
                return RowProof(
                    False,
                    f"output {value.name!r}: rows are not independent because of {self.reasons.get(value, 'its inputs')}",
                )
            if tag != 0:
                return RowProof(False, f"output {value.name!r} carries the batch at axis {tag}, not 0")
            if self._fold(value, tag) != (1, 1):
                return RowProof(
                    False, f"output {value.name!r} ({value.type}) has more than one row for each of the inputs"
                )
        return RowProof(bool(self.graph.outputs), "" if self.graph.outputs else "the graph has no outputs")


def _shape(value: Value) -> Shape | None:
    return value.type.shape if isinstance(value.type, TensorType) else None


prove = prove_rows
