"""csrc/quant.cu: the reference's bytes."""

from __future__ import annotations

import numpy as np
import pytest

from headrace.runtime.cuda import kernels
from headrace.runtime.executor import run_node
from headrace.runtime.ops import find

KINDS = {"DynamicQuantizeLinear": "", "DynamicQuantizeRows": "headrace"}


def per_channel(x, scale, attributes):
    """(inner, channels) of a scale that lies along an axis, or of one number."""
    if scale.size == 1:
        return 1, 1
    axis = attributes["axis"] % x.ndim
    return int(np.prod(x.shape[axis + 1 :])), scale.size


@pytest.mark.parametrize("name", ["QuantizeLinear", "DequantizeLinear"])
def test_linear(forward, rng, name):
    operator = find(name)
    assert operator is not None
    compared = 0
    for sample in operator.samples(rng):
        attributes = operator.complete(sample.attributes)
        x, scale, zero = (*sample.inputs, None)[:3]
        (expected,) = run_node(operator, sample.inputs, sample.attributes)
        narrow = str(expected.dtype if name == "QuantizeLinear" else x.dtype)
        if attributes["block_size"] or narrow not in (
            "uint8",
            "int8",
            *(["int32"] if name == "DequantizeLinear" else []),
        ):
            continue
        inner, channels = per_channel(x, scale, attributes)
        addresses = forward.up(x), forward.up(scale), 0 if zero is None else forward.up(zero)
        out = forward.out(expected.shape, expected.dtype)
        launch = kernels.quantize if name == "QuantizeLinear" else kernels.dequantize
        launch(forward.device, narrow, addresses[0], out.at, *addresses[1:], x.size, inner, channels)
        assert out.read().tobytes() == expected.tobytes()
        compared += 1
    assert compared >= 12


def test_extremes_are_saturated(forward):
    x = np.array([np.nan, np.inf, -np.inf, 1e30, -1e30, 0.5, 1.5, 2.5, -0.5, -1.5, 127.5, -128.5], np.float32)
    for zero in (np.int8(0), np.int8(-100), np.uint8(0), np.uint8(200)):
        operator = find("QuantizeLinear")
        assert operator is not None
        one = np.float32(1)
        (expected,) = run_node(operator, [x, np.asarray(one), np.asarray(zero)], {})
        out = forward.out(x.shape, zero.dtype)
        kernels.quantize(
            forward.device, str(zero.dtype), forward.up(x), out.at, forward.up(one), forward.up(zero), x.size
        )
        np.testing.assert_array_equal(out.read(), expected)


@pytest.mark.parametrize("name", KINDS)
def test_dynamic(bench, rng, name):
    operator = find(name, KINDS[name])
    assert operator is not None
    for sample in operator.samples(rng):
        (x,) = sample.inputs
        q, scale, zero = run_node(operator, [x], {}, 3)
        rows = 1 if name == "DynamicQuantizeLinear" else int(np.prod(x.shape[:-1]))
        outs = (
            bench.out(q.shape, np.uint8),
            bench.out(scale.shape, np.float32),
            bench.out(zero.shape, np.uint8),
            bench.out((rows,), np.int32),
        )
        kernels.quantize_rows(bench.device, bench.up(x), *(out.at for out in outs), rows, x.size // max(rows, 1))
        for out, expected in zip(outs, (q, scale, zero, -zero.reshape(-1).astype(np.int32))):
            assert out.read().tobytes() == expected.tobytes()


def test_qadd(forward, rng):
    operator = find("QAdd", "headrace")
    assert operator is not None
    for sample in operator.samples(rng):
        a, a_scale, a_zp, b, b_scale, b_zp, y_scale, y_zp = sample.inputs
        attributes = operator.complete(sample.attributes)
        (expected,) = run_node(operator, sample.inputs, sample.attributes)
        units = np.float32(y_scale)
        sides = [
            kernels.Levels(forward.up(side), side.shape, str(side.dtype), int(zp), float(np.float32(scale) / units))
            for side, scale, zp in ((a, a_scale, a_zp), (b, b_scale, b_zp))
        ]
        lo = 0.0 if attributes["activation"] else -np.inf
        hi = float(np.float32(attributes["clip_max"]) / units) if attributes["activation"] == "Clip" else np.inf
        out = forward.out(expected.shape, expected.dtype)
        kernels.add_levels(forward.device, *sides, out.at, str(y_zp.dtype), int(y_zp), lo, hi)
        assert out.read().tobytes() == expected.tobytes()


def test_qlookup(forward, rng):
    operator = find("QLookup", "headrace")
    assert operator is not None
    for x, table in (sample.inputs for sample in operator.samples(rng)):
        out = forward.out(x.shape, table.dtype)
        kernels.lookup(forward.device, forward.up(x), forward.up(table), out.at, x.size)
        assert out.read().tobytes() == table[x.view(np.uint8)].tobytes()
