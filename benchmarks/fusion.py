"""What the passes make of models: `python benchmarks/fusion.py FOLDER [NAME ...]` (files FOLDER/NAME.onnx; default: all).

Prints, for each model, the number of nodes before and after, the time of `optimize`, the operators that are left, and the
error against onnxruntime where that is installed. On CPUs without VNNI onnxruntime's kernels of uint8 activations and int8
weights saturate intermediate sums: without graph optimizations Q/DQ graphs are computed in float, which is exact, but
MatMulInteger is not (dynamic models then differ by a tenth; with weights stored as uint8 they agree).
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from headrace.runtime import dtypes
from headrace.runtime.graph import Graph
from headrace.runtime.model import Model
from headrace.runtime.passes import optimize, portable
from headrace.runtime.types import TensorType
from headrace.serializer.onnx.load import open_program


def feeds_of(graph: Graph, sizes: int = 1) -> dict[str, np.ndarray]:
    """Normal floats and ones elsewhere; symbolic dimensions are `sizes`."""
    rng = np.random.default_rng(0)
    found = {}
    for value in graph.inputs:
        if not isinstance(value.type, TensorType) or value.type.shape is None:
            raise SystemExit(f"input {value.name} is {value.type}; only tensors of known rank are supported")
        dims = [dim if isinstance(dim, int) else sizes for dim in value.type.shape]
        kind = dtypes.of(value.type.dtype)
        found[value.name] = (
            rng.standard_normal(dims).astype(kind.numpy) if kind.kind == "f" else np.ones(dims, kind.numpy)
        )
    return found


def peer(path: Path, feeds: dict[str, np.ndarray]) -> list[np.ndarray] | None:
    """onnxruntime's outputs, without its graph optimizations."""
    try:
        import onnxruntime
    except ImportError:
        return None
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    return list(onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"]).run(None, feeds))


def measure(path: Path) -> dict[str, Any]:
    """One model: node counts, seconds, operators, relative error of the worst output."""
    graph = open_program(str(path)).program.main
    portable()  # finding the passes is not part of the time
    start = time.perf_counter()
    after = optimize(graph)
    seconds = time.perf_counter() - start
    feeds = feeds_of(graph)
    expected = peer(path, feeds)
    errors = []
    for ours, theirs in zip(Model(graph).run(feeds).values(), expected or ()):
        scale = float(np.linalg.norm(theirs)) or 1.0
        errors.append(float(np.linalg.norm(np.asarray(ours, np.float64) - theirs)) / scale)
    return {
        "nodes": (sum(1 for _ in graph.block.walk()), sum(1 for _ in after.block.walk())),
        "seconds": seconds,
        "operators": Counter(node.kind for node in after.block.walk()),
        "error": max(errors, default=float("nan")),
    }


def main() -> None:
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    folder = Path(sys.argv[1])
    names = sys.argv[2:] or sorted(path.stem for path in folder.glob("*.onnx"))
    for name in names:
        found = measure(folder / f"{name}.onnx")
        before, after = found["nodes"]
        print(f"{name}: {before} -> {after} nodes in {found['seconds']:.2f} s, relative error {found['error']:.1e}")
        print("   ", ", ".join(f"{kind} {count}" for kind, count in found["operators"].most_common()))


if __name__ == "__main__":
    main()
