"""The steps of a load: sweeps over callers or rates, percentiles, checks, when to stop."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from headrace.runtime.errors import HeadraceError
from headrace.runtime.golden import error_of
from headrace.runtime.interface import TensorSpec
from headrace.runtime.shapes import symbol
from headrace.serve.client import Client
from headrace.serve.client_types import ClientTls, make_ask
from headrace.serve.datatypes import DATATYPES
from headrace.verbs.load.generator import Counted, Step, run_step
from headrace.verbs.load.plot import plot_load
from headrace.verbs.load.shared import shared_inputs
from headrace.verbs.run import random_feeds, read_arrays

Arrays = Mapping[str, np.ndarray]
BUSY = 0.85  # of a core: a generator that takes more is likely what was measured,
LATE = 0.25  # of p99: as is one that was so late itself
PERCENTILES = {"p50_ms": 50, "p90_ms": 90, "p99_ms": 99, "p999_ms": 99.9}


def load_server(
    url: str, model: str, inputs: str | Path | Arrays | None = None, *, seed: int = 0, batch: int = 1,
    clients: int | Sequence[int] = 8, rates: float | Sequence[float] = (), arrivals: str = "poisson", seconds: float = 3.0,
    warmup: float = 0.3, timeout: float = 10.0, stop_ms: float | None = None, golden: str | Path | None = None,
    processes: int = 1, shared_memory: bool = False, plot: str | Path | None = None,
    tls: ClientTls | str | None = None, token: str = "",
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Load `model` at `url` (host:port, http://host:port or https://host:port), a step for each number of `clients` (closed loop: each
    sends again when it has its answer), or for each of `rates` (open loop: calls a second at "poisson" or "constant" times).

    Every answer must equal the first, which must be what `golden`, a package with golden data, says (its inputs are then
    sent). A step whose p99 is over `stop_ms` is the last. `processes` share the load. `shared_memory`: inputs are read from
    a region that is registered first. `tls` and `token`: as of Client. `plot`: a picture of latency over throughput. `progress`: (steps done, of how many).

    Answers target, model, protocol, batch, steps: mode, clients or rate, calls, ok, per_second (good answers), wrong,
    errors {meaning: number}, p50_ms, p90_ms, p99_ms, p999_ms, mean_ms, max_ms, lag_ms (p99 of how late the generator
    itself woke), generator_cores (that the generator kept busy) and generator_bound (it was likely the limit); `best`, the
    step with the most good answers a second that kept the bound; engines {model: the figures of that step}.
    Raises HeadraceError where the first answer is wrong, and ServeError where there is none.
    """
    if arrivals not in ("poisson", "constant"):
        raise HeadraceError(f"arrivals is {arrivals!r}; allowed are poisson and constant")
    if not 1 <= processes <= 64:
        raise HeadraceError(f"processes is {processes}; allowed are 1 to 64")
    closed = [clients] if isinstance(clients, int) else list(clients)
    opened = [float(rates)] if isinstance(rates, (int, float)) else [float(rate) for rate in rates]
    if min([*closed, *opened], default=1) <= 0:
        raise HeadraceError("clients and rates must be above 0")
    with Client(url, timeout=max(timeout, 10.0), tls=tls, token=token) as client:
        feeds, expected = _data(client, model, inputs, golden, seed, batch)
        first = client.infer(model, feeds)
        if expected is not None:
            expected(first)
        with shared_inputs(client, feeds if shared_memory else {}) as tensors:
            ask = make_ask(model, {**feeds, **tensors}, "", None, None, "")
            base = Step(url, ask, seconds, warmup, timeout, tls=tls, token=token, arrivals=arrivals)
            steps = [replace(base, rate=r) for r in opened] or [replace(base, clients=n) for n in closed]
            rows: list[dict[str, Any]] = []
            for number, step in enumerate(steps):
                if progress is not None:
                    progress(number, len(steps))
                rows.append(_figures(step, _spread(step, processes, seed), processes))
                if stop_ms is not None and rows[-1]["p99_ms"] > stop_ms:
                    break
    within = [row for row in rows if stop_ms is None or row["p99_ms"] <= stop_ms]
    best = max(within or rows, key=lambda row: row["per_second"])
    result = {
        "target": url,
        "model": model,
        "protocol": "REST" if url.startswith("http") else "gRPC",
        "batch": batch,
        "processes": processes,
        "golden": expected is not None,
        "stop_ms": stop_ms,
        "steps": rows,
        "best": rows.index(best) if within else None,
        "engines": {model: best | {"failed": best["calls"] - best["ok"]}},
    }
    if plot is not None:
        plot_load(result, plot)
    return result


