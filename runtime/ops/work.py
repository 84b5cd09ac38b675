"""How much arithmetic the heavy operators do: what `Operator.flops` answers for each family.

From sizes alone, and so that it holds for every layout of the data (channels first or last) and for fused forms: a
convolution counts its outputs and its weights, never the axis where channels lie.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

Sizes = tuple[int, ...]
Flops = Any  # a function that becomes the method `flops` of a class; mypy does not bind a Callable there


def product(a: int = 0, b: int = 1) -> Flops:
    """Matrix product of inputs `a` and `b`, either of them transposed or not: 2 M N K for every matrix of the output."""

    def flops(self: Any, inputs: Sequence[Sizes | None], outputs: Sequence[Sizes | None]) -> int | None:
        left, right, out = inputs[a], inputs[b], outputs[0]
        if not left or not right or out is None:
            return None
        if len(left) == 1 or len(right) == 1:
            inner = left[-1]
        else:
            inner = left[-1] * left[-2] // out[-2] if out[-2] else 0
        return 2 * math.prod(out) * inner

    return flops


def convolution(weight: int = 1) -> Flops:
    """Each output element takes a multiply-add for every weight of its channel; weights [M, C / group, *kernel]."""

    def flops(self: Any, inputs: Sequence[Sizes | None], outputs: Sequence[Sizes | None]) -> int | None:
        w, out = inputs[weight], outputs[0]
        return None if not w or out is None else 2 * math.prod(out) * math.prod(w[1:])

    return flops


def transposed_convolution() -> Flops:
    """Each input element takes a multiply-add for every weight of its channel; weights [C, M / group, *kernel]."""

    def flops(self: Any, inputs: Sequence[Sizes | None], outputs: Sequence[Sizes | None]) -> int | None:
        x, w = inputs[0], inputs[1]
        return None if x is None or not w else 2 * math.prod(x) * math.prod(w[1:])

    return flops


def attention() -> Flops:
    """q k' and scores v over the whole length of the keys, cache included; a causal mask is not taken off."""

    def flops(self: Any, inputs: Sequence[Sizes | None], outputs: Sequence[Sizes | None]) -> int | None:
        q, k, out = inputs[0], inputs[1], outputs[0]
        if q is None or k is None or out is None:
            return None
        past = inputs[4] if len(inputs) > 4 else None
        length = k[-2] + (past[-2] if past else 0)
        return 2 * length * (math.prod(q) + math.prod(out))

    return flops


def recurrence() -> Flops:
    """Every step of every row multiplies with W and R of each direction; X [steps, rows, size] or [rows, steps, size]."""

    def flops(self: Any, inputs: Sequence[Sizes | None], outputs: Sequence[Sizes | None]) -> int | None:
        x, w, r = inputs[:3]
        return None if not x or w is None or r is None else 2 * x[0] * x[1] * (math.prod(w) + math.prod(r))

    return flops
