"""The runs, by the name of the property in the list of acceptance figures: each answers one row of figures and the checks that
must hold in it. Checks are of order; figures of time are shown, not judged."""

import tempfile
from pathlib import Path
from statistics import median

from benchmarks.soak import models
from benchmarks.soak.echo import EchoProcess
from benchmarks.soak.load import Echoed, Lines, Load, percentile
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


def disturb(number):
    """How a call is made: one in twenty is cancelled at once, one in twenty has a deadline that it cannot keep."""
    kind = number % 20
    return (30.0, 0) if kind == 7 else (0.0005, None) if kind == 13 else (30.0, None)


STRETCH = 5.0  # seconds
TURNS = 4  # a round: plain and disturbed, of the server and of the echo


def _stretch(options):
    """(rounds, seconds of each turn)."""
    rounds = max(1, round(options.seconds / (TURNS * STRETCH / 2)))
    return rounds, options.seconds / rounds / TURNS


def about_r2(options):
    return f"{_stretch(options)[0]} rounds of {TURNS} stretches", 2 * options.probe + options.seconds + 2


def r2(options, run):
    """The same load with one call in twenty cancelled and one in twenty that expires, beside the load without them: stretches
    of both take turns. A bare grpcio echo under the same loads says what of that is the client's own."""
    allowed = ("OK", "CANCELLED", "DEADLINE_EXCEEDED")
    rounds, stretch = _stretch(options)
    with tempfile.TemporaryDirectory() as root:
        models.line(Path(root, "line/1/model.hr"), 2, 1)
        with ServerProcess(root, *options.flags) as server, EchoProcess() as echo:
            rate = capacity(server, Lines("line"), options.probe) * SHARE
            echo_rate = capacity(echo, Echoed("line"), options.probe) * SHARE
            plain, load = Load(server.grpc, Lines("line")), Load(server.grpc, Lines("line"), mangle=disturb)
            echoes = Load(echo.grpc, Echoed("line")), Load(echo.grpc, Echoed("line"), mangle=disturb)
            ratios, echo_ratios = [], []
            with Samples(server, max(0.5, options.seconds / 600)) as samples:
                for number in range(1, rounds + 1):
                    if run.over:
                        break
                    with run.part("all rounds"):
                        ratios.append(p99_ratio(plain, load, rate, stretch))
                        echo_ratios.append(p99_ratio(*echoes, echo_rate, stretch))
                        told = f"p99 ratio {ratios[-1]:.2f}, of the echo {echo_ratios[-1]:.2f}"
                        run.step(f"{number} of {rounds}, {told}")
            figures = outcome(load) | samples.summary() | {"plain": outcome(plain), "rounds": len(ratios)}
            figures["expired_before_run"] = int(server.metric("headrace_expired_before_run_total"))
            figures["rate_per_s"], figures["echo_rate_per_s"] = round(rate), round(echo_rate)
            ready = server.ready()
            for one in (plain, load, *echoes):
                one.close()
    if ratios and echo_ratios:
        figures |= {"p99_ratio": median(ratios), "echo_p99_ratio": median(echo_ratios)}
        beside = f"without cancels and deadlines, {len(ratios)} rounds in turns, median ratio {median(ratios):.2f}"
        run.compare("p99 of the others, ms", figures["p99_ms"], beside, figures["plain"]["p99_ms"], "ratio below 1.5")
        beside, other = "without them", percentile(echoes[0].times, 99)
        beside += f", median ratio {median(echo_ratios):.2f}"
        run.compare("the same of a bare grpcio echo, ms", percentile(echoes[1].times, 99), beside, other)
    run.compare("expired in the queue, without having run", figures["expired_before_run"])
    checks = nothing_bad(load, allowed) | {"ready at the end": ready}
    checks |= {f"without them: {check}": holds for check, holds in nothing_bad(plain).items()}
    checks["memory does not grow with requests"] = not grows(samples.rows, load.sent + plain.sent)
    return "R2 cancels and deadlines", figures, checks


def p99_ratio(first, second, rate, seconds):
    """Two loads one after the other: the 99th percentile of the second's good answers by that of the first's."""
    before = len(first.times), len(second.times)
    first.open_loop(rate, seconds)
    second.open_loop(rate, seconds)
    return percentile(second.times[before[1] :], 99) / percentile(first.times[before[0] :], 99)


def r1(options, run):
    """A steady load at 80 % of the capacity."""
    with tempfile.TemporaryDirectory() as root:
        models.line(Path(root, "line/1/model.hr"), 2, 1)
        with ServerProcess(root, *options.flags) as server:
            requests = Lines("line")
            most = capacity(server, requests, options.probe)
            load = Load(server.grpc, requests)
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
    checks = nothing_bad(load) | {"ready at the end": ready}
    low, high = figures["descriptors"]
    checks["descriptors flat"] = high - low <= 8
    checks["threads flat"] = figures["threads"][1] - figures["threads"][0] <= 8
    checks["memory does not grow with requests"] = not grows(samples.rows, load.sent)
    if options.seconds >= 1800:
        checks["memory flat"] = figures["rss_slope_mib_h"] < 4
    return "R1 soak", figures, checks
