"""bench: how long a model takes here, or how a server holds up under load. Every answer is compared."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from headrace.runtime.errors import HeadraceError
from headrace.runtime.interface import TensorSpec
from headrace.runtime.model import load
from headrace.runtime.shapes import symbol
from headrace.verbs.run import random_feeds, read_arrays

Arrays = Mapping[str, np.ndarray]


def bench(target: str | Path, model: str | None = None, **options: Any) -> dict[str, Any]:
    """Time a file (`bench_file`) or a model on a server (`bench_server`), by what `target` is."""
    if model is None or Path(target).is_file():
        return bench_file(target, **options)
    return bench_server(str(target), model, **options)


def bench_file(
    path: str | Path, inputs: str | Path | Arrays | None = None, *, seed: int = 0, batch: int = 1, threads: int = 1,
    device: str = "cpu", precision: str | None = None, seconds: float = 3.0, compare: str | None = None, profile: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Run a `.hr` or `.onnx` file over and over for `seconds`. With `compare="onnxruntime"` (an .onnx file), the peer
    runs in turns with us on the same inputs and the outputs are compared.

    Answers {"engines": {name: figures}, ...}; figures: calls, per_second, p50_ms, p90_ms, p99_ms, min_ms, failed.
    """
    model = load(path, device=device, threads=threads, precision=precision)
    feeds = random_feeds(model.inputs, seed, batch) if inputs is None else read_arrays(inputs)
    runs: dict[str, Callable[[], Any]] = {"headrace": lambda: model.run(feeds)}
    if compare:
        runs[compare] = _peer(compare, path, feeds, threads)
    first = {name: run() for name, run in runs.items()}
    times = _in_turns(runs, seconds)
    result: dict[str, Any] = {
        "target": str(path),
        "batch": batch,
        "threads": threads,
        "device": model.properties["device"],
        "engines": {n: _figures(t) for n, t in times.items()},
    }
    if compare:
        result["ratio"] = float(np.median(times[compare]) / np.median(times["headrace"]))
        result["max_difference"] = _difference(
            first["headrace"], dict(zip([s.name for s in model.outputs], first[compare]))
        )
    if profile:
        result["profile"] = model.profile(feeds)
    model.close()
    return result


def _peer(name: str, path: str | Path, feeds: Arrays, threads: int) -> Callable[[], Any]:
    if name != "onnxruntime" or Path(path).suffix != ".onnx":
        raise HeadraceError(
            f"cannot compare {path} with {name!r}; allowed: onnxruntime on an .onnx file (headrace export makes one)"
        )
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, dict(feeds))


def _in_turns(runs: Mapping[str, Callable[[], Any]], seconds: float) -> dict[str, list[float]]:
    """Times in seconds, the engines interleaved in short turns so that a busy machine slows all alike."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    end = time.monotonic() + seconds * len(runs)
    while time.monotonic() < end or min(map(len, times.values())) < 5:
        for name, run in runs.items():
            turn = time.perf_counter() + 0.05
            while True:
                start = time.perf_counter()
                run()
                now = time.perf_counter()
                times[name].append(now - start)
                if now >= turn:
                    break
    return times


def _figures(times: list[float], failed: int = 0, wall: float | None = None) -> dict[str, float]:
    if not times:
        return {
            "calls": 0,
            "per_second": 0.0,
            "p50_ms": 0.0,
            "p90_ms": 0.0,
            "p99_ms": 0.0,
            "min_ms": 0.0,
            "failed": failed,
        }
    p50, p90, p99 = np.percentile(times, [50, 90, 99]) * 1e3
    rate = len(times) / (wall if wall is not None else sum(times))
    return {
        "calls": len(times),
        "per_second": rate,
        "p50_ms": float(p50),
        "p90_ms": float(p90),
        "p99_ms": float(p99),
        "min_ms": min(times) * 1e3,
        "failed": failed,
    }


def _difference(ours: Arrays, theirs: Arrays) -> float:
    worst = 0.0
    for name, want in theirs.items():
        got = ours[name]
        if got.shape != want.shape:
            raise HeadraceError(f"output {name!r}: shape {got.shape} here, {want.shape} in the peer")
        if got.dtype.kind == "f" and got.size:
            worst = max(worst, float(np.abs(got.astype(np.float64) - want.astype(np.float64)).max()))
    return worst


def bench_server(
    url: str, model: str, inputs: str | Path | Arrays | None = None, *, seed: int = 0, batch: int = 1, clients: int = 8,
    seconds: float = 3.0, progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Load `model` at `url` with `clients` concurrent callers for `seconds` (closed loop). Every answer must equal the
    first one byte for byte; one that does not, or an error, counts as failed."""
    from headrace.serve.client import Client

    with Client(url) as client:
        specs = [_spec(facts) for facts in client.metadata(model)["inputs"]]
        feeds: dict[str, Any] = dict(random_feeds(specs, seed, batch) if inputs is None else read_arrays(inputs))
        want = client.infer(model, **feeds)
    times: list[list[float]] = [[] for _ in range(clients)]
    failed = [0] * clients
    end = time.monotonic() + seconds

    def call(index: int) -> None:
        with Client(url) as own:
            while time.monotonic() < end:
                start = time.perf_counter()
                try:
                    got = own.infer(model, **feeds)
                    good = all(np.array_equal(got[name], want[name]) for name in want)
                except HeadraceError:
                    good = False
                times[index].append(time.perf_counter() - start)
                failed[index] += not good

    begin = time.perf_counter()
    callers = [threading.Thread(target=call, args=(i,), daemon=True) for i in range(clients)]
    for caller in callers:
        caller.start()
    while progress and any(caller.is_alive() for caller in callers):
        progress(int(min(seconds, time.perf_counter() - begin) * 10), int(seconds * 10))
        time.sleep(0.1)
    for caller in callers:
        caller.join()
    wall = time.perf_counter() - begin
    return {
        "target": url,
        "model": model,
        "clients": clients,
        "engines": {model: _figures([t for own in times for t in own], sum(failed), wall)},
    }


def _spec(facts: Mapping[str, Any]) -> TensorSpec:
    """One input from a server's metadata, where a free dimension is -1."""
    from headrace.serve.datatypes import DATATYPES

    sizes = [int(size) for size in facts["shape"]]
    shape = tuple(symbol(f"n{axis}") if size < 0 else size for axis, size in enumerate(sizes))
    dtype = DATATYPES[facts["datatype"]].dtype
    return TensorSpec(facts["name"], "string" if dtype.kind == "O" else dtype.name, shape)
