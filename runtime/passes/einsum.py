"""Einsum becomes products: ReduceSum, Transpose, MatMul, so that it meets the kernels and rules that MatMul has.

With two operands every letter is of one kind: in both and in the output (a batch axis), in both but not in the output
(summed: the inner axis of the product), or in one of them (its rows or columns). More operands are taken two at a time,
from the left. Left alone: diagonals, unknown ranks, integers, and several summed letters whose sizes are not known.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from headrace.runtime.errors import GraphError
from headrace.runtime.graph import Graph, Node, Value
from headrace.runtime.ops.linear.einsum import explicit
from headrace.runtime.passes.rewrite import Patch, rewrite
from headrace.runtime.passes.scope import Scope, attribute, dtype, made, shape
from headrace.runtime.shapes import Dim

PORTABLE = True
ORDER = 34

FLOATS = {"float32", "float64", "float16", "bfloat16"}


def run(graph: Graph) -> Graph:
    return rewrite(graph, {"Einsum": _einsum})


def _einsum(node: Node, scope: Scope) -> Patch | None:
    shapes = [shape(value) for value in node.inputs]
    if any(known is None for known in shapes) or dtype(node.inputs[0]) not in FLOATS:
        return None
    try:
        terms, output = explicit(str(attribute(node, "equation")), [len(known or ()) for known in shapes])
    except GraphError:
        return None  # running it says what is wrong
    if any(len(set(term)) != len(term) for term in terms):
        return None
    operands = [
        _Operand(value, term, dict(zip(term, known or ())))
        for value, term, known in zip(node.inputs, terms, shapes)
        if value is not None
    ]
    chain = _Chain(node, scope)
    while len(operands) > 1:
        rest = set(output).union(*(operand.letters for operand in operands[2:]))
        product = chain.product(operands[0], operands[1], rest)
        if product is None:
            return None
        operands = [product, *operands[2:]]
    result = chain.ordered(chain.summed(operands[0], set(output)), output)
    if not chain.nodes:  # the operand itself
        chain.add("Identity", [result.value])
    last = chain.nodes[-1]
    last.outputs[0] = made(node)
    return Patch([node], chain.nodes)


class _Operand:
    """A value, the letters of its axes, and their sizes."""

    def __init__(self, value: Value, letters: str, sizes: dict[str, Dim]) -> None:
        self.value, self.letters, self.sizes = value, letters, sizes


class _Chain:
    """The nodes that take the place of one Einsum."""

    def __init__(self, node: Node, scope: Scope) -> None:
        self.node, self.scope, self.nodes = node, scope, list[Node]()

    def add(self, operator: str, inputs: Sequence[Value | None], attributes: dict[str, object] | None = None) -> Value:
        node = self.scope.node(operator, inputs, None, attributes, like=self.node)
        self.nodes.append(node)
        return made(node)

    def summed(self, x: _Operand, kept: set[str]) -> _Operand:
        """Without the letters that nobody needs any more."""
        axes = [axis for axis, letter in enumerate(x.letters) if letter not in kept]
        if not axes:
            return x
        value = self.add("ReduceSum", [x.value, self.ints(axes)], {"keepdims": 0})
        return _Operand(value, "".join(letter for letter in x.letters if letter in kept), x.sizes)

    def ordered(self, x: _Operand, letters: str) -> _Operand:
        """With its axes in the order of `letters`, which name the same axes."""
        if x.letters == letters:
            return x
        perm = tuple(x.letters.index(letter) for letter in letters)
        return _Operand(self.add("Transpose", [x.value], {"perm": perm}), letters, x.sizes)

    def product(self, a: _Operand, b: _Operand, rest: set[str]) -> _Operand | None:
        """Two operands as one; `rest` are the letters that are still needed. None where sizes stand in the way."""
        a, b = self.summed(a, rest | set(b.letters)), self.summed(b, rest | set(a.letters))
        shared = [letter for letter in a.letters if letter in b.letters]
        batch = "".join(letter for letter in shared if letter in rest)
        inner = "".join(letter for letter in shared if letter not in rest)
        left = "".join(letter for letter in a.letters if letter not in shared)
        right = "".join(letter for letter in b.letters if letter not in shared)
        if any(a.sizes[letter] != b.sizes[letter] for letter in inner):  # one of them may be 1, and be stretched
            return None
        width, columns = _joined(inner, a.sizes), _joined(right, b.sizes)
        if (len(inner) > 1 and not width) or (len(right) > 1 and not columns):
            return None
        rows = len(batch) + len(left)
        x, y = self.ordered(a, batch + left + inner).value, self.ordered(b, batch + inner + right).value
        if len(inner) > 1:
            x = self.reshaped(x, [*[0] * rows, width or 0])
        elif not inner:
            x = self.add("Unsqueeze", [x, self.ints([rows])])
        if not left:
            x = self.add("Unsqueeze", [x, self.ints([len(batch)])])
        if len(inner) > 1 or len(right) > 1:
            middle = {0: 1, 1: 0}.get(len(inner), width or 0)  # nothing summed: 1; one axis as it is; several together
            y = self.reshaped(y, [*[0] * len(batch), middle, *([columns or -1] if right else [])])
        elif not inner:
            y = self.add("Unsqueeze", [y, self.ints([len(batch)])])
        if not right:
            y = self.add("Unsqueeze", [y, self.ints([len(batch) + 1])])
        if batch and len(left) > 1:  # all rows but the last letter's are batch axes, along which the right side repeats
            y = self.add("Unsqueeze", [y, self.ints(range(len(batch), rows - 1))])
        value = self.add("MatMul", [x, y])
        alone = [*([] if left else [len(batch)]), *([] if right else [max(rows, len(batch) + 1)])]
        if alone:
            value = self.add("Squeeze", [value, self.ints(alone)])
        if len(right) > 1:
            value = self.reshaped(value, [*[0] * rows, *(int(b.sizes[letter]) for letter in right)])  # type: ignore[arg-type]
        sizes = {**b.sizes, **a.sizes, **{letter: b.sizes[letter] for letter in batch if a.sizes[letter] == 1}}
        return _Operand(value, batch + left + right, sizes)

    def reshaped(self, value: Value, target: Sequence[int]) -> Value:
        return self.add("Reshape", [value, self.ints(target)])

    def ints(self, values: Sequence[int]) -> Value:
        return self.scope.constant(np.array(values, np.int64), "axes")


def _joined(letters: str, sizes: dict[str, Dim]) -> int | None:
    """How many elements several axes have together; None where one is not known, or is 0."""
    known = [sizes[letter] for letter in letters]
    return (
        math.prod(size for size in known if isinstance(size, int)) or None
        if all(isinstance(size, int) for size in known)
        else None
    )
