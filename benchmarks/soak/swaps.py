"""Versions that change under load."""

import tempfile
from pathlib import Path

import numpy as np
from benchmarks.soak import models
from benchmarks.soak.faults import under_load
from benchmarks.soak.load import Lines, Load, percentile
from benchmarks.soak.server import Samples, ServerProcess
from benchmarks.soak.steady import STRETCH, capacity, nothing_bad, outcome
from benchmarks.soak.swapper import Swapper

MAKING = 0.02  # seconds: one file
EACH = 100  # swaps between two stretches without any
QUIET = STRETCH / 2  # such a stretch
PASSES = ("new", "proven")  # to this host: what the files are


def about_r5(options):
    stretches = max(2, -(-options.swaps // EACH))
    swapping = options.swaps * (1 / options.pace if options.pace else 0.03)
    files = max(1, options.swaps // len(PASSES))
    seconds = files * MAKING + options.probe + stretches * (min(QUIET, options.seconds) + 1) + swapping + 10
    return f"{options.swaps:,} swaps", seconds


def r5(options, run):
    """Versions are switched under load: each answer is of exactly one of them. Stretches without a swap and with swaps, `pace` a
    second, take turns. Files are made before, and another process puts them in place and asks for the swaps; all of them
    twice: new to this host, where they are proven first, and known."""
    files = range(2, max(1, options.swaps // len(PASSES)) + 2)
    with (
        tempfile.TemporaryDirectory() as root,
        tempfile.TemporaryDirectory(dir=Path(root).parent) as made,
        tempfile.TemporaryDirectory() as cache,
    ):
        models.line(Path(root, "line/1/model.hr"), 1, 1)
        for version in files:
            models.line(Path(made, f"{version}/model.hr"), version, 1)
        run.step(f"{len(files)} files are made")
        with ServerProcess(root, *options.flags, cache=cache) as server:
            requests = Lines("line", factor=None)
            rate = capacity(server, requests, options.probe) / 2
            quiet, busy = Load(server.grpc, requests), {name: Load(server.grpc, requests) for name in PASSES}
            times, ratios = {name: [] for name in PASSES}, {name: [] for name in PASSES}
            before = server.settled()
            with Samples(server, 1.0) as samples, Swapper(server.grpc, Path(root, "line"), Path(made)) as swapper:
                for name in PASSES:
                    for first in range(0, len(files), EACH):
                        chunk = list(files[first : first + EACH])
                        if run.over:
                            break
                        marks = len(quiet.times), len(busy[name].times)
                        quiet.open_loop(rate, min(QUIET, options.seconds))
                        with run.part(f"swaps of {name} files"):
                            under_load(
                                busy[name],
                                rate,
                                lambda chunk=chunk, name=name: times[name].extend(
                                    swapper(chunk, options.pace, run.until)
                                ),
                            )
                        p99 = percentile(quiet.times[marks[0] :], 99), percentile(busy[name].times[marks[1] :], 99)
                        ratios[name].append(p99[1] / p99[0])
                        run.step(
                            f"{sum(map(len, times.values())):,} of {options.swaps:,} swaps, p99 {p99[1]:.2f} ms with "
                            f"swaps ({name} files), {p99[0]:.2f} ms without"
                        )
            figures = {"rate_per_s": round(rate), "pace_per_s": options.pace, **samples.summary()}
            figures |= {"before_mib": before, "after_mib": server.settled()}
    checks = {f"without swaps: {check}": holds for check, holds in nothing_bad(quiet).items()}
    for name in PASSES:
        figures[name] = outcome(busy[name]) | {"swaps": len(times[name])}
        checks |= {f"{name} files: {check}": holds for check, holds in nothing_bad(busy[name]).items()}
        busy[name].close()
        if times[name]:
            figures[name]["swap_ms_median"] = float(np.median(times[name]) * 1e3)
            ratio = float(np.median(ratios[name]))
            beside = f"without swaps, {len(ratios[name])} stretches in turns, median ratio {ratio:.2f}"
            run.compare(
                f"p99 with swaps of {name} files, ms",
                percentile(busy[name].times, 99),
                beside,
                percentile(quiet.times, 99),
                "ratio at most 1.2",
            )
            run.compare(f"one swap of {name} files, ms (median)", figures[name]["swap_ms_median"])
    run.compare("memory after, MiB", figures["after_mib"], "before", before, "at most 16 more")
    figures["without swaps"] = outcome(quiet)
    quiet.close()
    checks["all swapped"] = sum(map(len, times.values())) == len(files) * len(PASSES)
    checks["memory back"] = figures["after_mib"] - before < 16
    return "R5 version swaps", figures, checks
