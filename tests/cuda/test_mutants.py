"""Seeded bugs: each is one edit of a kernel's text that must be caught by a check that the true text passes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headrace.runtime.cuda import emul, kernels, sources
from headrace.runtime.cuda.kernels.requantize import Epilogue, fold_columns
from headrace.runtime.cuda.kernels.window import OUTSIDE, Window, pack_conv_weights
from headrace.runtime.executor import run_node
from headrace.runtime.ops import find
from headrace.runtime.ops.quant.integer import levels


class Memory:
    """Buffers of one check on one device."""

    def __init__(self, device: emul.EmulDevice) -> None:
        self.device, self.buffers = device, list[int]()

    def up(self, array: Any) -> int:
        array = np.ascontiguousarray(array)
        self.buffers.append(self.device.alloc(array.nbytes))
        self.device.h2d(self.buffers[-1], array)
        return self.buffers[-1]

    def down(self, address: int, shape: Any, dtype: Any) -> Any:
        array = np.empty(shape, dtype)
        self.device.d2h(array, address)
        return array


Check = Callable[[Memory, np.random.Generator], None]


def product(tile: str) -> Check:
    """Exact sums of ragged shapes: a tail of depth, of rows and of columns, and more steps than pipeline stages."""

    def check(memory: Memory, rng: np.random.Generator) -> None:
        for m, n, k in ((70, 67, 200), (5, 3, 331), (33, 40, 64)):
            a, b = levels(rng, (m, k), "uint8"), levels(rng, (n, k), "int8")
            wide = -(-k // 16) * 16
            rows, columns = np.full((m, wide), 0x55, np.uint8), np.full((n, wide), 0x55, np.int8)
            rows[:, :k], columns[:, :k] = a, b
            out = memory.up(np.zeros((m, n), np.int32))
            kernels.gemm_s8(
                memory.device,
                "uint8",
                memory.up(rows),
                memory.up(columns),
                out,
                m,
                n,
                k,
                Epilogue("int32"),
                lda=wide,
                ldb=wide,
                tile=tile,
            )
            np.testing.assert_array_equal(memory.down(out, (m, n), np.int32), a.astype(int) @ b.astype(int).T)

    return check


def convolution(tile: str) -> Check:
    def check(memory: Memory, rng: np.random.Generator) -> None:
        operator = find("ConvInteger")
        assert operator is not None
        x, w, zero = levels(rng, (2, 16, 5, 6), "uint8"), levels(rng, (9, 16, 3, 3), "int8"), np.asarray(77, np.uint8)
        (expected,) = run_node(operator, [x, w, zero], {"pads": (1, 1, 1, 1), "strides": (2, 1)})
        packed, sums = pack_conv_weights(w)
        window = Window(2, 16, (5, 6), 9, (3, 6), (3, 3), (2, 1), (1, 1), (1, 1), x_last=True, y_last=True)
        out = memory.up(np.zeros((2, 3, 6, 9), np.int32))
        at = [
            memory.up(v)
            for v in (np.moveaxis(x, 1, -1), packed, np.full(OUTSIDE, zero), fold_columns(sums, window.depth, 77))
        ]
        kernels.conv_s8(
            memory.device,
            "uint8",
            at[0],
            at[1],
            out,
            at[2],
            window,
            Epilogue("int32", col=at[3]),
            packed.shape[1],
            tile,
        )
        np.testing.assert_array_equal(np.moveaxis(memory.down(out, (2, 3, 6, 9), np.int32), -1, 1), expected)

    return check


def rounding(memory: Memory, rng: np.random.Generator) -> None:
    x, one = np.array([0.5, 1.5, 2.5, -0.5, 300, -300, np.nan], np.float32), np.float32(1)
    out = memory.up(np.zeros(7, np.int8))
    kernels.quantize(memory.device, "int8", memory.up(x), out, memory.up(one), memory.up(np.int8(3)), 7)
    np.testing.assert_array_equal(memory.down(out, 7, np.int8), [3, 5, 5, 3, 127, -128, 3])


def requantizing(memory: Memory, rng: np.random.Generator) -> None:
    """Sums that are exact halves after scaling, with a residual."""
    a, b = np.arange(1, 12, dtype=np.uint8)[:, None], np.array([[1], [3]], np.int8)
    r = levels(rng, (11, 2), "int8")
    out = memory.up(np.zeros((11, 2), np.uint8))
    epilogue = Epilogue(
        "uint8",
        scale=memory.up(np.float32([0.5, 0.5])),
        zero=100,
        r=memory.up(r),
        ldr=2,
        r_dtype="int8",
        r_zero=-4,
        r_scale=0.5,
    )
    kernels.gemm_s8(memory.device, "uint8", memory.up(a), memory.up(b), out, 11, 2, 1, epilogue)
    total = a.astype(np.float32) @ b.T.astype(np.float32) * np.float32(0.5) + (r.astype(np.float32) + 4) * np.float32(
        0.5
    )
    np.testing.assert_array_equal(memory.down(out, (11, 2), np.uint8), np.clip(np.rint(total) + 100, 0, 255))


def rows_of_quantized(memory: Memory, rng: np.random.Generator) -> None:
    operator = find("DynamicQuantizeRows", "headrace")
    assert operator is not None
    x = rng.standard_normal((6, 300)).astype(np.float32)
    q, scale, zero = run_node(operator, [x], {}, 3)
    at = [memory.up(np.zeros(v.shape, v.dtype)) for v in (q, scale, zero)]
    kernels.quantize_rows(memory.device, memory.up(x), *at, 0, 6, 300)
    for address, expected in zip(at, (q, scale, zero)):
        np.testing.assert_array_equal(memory.down(address, expected.shape, expected.dtype), expected)


def sums_of_rows(memory: Memory, rng: np.random.Generator) -> None:
    x, ones = rng.standard_normal((5, 333)).astype(np.float32), np.ones(333, np.float32)
    out = memory.up(np.zeros((5, 333), np.float32))
    kernels.layer_norm(memory.device, memory.up(x), memory.up(ones), 0, out, 5, 333, 1e-5)
    expected = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(memory.down(out, (5, 333), np.float32), expected, rtol=1e-4, atol=1e-5)


def added(memory: Memory, rng: np.random.Generator) -> None:
    x, y = rng.standard_normal((3, 5, 7)).astype(np.float32), rng.standard_normal((5, 1)).astype(np.float32)
    out = memory.up(np.zeros(x.shape, np.float32))
    kernels.binary(memory.device, "add", "float32", memory.up(x), memory.up(y), out, x.shape, y.shape)
    np.testing.assert_array_equal(memory.down(out, x.shape, np.float32), x + y)


@dataclass(frozen=True)
class Mutant:
    name: str
    file: str
    old: str
    new: str
    unit: str
    check: Check
    options: tuple[str, ...] = ()


MMA, DP4A, CONV = product("mma64"), product("dp4a"), convolution("mma64")
MUTANTS = [
    Mutant("mma without the barrier", "gemm_s8_mma.cuh", "        __syncthreads();    // this step", "        // this step", "gemm_s8.cu", MMA),
    Mutant("mma with too weak a wait", "gemm_s8_mma.cuh", "cp_async_wait<kStages - 2>", "cp_async_wait<kStages - 1>", "gemm_s8.cu", MMA),
    Mutant("mma that never waits", "gemm_s8_mma.cuh", "cp_async_wait<kStages - 2>();", "", "gemm_s8.cu", MMA),
    Mutant("too few stages ahead", "gemm_s8_mma.cuh", "load((step + kStages - 1) % kStages,", "load(step % kStages,", "gemm_s8.cu", MMA),
    Mutant("wrong chunk of A", "gemm_s8_mma.cuh", "lane % 16, 2 * half + lane / 16)", "lane % 16, 2 * half + lane / 8 % 2)", "gemm_s8.cu", MMA),
    Mutant("wrong chunk of B", "gemm_s8_mma.cuh", "2 * half + lane / 8 % 2)", "2 * half + lane / 16)", "gemm_s8.cu", MMA),
    Mutant("Turing's products in the wrong order", "hr.cuh", "(upper, a[2], b[1])", "(upper, a[1], b[1])", "gemm_s8.cu", MMA, ("-DHR_ARCH=750",)),
    Mutant("wrong rows of the result", "gemm_s8_mma.cuh", "lane / 4 + c / 2 * 8", "lane / 4 + c % 2 * 8", "gemm_s8.cu", MMA),
    Mutant("wrong columns of the result", "gemm_s8_mma.cuh", "lane % 4 * 2 + c % 2", "lane % 4 + c % 2 * 4", "gemm_s8.cu", MMA),
    Mutant("mma without the guard of depth", "gemm_s8_mma.cuh", "left < 0 ? 0 : left < 16 ? left : 16", "16", "gemm_s8.cu", MMA),
    Mutant("mma without the guard of columns", "gemm_s8_mma.cuh", "b_bytes = n0 + row < n ? bytes : 0", "b_bytes = bytes", "gemm_s8.cu", MMA),
    Mutant("mma without the guard of the result", "gemm_s8_mma.cuh", "if (row < m && column < n)", "if (row < m)", "gemm_s8.cu", MMA),
    Mutant("dp4a without the first barrier", "gemm_s8_dp4a.cuh", "        }\n        __syncthreads();\n#pragma", "        }\n#pragma", "gemm_s8.cu", DP4A),
    Mutant("dp4a without the second barrier", "gemm_s8_dp4a.cuh", "        }\n        __syncthreads();\n    }", "        }\n    }", "gemm_s8.cu", DP4A),
    Mutant("dp4a without the guard of depth", "gemm_s8_dp4a.cuh", "if (k + i < depth)", "if (k >= 0)", "gemm_s8.cu", DP4A),
    Mutant("a residual of the wrong sign", "requantize.cuh", "level(e.r, r_at, e.r_signed)", "level(e.r, r_at, false)", "gemm_s8.cu", requantizing),
    Mutant("halves away from zero", "requantize.cuh", "uint8_t(int(rintf(v)) + e.zero)", "uint8_t(int(roundf(v)) + e.zero)", "gemm_s8.cu", requantizing),
    Mutant("padding that is not the zero point", "conv_s8.cu", ": outside;", ": x;", "conv_s8.cu", CONV),
    Mutant("taps in the wrong order", "conv_s8.cu", "tap(p, kh, t - kh * g.kernel_w,", "tap(p, t - kh * g.kernel_w, kh,", "conv_s8.cu", CONV),
    Mutant("quantizing halves away from zero", "requantize.cuh", "rintf(fminf(hi, fmaxf(lo,", "roundf(fminf(hi, fmaxf(lo,", "quant.cu", rounding),
    Mutant("NaN to the lowest level", "requantize.cuh", "is_nan(x) ? 0.0f : x", "x", "quant.cu", rounding),
    Mutant("a reduction without its first barrier", "reduce.cuh", "shared[warp_id()] = value;\n    __syncthreads();", "shared[warp_id()] = value;", "norm.cu", sums_of_rows),
    Mutant("a reduction without its last barrier", "reduce.cuh", "    __syncthreads();\n    return value;", "    return value;", "quant.cu", rows_of_quantized),
    Mutant("lanes without a warp", "reduce.cuh", "lane_id() < warps ? shared[lane_id()] : empty", "shared[lane_id()]", "norm.cu", sums_of_rows),
    Mutant("threads without an element", "elementwise.cu", "    if (i >= b.n) return;\n    const Places p = places(b, i);\n    out[i] = apply_binary", "    const Places p = places(b, i);\n    out[i] = apply_binary", "elementwise.cu", added),
    Mutant("an operand that does not repeat", "broadcast.cuh", "p.of[k] += i * b.stride[k][0]", "p.of[k] += i * b.stride[0][0]", "elementwise.cu", added),
]  # fmt: skip


def devices(library: Path) -> Iterator[emul.EmulDevice]:
    for seed, order in enumerate(emul.ORDERS):
        yield emul.EmulDevice(library, order, seed, alignment=16)


def passes(library: Path, check: Check) -> bool:
    """Whether the check holds in every thread order, and nothing beside a buffer was written."""
    for device in devices(library):
        memory = Memory(device)
        try:
            check(memory, np.random.default_rng(7))
            for address in memory.buffers:
                device.free(address)
        except (AssertionError, emul.EmulationError):
            return False
    return True


@pytest.mark.parametrize("check", {mutant.check: None for mutant in MUTANTS}, ids=lambda check: check.__qualname__)
def test_the_true_kernels_pass(check):
    assert passes(emul.build(), check)


@pytest.mark.parametrize("define", ["-DHR_ARCH=750", "-DHR_PORTABLE"])
def test_variants_of_the_emulator_pass(define):
    """Turing's instructions, and stacks switched by ucontext."""
    for unit, checks in (
        ("gemm_s8.cu", (MMA, DP4A, requantizing)),
        ("conv_s8.cu", (CONV,)),
        ("norm.cu", (sums_of_rows,)),
    ):
        library = emul.build(only=[unit], options=["-O1", define])
        assert all(passes(library, check) for check in checks)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_mutants_are_caught(mutant):
    files = sources.texts()
    assert files[mutant.file].count(mutant.old) == 1, "the text to change is not there once"
    files[mutant.file] = files[mutant.file].replace(mutant.old, mutant.new)
    assert not passes(emul.build(files, [mutant.unit], ["-O0", *mutant.options]), mutant.check)
