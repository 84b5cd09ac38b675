"""Bringing nodes of older operator sets to the versions that the runtime pins (`graph.OPSETS`).

The rules live in the operator classes (`Operator.upgrade`); here is only what surrounds them: when a rule is asked, and
that the values it answers with take the names that the file gave them.
"""

from __future__ import annotations

from headrace.runtime.builder import Builder
from headrace.runtime.graph import OPSETS, Node, Value
from headrace.runtime.ops import find


def append(builder: Builder, node: Node, version: int) -> list[Value | None]:
    """Add `node`, which follows operator set `version`, to the builder's block; answers the values that stand for its
    outputs. GraphError where the node breaks a rule."""
    operator = find(node.operator, node.domain)
    if operator is not None:
        start = len(builder.nodes)
        replaced = operator.upgrade(node, version, builder)
        if replaced is not None:
            return _named(replaced, node, {id(value) for new in builder.nodes[start:] for value in new.outputs})
        node.version = OPSETS.get(node.domain, version)  # it means the same there
    builder.append(node)
    return node.outputs


def _named(results: list[Value | None], node: Node, made: set[int]) -> list[Value | None]:
    """The replacements under the names of what they replace. A value that existed before (an input passed through, a
    constant) keeps its own name."""
    answer: list[Value | None] = []
    for old, new in zip(node.outputs, [*results, *[None] * len(node.outputs)]):
        if old is not None and new is not None and id(new) in made and new is not old:
            new.name = old.name
            made.discard(id(new))  # one value for two outputs keeps the first name
        answer.append(new)
    return answer
