"""Functions of one 8-bit number become tables: DequantizeLinear, elementwise operators, QuantizeLinear, in any arrangement
with one 8-bit value at the bottom and numbers beside it. A SiLU between two integer convolutions is the usual one.

The table holds what the references of the replaced nodes answer for each of the 256 numbers. It comes last: before, other
passes may still fuse a part of the arrangement into an integer operator.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from headrace.runtime import dtypes
from headrace.runtime.graph import Graph, Node, Value
from headrace.runtime.ops import find
from headrace.runtime.passes.rewrite import Patch, rewrite
from headrace.runtime.passes.scope import Scope, dtype, made, same_shape

PORTABLE = True
ORDER = 100

BYTES = ("uint8", "int8")
SCALES = ("QuantizeLinear", "DequantizeLinear")
DEPTH = 16  # nodes between the 8-bit value and the result


def run(graph: Graph) -> Graph:
    """The graph with tables for functions of one 8-bit number."""
    known: dict[int, _Functions] = {}  # of the scope of this sweep

    def table(node: Node, scope: Scope) -> Patch | None:
        if id(scope) not in known:
            known.clear()
            known[id(scope)] = _Functions(scope)
        return known[id(scope)].table(node)

    return rewrite(graph, {"QuantizeLinear": table})


@dataclass(frozen=True)
class _Function:
    """Of `source`, None where there is no such 8-bit value: how many nodes it takes, and whether all only change the scale."""

    source: Value | None
    depth: int = 0
    scales: bool = True


class _Functions:
    """Every value of a block as a function of one 8-bit value, as far as it is one."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope
        self._found: dict[int, _Function] = {}
        for node in scope.block.nodes:
            if (output := node.outputs[0]) is not None:
                self._found[id(output)] = self._of(output)

    def table(self, node: Node) -> Patch | None:
        """The node as a lookup in a table."""
        scope, output = self._scope, made(node)
        function = self._known(output)
        source = function.source
        if dtype(output) not in BYTES or source is None or function.scales or not same_shape(source, output):
            return None  # where it only changes the scale other passes know it
        every = np.arange(256, dtype=np.uint8).view(dtypes.BY_NAME[dtype(source) or ""].numpy)
        table = self._evaluate(output, {id(source): every})
        inputs = [source, scope.constant(np.ascontiguousarray(table), f"{output.name}_table")]
        return Patch([node], [scope.node("QLookup", inputs, output, domain="headrace", like=node)])

    def _known(self, value: Value) -> _Function:
        found = self._found.get(id(value))
        return _Function(value if dtype(value) in BYTES else None) if found is None else found

    def _of(self, value: Value) -> _Function:
        node = self._step(value)
        if node is not None:
            below = [self._known(other) for other in node.inputs if other is not None and not self._constant(other)]
            depth = 1 + max((function.depth for function in below), default=0)
            sources = {function.source for function in below}
            if len(sources) == 1 and None not in sources and depth <= DEPTH:
                scales = node.kind in SCALES and all(function.scales for function in below)
                return _Function(sources.pop(), depth, scales)
        return _Function(value if dtype(value) in BYTES else None)

    def _constant(self, value: Value) -> bool:
        return self._scope.array(value) is not None

    def _step(self, value: Value) -> Node | None:
        """The node that makes `value` number by number, with nothing but numbers beside its tensors."""
        scope = self._scope
        node = scope.producer(value)
        operator = find(node.operator, node.domain) if node is not None else None
        if node is None or operator is None or not operator.deterministic:
            return None
        if node.kind in SCALES:
            if any(scope.scalar(parameter) is None for parameter in node.inputs[1:] if parameter is not None):
                return None
        elif not type(operator).__module__.startswith("headrace.runtime.ops.elementwise"):
            return None
        numbers = [other for other in node.inputs if scope.array(other) is not None]
        return node if all(scope.scalar(number) is not None for number in numbers) else None

    def _evaluate(self, value: Value, known: dict[int, np.ndarray]) -> np.ndarray:
        """What `value` is for each of the numbers that are known of its source."""
        if id(value) not in known:
            known[id(value)] = self._computed(value, known)
        return known[id(value)]

    def _computed(self, value: Value, known: dict[int, np.ndarray]) -> np.ndarray:
        constant = self._scope.array(value)
        if constant is not None:
            return constant.reshape(())
        node = self._scope.producer(value)
        assert node is not None
        operator = find(node.operator, node.domain)
        assert operator is not None
        inputs = [None if other is None else self._evaluate(other, known) for other in node.inputs]
        with np.errstate(all="ignore"):
            answer: np.ndarray = operator.reference(inputs, operator.complete(node.attributes), 1)[0]
        return answer
