"""Patterns, written as arithmetic over operators.

    x = any_value("x")
    silu = x * op("Sigmoid", x)
    gelu = x * 0.5 * (1 + op("Erf", x / 1.41421356))

`match(silu, node, scope)` answers what the names stand for and which nodes the pattern covers, or None. A name that
occurs twice stands for the same value both times. Sums and products match in either order. Values between the covered
nodes must not be read by anybody else, for these nodes are going to be removed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from headrace.runtime.graph import Node, Value
from headrace.runtime.passes.scope import Scope, attribute, rank

RELATIVE = 1e-4  # exporters print sqrt(2) with as few as five digits


class Pattern:
    """What a value may be."""

    def __add__(self, other: Pattern | float) -> Pattern:
        return op("Add", self, other)

    def __radd__(self, other: Pattern | float) -> Pattern:
        return op("Add", self, other)

    def __sub__(self, other: Pattern | float) -> Pattern:
        return op("Sub", self, other)

    def __mul__(self, other: Pattern | float) -> Pattern:
        return op("Mul", self, other)

    def __rmul__(self, other: Pattern | float) -> Pattern:
        return op("Mul", self, other)

    def __truediv__(self, other: Pattern | float) -> Pattern:
        """Division by a number is also its product with the reciprocal, which some exporters write."""
        if isinstance(other, Pattern):
            return op("Div", self, other)
        return one_of(op("Div", self, other), op("Mul", self, 1.0 / other))

    def __rtruediv__(self, other: float) -> Pattern:
        return op("Div", other, self)

    def __pow__(self, power: float) -> Pattern:
        """A power of two is also a product of a value with itself."""
        raised = op("Pow", self, power)
        return one_of(raised, op("Mul", self, self)) if power == 2 else raised


@dataclass(eq=False)
class _Any(Pattern):
    name: str
    test: Callable[[Value, Scope], bool] | None = None


@dataclass(eq=False)
class _Number(Pattern):
    number: float


@dataclass(eq=False)
class _Op(Pattern):
    kinds: tuple[str, ...]
    inputs: tuple[Pattern, ...]
    attributes: dict[str, Any] = field(default_factory=dict)
    name: str = ""

    @property
    def commutative(self) -> bool:
        return len(self.inputs) == 2 and self.kinds[0] in ("Add", "Mul")


@dataclass(eq=False)
class _OneOf(Pattern):
    choices: tuple[Pattern, ...]


def any_value(name: str, test: Callable[[Value, Scope], bool] | None = None) -> Pattern:
    """Any value that passes the test."""
    return _Any(name, test)


def constant(name: str) -> Pattern:
    """Any constant."""
    return _Any(name, lambda value, scope: scope.array(value) is not None)


def op(kinds: str | tuple[str, ...], *inputs: Pattern | float, name: str = "", **attributes: Any) -> Pattern:
    """The output of a node of one of `kinds` with these inputs (numbers: constants of that value). An attribute is
    compared with its value, or asked with a function. `name` names the node in the match."""
    kinds = (kinds,) if isinstance(kinds, str) else kinds
    return _Op(kinds, tuple(x if isinstance(x, Pattern) else _Number(x) for x in inputs), attributes, name)


def one_of(*choices: Pattern) -> Pattern:
    """The first choice that fits."""
    return _OneOf(choices)


@dataclass
class Match:
    """What names stand for (`values`), named nodes, and the covered nodes, the root's last."""

    values: dict[str, Value] = field(default_factory=dict)
    named: dict[str, Node] = field(default_factory=dict)
    nodes: tuple[Node, ...] = ()

    def __getitem__(self, name: str) -> Value:
        return self.values[name]


def match(pattern: Pattern, root: Node, scope: Scope) -> Match | None:
    """How `pattern` fits the only output of `root`, or None. Numbers in the pattern must not add dimensions."""
    output = root.outputs[0] if len(root.outputs) == 1 else None
    if output is None:
        return None
    for found in _match(pattern, output, scope, Match()):
        if _closed(found, root, scope):
            return found
    return None


def _closed(found: Match, root: Node, scope: Scope) -> bool:
    """Nobody outside reads an inner value."""
    covered = {id(node) for node in found.nodes}
    inner = [value for node in found.nodes if node is not root for value in node.outputs if value is not None]
    return all(
        id(value) not in scope.outputs and all(id(user) in covered for user in scope.users(value)) for value in inner
    )


def _match(pattern: Pattern, value: Value | None, scope: Scope, so_far: Match) -> Iterator[Match]:
    match pattern:
        case _ if value is None:
            return
        case _Any():
            if pattern.name in so_far.values:
                if so_far.values[pattern.name] is value:
                    yield so_far
            elif pattern.test is None or pattern.test(value, scope):
                yield Match({**so_far.values, pattern.name: value}, so_far.named, so_far.nodes)
        case _Number():
            if near(scope.scalar(value), pattern.number):
                yield so_far
        case _OneOf():
            for choice in pattern.choices:
                yield from _match(choice, value, scope, so_far)
        case _Op():
            node = scope.producer(value, *pattern.kinds)
            if node is not None:
                yield from _match_node(pattern, node, scope, so_far)


def _match_node(pattern: _Op, node: Node, scope: Scope, so_far: Match) -> Iterator[Match]:
    if len(node.outputs) != 1 or not _attributes_fit(pattern, node) or not _numbers_fit(pattern, node, scope):
        return
    inputs = list(node.inputs)
    while len(inputs) > len(pattern.inputs) and inputs[-1] is None:
        inputs.pop()
    if len(inputs) != len(pattern.inputs):
        return
    orders = [inputs, inputs[::-1]] if pattern.commutative and inputs[0] is not inputs[1] else [inputs]
    for order in orders:
        for found in _match_all(pattern.inputs, order, scope, so_far):
            nodes = found.nodes if any(other is node for other in found.nodes) else (*found.nodes, node)
            named = {**found.named, pattern.name: node} if pattern.name else found.named
            yield Match(found.values, named, nodes)


def _match_all(
    patterns: tuple[Pattern, ...], values: list[Value | None], scope: Scope, so_far: Match
) -> Iterator[Match]:
    if not patterns:
        yield so_far
        return
    for found in _match(patterns[0], values[0], scope, so_far):
        yield from _match_all(patterns[1:], values[1:], scope, found)


def _attributes_fit(pattern: _Op, node: Node) -> bool:
    for key, wanted in pattern.attributes.items():
        actual = attribute(node, key)
        if not (wanted(actual) if callable(wanted) else actual == wanted):
            return False
    return True


def _numbers_fit(pattern: _Op, node: Node, scope: Scope) -> bool:
    """A constant of shape [1, 1, 1] beside a vector would add dimensions: then the pattern's arithmetic is another."""
    if not any(isinstance(part, _Number) for part in pattern.inputs):
        return True
    widths = [0 if array is None else array.ndim for array in map(scope.array, node.inputs)]
    wide = rank(next((value for value in node.inputs if scope.array(value) is None), None))
    return max(widths, default=0) <= (wide if wide is not None else 0)


def near(number: float | None, wanted: float) -> bool:
    """Whether a constant is the number that the pattern means."""
    return number is not None and bool(np.isclose(number, wanted, rtol=RELATIVE, atol=1e-12))
