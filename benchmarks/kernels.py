#!/usr/bin/env python3
"""Speed of the native compute kernels, per tier, beside what one core can do.

    python benchmarks/kernels.py                     every kernel, every tier
    python benchmarks/kernels.py --tiers avx2 --only conv --json

GFLOP/s (integer kernels: G operations/s, a multiply and an add are two) on one thread, over thread CPU time; the best of
many runs. "peak" is the f32 multiply-add throughput measured just before and after each run (runtime/native/peak.cpp),
so that a row means the same on a busy machine; the share is the upper quartile of the runs.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests" / "native"))
from one_kernel import program, tiers  # noqa: E402

from headrace.runtime import _native  # noqa: E402

RNG = np.random.default_rng(0)


@dataclass
class Case:
    name: str
    op: str
    inputs: list[Any]
    attributes: dict[str, Any]
    operations: float
    output: str = "float32"
    constants: tuple[int, ...] = (1, 2)


def aligned(array: np.ndarray) -> np.ndarray:
    """A copy that begins on a cache line, as every tensor inside a program does."""
    room = np.empty(array.nbytes + 64, np.uint8)
    start = -room.ctypes.data % 64
    copy = room[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def f32(*shape: int) -> np.ndarray:
    return aligned(RNG.standard_normal(shape).astype(np.float32))


def u8(*shape: int) -> np.ndarray:
    return aligned(RNG.integers(0, 256, shape).astype(np.uint8))


def i8(*shape: int) -> np.ndarray:
    return aligned(RNG.integers(-127, 128, shape).astype(np.int8))


def one(value: float, dtype: Any = np.float32) -> np.ndarray:
    return np.asarray(value, dtype)


def cases() -> Iterator[Case]:
    for m, k, n in (
        (1, 784, 1024),
        (4, 1024, 1024),
        (128, 384, 1536),
        (128, 1536, 384),
        (512, 512, 512),
        (1024, 1024, 1024),
    ):
        yield Case(f"gemm f32 {m}x{k}x{n}", "MatMul", [f32(m, k), f32(k, n)], {}, 2.0 * m * k * n)
        levels = [u8(m, k), i8(k, n), one(0.01), one(0.02), one(3, np.uint8), one(0, np.int8)]
        yield Case(
            f"gemm int8 {m}x{k}x{n}", "headrace.MatMulIntegerToFloat", levels, {}, 2.0 * m * k * n, constants=(1, 3, 5)
        )
        attributes = {"precision": "bf16"}  # f32 on tiers without bf16
        yield Case(f"gemm bf16 {m}x{k}x{n}", "headrace.cpu.MatMul", [f32(m, k), f32(k, n)], attributes, 2.0 * m * k * n)
    yield Case(
        "gemm f32 12x(128x32x128)",
        "MatMul",
        [f32(12, 128, 32), f32(12, 32, 128)],
        {},
        2.0 * 12 * 128 * 32 * 128,
        constants=(),
    )
    for size, c, m, kernel, stride in (
        (224, 3, 64, 7, 2), (56, 64, 64, 3, 1), (56, 64, 256, 1, 1), (56, 256, 64, 1, 1), (28, 128, 128, 3, 1),
        (14, 256, 256, 3, 1), (14, 1024, 256, 1, 1), (7, 512, 512, 3, 1), (7, 2048, 512, 1, 1), (56, 128, 128, 3, 2),
        (80, 32, 32, 3, 1), (160, 16, 16, 3, 1),
    ):  # fmt: skip
        out = -(-size // stride)
        window = {"pads": (kernel // 2,) * 4, "strides": (stride, stride)}
        work = 2.0 * out * out * m * c * kernel * kernel
        name = f"{size}x{size}x{c} -> {m}, {kernel}x{kernel}/{stride}"
        x, w = f32(1, size, size, c), f32(m, c, kernel, kernel)
        yield Case(f"conv f32 {name}", "headrace.cpu.Conv", [x, w, f32(m)], {**window, "activation": "Relu"}, work)
        for tile in (2, 4) if kernel == 3 and stride == 1 else ():  # operations of the direct convolution
            attributes = {**window, "activation": "Relu", "tile": tile}
            yield Case(
                f"conv f32 {name} winograd {tile}", "headrace.cpu.WinogradConv", [x, w, f32(m)], attributes, work
            )
        low = {**window, "activation": "Relu", "precision": "bf16"}
        yield Case(f"conv bf16 {name}", "headrace.cpu.Conv", [x, w, f32(m)], low, work)
        levels = [
            u8(1, size, size, c),
            one(0.02),
            one(3, np.uint8),
            i8(m, c, kernel, kernel),
            one(0.01),
            one(0, np.int8),
            one(0.5),
            one(3, np.uint8),
        ]
        yield Case(f"conv int8 {name}", "headrace.cpu.QConv", levels, window, work, "uint8", tuple(range(1, 8)))
    for size, c, kernel in ((112, 32, 3), (56, 144, 3), (14, 576, 3), (28, 240, 5)):
        attributes = {"pads": (kernel // 2,) * 4, "group": c}
        yield Case(f"depthwise f32 {size}x{size}x{c}, {kernel}x{kernel}", "headrace.cpu.Conv", [f32(1, size, size, c), f32(c, 1, kernel, kernel)],
                   attributes, 2.0 * size * size * c * kernel * kernel, constants=(1,))  # fmt: skip


def peak() -> float:
    """G operations a second in float32 on the tier in use."""
    return _native.peak("float32", 1) / 1e9


def measure(case: Case, tier: str, seconds: float) -> dict[str, Any]:
    os.environ["HEADRACE_CPU_TIER"] = tier
    made = program(case.op, case.inputs, case.attributes, [case.output], constants=case.constants)
    feeds = {str(i): a for i, a in enumerate(case.inputs) if i not in case.constants}
    for _ in range(3):
        made.run(feeds)
    rows, end = [], time.monotonic() + seconds
    while len(rows) < 5 or time.monotonic() < end:
        before = peak()
        start = time.thread_time()
        made.run(feeds)
        speed = case.operations / max(time.thread_time() - start, 1e-9) / 1e9
        rows.append((speed, speed / ((before + peak()) / 2)))
    shares = sorted(share for _, share in rows)
    best = max(speed for speed, _ in rows)
    return {
        "kernel": case.name,
        "tier": tier,
        "gflops": round(best, 1),
        "peak": round(peak(), 1),
        "share": round(shares[len(shares) * 3 // 4], 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiers", default=",".join(tiers()), help="comma-separated (default: all that this CPU has)")
    parser.add_argument("--only", default="", help="kernels whose name contains this")
    parser.add_argument("--seconds", type=float, default=0.3, help="time per row (default 0.3)")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    options = parser.parse_args()
    if not options.json:
        print(f"{'kernel':44} {'tier':12} {'GFLOP/s':>8} {'peak':>7} {'share':>6}")
    for case in cases():
        for tier in options.tiers.split(","):
            if options.only in case.name:
                row = measure(case, tier, options.seconds)
                if options.json:
                    print(json.dumps(row), flush=True)
                else:
                    print(
                        f"{row['kernel']:44} {row['tier']:12} {row['gflops']:8.1f} {row['peak']:7.1f} {row['share']:6.0%}",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
