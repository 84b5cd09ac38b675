"""Large float32 operators on the native executor: a program of one node, kept for each operator and its attributes.

A call costs about a microsecond more than a NumPy function, so small arrays stay with NumPy. Where the extension is not
built, everything does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np

from headrace.eager.registry import KERNELS, Kernel
from headrace.runtime.ops import find
from headrace.runtime.ops.base import Operator

LEAST = 4096  # elements of the first input
FLOAT32 = np.dtype(np.float32)

# Operators whose native kernel beats NumPy on large arrays.
HEAVY = [
    "Conv",
    "ConvTranspose",
    "AveragePool",
    "GlobalAveragePool",
    "Exp",
    "Tanh",
    "Sigmoid",
    "Relu",
    "Gelu",
    "Erf",
    "Softmax",
    "LogSoftmax",
    "LayerNormalization",
    "Swish",
    "HardSwish",
    "LeakyRelu",
    "Elu",
    "Softplus",
    "Mish",
]


@cache
def _kernels() -> frozenset[str]:
    """The operators that the extension has; none where it is not built."""
    try:
        from headrace.runtime.lower import capabilities
    except ImportError:
        return frozenset()
    return capabilities()


@cache
def _program(
    operator: Operator,
    attributes: tuple[tuple[str, Any], ...],
    dtypes: tuple[str | None, ...],
    outputs: int,
    threads: int,
) -> Any:
    """(program, input names, output names) of one node; None where it cannot be lowered."""
    from headrace.runtime.builder import Builder
    from headrace.runtime.errors import HeadraceError
    from headrace.runtime.graph import Block, Graph, Value
    from headrace.runtime.lower import lower
    from headrace.runtime.types import TensorType

    values = [None if dtype is None else Value(f"in{i}", TensorType(dtype)) for i, dtype in enumerate(dtypes)]
    graph = Graph(Block([value for value in values if value is not None], [], []))
    try:
        graph.outputs.extend(
            Builder(graph).node(operator.name, values, dict(attributes), domain=operator.domain, outputs=outputs)
        )
        return lower(graph, threads, machine=False), [v and v.name for v in values], [v.name for v in graph.outputs]
    except HeadraceError:
        return None


def native(operator: Operator, inputs: Sequence[Any], attributes: Mapping[str, Any], n: int) -> list[Any] | None:
    """The results from the native executor; None where it does not have the operator."""
    from headrace.threads import get_num_threads

    if operator.kind not in _kernels():
        return None
    given = tuple((key, value) for key, value in attributes.items() if value is not None)
    dtypes = tuple(None if x is None else x.dtype.name for x in inputs)
    try:
        found = _program(operator, given, dtypes, n, get_num_threads())
    except TypeError:  # an attribute that cannot be hashed
        return None
    if found is None:
        return None
    program, names, outputs = found
    answers = program.run({name: x for name, x in zip(names, inputs) if name is not None})
    return None if answers is None else [answers[name] for name in outputs]


def _heavy(kind: str) -> None:
    """Register: native for large float32, else what was registered before, else the reference."""
    operator = find(kind)
    if operator is None:
        return
    otherwise: Kernel = KERNELS.get(kind) or operator.reference

    def run(inputs: list[Any], attributes: Mapping[str, Any], n: int) -> Sequence[Any]:
        x = inputs[0]
        if x.dtype is FLOAT32 and x.size >= LEAST:
            found = native(operator, inputs, attributes, n)
            if found is not None:
                return found
        return otherwise(inputs, attributes, n)

    KERNELS[kind] = run


def register() -> None:
    """Put native calls in front of the kernels that exist."""
    for kind in HEAVY:
        _heavy(kind)
