"""Versions that change under load."""

import tempfile
import time
from pathlib import Path

import numpy as np
from benchmarks.processes import cpu_seconds
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
CONTROL = "nothing new"  # asked for as often: what it costs to ask


def about_r5(options):
    stretches = max(2, -(-options.swaps // EACH))
    swapping = (options.swaps + EACH) * (1 / options.pace if options.pace else 0.03)
    files = max(1, options.swaps // len(PASSES))
    seconds = files * MAKING + options.probe + (stretches + 1) * (min(QUIET, options.seconds / 4) + 1) + swapping + 10
    return f"{options.swaps:,} swaps", seconds


class Turns:
    """Stretches without a swap and with some, in turns, and what they found: `without` is the load of the former, `loads`,
    `times` (seconds of a swap), `ratios` (of the 99th percentiles) and `processor` (seconds of the server for a swap) by pass."""

    def __init__(self, server, requests, rate, swapper, options):
        self._server, self._rate, self._swapper, self._options = server, rate, swapper, options
        names = (CONTROL, *PASSES)
        self.without = Load(server.grpc, requests)
        self.loads = {name: Load(server.grpc, requests) for name in names}
        self.times, self.ratios, self.processor = ({name: [] for name in names} for _ in range(3))

    def turn(self, name, versions, run):
        """One of each; tells both 99th percentiles in milliseconds."""
        load = self.loads[name]
        marks = len(self.without.times), len(load.times)
        seconds = min(QUIET, self._options.seconds / 4)
        idle = self._taken(lambda: self.without.open_loop(self._rate, seconds)) / seconds
        with run.part(f"swaps of {name} files" if name in PASSES else name):
            began = time.monotonic()
            taken = self._taken(
                lambda: under_load(
                    load,
                    self._rate,
                    lambda: self.times[name].extend(self._swapper(versions, self._options.pace, run.until)),
                )
            )
            self.processor[name].append((taken - idle * (time.monotonic() - began)) / len(versions))
        p99 = percentile(self.without.times[marks[0] :], 99), percentile(load.times[marks[1] :], 99)
        self.ratios[name].append(p99[1] / p99[0])
        return p99

    def _taken(self, work):
        """Processor time of the server and its processes meanwhile."""
        before = cpu_seconds(self._server.pid)
        work()
        return cpu_seconds(self._server.pid) - before


def r5(options, run):
    """Versions are switched under load: each answer is of exactly one of them. Stretches without a swap and with swaps, `pace` a
    second, take turns. Files are made before, and another process puts them in place and asks for the swaps; all of them
    twice: new to this host, where they are proven first, and known. What that process takes of the processors is a stretch of
    its own: it asks as often, and there is nothing new."""
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
            before = server.settled()
            with Samples(server, 1.0) as samples, Swapper(server.grpc, Path(root, "line"), Path(made)) as swapper:
                turns = Turns(server, requests, rate, swapper, options)
                p99 = turns.turn(CONTROL, [None] * min(EACH, len(files)), run)
                run.step(f"p99 {p99[1]:.2f} ms with loads of nothing new, {p99[0]:.2f} ms without")
                for name in PASSES:
                    for first in range(0, len(files), EACH):
                        if run.over:
                            break
                        p99 = turns.turn(name, list(files[first : first + EACH]), run)
                        swapped = sum(len(turns.times[name]) for name in PASSES)
                        run.step(
                            f"{swapped:,} of {options.swaps:,} swaps, p99 {p99[1]:.2f} ms with swaps ({name} files), "
                            f"{p99[0]:.2f} ms without"
                        )
            figures = {"rate_per_s": round(rate), "pace_per_s": options.pace, **samples.summary()}
            figures |= {"before_mib": before, "after_mib": server.settled()}
    without = percentile(turns.without.times, 99)
    pace = f"{options.pace:g} a second" if options.pace else "one at once after the other"
    checks = {f"without swaps: {check}": holds for check, holds in nothing_bad(turns.without).items()}
    for name, load in turns.loads.items():
        figures[name] = outcome(load) | {"swaps": len(turns.times[name])}
        checks |= {f"{name}: {check}": holds for check, holds in nothing_bad(load).items()}
        load.close()
        if not turns.times[name]:
            continue
        ratio = float(np.median(turns.ratios[name]))
        beside = f"without swaps, {len(turns.ratios[name])} stretches in turns, median ratio {ratio:.2f}"
        what, goal = (f"swaps of {name} files", "ratio at most 1.2") if name in PASSES else (f"loads of {name}", "")
        run.compare(f"p99 with {what}, {pace}, ms", percentile(load.times, 99), beside, without, goal)
        figures[name]["swap_ms_median"] = float(np.median(turns.times[name]) * 1e3)
        if name in PASSES:
            figures[name]["processor_ms"] = float(np.mean(turns.processor[name]) * 1e3)
            run.compare(
                f"one of these {what}, ms (median)",
                figures[name]["swap_ms_median"],
                "of them the server has a processor",
                figures[name]["processor_ms"],
            )
    run.compare("memory after, MiB", figures["after_mib"], "before", before, "at most 16 more")
    figures["without swaps"] = outcome(turns.without)
    turns.without.close()
    checks["all swapped"] = sum(len(turns.times[name]) for name in PASSES) == len(files) * len(PASSES)
    checks["memory back"] = figures["after_mib"] - before < 16
    return "R5 version swaps", figures, checks
