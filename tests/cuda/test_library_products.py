"""What the executor asks of cuBLASLt, on a device whose library is NumPy over the emulator's memory."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
from cuda_models import minilm, minilm_feeds
from gpu_check import check_operator

import headrace.runtime as runtime
from headrace.runtime.cuda.emul import EmulDevice
from headrace.runtime.cuda.lt import Problem
from headrace.runtime.ops import find


def floats(address: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> np.ndarray:
    """An array over device memory; strides in elements."""
    count = 1 + sum((size - 1) * step for size, step in zip(shape, strides))
    flat = np.frombuffer((ctypes.c_float * count).from_address(address), np.float32)
    return np.lib.stride_tricks.as_strided(flat, shape, [4 * step for step in strides])


class Library:
    """lt.Lt's `plan`, by the definition of Problem."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []

    def plan(self, p: Problem, a: int, b: int, d: int, bias: int = 0) -> Callable[[int], None]:
        self.problems.append(p)
        assert bool(bias) == p.bias

        def run(stream: int) -> None:
            assert stream == Device.stream_handle
            rows, columns = ((p.k, p.m) if p.trans_a else (p.m, p.k)), ((p.n, p.k) if p.trans_b else (p.k, p.n))
            step_a = p.m * p.k if p.stride_a is None else p.stride_a
            step_b = p.k * p.n if p.stride_b is None else p.stride_b
            left = floats(a, (p.batch, *rows), (step_a, rows[1], 1))
            right = floats(b, (p.batch, *columns), (step_b, columns[1], 1))
            left = left.swapaxes(1, 2) if p.trans_a else left
            right = right.swapaxes(1, 2) if p.trans_b else right
            product = np.float32(p.alpha) * (left @ right)
            product = product + floats(bias, (p.n,), (1,)) if p.bias else product
            floats(d, (p.batch, p.m, p.n), (p.m * p.n, p.n, 1))[...] = np.maximum(product, 0) if p.relu else product

        return run


class Device(EmulDevice):
    stream_handle = 77

    def __init__(self) -> None:
        super().__init__()
        self.blas = Library()


@pytest.mark.parametrize(("kind", "domain"), [("MatMul", ""), ("Gemm", ""), ("FusedMatMul", "headrace")])
def test_products_by_the_library(kind: str, domain: str) -> None:
    operator, device = find(kind, domain), Device()
    assert operator is not None
    worst, ran, _ = check_operator(operator, device)
    assert ran and worst <= 1 and device.blas.problems


def test_a_model_asks_for_one_product_where_weights_are_shared_and_for_batches_elsewhere() -> None:
    device, feeds = Device(), minilm_feeds(2, 5)
    want = runtime.load(minilm(), device="cpu").run(feeds)["embedding"]
    model = runtime.load(minilm(), device=device)
    np.testing.assert_allclose(model.run(feeds)["embedding"], want, rtol=1e-4, atol=1e-5)
    shapes = {(p.batch, p.m, p.n, p.k, p.bias) for p in device.blas.problems}
    assert shapes == {
        (1, 10, 16, 16, True), (4, 5, 5, 8, False), (4, 5, 8, 5, False), (1, 10, 64, 16, True), (1, 10, 16, 64, True),
    }  # fmt: skip
    assert not any(row["kernel"] == "gemm_f32" for row in model.kernels())
    assert model._program.plans()[0]["replayed"] == 1
