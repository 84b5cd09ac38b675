"""Functions of one 8-bit number become tables: DequantizeLinear, elementwise operators, QuantizeLinear, in any arrangement
with one 8-bit value at the bottom and numbers beside it. A SiLU between two integer convolutions is the usual one.

The table holds what the references of the replaced nodes answer for each of the 256 numbers.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from headrace.runtime import dtypes
from headrace.runtime.graph import Graph, Node, Value
from headrace.runtime.ops import find
from headrace.runtime.passes.rewrite import Patch, rewrite
from headrace.runtime.passes.scope import Scope, dtype, made, same_shape

BYTES = ("uint8", "int8")
DEPTH = 16  # nodes between the 8-bit value and the result


def lookup(graph: Graph, caps: Collection[str]) -> Graph:
    """The graph with tables where there is a kernel for them."""
    if "headrace.QLookup" not in caps:
        return graph
    return rewrite(graph, {"QuantizeLinear": _table})


def _table(node: Node, scope: Scope) -> Patch | None:
    output = made(node)
    if dtype(output) not in BYTES:
        return None
    source = _source(output, scope, DEPTH)
    if source is None or source is output or not same_shape(source, output):
        return None
    if _kinds(output, source, scope) <= {"QuantizeLinear", "DequantizeLinear"}:
        return None  # a change of scale; other passes know it
    every = np.arange(256, dtype=np.uint8).view(dtypes.BY_NAME[dtype(source) or ""].numpy)
    table = _evaluate(output, source, every, scope)
    inputs = [source, scope.constant(np.ascontiguousarray(table), f"{output.name}_table")]
    return Patch([node], [scope.node("QLookup", inputs, output, domain="headrace", like=node)])


def _steps(value: Value | None, scope: Scope) -> Node | None:
    """The node that makes `value` number by number, with nothing but numbers beside its tensors."""
    node = scope.producer(value)
    operator = find(node.operator, node.domain) if node is not None else None
    if node is None or operator is None or node.outputs[0] is not value or not operator.deterministic:
        return None
    if node.kind in ("QuantizeLinear", "DequantizeLinear"):
        if any(scope.scalar(parameter) is None for parameter in node.inputs[1:] if parameter is not None):
            return None
    elif not type(operator).__module__.startswith("headrace.runtime.ops.elementwise"):
        return None
    numbers = [other for other in node.inputs if scope.array(other) is not None]
    return node if all(scope.scalar(number) is not None for number in numbers) else None


def _source(value: Value, scope: Scope, depth: int) -> Value | None:
    """The one 8-bit value that `value` is a function of; None where there are several, or others."""
    node = _steps(value, scope) if depth else None
    found: set[Value | None] = set()
    if node is not None:
        given = [other for other in node.inputs if other is not None and scope.array(other) is None]
        found = {_source(other, scope, depth - 1) for other in given}
    if len(found) == 1 and None not in found:
        return found.pop()
    return value if dtype(value) in BYTES else None


def _kinds(value: Value | None, source: Value, scope: Scope) -> set[str]:
    """The operators between `source` and `value`."""
    node = None if value is source else scope.producer(value)
    return set() if node is None else {node.kind}.union(*(_kinds(other, source, scope) for other in node.inputs))


def _evaluate(value: Value, source: Value, every: np.ndarray, scope: Scope) -> np.ndarray:
    """What `value` is for each of the numbers that `source` may be."""
    if value is source:
        return every
    constant = scope.array(value)
    if constant is not None:
        return constant.reshape(())
    node = scope.producer(value)
    assert node is not None
    operator = find(node.operator, node.domain)
    assert operator is not None
    inputs = [None if other is None else _evaluate(other, source, every, scope) for other in node.inputs]
    with np.errstate(all="ignore"):
        answer: np.ndarray = operator.reference(inputs, operator.complete(node.attributes), 1)[0]
    return answer
