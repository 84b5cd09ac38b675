"""Rewriting: a pass answers patches; here they are applied, dead code is dropped, and the order is restored.

A rule is a function `rule(node, scope) -> Patch | None`. It reads the graph through its `Scope` (producers, uses,
constants, types), makes new nodes with `scope.node` and new constants with `scope.constant`, and never touches what it
reads. `rewrite` asks every rule at every node, applies the patches that do not disturb one another, and asks again
until nobody answers. The graph that is given stays as it is; arrays are shared.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from headrace.runtime import dtypes
from headrace.runtime.errors import GraphError, HeadraceError
from headrace.runtime.graph import Block, Graph, Node, Value
from headrace.runtime.infer import infer_operator
from headrace.runtime.ops import find
from headrace.runtime.shapes import Shape
from headrace.runtime.types import TensorType, Type

SWEEPS = 200  # long chains need some tens; a rule that undoes another would run for ever


@dataclass
class Patch:
    """Nodes that go, nodes that come (in order), and values that are from now on known as another value."""

    remove: Sequence[Node] = ()
    add: Sequence[Node] = ()
    rename: Mapping[Value, Value] = field(default_factory=dict)


Rule = Callable[[Node, "Scope"], "Patch | None"]
Rules = Mapping[str, Rule]  # node kind ("Conv", "headrace.QConv") -> rule; "*" is asked at every node


class Names:
    """Fresh names of one graph: like Graph.fresh, but the set of used names is collected once."""

    def __init__(self, graph: Graph) -> None:
        self.used = graph.names()
        self.counts: Counter[str] = Counter()

    def fresh(self, name: str) -> str:
        candidate = name
        while candidate in self.used:
            self.counts[name] += 1
            candidate = f"{name}_{self.counts[name] + 1}"
        self.used.add(candidate)
        return candidate


class Scope:
    """One block as rules see it: who makes a value, who reads it, what is constant. Making nodes and constants through
    it gives them names that nothing else in the graph has."""

    def __init__(self, graph: Graph, block: Block, names: Names) -> None:
        self.graph, self.block, self.names = graph, block, names
        self.producers: dict[int, Node] = {}
        self.readers: dict[int, list[Node]] = {}
        for node in block.nodes:
            for value in node.outputs:
                if value is not None:
                    self.producers[id(value)] = node
            for value in reads(node):
                self.readers.setdefault(id(value), []).append(node)
        self.outputs = {id(value) for value in block.outputs}

    # ---- reading

    def producer(self, value: Value | None, *kinds: str) -> Node | None:
        """The node of this block that makes `value`, if it is one of `kinds` (any, where none is given)."""
        node = self.producers.get(id(value)) if value is not None else None
        return node if node is not None and (not kinds or node.kind in kinds) else None

    def users(self, value: Value | None) -> list[Node]:
        """The nodes that read `value`, each once for every time it reads it (inner blocks count as their node)."""
        return self.readers.get(id(value), [])

    def single(self, value: Value | None) -> bool:
        """Whether exactly one node reads `value`, once, and the block does not answer it."""
        return value is not None and len(self.users(value)) == 1 and id(value) not in self.outputs

    def user(self, value: Value | None, *kinds: str) -> Node | None:
        """The only reader of `value`, if it is one of `kinds`."""
        if not self.single(value):
            return None
        node = self.users(value)[0]
        return node if not kinds or node.kind in kinds else None

    def array(self, value: Value | None) -> np.ndarray | None:
        """The array of a constant, else None."""
        return self.graph.constant_of(value)

    def scalar(self, value: Value | None) -> float | None:
        """The number in a constant of one element, else None."""
        array = self.array(value)
        if array is None or array.size != 1 or (array.dtype.kind in "OSUV" and not is_float(array)):
            return None
        return float(array.reshape(()).astype(np.float64))

    def integers(self, value: Value | None) -> tuple[int, ...] | None:
        """The elements of a constant integer array (axes, a shape), else None."""
        array = self.array(value)
        return tuple(int(x) for x in array.ravel()) if array is not None and array.dtype.kind in "iu" else None

    def replaceable(self, old: Value | None, new: Value | None) -> bool:
        """Whether renaming `old` to `new` gets rid of `old`: not where `old` is an answer of the block and `new` is
        none that a node of this block could make under that name."""
        if old is None or new is None:
            return False
        return id(old) not in self.outputs or (id(new) in self.producers and id(new) not in self.outputs)

    # ---- making

    def constant(self, array: np.ndarray | np.generic, name: str = "constant") -> Value:
        name = self.names.fresh(name)
        array = np.asarray(array)
        value = Value(name, TensorType(dtypes.of(array).name, tuple(array.shape)))
        self.graph.constants[name], self.graph.values[name] = array, value
        return value

    def value(self, name: str, type: Type | None = None) -> Value:
        """A value that no node makes yet."""
        return Value(self.names.fresh(name), type)

    def node(
        self,
        operator: str,
        inputs: Sequence[Value | None],
        output: Value | str | None = None,
        attributes: Mapping[str, object] | None = None,
        *,
        domain: str = "",
        type: Type | None = None,
        like: Node | None = None,
    ) -> Node:
        """A new node with one output: `output` is the value it makes, or a hint for the name of a new one (of `type`,
        inferred where None). Its name and module path are those of `like`."""
        trimmed = list(inputs)
        while trimmed and trimmed[-1] is None:
            trimmed.pop()
        if not isinstance(output, Value):
            type = type or self.infer(operator, domain, trimmed, attributes or {})
            output = self.value(output or operator.lower(), type)
        name, path = (like.name, like.path) if like is not None else ("", "")
        return Node(operator, trimmed, [output], attributes, domain=domain, name=name, path=path)

    def infer(self, operator: str, domain: str, inputs: Sequence[Value | None], attributes: Mapping[str, object]) -> Type | None:
        """The type of an operator's first output; None where the inputs' types are not known well enough."""
        found = find(operator, domain)
        if found is None:
            return None
        constants = [self.array(value) for value in inputs]
        try:
            types = [None if value is None else value.type for value in inputs]
            return infer_operator(found, types, attributes, 1, constants)[0]
        except HeadraceError:
            return None


def is_float(array: np.ndarray) -> bool:
    return dtypes.of(array).kind == "f"


def reads(node: Node) -> list[Value]:
    """Every value that a node reads, those of its inner blocks included."""
    values = [value for value in node.inputs if value is not None]
    for block in node.blocks.values():
        values += block.captured()
    return values


def attribute(node: Node, key: str, default: Any = None) -> Any:
    """An attribute, or the operator's default where the node leaves it out (REQUIRED and None: `default`)."""
    value = node.attributes.get(key)
    if value is not None:
        return value
    operator = find(node.operator, node.domain)
    known = operator.attributes.get(key) if operator is not None else None
    return default if known is None or not isinstance(known.default, int | float | str | tuple | list) else known.default


