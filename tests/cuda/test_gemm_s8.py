"""Integer products: exact sums, and QGemm's bytes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from headrace.runtime.cuda import kernels
from headrace.runtime.cuda.kernels.requantize import Epilogue, fold_columns, pack_weights
from headrace.runtime.executor import run_node
from headrace.runtime.ops import find
from headrace.runtime.ops.quant._arithmetic import multiplier
from headrace.runtime.ops.quant.integer import levels

SHAPES = [(1, 1, 1), (3, 5, 7), (64, 64, 32), (130, 72, 49), (65, 129, 96)]


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
@pytest.mark.parametrize("shape", SHAPES)
def test_sums_are_exact(bench, rng, shape, dtype):
    m, n, k = shape
    a, w = levels(rng, (m, k), dtype), levels(rng, (k, n), "int8")
    packed, _ = pack_weights(w)
    expected = a.astype(np.int64) @ w.astype(np.int64)
    addresses = bench.up(a), bench.up(packed)
    out = bench.out((m, n), np.int32)
    kernels.gemm_s8(bench.device, dtype, *addresses, out.at, m, n, k, Epilogue("int32"), ldb=packed.shape[1])
    got = out.read()
    np.testing.assert_array_equal(got, expected)


def qgemm_epilogue(bench: Any, inputs: list[Any], attributes: dict[str, Any], sums: Any) -> Epilogue:
    """The epilogue that stands for a QGemm node: what the executor prepares from its constants."""
    _, x_scale, x_zp, w, w_scale, _, y_scale, y_zp, bias, r, r_scale, r_zp = (*inputs, *(None,) * 6)[:12]
    n = w.shape[1]
    scale = np.broadcast_to(multiplier(x_scale, w_scale, y_scale), (n,)).astype(np.float32)
    given: dict[str, Any] = {}
    if r is not None:
        factor = np.float32(r_scale) if y_scale is None else np.float32(r_scale) / np.float32(y_scale)
        given = {"r": bench.up(r), "ldr": n, "r_dtype": str(r.dtype), "r_zero": int(r_zp), "r_scale": float(factor)}
    return Epilogue(
        "float32" if y_scale is None else str(y_zp.dtype),
        col=bench.up(fold_columns(sums, w.shape[0], int(x_zp), None, bias)),
        scale=bench.up(scale),
        zero=0 if y_zp is None else int(y_zp),
        lo=0.0 if attributes.get("activation") == "Relu" else -np.inf,
        **given,
    )


def test_qgemm_gives_the_cpu_s_bytes(bench, rng):
    operator = find("QGemm", "headrace")
    assert operator is not None
    compared = 0
    for sample in operator.samples(rng):
        inputs, attributes = list(sample.inputs), dict(sample.attributes)
        x, w = inputs[0], inputs[3]
        (expected,) = run_node(operator, inputs, attributes)
        packed, sums = pack_weights(w)
        m, (k, n) = x.size // x.shape[-1], w.shape
        epilogue = qgemm_epilogue(bench, inputs, attributes, sums)
        addresses = bench.up(x), bench.up(packed)
        out = bench.out(expected.shape, expected.dtype)
        kernels.gemm_s8(bench.device, str(x.dtype), *addresses, out.at, m, n, k, epilogue, ldb=packed.shape[1])
        got = out.read()
        assert got.tobytes() == expected.tobytes()
        compared += expected.size
    assert compared > 300
