"""f32 matrix products: against NumPy in float64, odd shapes, batch and thread invariance by bytes, special values."""

from __future__ import annotations

import numpy as np
import pytest
from one_kernel import run

RNG = np.random.default_rng(7)
SIZES = [1, 2, 3, 5, 6, 7, 8, 13, 15, 16, 17, 24, 25, 31, 32, 33, 48, 65]


def array(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def close(got: np.ndarray, want: np.ndarray, depth: int) -> None:
    assert got.shape == want.shape and got.dtype == np.float32
    np.testing.assert_allclose(got, want, rtol=0, atol=2e-6 * max(1, depth) ** 0.5 * 4 + 1e-6)


@pytest.mark.parametrize("constant", [False, True])
def test_products_of_every_odd_size(tier: str, constant: bool) -> None:
    for i, m in enumerate(SIZES):
        n, k = SIZES[(i * 7 + 3) % len(SIZES)], SIZES[(i * 5 + 1) % len(SIZES)]
        a, b = array(m, k), array(k, n)
        close(run("MatMul", [a, b], constants=[1] if constant else []), a.astype(float) @ b, k)


@pytest.mark.parametrize("k", [0, 1, 255, 256, 257, 511, 700, 1025])
def test_depths_around_the_blocking(tier: str, k: int) -> None:
    for m, n in ((1, 70), (2, 33), (9, 17), (50, 40)):
        a, b = array(m, k), array(k, n)
        for constants in ([], [1]):
            close(run("MatMul", [a, b], constants=constants), a.astype(float) @ b, k)


@pytest.mark.parametrize(
    "shapes",
    [
        ((3,), (3,)),
        ((3,), (3, 4)),
        ((4, 3), (3,)),
        ((2, 5, 3), (3, 4)),
        ((2, 5, 3), (2, 3, 4)),
        ((7, 1, 5, 3), (2, 3, 4)),
        ((5, 3), (6, 3, 4)),
        ((3,), (2, 3, 4)),
        ((2, 0, 3), (3, 4)),
        ((0, 5, 3), (0, 3, 4)),
        ((2, 1, 20, 64), (2, 3, 64, 20)),
    ],
)
def test_batches_broadcast(tier: str, shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    a, b = (array(*shape) for shape in shapes)
    want = np.matmul(a.astype(float), b)
    for constants in ([], [1]):
        close(run("MatMul", [a, b], constants=constants, threads=2), want, a.shape[-1])


@pytest.mark.parametrize("trans_a", [0, 1])
@pytest.mark.parametrize("trans_b", [0, 1])
@pytest.mark.parametrize("c_shape", [None, (), (1,), (17,), (1, 17), (9, 1), (9, 17)])
def test_gemm(tier: str, trans_a: int, trans_b: int, c_shape: tuple[int, ...] | None) -> None:
    a, b = array(*((30, 9) if trans_a else (9, 30))), array(*((17, 30) if trans_b else (30, 17)))
    c = None if c_shape is None else array(*c_shape)
    want = 0.5 * ((a.T if trans_a else a).astype(float) @ (b.T if trans_b else b)) + (0 if c is None else -1.5 * c)
    attributes = {"transA": trans_a, "transB": trans_b, "alpha": 0.5, "beta": -1.5}
    for constants in ([], [1], [1, 2]):
        given = [i for i in constants if i < 2 or c is not None]
        close(run("Gemm", [a, b, c], attributes, constants=given), want, 30)


ACTIVATIONS = {
    "": lambda x: x,
    "Relu": lambda x: np.maximum(x, 0),
    "Clip": lambda x: np.clip(x, -0.5, 1.25),
    "Sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "Tanh": np.tanh,
    "Silu": lambda x: x / (1 + np.exp(-x)),
    "HardSwish": lambda x: x * np.clip(x / 6 + 0.5, 0, 1),
    "HardSigmoid": lambda x: np.clip(0.2 * x + 0.5, 0, 1),
    "LeakyRelu": lambda x: np.where(x < 0, 0.01 * x, x),
    "Gelu": lambda x: 0.5 * x * (1 + np.vectorize(__import__("math").erf)(x / 2**0.5)),
}


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_fused_products(tier: str, activation: str) -> None:
    attributes = {"activation": activation, "clip_min": -0.5, "clip_max": 1.25, "transB": 1}
    a, b, bias, r = array(2, 19, 40), array(35, 40), array(35), array(2, 19, 35)
    for given in ([bias, None], [None, r], [bias, r], [r, bias], [None, None]):
        total = a.astype(float) @ b.T + sum(x for x in given if x is not None)
        close(
            run("headrace.FusedMatMul", [a, b, *given], attributes, constants=[1]), ACTIVATIONS[activation](total), 40
        )


@pytest.mark.parametrize("activation", [name for name in ACTIVATIONS if name])
def test_activations_are_accurate_everywhere(tier: str, activation: str) -> None:
    """Through a product with the identity, over the whole range of f32."""
    x = np.concatenate(
        [
            np.linspace(-110, 110, 4001),
            RNG.standard_normal(3000),
            np.geomspace(1e-30, 1e30, 400),
            -np.geomspace(1e-30, 1e30, 400),
        ]
    ).astype(np.float32)
    x = x[: len(x) // 2 * 2].reshape(-1, 1)
    got = run(
        "headrace.FusedMatMul",
        [x, np.ones((1, 1), np.float32)],
        {"activation": activation, "clip_min": -0.5, "clip_max": 1.25},
    )
    with np.errstate(over="ignore"):
        want = ACTIVATIONS[activation](x.astype(float))
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=3e-7)


def test_special_values_pass_through(tier: str) -> None:
    x = np.array([[np.nan, np.inf, -np.inf, 0, -0.0]], np.float32).T
    one = np.ones((1, 1), np.float32)
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(run("headrace.FusedMatMul", [x, one], {"activation": "Relu"}), np.maximum(x, 0))
        for name, want in {"Sigmoid": [np.nan, 1, 0, 0.5, 0.5], "Tanh": [np.nan, 1, -1, 0, 0]}.items():
            np.testing.assert_array_equal(
                run("headrace.FusedMatMul", [x, one], {"activation": name})[:, 0], np.float32(want)
            )
    a = array(20, 40)
    a[3, 5], a[7, 1] = np.nan, np.inf
    got = run("MatMul", [a, array(40, 20)])
    assert np.isnan(got[3]).all() and np.isinf(got[7]).all() and np.isfinite(np.delete(got, [3, 7], 0)).all()


@pytest.mark.parametrize("n, k", [(1, 700), (15, 64), (16, 300), (100, 1024), (64, 1), (257, 513)])
@pytest.mark.parametrize("constant", [False, True])
def test_a_row_has_the_same_bytes_in_every_batch(tier: str, n: int, k: int, constant: bool) -> None:
    a, b = array(75, k), array(k, n)
    options = {"constants": [1] if constant else []}
    whole = run("MatMul", [a, b], **options)
    for start, rows in ((0, 1), (74, 1), (10, 2), (3, 3), (1, 4), (20, 5), (33, 7), (5, 50)):
        part = run("MatMul", [a[start : start + rows], b], **options)
        assert part.tobytes() == whole[start : start + rows].tobytes(), (start, rows)
    batched = run("MatMul", [a.reshape(15, 5, k), b], **options)
    assert batched.tobytes() == whole.tobytes()
    assert run("MatMul", [a, b], threads=2, **options).tobytes() == whole.tobytes()


# rows by columns: few rows, weights that are dear to read, both, sizes that no number of threads divides
@pytest.mark.parametrize(
    "m, n, k", [(2, 3000, 70), (49, 320, 960), (130, 700, 330), (196, 576, 96), (1500, 40, 33), (97, 97, 97)]
)
@pytest.mark.parametrize("threads", [2, 3, 7, 16])
def test_however_work_is_cut_the_bits_are_the_same(m: int, n: int, k: int, threads: int) -> None:
    a, b = array(m, k), array(k, n)
    options = {"constants": [1]}
    want = run("MatMul", [a, b], **options)
    close(want, a.astype(float) @ b, k)
    assert run("MatMul", [a, b], threads=threads, **options).tobytes() == want.tobytes()


def test_packing_ahead_changes_no_bit(tier: str) -> None:
    for m in (1, 6, 40):
        a, b = array(m, 600), array(600, 50)
        want = run("MatMul", [a, b])
        assert run("MatMul", [a, b], constants=[1]).tobytes() == want.tobytes()
        assert run("Gemm", [a, np.ascontiguousarray(b.T)], {"transB": 1}).tobytes() == want.tobytes()
        assert run("Gemm", [np.ascontiguousarray(a.T), b], {"transA": 1}).tobytes() == want.tobytes()


def test_wrong_shapes_are_refused(tier: str) -> None:
    with pytest.raises(Exception, match="cannot multiply"):
        run("MatMul", [array(3, 4), array(5, 6)])
    with pytest.raises(Exception, match="do not broadcast"):
        run("MatMul", [array(2, 3, 4), array(3, 4, 6)])
