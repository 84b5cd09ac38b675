#!/usr/bin/env python3
"""Models beside onnxruntime: the same file, the same inputs, one thread, in turns in one process; outputs are compared.

    python benchmarks/models.py FOLDER                          every NAME.onnx, NAME.int8.onnx of the folder
    python benchmarks/models.py FOLDER --only resnet50,lstm --precisions float32,bf16 --rounds 9

FOLDER holds meta.json: {NAME: {"inputs": [[input, shape without the batch, dtype, exclusive int maximum], ...]}}. Times are
of the thread's CPU, so that a busy machine changes them little; each round times both engines, and the ratio
(onnxruntime's time over headrace's; above 1 headrace is faster) is the median of the rounds' ratios. bf16 runs the float32
file with precision="bf16" against onnxruntime in float32.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

import headrace.runtime as runtime
from headrace.runtime import _native

TURN = 0.02  # seconds that one engine runs before the other takes its turn, at least one call


def feeds_of(inputs: list[Any]) -> dict[str, np.ndarray]:
    """Inputs of batch 1, the same every time; a maximum of 2 means a mask, which is all ones."""
    rng, feeds = np.random.default_rng(0), {}
    for name, shape, dtype, high in inputs:
        whole = (1, *shape)
        if dtype == "int64":
            feeds[name] = np.ones(whole, np.int64) if high == 2 else rng.integers(0, high, whole)
        else:
            feeds[name] = rng.standard_normal(whole, np.float32)
    return feeds


def peer(path: Path) -> Callable[[dict[str, np.ndarray]], list[Any]]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_free_dimension_override_by_name("batch", 1)
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda feeds: list(session.run(None, feeds))


def measure(path: Path, precision: str, feeds: dict[str, np.ndarray], rounds: int) -> dict[str, Any]:
    model = runtime.load(path, device="cpu", threads=1, precision="bf16" if precision == "bf16" else None)
    engines: list[Callable[[dict[str, np.ndarray]], Any]] = [model.run, peer(path)]
    for run in engines:
        run(feeds), run(feeds)
    start = time.thread_time()
    ours, theirs = list(engines[0](feeds).values()), engines[1](feeds)
    calls = max(1, int(TURN / max(1e-6, time.thread_time() - start)))
    times: list[list[float]] = [[], []]
    for _ in range(rounds):
        for run, seen in zip(engines, times):
            start = time.thread_time()
            for _ in range(calls):
                run(feeds)
            seen.append((time.thread_time() - start) / calls * 1e3)
    gap = max(float(np.abs(a - b).max() / max(1e-30, np.abs(b).max())) for a, b in zip(ours, theirs))
    return {
        "ours": statistics.median(times[0]),
        "peer": statistics.median(times[1]),
        "ratio": statistics.median(b / a for a, b in zip(*times)),
        "gap": gap,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", default="", help="comma-separated models (default: all)")
    parser.add_argument("--precisions", default="float32,int8,bf16")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    models = json.loads((options.folder / "meta.json").read_text())
    print(
        f"onnxruntime {onnxruntime.__version__}, tier {_native.cpu_tier()}, Python {platform.python_version()}, {date.today()}\n"
    )
    print("| model | precision | headrace ms | onnxruntime ms | ratio | largest difference / largest output |")
    print("|---|---|--:|--:|--:|--:|")
    for name in options.only.split(",") if options.only else models:
        for precision in options.precisions.split(","):
            path = options.folder / (f"{name}.int8.onnx" if precision == "int8" else f"{name}.onnx")
            row = measure(path, precision, feeds_of(models[name]["inputs"]), options.rounds)
            print(
                f"| {name} | {precision} | {row['ours']:.4g} | {row['peer']:.4g} | {row['ratio']:.2f} | {row['gap']:.1e} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