def _spread(step: Step, processes: int, seed: int) -> list[Counted]:
    """The step, shared by so many processes."""
    shares = [
        replace(step, clients=len(range(n, step.clients, processes)), rate=step.rate / processes, seed=seed + n)
        for n in range(processes)
    ]
    shares = [share for share in shares if share.clients or share.rate]
    if len(shares) == 1:
        return [run_step(shares[0])]
    with ProcessPoolExecutor(len(shares), multiprocessing.get_context("spawn")) as pool:
        return list(pool.map(run_step, shares))


def _figures(step: Step, counted: list[Counted], processes: int) -> dict[str, Any]:
    latencies = np.array([t for one in counted for t in one.latencies]) * 1e3
    errors: dict[str, int] = {}
    for one in counted:
        for meaning, number in one.errors.items():
            errors[meaning] = errors.get(meaning, 0) + number
    wrong, wall = sum(one.wrong for one in counted), max(one.seconds for one in counted)
    cores = [one.cpu_seconds / one.seconds for one in counted]
    lags = [t for one in counted for t in one.lags]
    row: dict[str, Any] = (
        {"mode": "closed", "clients": step.clients} if step.clients else {"mode": "open", "rate": step.rate}
    )
    row |= {
        "calls": len(latencies) + wrong + sum(errors.values()),
        "ok": len(latencies),
        "wrong": wrong,
        "errors": errors,
        "per_second": len(latencies) / wall,
        **{name: float(np.percentile(latencies, q)) if len(latencies) else 0.0 for name, q in PERCENTILES.items()},
        "mean_ms": float(latencies.mean()) if len(latencies) else 0.0,
        "max_ms": float(latencies.max()) if len(latencies) else 0.0,
        "lag_ms": float(np.percentile(lags, 99) * 1e3) if lags else 0.0,
        "generator_cores": sum(cores),
    }
    row["generator_bound"] = max(cores) > BUSY or row["lag_ms"] > LATE * row["p99_ms"]
    return row


def _data(
    client: Client, model: str, inputs: str | Path | Arrays | None, golden: str | Path | None, seed: int, batch: int
) -> tuple[dict[str, Any], Callable[[Arrays], None] | None]:
    """What is sent, and what checks the first answer."""
    if golden is None:
        if inputs is not None:
            return dict(read_arrays(inputs)), None
        specs = [_spec(facts) for facts in client.metadata(model)["inputs"]]
        return dict(random_feeds(specs, seed, batch)), None
    from headrace.serializer.archive import open_program

    if inputs is not None:
        raise HeadraceError("golden brings its own inputs; give one of the two")
    found = open_program(golden).golden
    if found is None or not found.inputs:
        raise HeadraceError(f"{golden}: the package has no golden data")

    def check(answer: Arrays) -> None:
        for name, want in found.outputs[0].items():
            bound = found.atol + found.rtol * float(np.abs(want.astype(np.float64)).max(initial=0.0))
            off = error_of(answer[name], want)
            if not off <= bound:
                raise HeadraceError(f"output {name!r} is off by {off:.3g} from the golden data, allowed is {bound:.3g}")

    return dict(found.inputs[0]), check


def _spec(facts: Mapping[str, Any]) -> TensorSpec:
    """One input from a server's metadata, where a free dimension is -1."""
    sizes = [int(size) for size in facts["shape"]]
    shape = tuple(symbol(f"n{axis}") if size < 0 else size for axis, size in enumerate(sizes))
    dtype = DATATYPES[facts["datatype"]].dtype
    return TensorSpec(facts["name"], "string" if dtype.kind == "O" else dtype.name, shape)


__all__ = ["load_server"]
