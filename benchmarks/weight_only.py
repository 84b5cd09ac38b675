#!/usr/bin/env python3
"""Products with weights of 4 and 8 bits, beside onnxruntime's: both engines in turns on the same ONNX file, one thread.

    python benchmarks/weight_only.py
    python benchmarks/weight_only.py --size 2048 --rounds 50 --rows 1,4 --json
    python benchmarks/weight_only.py --model gpt2_step.onnx --beside gpt2_step.int8.onnx

A file is a chain of MatMulNBits whose weights together exceed the caches, as in a language model that answers a token: every
product reads its weights from memory. Figures are medians of thread CPU time for one product; GB/s counts weights, scales and
zero points; the ratio is onnxruntime's time over headrace's. With --model the float file is quantized here, and runs beside
another file (its own int8, say) in onnxruntime; free dimensions are 1.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from headrace import runtime
from headrace.quantization import Blocks


def chain(size: int, length: int, scheme: Blocks) -> tuple[bytes, int]:
    """The file, and the bytes of one product's weights."""
    rng = np.random.default_rng(0)
    nodes, constants, used = [], [], 0
    for index in range(length):
        weights = (rng.standard_normal((size, size)) / np.sqrt(size)).astype(np.float32)
        arrays = dict(zip(("B", "scales", "zeros"), scheme.quantize(weights).packed()))
        given = {f"{key}{index}": array for key, array in arrays.items() if array is not None}
        constants += [numpy_helper.from_array(array, name) for name, array in given.items()]
        used = sum(array.nbytes for array in given.values())
        attributes = {"K": size, "N": size, "bits": scheme.bits, "block_size": scheme.group, "accuracy_level": 4 if scheme.rows == "int8" else 0}  # fmt: skip
        nodes.append(helper.make_node("MatMulNBits", [f"x{index}", *given], [f"x{index + 1}"], domain="com.microsoft", **attributes))  # fmt: skip
    ends = [helper.make_tensor_value_info(f"x{i}", TensorProto.FLOAT, ["rows", size]) for i in (0, length)]
    graph = helper.make_graph(nodes, "chain", ends[:1], ends[1:], constants)
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString(), used


def engines(model: bytes) -> dict[str, Callable[[dict[str, Any]], Any]]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    own = runtime.load(onnx.load_from_string(model), device="cpu", threads=1)
    return {
        "headrace": lambda feeds: next(iter(own.run(feeds).values())),
        "onnxruntime": lambda feeds: session.run(None, feeds)[0],
    }


def measure(size: int, length: int, scheme: Blocks, counts: list[int], rounds: int) -> list[dict[str, Any]]:
    model, used = chain(size, length, scheme)
    runs, rows = engines(model), []
    for count in counts:
        feeds = {"x0": np.random.default_rng(1).standard_normal((count, size)).astype(np.float32)}
        answers = {name: run(feeds) for name, run in runs.items()}
        times: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(rounds if count < 16 else max(3, rounds // 8)):
            for name, run in runs.items():
                start = time.thread_time()
                run(feeds)
                times[name].append((time.thread_time() - start) / length)
        ours, theirs = (statistics.median(times[name]) for name in ("headrace", "onnxruntime"))
        ratios = [b / a for a, b in zip(times["headrace"], times["onnxruntime"])]
        difference = np.abs(answers["headrace"] - answers["onnxruntime"]).max() / np.abs(answers["onnxruntime"]).max()
        rows.append({
            "scheme": str(scheme), "rows": count, "headrace_ms": ours * 1e3, "onnxruntime_ms": theirs * 1e3, "ratio": statistics.median(ratios),
            "gb_s": used / ours / 1e9, "gflop_s": 2 * count * size * size / ours / 1e9, "difference": float(difference),
        })  # fmt: skip
    return rows


def measure_model(path: str, beside: str, rounds: int) -> list[dict[str, Any]]:
    """A float32 file with its weights alone quantized, beside another file in onnxruntime."""
    from headrace.runtime.quant.weight_only import quantize_weights
    from headrace.serializer.onnx.save import to_model

    graph = runtime.load(path, device="cpu").graph
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(beside, options, providers=["CPUExecutionProvider"])
    feeds, rng = {}, np.random.default_rng(0)
    for value in session.get_inputs():
        shape = [size if isinstance(size, int) else 1 for size in value.shape]
        whole = "int" in value.type
        feeds[value.name] = rng.integers(0, 100, shape) if whole else rng.standard_normal(shape).astype(np.float32)
    rows = []
    for scheme in (Blocks(4, 32, True), Blocks(4, 128, True), Blocks(8, 128, True)):
        model = runtime.load(to_model(quantize_weights(graph, scheme)), device="cpu", threads=1)
        runs: dict[str, Any] = {"headrace": model.run, "onnxruntime": partial(session.run, None)}
        times: dict[str, list[float]] = {name: [] for name in runs}
        for turn in range(rounds + 3):
            for name, run in runs.items():
                start = time.thread_time()
                run(feeds)
                if turn >= 3:
                    times[name].append(time.thread_time() - start)
        ours, theirs = (statistics.median(times[name]) for name in ("headrace", "onnxruntime"))
        ratios = [b / a for a, b in zip(times["headrace"], times["onnxruntime"])]
        rows.append(
            {
                "scheme": str(scheme),
                "headrace_ms": ours * 1e3,
                "onnxruntime_ms": theirs * 1e3,
                "ratio": statistics.median(ratios),
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=4096, help="K and N (default 4096)")
    parser.add_argument("--length", type=int, default=8, help="products in a chain (default 8)")
    parser.add_argument("--rounds", type=int, default=24, help="paired runs (default 24)")
    parser.add_argument("--rows", default="1,4,128", help="rows of the input (default 1,4,128)")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--model", help="a float32 ONNX file to quantize, instead of chains of products")
    parser.add_argument("--beside", help="the file that onnxruntime runs beside it (default: the same)")
    options = parser.parse_args()
    if options.model:
        for row in measure_model(options.model, options.beside or options.model, options.rounds):
            print(json.dumps(row), flush=True)
        return
    if not options.json:
        print(f"{'weights':38} {'rows':>5} {'headrace ms':>12} {'ort ms':>8} {'ratio':>6} {'GB/s':>6} {'GFLOP/s':>8} {'difference':>10}")  # fmt: skip
    for bits, group, symmetric, kind in (
        (4, 32, True, "int8"), (4, 32, False, "int8"), (4, 128, True, "int8"), (4, 32, True, "float32"), (8, 32, True, "int8"), (8, 128, True, "int8"),
    ):  # fmt: skip
        counts = [int(count) for count in options.rows.split(",")]
        for row in measure(options.size, options.length, Blocks(bits, group, symmetric, kind), counts, options.rounds):
            if options.json:
                print(json.dumps(row), flush=True)
            else:
                print(
                    f"{row['scheme']:38} {row['rows']:5} {row['headrace_ms']:12.3f} {row['onnxruntime_ms']:8.3f} {row['ratio']:6.2f}"
                    f" {row['gb_s']:6.1f} {row['gflop_s']:8.1f} {row['difference']:10.1e}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
