"""The proof that row i of every output depends only on row i of the inputs, so that requests may be merged into a batch.

The walk carries one tag for each value: the axis that holds the batch, None (the same for every batch), or MIXED. Every
operator answers how tags pass through (`Operator.rows`); what it answers is checked against the symbolic shapes, and what
is not proven counts as MIXED. Values that are computed from sizes are judged by their symbolic contents.
"""

from __future__ import annotations

from dataclasses import dataclass

from headrace.runtime.errors import HeadraceError
from headrace.runtime.graph import Graph, Node, Value
from headrace.runtime.infer import Inference, infer_graph, symbols_of
from headrace.runtime.ops import find
from headrace.runtime.ops.base import MIXED
from headrace.runtime.shapes import Dim, Expr, symbols
from headrace.runtime.types import TensorType


@dataclass(frozen=True)
class RowProof:
    """`independent`: rows may be merged along axis 0. `reason` names what stands in the way (empty if nothing does)."""

    independent: bool
    reason: str = ""


def prove_rows(graph: Graph) -> RowProof:
    """Walk the graph from its inputs, whose dimension 0 must be one shared symbol."""
    batch = _batch_symbol(graph)
    if isinstance(batch, RowProof):
        return batch
    if graph.states:
        return RowProof(False, f"the state {graph.states[0].input!r} belongs to one caller")
    try:
        inference = infer_graph(graph)
    except HeadraceError as error:
        return RowProof(False, str(error))
    walk = _Walk(graph, batch, inference)
    for node in graph.nodes:
        walk.node(node)
    return walk.verdict()


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
            tag = self._judged(value, tag)
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

    def _judged(self, value: Value, tag: int | None) -> int | None:
        """A tag is believed only where the shape agrees with it."""
        contents = self.inference.value(value)
        if contents is not None:
            items = contents if isinstance(contents, tuple) else (contents,)
            return MIXED if any(self.name in symbols(item) for item in items) else None
        if tag is None:
            return MIXED if self.name in symbols_of(value.type) else None
        if tag == MIXED or not isinstance(value.type, TensorType) or value.type.shape is None:
            return MIXED
        shape = value.type.shape
        alone = 0 <= tag < len(shape) and shape[tag] == self.batch
        others = any(self.name in symbols(dim) for place, dim in enumerate(shape) if place != tag)
        return tag if alone and not others else MIXED

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
        return RowProof(bool(self.graph.outputs), "" if self.graph.outputs else "the graph has no outputs")


prove = prove_rows
