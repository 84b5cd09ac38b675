"""The runs, by the name of the property in the list of acceptance figures: each answers one row of figures and the checks that
must hold in it. Checks are of order; figures of time are shown, not judged."""

import tempfile
from pathlib import Path

from benchmarks.soak import models
from benchmarks.soak.load import Lines, Load, percentile
from benchmarks.soak.server import Samples, ServerProcess

SHARE = 0.8  # of the capacity


def capacity(server, requests, seconds, inflight=64):
    """Good answers a second of one generator with `inflight` calls open; the first half of the time warms up."""
    load = Load(server.grpc, requests)
    load.closed_loop(inflight, seconds / 2)
    rate = load.closed_loop(inflight, seconds / 2)
    load.close()
    return rate


def outcome(load):
    """What became of the calls."""
    return {
        "sent": load.sent,
        "outcomes": dict(load.outcomes),
        "lost": load.lost,
        "wrong": load.wrong,
        "p50_ms": percentile(load.times, 50),
        "p99_ms": percentile(load.times, 99),
        "max_ms": percentile(load.times, 100),
    }


def nothing_bad(load, allowed=("OK",)):
    return {
        "none lost": load.lost == 0 and sum(load.outcomes.values()) == load.sent,
        "none wrong": load.wrong == 0,
        f"only {', '.join(allowed)}": set(load.outcomes) <= set(allowed),
        "some good": load.outcomes["OK"] > 0,
    }


GROWTH_MIB, GROWTH_BYTES = 6, 512  # of memory, altogether and a request, that a short run may show


def grows(rows, sent):
    """Whether memory grew with the requests, after the first fifth of the samples (seconds, MiB, ...)."""
    rows = rows[len(rows) // 5 :]
    return bool(rows) and rows[-1][1] - rows[0][1] > GROWTH_MIB + GROWTH_BYTES * sent / 2**20


def r1(options):
    """A steady load at 80 % of the capacity."""
    return _steady(options, "R1 soak", None, ("OK",))


def r2(options):
    """The same with one call in twenty cancelled and one in twenty with a deadline that it cannot keep."""

    def mangle(number):
        kind = number % 20
        return (30.0, 0) if kind == 7 else (0.0005, None) if kind == 13 else (30.0, None)

    row = _steady(options, "R2 cancels and deadlines", mangle, ("OK", "CANCELLED", "DEADLINE_EXCEEDED"))
    return row


def _steady(options, name, mangle, allowed):
    with tempfile.TemporaryDirectory() as root:
        models.line(Path(root, "line/1/model.hr"), 2, 1)
        with ServerProcess(root, *options.flags) as server:
            requests = Lines("line")
            most = capacity(server, requests, options.probe)
            load = Load(server.grpc, requests, mangle=mangle)
            with Samples(server, max(0.5, options.seconds / 600)) as samples:
                load.open_loop(most * SHARE, options.seconds)
            figures = outcome(load) | samples.summary()
            figures["batch_rows"] = round(
                server.metric("nv_inference_count") / max(1, server.metric("nv_inference_exec_count")), 2
            )
            figures["expired_before_run"] = int(server.metric("headrace_expired_before_run_total"))
            load.close()
            ready = server.ready()
    figures |= {"capacity_per_s": round(most), "rate_per_s": round(most * SHARE), "seconds": options.seconds}
    checks = nothing_bad(load, allowed) | {"ready at the end": ready}
    low, high = figures["descriptors"]
    checks["descriptors flat"] = high - low <= 8
    checks["threads flat"] = figures["threads"][1] - figures["threads"][0] <= 8
    checks["memory does not grow with requests"] = not grows(samples.rows, load.sent)
    if options.seconds >= 1800:
        checks["memory flat"] = figures["rss_slope_mib_h"] < 4
    return name, figures, checks
