"""What no output depends on, dropped: nodes and constants, outputs of If that nobody reads, values that a Loop carries
in vain or unchanged."""

from __future__ import annotations

from headrace.runtime.graph import Block, Graph, Node, Value
from headrace.runtime.passes.edit import drop_dead, substitute_block
from headrace.runtime.passes.scope import reads


def prune(graph: Graph) -> Graph:
    """The graph without dead parts. The interface stays."""
    while True:
        graph = drop_dead(graph)
        table: dict[int, Value] = {}
        changed = _prune_block(graph.block, table)
        if table:
            graph.block = substitute_block(graph.block, _closed(table))
        if not changed:
            return graph


def _closed(table: dict[int, Value]) -> dict[int, Value]:
    """Chains of replacements in one step."""
    found = {}
    for key, value in table.items():
        while id(value) in table:
            value = table[id(value)]
        found[key] = value
    return found


def _prune_block(block: Block, table: dict[int, Value]) -> bool:
    """Prune the nodes of a block in place; values that others replace go to the table."""
    read = {id(value) for node in block.nodes for value in reads(node)} | {id(value) for value in block.outputs}
    changed = False
    for node in block.nodes:
        for inner in node.blocks.values():
            changed |= _prune_block(inner, table)
        if node.kind == "If":
            changed |= _prune_if(node, read, table)
        elif node.kind == "Loop":
            changed |= _prune_loop(node, read, table)
    return changed


def _prune_if(node: Node, read: set[int], table: dict[int, Value]) -> bool:
    yes, no = node.blocks["then_branch"], node.blocks["else_branch"]
    kept = []
    for index, output in enumerate(node.outputs):
        if output is None or id(output) not in read:
            continue
        if yes.outputs[index] is no.outputs[index]:  # the same value from outside on both ways
            table[id(output)] = yes.outputs[index]
            continue
        kept.append(index)
    if len(kept) == len(node.outputs):
        return False
    node.outputs = [node.outputs[i] for i in kept]
    for block in (yes, no):
        block.outputs = [block.outputs[i] for i in kept]
    return True


def _prune_loop(node: Node, read: set[int], table: dict[int, Value]) -> bool:
    """`kept`: carried values that are read after the loop, decide whether it goes on, or make one that is kept."""
    body = node.blocks["body"]
    count = len(body.inputs) - 2
    carried = range(count)
    same = {i for i in carried if body.outputs[1 + i] is body.inputs[2 + i]}
    kept = {i for i in carried if i not in same and id(node.outputs[i]) in read}
    scanned = body.outputs[1 + count :]
    while True:
        needed = _needed(body, [body.outputs[0], *(body.outputs[1 + i] for i in kept), *scanned])
        more = {i for i in carried if id(body.inputs[2 + i]) in needed} - same - kept
        if not more:
            break
        kept |= more
    if len(kept) == count:
        return False
    for i in same:
        initial = node.inputs[2 + i]
        assert initial is not None
        table[id(body.inputs[2 + i])] = initial
        if node.outputs[i] is not None:
            table[id(node.outputs[i])] = initial
    order = sorted(kept)
    node.inputs = [*(*node.inputs, None, None)[:2], *(node.inputs[2 + i] for i in order)]
    node.outputs = [*(node.outputs[i] for i in order), *node.outputs[count:]]
    body.inputs = [*body.inputs[:2], *(body.inputs[2 + i] for i in order)]
    body.outputs = [body.outputs[0], *(body.outputs[1 + i] for i in order), *scanned]
    return True


def _needed(block: Block, wanted: list[Value]) -> set[int]:
    """What these values are computed from, inside and outside of a block."""
    needed = {id(value) for value in wanted}
    for node in reversed(block.nodes):
        if any(value is not None and id(value) in needed for value in node.outputs):
            needed.update(id(value) for value in reads(node))
    return needed
