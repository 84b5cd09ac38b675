"""Nodes over constants are computed now, by the operator's reference.

Left alone: what draws random numbers, what has inner blocks, results that would make the file much larger, and
DequantizeLinear (its integers are the point; `dequantize` computes those that stay outside integer kernels).
"""

from __future__ import annotations

import numpy as np

from headrace.runtime import dtypes
from headrace.runtime.graph import Graph, Node, Value
from headrace.runtime.ops import find
from headrace.runtime.passes.rewrite import Patch, rewrite
from headrace.runtime.passes.scope import Scope
from headrace.runtime.shapes import product
from headrace.runtime.types import TensorType

PORTABLE = True
ORDER = 30

LIMIT = 1 << 20  # bytes that a result may have whatever its inputs are
GROWTH = 2  # a larger result may have this many times the bytes of its inputs (float16 -> float32)
TOTAL = (
    32 << 20
)  # bytes that all results of one sweep may have beyond their inputs: a short file can ask for many large ones
_KEPT = {"DequantizeLinear", "Identity"}


def run(graph: Graph) -> Graph:
    return rewrite(graph, {"*": _Folder()})


class _Folder:
    """The rule. It remembers what it has computed, so that a chain of nodes folds in one sweep."""

    def __init__(self) -> None:
        self.known: dict[Value, np.ndarray] = {}
        self.grown = 0

    def __call__(self, node: Node, scope: Scope) -> Patch | None:
        if node.kind in _KEPT or not node.inputs or any(id(value) in scope.outputs for value in node.outputs):
            return None
        arrays = [self._array(value, scope) for value in node.inputs]
        if any(array is None for value, array in zip(node.inputs, arrays) if value is not None):
            return None
        read = [array for array in arrays if array is not None]
        if not _allowed(node, read) or self.grown > TOTAL:
            return None
        results = compute(node, arrays)
        if results is None:
            return None
        sizes = [sum(array.nbytes for array in some if array is not None) for some in (results, read)]
        self.grown += max(0, sizes[0] - sizes[1])
        pairs = [(value, array) for value, array in zip(node.outputs, results) if value is not None]
        self.known.update(pairs)
        return Patch([node], rename={value: scope.constant(array, value.name) for value, array in pairs})

    def _array(self, value: Value | None, scope: Scope) -> np.ndarray | None:
        found = scope.array(value)
        return self.known.get(value) if found is None and value is not None else found


def _allowed(node: Node, arrays: list[np.ndarray]) -> bool:
    """Whether the results are known to be small enough."""
    budget = max(LIMIT, GROWTH * sum(array.nbytes for array in arrays))
    total = 0
    for value in node.outputs:
        if value is None:
            continue
        if not isinstance(value.type, TensorType) or value.type.shape is None:
            return False
        count = product(value.type.shape)
        if not isinstance(count, int):
            return False
        total += count * max(dtypes.of(value.type.dtype).itemsize, 1)
    return total <= budget


def compute(node: Node, arrays: list[np.ndarray | None]) -> list[np.ndarray] | None:
    """The outputs by the operator's reference, or None where it cannot be (unknown operator, random, inner blocks, or
    an error that the user shall see at run time)."""
    operator = find(node.operator, node.domain)
    if operator is None or not operator.deterministic or node.blocks:
        return None
    try:
        with np.errstate(all="ignore"):
            results = operator.reference(list(arrays), operator.complete(node.attributes), len(node.outputs))
    except Exception:
        return None
    results = [np.asarray(result) if isinstance(result, np.ndarray | np.generic) else None for result in results]
    fits = len(results) >= len(node.outputs) and all(
        value is None or (result is not None and _agrees(value, result)) for value, result in zip(node.outputs, results)
    )
    return results if fits else None


def _agrees(value: Value, array: np.ndarray) -> bool:
    return not isinstance(value.type, TensorType) or value.type.dtype == dtypes.of(array).name
