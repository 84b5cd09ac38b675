"""csrc/norm.cu and pool.cu against the operators' references."""

from __future__ import annotations

import numpy as np
import pytest

from headrace.runtime.cuda import kernels
from headrace.runtime.cuda.kernels.window import Window
from headrace.runtime.executor import run_node
from headrace.runtime.ops import find
from headrace.runtime.ops.nn._pooling import CASES, arranged

ROWS = [(1, 1), (3, 5), (2, 257), (5, 384), (4, 1000)]


def reference(name, inputs, attributes=None, outputs=1, domain=""):
    operator = find(name, domain)
    assert operator is not None
    return run_node(operator, inputs, attributes or {}, outputs)


@pytest.mark.parametrize("shape", ROWS)
def test_layer_norm(bench, rng, shape):
    rows, k = shape
    x, scale, bias = (rng.standard_normal(s).astype(np.float32) + 1 for s in (shape, k, k))
    outs = bench.out(shape, np.float32), bench.out(rows, np.float32), bench.out(rows, np.float32)
    addresses = [bench.up(v) for v in (x, scale, bias)]
    kernels.layer_norm(bench.device, *addresses, outs[0].at, rows, k, 1e-5, outs[1].at, outs[2].at)
    expected = reference("LayerNormalization", [x, scale, bias], {"epsilon": 1e-5}, 3)
    for out, wanted in zip(outs, expected):
        np.testing.assert_allclose(out.read().reshape(-1), wanted.reshape(-1), rtol=1e-5, atol=1e-5)
    kernels.layer_norm(bench.device, *addresses[:2], 0, outs[0].at, rows, k, 1e-5, centred=False)
    np.testing.assert_allclose(
        outs[0].read(), reference("RMSNormalization", [x, scale], {"epsilon": 1e-5})[0], rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("name", ["Softmax", "LogSoftmax"])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_softmax(bench, rng, name, axis):
    x = (rng.standard_normal((3, 300, 2)) * 20).astype(np.float32)
    x[0, :7, 0] = -np.inf
    out = bench.out(x.shape, np.float32)
    k, inner = x.shape[axis], int(np.prod(x.shape[axis + 1 :]))
    kernels.softmax(bench.device, bench.up(x), out.at, x.size // k, k, inner, name == "LogSoftmax")
    np.testing.assert_allclose(out.read(), reference(name, [x], {"axis": axis})[0], rtol=1e-5, atol=1e-6)


REDUCE = {
    "sum": "ReduceSum", "mean": "ReduceMean", "max": "ReduceMax", "min": "ReduceMin", "prod": "ReduceProd", "l1": "ReduceL1", "l2": "ReduceL2",
    "sum_square": "ReduceSumSquare",
}  # fmt: skip


@pytest.mark.parametrize("function", REDUCE)
def test_reduce(bench, rng, function):
    x = rng.uniform(0.5, 1.5, (3, 270, 2)).astype(np.float32) * rng.choice([-1, 1], (3, 270, 2)).astype(np.float32)
    for axes in ((1,), (2,), (1, 2), (0,)):
        k = int(np.prod([x.shape[axis] for axis in axes]))
        inner = int(np.prod(x.shape[axes[-1] + 1 :]))
        (expected,) = reference(REDUCE[function], [x, np.array(axes)], {"keepdims": 0})
        out = bench.out(expected.shape, np.float32)
        kernels.reduce(bench.device, function, bench.up(x), out.at, x.size // k, k, inner)
        np.testing.assert_allclose(out.read(), expected, rtol=2e-5, atol=1e-5)


def test_nan_wins(forward):
    x = np.array([[1, np.nan, 3], [4, 5, 6]], np.float32)
    for function, expected in (("max", [np.nan, 6]), ("min", [np.nan, 4])):
        out = forward.out(2, np.float32)
        kernels.reduce(forward.device, function, forward.up(x), out.at, 2, 3)
        np.testing.assert_array_equal(out.read(), np.array(expected, np.float32))


@pytest.mark.parametrize("name", ["ArgMax", "ArgMin"])
@pytest.mark.parametrize("last", [0, 1])
def test_arg_extreme(bench, rng, name, last):
    x = rng.integers(-3, 4, (3, 300, 2)).astype(np.float32)
    x[1, 40:50, 1] = np.nan
    for axis in range(3):
        k, inner = x.shape[axis], int(np.prod(x.shape[axis + 1 :]))
        (expected,) = reference(name, [x], {"axis": axis, "keepdims": 0, "select_last_index": last})
        out = bench.out(expected.shape, np.int64)
        kernels.arg_extreme(bench.device, bench.up(x), out.at, x.size // k, k, inner, name == "ArgMin", bool(last))
        np.testing.assert_array_equal(out.read(), expected)


@pytest.mark.parametrize("p", [1, 2])
def test_lp_normalize(forward, rng, p):
    x = rng.standard_normal((4, 5, 3)).astype(np.float32)
    x[1, :, 2] = 0
    out = forward.out(x.shape, np.float32)
    kernels.lp_normalize(forward.device, forward.up(x), out.at, 12, 5, 3, p)
    np.testing.assert_allclose(out.read(), reference("LpNormalization", [x], {"axis": 1, "p": p})[0], rtol=1e-6)


def test_batch_normalization(forward, rng):
    x = rng.standard_normal((2, 5, 4, 3)).astype(np.float32)
    scale, bias, mean, variance = (rng.uniform(0.5, 2, 5).astype(np.float32) for _ in range(4))
    factor = scale / np.sqrt(variance + np.float32(1e-5))
    out = forward.out(x.shape, np.float32)
    kernels.scale_shift(
        forward.device, forward.up(x), out.at, *(forward.up(v) for v in (mean, factor, bias)), x.size, 12, 5
    )
    np.testing.assert_array_equal(out.read(), reference("BatchNormalization", [x, scale, bias, mean, variance])[0])


@pytest.mark.parametrize("case", range(len(CASES)))
@pytest.mark.parametrize("last", [False, True])
def test_pools(forward, rng, case, last):
    shape, given = CASES[case]
    if len(shape) == 5:
        return
    for name, dtype, extra in (
        ("MaxPool", "float32", {}), ("MaxPool", "uint8", {}), ("MaxPool", "int8", {}),
        ("AveragePool", "float32", {"count_include_pad": 0}), ("AveragePool", "float32", {"count_include_pad": 1}),
    ):  # fmt: skip
        x = (
            (rng.standard_normal(shape) * 50).astype(np.float32)
            if dtype == "float32"
            else rng.integers(np.iinfo(dtype).min, np.iinfo(dtype).max, shape).astype(dtype)
        )
        operator = find(name)
        assert operator is not None
        attributes = operator.complete({**given, **extra})
        (expected,) = run_node(operator, [x], {**given, **extra})
        resolved, counts = arranged(attributes, shape[2:])
        window = Window.of(shape, shape[1], counts, resolved, x_last=last, y_last=last)
        x, expected = (np.ascontiguousarray(np.moveaxis(v, 1, -1)) if last else v for v in (x, expected))
        out = forward.out(expected.shape, dtype)
        if name == "MaxPool":
            kernels.max_pool(forward.device, dtype, forward.up(x), out.at, window)
            np.testing.assert_array_equal(out.read(), expected)
        else:
            kernels.average_pool(forward.device, forward.up(x), out.at, window, bool(extra["count_include_pad"]))
            np.testing.assert_allclose(out.read(), expected, rtol=1e-6, atol=1e-5)
