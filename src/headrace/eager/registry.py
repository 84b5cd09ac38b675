"""The table of kernels: operator kind -> function of (inputs, attributes, number of outputs)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

Kernel = Callable[[list[Any], Mapping[str, Any], int], Sequence[Any]]
KERNELS: dict[str, Kernel] = {}

# Operators whose result shows the memory of input 0.
VIEWS = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Expand", "Slice", "Split", "Identity"})

WIDE = (np.dtype(np.float32), np.dtype(np.float64))


def kernel(kind: str) -> Callable[[Kernel], Kernel]:
    """Register a kernel."""

    def register(function: Kernel) -> Kernel:
        KERNELS[kind] = function
        return function

    return register


def wide_only(kind: str, function: Kernel) -> None:
    """Register a kernel of float32 and float64; other element types go to the operator's reference."""
    reference: list[Kernel] = []

    def run(inputs: list[Any], attributes: Mapping[str, Any], n: int) -> Sequence[Any]:
        if inputs[0].dtype in WIDE:
            return function(inputs, attributes, n)
        if not reference:
            from headrace.runtime.ops import find

            domain, _, name = kind.rpartition(".")
            operator = find(name, domain)
            assert operator is not None
            reference.append(operator.reference)
        return reference[0](inputs, attributes, n)

    KERNELS[kind] = run
