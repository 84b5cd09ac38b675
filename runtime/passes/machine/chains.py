"""Elementwise float32 operators that only read one another become one headrace.cpu.Chain, whose kernel goes through all of them
tile by tile: what lies between them stays in L1, and nothing is written but the last result.

The steps are those of the operators' own kernels, so the bits are the same. What another node reads, or the graph answers, ends
a chain; inputs have the shape of the result, or one element, or one for each place of the last axis.
"""

from __future__ import annotations

from collections.abc import Collection

from headrace.runtime.graph import Graph, Node, Value
from headrace.runtime.ops import find
from headrace.runtime.passes.rewrite import Patch, rewrite
from headrace.runtime.passes.scope import Scope, attribute, dtype, made, shape
from headrace.runtime.shapes import Shape

DOMAIN, KIND = "headrace.cpu", "headrace.cpu.Chain"
UNARY = frozenset((
    "Abs", "Neg", "Sign", "Relu", "Sqrt", "Reciprocal", "Floor", "Ceil", "Round", "LeakyRelu", "ThresholdedRelu", "HardSigmoid",
    "HardSwish", "Exp", "Log", "Erf", "Tanh", "Sigmoid", "Softplus", "Mish", "Softsign", "Swish", "Elu", "Selu", "Celu", "Gelu",
))  # fmt: skip
BINARY = frozenset(("Add", "Sub", "Mul", "Div", "Pow", "Max", "Min"))
NUMBERS = ("alpha", "beta", "gamma")
WHOLE, NUMBER, ROW = range(3)
MOST_STEPS, MOST_INPUTS = 64, 32


def chains(graph: Graph, caps: Collection[str]) -> Graph:
    """The graph with its chains of two and more steps in one node each, where there is a kernel for them."""
    if KIND not in caps:
        return graph
    return rewrite(graph, dict.fromkeys(UNARY | BINARY, _chain))


def _chain(node: Node, scope: Scope) -> Patch | None:
    """The chain that ends here; None where it goes on, or is a single step."""
    size = _size(node)
    if size is None:
        return None
    readers = scope.users(made(node))
    if id(made(node)) not in scope.outputs and readers and all(_size(reader) == size for reader in readers):
        return None
    steps = _steps(node, size, scope)
    inputs = list(dict.fromkeys(value for step in steps for value in _reads(step)))
    results = {made(step): index for index, step in enumerate(steps)}
    inputs = [value for value in inputs if value not in results]
    if len(steps) < 2 or len(inputs) > MOST_INPUTS:
        return None
    places = {value: index for index, value in enumerate(inputs)}
    places.update((value, len(inputs) + index) for value, index in results.items())
    attributes = {
        "operators": tuple(step.operator for step in steps),
        "places": tuple(place for step in steps for place in (*(places[value] for value in _reads(step)), -1)[:2]),
        "kinds": tuple(_kind(value, size) for value in inputs),
        **{name: tuple(_number(step, name) for step in steps) for name in NUMBERS},
    }
    return Patch(steps, [scope.node("Chain", inputs, made(node), attributes, domain=DOMAIN, like=node)])


def _steps(last: Node, size: Shape, scope: Scope) -> list[Node]:
    """The nodes of the chain in the order of the block: `last`, and whatever of its shape only they read."""
    members, grows = {id(last): last}, True
    while grows:
        grows = False
        for step in list(members.values()):
            for value in _reads(step):
                before = scope.producer(value)
                if before is None or id(before) in members or id(value) in scope.outputs or _size(before) != size:
                    continue
                if len(members) < MOST_STEPS and all(id(reader) in members for reader in scope.users(value)):
                    members[id(before)] = before
                    grows = True
    return [node for node in scope.block.nodes if id(node) in members]


def _size(node: Node) -> Shape | None:
    """The shape of a node that may be a step: float32, each input of a kind, one of them at least whole."""
    operands = 1 if node.kind in UNARY else 2 if node.kind in BINARY else 0
    values = _reads(node)
    if not operands or len(values) != operands or len(node.inputs) != operands:
        return None
    if node.kind == "Gelu" and attribute(node, "approximate", "none") != "none":
        return None
    size = shape(made(node))
    if size is None or any(dtype(value) != "float32" for value in (*values, made(node))):
        return None
    kinds = [_kind(value, size) for value in values]
    return size if WHOLE in kinds and None not in kinds else None


def _kind(value: Value, size: Shape) -> int | None:
    """What a value is to a result of this shape; None for what broadcasts in another way."""
    dims = shape(value)
    if dims is None or len(dims) > len(size):
        return None
    if dims == size:
        return WHOLE
    if all(dim == 1 for dim in dims):
        return NUMBER
    row = isinstance(dims[-1], int) and dims[-1] == size[-1] and all(dim == 1 for dim in dims[:-1])
    return ROW if row else None


def _reads(node: Node) -> list[Value]:
    return [value for value in node.inputs if value is not None]


def _number(node: Node, name: str) -> float:
    """An attribute with its default filled in; 0 where the operator has none of this name."""
    operator = find(node.operator, node.domain)
    return 0.0 if operator is None or name not in operator.attributes else float(attribute(node, name, 0.0))
