"""csrc/gemm_f32.cu and conv_f32.cu against the operators' references."""

from __future__ import annotations

import numpy as np
import pytest

from headrace.runtime.cuda import kernels
from headrace.runtime.cuda.kernels.window import Window
from headrace.runtime.executor import run_node
from headrace.runtime.ops import find
from headrace.runtime.ops.nn.conv import CASES, window_of
from headrace.runtime.ops.nn.conv_transpose import transposed_sizes


def real(rng, *shape):
    return rng.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ((3, 5), (5, 7)), ((1, 1), (1, 1)), ((66, 33), (33, 65)), ((2, 3, 4, 9), (2, 3, 9, 5)), ((2, 1, 4, 9), (3, 9, 5)),
        ((2, 3, 1, 4, 6), (5, 6, 3)), ((0, 4), (4, 3)), ((4, 0), (0, 3)),
    ],
)  # fmt: skip
def test_batches_broadcast(bench, rng, a, b):
    x, y = real(rng, *a), real(rng, *b)
    expected = x @ y
    out = bench.out(expected.shape, np.float32)
    kernels.gemm_f32(bench.device, bench.up(x), bench.up(y), out.at, a, b)
    np.testing.assert_allclose(out.read(), expected, rtol=2e-5, atol=2e-5)


def test_fused_matmul(forward, rng):
    operator = find("FusedMatMul", "headrace")
    assert operator is not None
    functions = {
        "": "identity",
        "Relu": "relu",
        "Gelu": "gelu",
        "Sigmoid": "sigmoid",
        "Tanh": "tanh",
        "Silu": "swish",
        "GeluTanh": "gelu_tanh",
        "HardSwish": "hard_swish",
    }
    compared = 0
    for sample in operator.samples(rng):
        a, b, bias, r = (*sample.inputs, None, None)[:4]
        given = operator.complete(sample.attributes)
        if a.dtype != np.float32 or min(a.ndim, b.ndim) < 2 or given["activation"] not in functions:
            continue
        (expected,) = run_node(operator, sample.inputs, sample.attributes)
        out = forward.out(expected.shape, np.float32)
        extra = {} if bias is None else {"bias": forward.up(bias), "bias_size": bias.size}
        extra |= {} if r is None else {"r": forward.up(r), "r_shape": r.shape}
        kernels.gemm_f32(
            forward.device, forward.up(a), forward.up(b), out.at, a.shape, b.shape, trans_a=bool(given["transA"]), trans_b=bool(given["transB"]),
            alpha=given["alpha"], function=functions[given["activation"]], f_a=1.0, **extra,
        )  # fmt: skip
        np.testing.assert_allclose(out.read(), expected, rtol=2e-5, atol=2e-5)
        compared += 1
    assert compared >= 4


def test_gemm_with_beta(forward, rng):
    a, b, c = real(rng, 7, 4), real(rng, 5, 7), real(rng, 4, 1)
    out = forward.out((4, 5), np.float32)
    kernels.gemm_f32(
        forward.device,
        forward.up(a),
        forward.up(b),
        out.at,
        a.shape,
        b.shape,
        trans_a=True,
        trans_b=True,
        alpha=0.5,
        r=forward.up(c),
        r_shape=c.shape,
        beta=2.0,
    )
    np.testing.assert_allclose(out.read(), 0.5 * (a.T @ b.T) + 2 * c, rtol=2e-5, atol=2e-5)


def test_what_a_product_cannot_be(forward):
    with pytest.raises(ValueError, match="depths 4 and 5 differ"):
        kernels.gemm_f32(forward.device, 0, 0, 0, (3, 4), (5, 6))
    with pytest.raises(ValueError, match="need 4 dimensions after merging; allowed: 3"):
        kernels.gemm_f32(forward.device, 0, 0, 0, (2, 1, 2, 1, 3, 4), (1, 2, 1, 2, 4, 3))


@pytest.mark.parametrize("case", range(len(CASES)))
@pytest.mark.parametrize("last", [False, True])
def test_conv(forward, rng, case, last):
    x_shape, w_shape, given = CASES[case][:3]
    operator = find("Conv")
    assert operator is not None
    x, w, bias = real(rng, *x_shape), real(rng, *w_shape), real(rng, w_shape[0])
    (expected,) = run_node(operator, [x, w, bias], given)
    attributes = operator.complete(given)
    if len(x_shape) == 5:
        with pytest.raises(ValueError, match="windows over 3 axes; allowed: 1 or 2"):
            Window.of(x_shape, w_shape[0], expected.shape[2:], window_of(attributes, w_shape).resolve(x_shape[2:]))
        return
    window = Window.of(
        x_shape,
        w_shape[0],
        expected.shape[2:],
        window_of(attributes, w_shape).resolve(x_shape[2:]),
        attributes["group"],
        x_last=last,
        y_last=last,
    )
    r = real(rng, *expected.shape)
    wanted = np.maximum(expected + r, 0)
    turned = [np.ascontiguousarray(np.moveaxis(v, 1, -1)) if last else v for v in (x, r, wanted)]
    out = forward.out(turned[2].shape, np.float32)
    kernels.conv_f32(
        forward.device,
        forward.up(turned[0]),
        forward.up(w),
        forward.up(bias),
        forward.up(turned[1]),
        out.at,
        window,
        "relu",
    )
    np.testing.assert_allclose(out.read(), turned[2], rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("last", [False, True])
def test_conv_transpose(forward, rng, last):
    operator = find("ConvTranspose")
    assert operator is not None
    compared = 0
    for sample in operator.samples(rng):
        x, w, bias = (*sample.inputs, None)[:3]
        if x.dtype != np.float32 or x.ndim > 4:
            continue
        attributes = operator.complete(sample.attributes)
        (expected,) = run_node(operator, sample.inputs, sample.attributes)
        sizes, window = transposed_sizes(x.shape[2:], w.shape[2:], attributes)
        geometry = Window.of(x.shape, expected.shape[1], sizes, window, attributes["group"], x_last=last, y_last=last)
        turned = [np.ascontiguousarray(np.moveaxis(v, 1, -1)) if last else v for v in (x, expected)]
        out = forward.out(turned[1].shape, np.float32)
        at = 0 if bias is None else forward.up(bias)
        kernels.conv_transpose_f32(forward.device, forward.up(turned[0]), forward.up(w), at, out.at, geometry)
        np.testing.assert_allclose(out.read(), turned[1], rtol=2e-5, atol=2e-5)
        compared += 1
    assert compared >= 4


def test_a_window_of_too_many_pixels():
    with pytest.raises(ValueError, match=r"output pixels; allowed: below 2\^31"):
        Window(70000, 1, (200, 200), 1, (200, 200), (1, 1))
