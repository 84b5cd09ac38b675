"""bench: how long a model takes here, or how a server holds up under load. Every answer is compared."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import headrace
from headrace.runtime import atomic, machine
from headrace.runtime.model import load
from headrace.runtime.profile import by_kernel
from headrace.verbs.peers import agreement, default_tolerance, installed, split_names, start
from headrace.verbs.plot import plot_comparison
from headrace.verbs.run import random_feeds, read_arrays

Arrays = Mapping[str, np.ndarray]


def bench(target: str | Path, model: str | None = None, **options: Any) -> dict[str, Any]:
    """Time a file (`bench_file`) or a model on a server (`verbs.load.load_server`), by what `target` is."""
    if model is None or Path(target).is_file():
        return bench_file(target, **options)
    from headrace.verbs.load import load_server

    return load_server(str(target), model, **options)


def bench_file(
    path: str | Path, inputs: str | Path | Arrays | None = None, *, seed: int = 0, batch: int = 1, threads: int = 1,
    device: str = "cpu", precision: str | None = None, without: Sequence[str] = (), seconds: float = 3.0,
    compare: str | Sequence[str] | None = None, tolerance: float | None = None, plot: str | Path | None = None,
    profile: bool = False, trace: str | Path | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Run a `.hr` or `.onnx` file over and over for `seconds`.

    compare: peers ("onnxruntime", "openvino") that run in turns with us on the same inputs, with as many threads, from
        the same file (a `.hr` is exported for them); their outputs must agree within `tolerance` (a share of an output's
        largest element; None: 0.001, or 0.05 where the model is quantized or bf16 allowed). plot: a picture of that.
    profile: the time of every node and kernel, beside what this machine can do. trace: a file in Chrome's trace event format.
    without: passes to leave out.

    Answers target, batch, threads, device, engines {name: calls, per_second, p25_ms, p50_ms, p75_ms, p90_ms, p99_ms, min_ms, failed,
    version}; peers {name: ratio (their time over ours, the median over the turns), max_difference, agrees, message};
    skipped {peer: why}, tolerance; with `profile` profile (NodeRow), kernels (KernelSum) and peaks (G a second).
    """
    asked = split_names(compare)
    present, skipped = installed(asked)
    with load(path, device=device, threads=threads, precision=precision, without=without) as model:
        feeds = random_feeds(model.inputs, seed, batch) if inputs is None else read_arrays(inputs)
        peers = start(present, Path(path), feeds, threads, precision)
        ours = model.run(feeds)
        runs: dict[str, Callable[[], Any]] = {"headrace": lambda: model.run(feeds)}
        runs |= {peer.name: peer.run for peer in peers}
        answers = {peer.name: peer.run() for peer in peers}
        turns = _in_turns(runs, seconds)
        versions = {"headrace": headrace.__version__} | {peer.name: peer.version for peer in peers}
        result: dict[str, Any] = {
            "target": str(path),
            "batch": batch,
            "threads": threads,
            "device": model.properties["device"],
            "engines": {
                n: _figures([t for turn in own for t in turn]) | {"version": versions[n]} for n, own in turns.items()
            },
            "peers": {},
            "skipped": skipped,
        }
        if asked:
            bound = default_tolerance(model.graph, precision) if tolerance is None else tolerance
            result["tolerance"] = bound
            result["peers"] = {
                name: {"ratio": _ratio(turns[name], turns["headrace"])} | agreement(ours, theirs, bound)
                for name, theirs in answers.items()
            }
        if plot is not None:
            plot_comparison(result, plot)
        if profile:
            result["profile"] = list(model.profile(feeds))
            if device == "cpu":
                result["kernels"] = by_kernel(result["profile"])
                result["peaks"] = {p: machine.peak(p, threads) / 1e9 for p in machine.PRECISIONS}
                result["bandwidths"] = {name: rate / 1e9 for name, rate in machine.bandwidths(threads).items()}
        if trace is not None:
            atomic.replace(trace, [json.dumps(model.trace(feeds)).encode()])
            result["trace"] = str(trace)
    return result


def _in_turns(runs: Mapping[str, Callable[[], Any]], seconds: float) -> dict[str, list[list[float]]]:
    """Times in seconds, turn by turn: the engines alternate in short turns so that a busy machine slows all alike."""
    times: dict[str, list[list[float]]] = {name: [] for name in runs}
    end = time.monotonic() + seconds * len(runs)
    while time.monotonic() < end or min(map(len, times.values())) < 5:
        for name, run in runs.items():
            times[name].append([])
            turn = time.perf_counter() + 0.05
            while True:
                start = time.perf_counter()
                run()
                now = time.perf_counter()
                times[name][-1].append(now - start)
                if now >= turn:
                    break
    return times


def _ratio(theirs: list[list[float]], ours: list[list[float]]) -> float:
    """Their time over ours: the median of what each pair of neighbouring turns says."""
    return float(np.median([np.median(a) / np.median(b) for a, b in zip(theirs, ours)]))


def _figures(times: list[float], failed: int = 0, wall: float | None = None) -> dict[str, Any]:
    p25, p50, p75, p90, p99 = np.percentile(times, [25, 50, 75, 90, 99]) * 1e3 if times else (0.0,) * 5
    rate = len(times) / (wall if wall is not None else sum(times)) if times else 0.0
    return {
        "calls": len(times),
        "per_second": rate,
        "p25_ms": float(p25),
        "p50_ms": float(p50),
        "p75_ms": float(p75),
        "p90_ms": float(p90),
        "p99_ms": float(p99),
        "min_ms": min(times, default=0.0) * 1e3,
        "failed": failed,
    }
