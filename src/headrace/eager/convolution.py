"""The gradient of a convolution's input: where the stride is 1, itself a convolution with the weights turned round."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from headrace.eager.registry import KERNELS
from headrace.runtime.ops import find


def input_grad(inputs: list[Any], attributes: Mapping[str, Any], n: int) -> Sequence[Any]:
    """dX [N, C, *sizes] from dY [N, M, *counts] and W [M, C, *kernel]."""
    dy, w, shape = inputs
    spatial = w.ndim - 2
    pads, strides = attributes["pads"] or (0,) * (2 * spatial), attributes["strides"] or (1,) * spatial
    dilations = attributes["dilations"] or (1,) * spatial
    around = [d * (k - 1) - p for d, k, p in zip(dilations * 2, w.shape[2:] * 2, pads)]
    whole = all(
        size == count + d * (k - 1) - before - after
        for size, count, d, k, before, after in zip(
            shape[2:].tolist(), dy.shape[2:], dilations, w.shape[2:], pads[:spatial], pads[spatial:]
        )
    )
    if (
        any(s != 1 for s in strides)
        or attributes["group"] != 1
        or attributes["auto_pad"] != "NOTSET"
        or min(around) < 0
        or not whole
    ):
        operator = find("ConvInputGrad", "headrace")
        assert operator is not None
        return operator.reference(inputs, attributes, n)
    turned = np.ascontiguousarray(np.flip(w, tuple(range(2, w.ndim))).swapaxes(0, 1))
    conv = find("Conv")
    assert conv is not None
    full = conv.complete(
        {"pads": tuple(around), "strides": strides, "dilations": dilations, "kernel_shape": w.shape[2:]}
    )
    return KERNELS["Conv"]([dy, turned], full, 1) if "Conv" in KERNELS else conv.reference([dy, turned], full, 1)


KERNELS["headrace.ConvInputGrad"] = input_grad
