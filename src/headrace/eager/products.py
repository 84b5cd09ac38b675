"""Products of matrices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from headrace.eager.registry import kernel


@kernel("Gemm")
def gemm(inputs: list[Any], attributes: Mapping[str, Any], n: int) -> Sequence[Any]:
    a, b = inputs[0], inputs[1]
    if attributes["transA"]:
        a = a.T
    if attributes["transB"]:
        b = b.T
    if a.dtype.itemsize == 2:
        return _gemm_narrow(a, b, inputs, attributes)
    y = a @ b
    if attributes["alpha"] != 1.0:
        y = (y * attributes["alpha"]).astype(a.dtype, copy=False)
    if len(inputs) > 2 and inputs[2] is not None:
        beta = attributes["beta"]
        c = inputs[2] if beta == 1.0 else (inputs[2] * beta).astype(a.dtype, copy=False)
        y = np.add(y, c, out=y) if y.ndim == 2 else y + c
    return (y,)


def _gemm_narrow(a: Any, b: Any, inputs: list[Any], attributes: Mapping[str, Any]) -> Sequence[Any]:
    y = attributes["alpha"] * (a.astype(np.float32) @ b.astype(np.float32))
    if len(inputs) > 2 and inputs[2] is not None:
        y = y + attributes["beta"] * inputs[2].astype(np.float32)
    return (y.astype(a.dtype),)


@kernel("MatMul")
def matmul(inputs: list[Any], attributes: Mapping[str, Any], n: int) -> Sequence[Any]:
    a, b = inputs
    if a.dtype.itemsize == 2 and a.dtype.kind in "fV":
        return (np.matmul(a.astype(np.float32), b.astype(np.float32)).astype(a.dtype),)
    return (np.matmul(a, b),)
