"""Integer products: exact sums, and QGemm's bytes, by dp4a and by tensor cores."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from headrace.runtime.cuda import kernels
from headrace.runtime.cuda.kernels.gemm import TILES, choose_tile
from headrace.runtime.cuda.kernels.requantize import Epilogue, fold_columns, pack_weights
from headrace.runtime.executor import run_node
from headrace.runtime.ops import find
from headrace.runtime.ops.quant._arithmetic import multiplier
from headrace.runtime.ops.quant.integer import levels

SHAPES = [(1, 1, 1), (3, 5, 7), (64, 64, 64), (130, 72, 49), (65, 129, 208), (7, 40, 400)]


def padded_rows(a: Any, multiple: int = 16) -> Any:
    """A copy whose rows begin at multiples of 16 bytes; what lies between them is not to be read."""
    out = np.full((a.shape[0], -(-a.shape[1] // multiple) * multiple), 0x55, a.dtype)
    out[:, : a.shape[1]] = a
    return out


@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize("dtype", ["uint8", "int8"])
def test_sums_are_exact(bench, rng, dtype, tile):
    for m, n, k in SHAPES:
        a, w = levels(rng, (m, k), dtype), levels(rng, (k, n), "int8")
        rows, columns = padded_rows(a), padded_rows(np.ascontiguousarray(w.T))
        out = bench.out((m, n), np.int32)
        kernels.gemm_s8(
            bench.device, dtype, bench.up(rows), bench.up(columns), out.at, m, n, k, Epilogue("int32"),
            lda=rows.shape[1], ldb=columns.shape[1], tile=tile,
        )  # fmt: skip
        np.testing.assert_array_equal(out.read(), a.astype(np.int64) @ w.astype(np.int64))


@pytest.mark.parametrize("tile", ["dp4a", "mma64"])
def test_a_batch_of_matrices(forward, rng, tile):
    a, b = levels(rng, (3, 5, 32), "int8"), levels(rng, (3, 9, 32), "int8")
    out = forward.out((3, 5, 9), np.int32)
    kernels.gemm_s8(
        forward.device, "int8", forward.up(a), forward.up(b), out.at, 5, 9, 32, Epilogue("int32"), batch=3,
        strides=(5 * 32, 9 * 32, 5 * 9), tile=tile,
    )  # fmt: skip
    np.testing.assert_array_equal(out.read(), a.astype(int) @ b.astype(int).swapaxes(1, 2))


def qgemm_epilogue(bench: Any, inputs: list[Any], attributes: dict[str, Any], sums: Any) -> Epilogue:
    """The epilogue that stands for a QGemm node: what an executor prepares from its constants."""
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


@pytest.mark.parametrize("tile", ["dp4a", "mma64"])
def test_qgemm_gives_the_cpu_s_bytes(bench, rng, tile):
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
        rows = padded_rows(x.reshape(m, k))
        out = bench.out(expected.shape, expected.dtype)
        kernels.gemm_s8(
            bench.device, str(x.dtype), bench.up(rows), bench.up(packed), out.at, m, n, k, epilogue, lda=rows.shape[1],
            ldb=packed.shape[1], tile=tile,
        )  # fmt: skip
        assert out.read().tobytes() == expected.tobytes()
        compared += expected.size
    assert compared > 300


def test_zero_points_of_rows_and_weights(forward, rng):
    """MatMulInteger with a zero point a column, and one a row of A, through row_sums and row_shift."""
    m, n, k = 9, 11, 37
    a, w = levels(rng, (m, k), "uint8"), levels(rng, (k, n), "int8")
    w_zero, a_zero = rng.integers(-9, 9, n).astype(np.int32), rng.integers(0, 255, m).astype(np.int32)
    packed, sums = pack_weights(w)
    a_at, w_at, sums_at = forward.up(a), forward.up(packed), forward.out((m,), np.int32)
    kernels.row_sums(forward.device, "uint8", a_at, sums_at.at, m, k)
    np.testing.assert_array_equal(sums_at.read(), a.sum(1, dtype=int))
    out = forward.out((m, n), np.int32)
    epilogue = Epilogue(
        "int32",
        w_zero=forward.up(w_zero),
        row_sum=sums_at.at,
        row_shift=forward.up(-a_zero),
        col_sum=forward.up(sums - k * w_zero),
    )
    kernels.gemm_s8(forward.device, "uint8", a_at, w_at, out.at, m, n, k, epilogue, ldb=packed.shape[1])
    np.testing.assert_array_equal(out.read(), (a.astype(int) - a_zero[:, None]) @ (w.astype(int) - w_zero))


@pytest.mark.parametrize("tile", ["dp4a", "mma64"])
def test_dynamic_matmul(forward, rng, tile):
    """Rows quantized on the device, then (sum * row scale) * column scale + bias, GELU: DynamicMatMul of the CPU, bits but
    for the activation."""
    operator = find("DynamicMatMul", "headrace")
    assert operator is not None
    m, n, k = 5, 19, 48
    x, w = rng.standard_normal((m, k)).astype(np.float32), levels(rng, (k, n), "int8")
    scale, bias = rng.uniform(0.001, 0.1, n).astype(np.float32), rng.standard_normal(n).astype(np.float32)
    packed, sums = pack_weights(w)
    q, row_scale, shift = forward.out((m, k), np.uint8), forward.out((m,), np.float32), forward.out((m,), np.int32)
    kernels.quantize_rows(forward.device, forward.up(x), q.at, row_scale.at, 0, shift.at, m, k)
    for function, attributes in (("identity", {}), ("gelu", {"activation": "Gelu"})):
        out = forward.out((m, n), np.float32)
        epilogue = Epilogue(
            "float32",
            scale=forward.up(scale),
            bias=forward.up(bias),
            row_scale=row_scale.at,
            row_shift=shift.at,
            col_sum=forward.up(sums),
            function=function,
        )
        kernels.gemm_s8(
            forward.device, "uint8", q.at, forward.up(packed), out.at, m, n, k, epilogue, ldb=packed.shape[1], tile=tile
        )
        (expected,) = run_node(operator, [x, w, scale, bias], attributes)
        np.testing.assert_allclose(
            out.read(), expected, rtol=0 if not attributes else 1e-5, atol=0 if not attributes else 1e-5
        )


def test_tiles_are_chosen_by_alignment_and_size():
    assert choose_tile(64, 64, 0x100, 32) == "mma64"
    assert choose_tile(4096, 4096, 0x100, 32) == "mma128"
    assert choose_tile(4096, 4096, 0x108, 32) == "dp4a"
