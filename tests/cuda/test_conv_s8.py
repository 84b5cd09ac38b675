"""csrc/conv_s8.cu: QConv's bytes, in both layouts, on every kernel that fits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from headrace.runtime.cuda import kernels
from headrace.runtime.cuda.kernels.requantize import Epilogue, fold_columns
from headrace.runtime.cuda.kernels.window import OUTSIDE, Window, pack_conv_weights
from headrace.runtime.executor import run_node
from headrace.runtime.ops import find
from headrace.runtime.ops.base import Sample
from headrace.runtime.ops.nn.conv import window_of
from headrace.runtime.ops.quant._arithmetic import multiplier
from headrace.runtime.ops.quant.integer import levels, number, scale


def wide_samples(rng: np.random.Generator) -> list[Sample]:
    """Channels that tensor cores take, in one group and in two, with padding and strides."""
    found = []
    for x, w, given in (
        ((2, 16, 5, 6), (7, 16, 3, 3), {"pads": (1, 1, 1, 1)}),
        ((1, 32, 7, 7), (20, 16, 3, 2), {"group": 2, "strides": (2, 2), "pads": (0, 1, 1, 0)}),
        ((1, 48, 4, 9), (70, 48, 1, 1), {}),
        ((3, 16, 6, 5), (16, 16, 2, 2), {"dilations": (2, 2)}),
    ):
        for kind in ("uint8", "int8"):
            features = w[0]
            inputs = [
                levels(rng, x, kind), scale(0.05), number(93 if kind == "uint8" else -7, kind), levels(rng, w, "int8"),
                rng.uniform(0.001, 0.02, features).astype(np.float32), np.zeros(features, np.int8), scale(2.0), number(2, kind),
                rng.integers(-500, 500, features).astype(np.int32),
            ]  # fmt: skip
            found.append(Sample(inputs, {**given, "activation": "Relu"}))
    return found


def moved(array: Any, last: bool) -> Any:
    return np.ascontiguousarray(np.moveaxis(array, 1, -1)) if last else array


def run(bench: Any, sample: Sample, last: bool, tile: str) -> tuple[Any, Any]:
    """(the device's answer, the reference's)."""
    operator = find("QConv", "headrace")
    assert operator is not None
    (expected,) = run_node(operator, sample.inputs, sample.attributes)
    attributes = operator.complete(sample.attributes)
    x, x_scale, x_zp, w, w_scale, _, y_scale, y_zp, bias, r, r_scale, r_zp = (*sample.inputs, None, None, None)[:12]
    features, group = w.shape[0], attributes["group"]
    window = Window.of(
        x.shape,
        features,
        expected.shape[2:],
        window_of(attributes, w.shape).resolve(x.shape[2:]),
        group,
        x_last=last,
        y_last=last,
    )
    units = np.float32(y_scale)
    given: dict[str, Any] = {"out": str(y_zp.dtype), "zero": int(y_zp)}
    given["scale"] = bench.up(np.broadcast_to(multiplier(x_scale, w_scale, y_scale), (features,)).astype(np.float32))
    if attributes["activation"]:
        given["lo"] = 0.0
    if attributes["activation"] == "Clip":
        given["hi"] = float(np.float32(attributes["clip_max"]) / units)
    if r is not None:
        given |= {
            "r": bench.up(moved(r, last)),
            "r_dtype": str(r.dtype),
            "r_zero": int(r_zp),
            "r_scale": float(np.float32(r_scale) / units),
        }
    out = bench.out(moved(expected, last).shape, expected.dtype)
    x_at = bench.up(moved(x, last))
    if tile == "depthwise":
        taps = np.ascontiguousarray(w.reshape(features, -1).T)
        kernels.conv_depthwise_s8(
            bench.device,
            str(x.dtype),
            x_at,
            bench.up(taps),
            out.at,
            int(x_zp),
            window,
            Epilogue(**given, col=bench.up(bias)),
        )
    else:
        packed, sums = pack_conv_weights(w)
        outside = bench.up(np.full(OUTSIDE, x_zp, x.dtype))
        epilogue = Epilogue(**given, col=bench.up(fold_columns(sums, window.depth, int(x_zp), None, bias)))
        kernels.conv_s8(
            bench.device, str(x.dtype), x_at, bench.up(packed), out.at, outside, window, epilogue, packed.shape[1], tile
        )
    return out.read(), moved(expected, last)


@pytest.mark.parametrize("last", [False, True])
def test_qconv_gives_the_cpu_s_bytes(forward, rng, last):
    operator = find("QConv", "headrace")
    assert operator is not None
    for sample in operator.samples(rng):
        got, expected = run(forward, sample, last, "dp4a")
        assert got.tobytes() == expected.tobytes()


@pytest.mark.parametrize("last", [False, True])
def test_depthwise(forward, rng, last):
    operator = find("QConv", "headrace")
    assert operator is not None
    found = [s for s in operator.samples(rng) if s.attributes.get("group", 1) == s.inputs[0].shape[1]]
    assert len(found) >= 6
    for sample in found:
        got, expected = run(forward, sample, last, "depthwise")
        assert got.tobytes() == expected.tobytes()


@pytest.mark.parametrize("tile", ["dp4a", "mma64"])
def test_wide_convolutions(bench, rng, tile):
    for sample in wide_samples(rng):
        got, expected = run(bench, sample, True, tile)
        assert got.tobytes() == expected.tobytes()
        assert len(np.unique(got)) > 20  # a saturated answer would compare nothing