def integer(node: Node, key: str, default: int = 0) -> int:
    """An integer attribute."""
    return int(attribute(node, key, default))


def number(node: Node, key: str, default: float = 0.0) -> float:
    """A float attribute."""
    return float(attribute(node, key, default))


def made(node: Node) -> Value:
    """The first output, which rules for operators of one output may count on."""
    value = node.outputs[0]
    if value is None:
        raise GraphError(f"{node.label()} answers nothing")
    return value


def other_input(node: Node | None, value: Value | None) -> Value | None:
    """The other input of a node of two inputs."""
    return None if node is None else node.inputs[1] if node.inputs[0] is value else node.inputs[0]


def rank(value: Value | None) -> int | None:
    return value.type.rank if value is not None and isinstance(value.type, TensorType) else None


def shape(value: Value | None) -> Shape | None:
    return value.type.shape if value is not None and isinstance(value.type, TensorType) else None


def dtype(value: Value | None) -> str | None:
    return value.type.dtype if value is not None and isinstance(value.type, TensorType) else None


def same_shape(a: Value | None, b: Value | None) -> bool:
    """Whether two values have the same shape for certain."""
    left = shape(a)
    return left is not None and left == shape(b)


# ---- applying


def rewrite(graph: Graph, rules: Rules) -> Graph:
    """The graph after the rules, or `graph` itself where no rule applies."""
    if "*" not in rules and not any(node.kind in rules for node in graph.block.walk()):
        return graph
    names = Names(graph)
    draft = Graph(graph.block, dict(graph.constants), dict(graph.values), graph.name, list(graph.states), dict(graph.metadata))
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
    inner = {key: _rewrite_block(graph, old, names, rules) for key, old in node.blocks.items()}
    if all(inner[key] is old for key, old in node.blocks.items()):
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
            attributes = {key: block_of(value) if isinstance(value, Block) else value for key, value in node.attributes.items()}
            nodes.append(copy_node(node, inputs=read, outputs=[fresh(value) for value in node.outputs], attributes=attributes))
        return Block(inputs, nodes, [fresh(value) for value in block.outputs])  # type: ignore[misc,arg-type]

    block = block_of(graph.block)
    values = {name: table[id(value)] for name, value in graph.values.items()}
    return Graph(block, dict(graph.constants), values, graph.name, list(graph.states), dict(graph.metadata))


# ---- dead code


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
        inner = {key: _live_block(old) for key, old in node.blocks.items()}
        if any(inner[key] is not old for key, old in node.blocks.items()):
            node, changed = copy_node(node, attributes={**node.attributes, **inner}), True
        kept.append(node)
        wanted.update(id(value) for value in reads(node))
    return Block(block.inputs, kept[::-1], block.outputs) if changed else block
