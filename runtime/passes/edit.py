"""Edits of graphs that rewriting is made of: substitution, order, copies, dead code. Not a pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from headrace.runtime.errors import GraphError
from headrace.runtime.graph import Block, Graph, Node, Value
from headrace.runtime.passes.scope import reads


def substitute(node: Node, table: Mapping[int, Value], makes: Mapping[int, Value] | None = None) -> Node:
    """The node with its reads (and, by `makes`, its outputs) replaced; the same object where nothing is."""
    inputs = [value if value is None else table.get(id(value), value) for value in node.inputs]
    outputs = [value if value is None or not makes else makes.get(id(value), value) for value in node.outputs]
    inner = {key: substitute_block(block, table) for key, block in node.blocks.items()}
    same = all(a is b for a, b in zip(inputs, node.inputs)) and all(a is b for a, b in zip(outputs, node.outputs))
    if same and all(inner[key] is block for key, block in node.blocks.items()):
        return node
    return copy_node(node, inputs=inputs, outputs=outputs, attributes={**node.attributes, **inner})


def substitute_block(block: Block, table: Mapping[int, Value]) -> Block:
    nodes = [substitute(node, table) for node in block.nodes]
    outputs = [table.get(id(value), value) for value in block.outputs]
    if all(a is b for a, b in zip(nodes, block.nodes)) and all(a is b for a, b in zip(outputs, block.outputs)):
        return block
    return Block(block.inputs, nodes, outputs)


def copy_node(
    node: Node,
    *,
    inputs: Sequence[Value | None] | None = None,
    outputs: Sequence[Value | None] | None = None,
    attributes: Mapping[str, object] | None = None,
) -> Node:
    """The same application with some parts replaced."""
    return Node(
        node.operator,
        list(node.inputs if inputs is None else inputs),
        list(node.outputs if outputs is None else outputs),
        node.attributes if attributes is None else attributes,
        domain=node.domain,
        name=node.name,
        path=node.path,
        version=node.version,
    )


def in_order(nodes: list[Node], block: Block) -> list[Node]:
    """The nodes so that each comes after those whose values it reads; otherwise in the order given."""
    makers = {id(value): node for node in nodes for value in node.outputs if value is not None}
    done: set[int] = set()
    result: list[Node] = []
    for start in nodes:
        stack = [(start, iter(reads(start)))] if id(start) not in done else []
        open_nodes = {id(start)}
        while stack:
            node, rest = stack[-1]
            for value in rest:
                maker = makers.get(id(value))
                if maker is not None and id(maker) not in done:
                    if id(maker) in open_nodes:
                        raise GraphError(f"{maker.label()} depends on itself")
                    open_nodes.add(id(maker))
                    stack.append((maker, iter(reads(maker))))
                    break
            else:
                stack.pop()
                open_nodes.discard(id(node))
                done.add(id(node))
                result.append(node)
    return result


def clone(graph: Graph) -> Graph:
    """A graph of its own: new values, nodes and blocks under the same names; the arrays are shared."""
    table = {id(value): Value(value.name, value.type) for value in graph.values.values()}

    def fresh(value: Value | None) -> Value | None:
        return None if value is None else table.setdefault(id(value), Value(value.name, value.type))

    def block_of(block: Block) -> Block:
        inputs = [fresh(value) for value in block.inputs]
        nodes = []
        for node in block.nodes:
            read = [fresh(value) for value in node.inputs]
            attributes = {
                key: block_of(value) if isinstance(value, Block) else value for key, value in node.attributes.items()
            }
            nodes.append(
                copy_node(node, inputs=read, outputs=[fresh(value) for value in node.outputs], attributes=attributes)
            )
        return Block(inputs, nodes, [fresh(value) for value in block.outputs])  # type: ignore[misc,arg-type]

    block = block_of(graph.block)
    values = {name: table[id(value)] for name, value in graph.values.items()}
    return Graph(block, dict(graph.constants), values, graph.name, list(graph.states), dict(graph.metadata))


def drop_dead(graph: Graph) -> Graph:
    """Without the nodes and constants that no output depends on. The interface (inputs, outputs) stays."""
    block = _live_block(graph.block)
    used = {value.name for value in block.captured() if graph.values.get(value.name) is value}
    constants = {name: array for name, array in graph.constants.items() if name in used}
    if block is graph.block and len(constants) == len(graph.constants):
        return graph
    values = {name: graph.values[name] for name in constants}
    return Graph(block, constants, values, graph.name, list(graph.states), dict(graph.metadata))


def _live_block(block: Block) -> Block:
    wanted = {id(value) for value in block.outputs}
    kept: list[Node] = []
    changed = False
    for node in reversed(block.nodes):
        if not any(value is not None and id(value) in wanted for value in node.outputs):
            changed = True
            continue
        blocks = node.blocks
        inner = {key: _live_block(old) for key, old in blocks.items()}
        if any(inner[key] is not old for key, old in blocks.items()):
            node, changed = copy_node(node, attributes={**node.attributes, **inner}), True
        kept.append(node)
        wanted.update(id(value) for value in reads(node))
    return Block(block.inputs, kept[::-1], block.outputs) if changed else block
