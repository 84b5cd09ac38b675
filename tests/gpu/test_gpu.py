"""On a machine with a GPU: what tests/cuda shows in the emulator, and what only hardware has. scripts/gpu_check does more."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
from cuda_models import digits, minilm, minilm_feeds
from gpu_check import check_operator, checked_operators

import headrace.runtime as runtime
from headrace.runtime import devices
from headrace.runtime.cuda import lt, why_unavailable
from headrace.runtime.ops.base import Operator

REASON = why_unavailable()
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(bool(REASON), reason=REASON)]


@pytest.fixture(scope="module")
def device() -> Any:
    return devices.choose("cuda").device


@pytest.mark.parametrize("operator", checked_operators(), ids=lambda operator: operator.kind)
def test_kernels_give_the_reference_within_the_operator_s_accuracy(operator: Operator, device: Any) -> None:
    worst, ran, _ = check_operator(operator, device)
    assert ran and worst <= 1


def test_models_give_the_cpu_s_answers(device: Any, tmp_path: Path) -> None:
    plain, small = digits(tmp_path)
    images = {"x": np.random.default_rng(0).random((5, 1, 8, 8), np.float32)}
    for source, feeds, allowed in ((plain, images, 1e-4), (small, images, 0.0), (minilm(2), minilm_feeds(), 1e-4)):
        want = runtime.load(source, device="cpu").run(feeds)
        model = runtime.load(source, device=device)
        for found in (model.run(feeds), model.run(feeds)):  # step by step, then by graph
            for name in want:
                assert np.abs(found[name].astype(np.float64) - want[name]).max() <= allowed
        assert "fallbacks" not in model.properties and model._program.plans()[0]["replayed"]


def test_cublaslt_multiplies_int8_exactly(device: Any) -> None:
    m, n, k = 64, 48, 128
    rng = np.random.default_rng(0)
    a, b = (rng.integers(-128, 128, (rows, k), np.int8) for rows in (m, n))
    found = np.zeros((m, n), np.int32)
    places = [device.alloc(array.nbytes) for array in (a, b, found)]
    try:
        device.h2d(places[0], a)
        device.h2d(places[1], b)
        call = device.blas.plan(lt.Problem(m, n, k, a="int8", out="int32", trans_b=True), *places)
        call(device.stream_handle)
        device.d2h(found, places[2])
    finally:
        for place in places:
            device.free(place)
    assert np.array_equal(found, a.astype(np.int32) @ b.astype(np.int32).T)
