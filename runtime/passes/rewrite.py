"""Rewriting: a pass answers patches; here they are applied, dead code is dropped, and the order is restored.

A rule is a function `rule(node, scope) -> Patch | None`. It reads the graph through its `Scope` (producers, uses,
constants, types), makes new nodes with `scope.node` and new constants with `scope.constant`, and never touches what it
reads. `rewrite` asks every rule at every node, applies the patches that do not disturb one another, and asks again
until nobody answers. The graph that is given stays as it is; arrays are shared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from headrace.runtime.errors import GraphError
from headrace.runtime.graph import Block, Graph, Node, Value
from headrace.runtime.passes.edit import copy_node, drop_dead, in_order, substitute
from headrace.runtime.passes.scope import Names, Scope, reads

SWEEPS = 200  # long chains need some tens; a rule that undoes another would run for ever


@dataclass
class Patch:
    """Nodes that go, nodes that come (in order), and values that are from now on known as another value."""

    remove: Sequence[Node] = ()
    add: Sequence[Node] = ()
    rename: Mapping[Value, Value] = field(default_factory=dict)


Rule = Callable[[Node, "Scope"], "Patch | None"]
Rules = Mapping[str, Rule]  # node kind ("Conv", "headrace.QConv") -> rule; "*" is asked at every node


def rewrite(graph: Graph, rules: Rules) -> Graph:
    """The graph after the rules, or `graph` itself where no rule applies."""
    if "*" not in rules and not any(node.kind in rules for node in graph.block.walk()):
        return graph
    names = Names(graph)
    draft = Graph(
        graph.block, dict(graph.constants), dict(graph.values), graph.name, list(graph.states), dict(graph.metadata)
    )
    changed = False
    for _ in range(SWEEPS):
        block = _rewrite_block(draft, draft.block, names, rules)
        if block is draft.block:
            break
        draft.block, changed = block, True
    else:
        raise GraphError(f"rewriting did not settle after {SWEEPS} sweeps: {', '.join(rules)}")
    return drop_dead(draft) if changed else graph


def _rewrite_block(graph: Graph, block: Block, names: Names, rules: Rules) -> Block:
    """One sweep over a block and the blocks inside it; the same object where nothing changed."""
    nodes = [_rewrite_inner(graph, node, names, rules) for node in block.nodes]
    if any(new is not old for new, old in zip(nodes, block.nodes)):
        block = Block(block.inputs, nodes, block.outputs)
    scope = Scope(graph, block, names)
    patches = _collect(scope, rules)
    return apply(scope, patches) if patches else block


def _rewrite_inner(graph: Graph, node: Node, names: Names, rules: Rules) -> Node:
    blocks = node.blocks
    if not blocks:
        return node
    inner = {key: _rewrite_block(graph, old, names, rules) for key, old in blocks.items()}
    if all(inner[key] is old for key, old in blocks.items()):
        return node
    return copy_node(node, attributes={**node.attributes, **inner})


def _collect(scope: Scope, rules: Rules) -> list[Patch]:
    """The patches of one sweep that do not touch one another: no node removed twice, and nothing removed that another
    patch's new nodes read. Those left out come back in the next sweep."""
    patches: list[Patch] = []
    removed: set[int] = set()
    gone: set[int] = set()
    needed: set[int] = set()
    everywhere = rules.get("*")
    for node in scope.block.nodes:
        rule = rules.get(node.kind, everywhere)
        patch = rule(node, scope) if rule is not None and id(node) not in removed else None
        if patch is None or any(id(old) in removed for old in patch.remove):
            continue
        kept = {id(value) for new in patch.add for value in new.outputs if value is not None}
        kept |= {id(value) for value in patch.rename}
        lost = {id(v) for old in patch.remove for v in old.outputs if v is not None} - kept
        wanted = {id(v) for new in patch.add for v in reads(new)} | {id(v) for v in patch.rename.values()}
        if lost & needed or wanted & gone:
            continue
        patches.append(patch)
        removed |= {id(old) for old in patch.remove}
        gone |= lost
        needed |= wanted
    return patches


def apply(scope: Scope, patches: Iterable[Patch]) -> Block:
    """The block with the patches in it: new nodes stand where the last removed node stood."""
    block = scope.block
    position = {id(node): index for index, node in enumerate(block.nodes)}
    removed: set[int] = set()
    added: dict[int, list[Node]] = {}
    rename: dict[int, Value] = {}
    for patch in patches:
        removed |= {id(node) for node in patch.remove}
        places = [position[id(node)] for node in patch.remove]
        added.setdefault(max(places, default=len(block.nodes) - 1), []).extend(patch.add)
        rename |= {id(old): new for old, new in patch.rename.items()}
    nodes: list[Node] = []
    for index, node in enumerate(block.nodes):
        if id(node) not in removed:
            nodes.append(node)
        nodes += added.get(index, ())
    if rename:
        nodes, outputs = _rename(scope, nodes, rename)
    else:
        outputs = block.outputs
    return Block(block.inputs, in_order(nodes, block), outputs)


def _rename(scope: Scope, nodes: list[Node], rename: dict[int, Value]) -> tuple[list[Node], list[Value]]:
    """Every read of a renamed value goes to its replacement. The outputs of a block keep their values (their names are
    the interface): there the replacement's producer makes the old value, or an Identity stands between."""

    def last(value: Value) -> Value:
        while id(value) in rename:
            value = rename[id(value)]
        return value

    swapped: dict[int, Value] = {}
    bridges: list[Node] = []
    made = {id(value) for node in nodes for value in node.outputs if value is not None}
    for output in dict.fromkeys(scope.block.outputs):
        target = last(output)
        if target is output:
            continue
        free = id(target) in made and id(target) not in scope.outputs and id(target) not in swapped
        if free:
            swapped[id(target)] = output
        else:
            bridges.append(Node("Identity", [swapped.get(id(target), target)], [output]))

    table: dict[int, Value] = dict(swapped)
    for key in rename:
        target = last(rename[key])
        table[key] = swapped.get(id(target), target)
    for value in swapped.values():
        table.pop(id(value), None)
    fresh = [substitute(node, table, swapped) for node in nodes]
    return fresh + bridges, scope.block.outputs
