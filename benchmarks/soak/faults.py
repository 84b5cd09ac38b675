"""Runs in which something happens to the server: its workers die or stop, models come and go, it is told to end."""

import os
import signal
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
from benchmarks.soak import models
from benchmarks.soak.load import Lines, Load
from benchmarks.soak.server import ServerProcess
from benchmarks.soak.steady import capacity, nothing_bad, outcome

from headrace.serve import Client

PATIENCE = 30.0


def _with_workers(options):
    return options.flags if "--workers" in options.flags else ["--workers=1", *options.flags]


def under_load(load, rate, event):
    """Run `event(load)` while calls go on at `rate`."""
    stop = threading.Event()
    thread = threading.Thread(target=load.open_loop, args=(rate, 1e9, stop))
    thread.start()
    try:
        time.sleep(0.5)
        event()
        time.sleep(0.5)
    finally:
        stop.set()
        thread.join()


def _until(condition):
    """Seconds until it holds; None: it did not in time."""
    began = time.perf_counter()
    while not condition():
        if time.perf_counter() - began > PATIENCE:
            return None
        time.sleep(0.002)
    return time.perf_counter() - began


def _strike(server, load, number):
    """Send the signal to a worker that has its model: seconds until a call that began later was answered well, and until there
    are as many workers as before and it is none of them. None: it did not come to that."""
    before, wanted = server.workers(), server.metric("headrace_workers_alive")
    began = time.perf_counter()
    os.kill(before[0], number)
    gap = _until(lambda: load.newest_good > began + 1e-3)
    gone = _until(lambda: before[0] not in server.workers())
    back = _until(lambda: server.metric("headrace_workers_alive") == wanted)
    return gap, None if gone is None or back is None else time.perf_counter() - began


def _faults(options, run, name, number, times, every, timeout, allowed, goals):
    """Send a signal to one worker again and again; how long until a call that began later was answered well."""
    gaps, replaced = [], []
    with tempfile.TemporaryDirectory() as root:
        models.line(Path(root, "line/1/model.hr"), 2, 1)
        # What comes while no worker is there waits: calls fail by what happens to the worker, none by the length of the queue.
        Path(root, "line/config.toml").write_text("[queue]\nmax_size = 100000\n")
        with ServerProcess(root, *_with_workers(options)) as server:
            workers = int(server.metric("headrace_workers_alive"))
            requests = Lines("line")
            most = capacity(server, requests, options.probe)
            load = Load(server.grpc, requests, mangle=lambda _: (timeout, None))

            def strike():
                for count in range(1, times + 1):
                    began = time.perf_counter()
                    gap, again = _strike(server, load, number)
                    gaps.append(gap)
                    replaced.append(again)
                    if gap is None or again is None or run.over:
                        break
                    run.step(f"{count} of {times}, next good answer after {gap:.3f} s, replaced after {again:.2f} s")
                    time.sleep(max(0.2, every - (time.perf_counter() - began)))

            with run.part("all strikes"):
                under_load(load, most / 4, strike)
            figures = outcome(load)
            figures |= {"deaths": len(gaps), "restarts": int(server.metric("headrace_worker_restarts_total"))}
            figures |= {"rate_per_s": round(most / 4), "every_s": every}
            ready = _until(server.ready) is not None
            load.close()
    found = all(gap is not None for gap in gaps) and all(gap is not None for gap in replaced)
    if found:
        figures |= {
            "next_ok_s_max": max(gaps),
            "next_ok_s_median": float(np.median(gaps)),
            "replaced_s_max": max(replaced),
        }
        run.compare("next good answer, longest, s", max(gaps), "median", float(np.median(gaps)), goals.get(workers, ""))
        run.compare(
            "a worker is there again, longest, s", max(replaced), "median", float(np.median(replaced)), "at most 5"
        )
    checks = nothing_bad(load, allowed) | {"served again": found, "ready at the end": ready}
    checks["as many as asked"] = len(gaps) == times
    failed = sum(count for code, count in load.outcomes.items() if code != "OK")
    run.compare("calls that failed", failed, "sent", load.sent, f"only {', '.join(allowed[1:])}")
    return f"{name}, of {workers}", figures, checks | {"every death counted": figures["restarts"] == figures["deaths"]}


def r3(options, run):
    """A worker is killed again and again."""
    allowed, goals = ("OK", "UNAVAILABLE"), {1: "at most 1", 2: "at most 0.2"}
    return _faults(
        options, run, "R3 kill -9 of a worker", signal.SIGKILL, options.deaths, options.every, 30.0, allowed, goals
    )


def r4(options, run):
    """A worker is stopped; calls have 2 s, and the server may refuse at once those that would wait for longer."""
    allowed = ("OK", "UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED")
    times = min(4, options.deaths)
    return _faults(options, run, "R4 SIGSTOP of a worker", signal.SIGSTOP, times, options.every, 2.0, allowed, {})


def cycles(options, run):
    """The model is unloaded and loaded again and again, nobody asks."""
    with tempfile.TemporaryDirectory() as root:
        models.line(Path(root, "line/1/model.hr"), 2, 1)
        models.heavy(Path(root, "heavy/1/model.hr"))
        with ServerProcess(root, *options.flags) as server, Client(f"127.0.0.1:{server.grpc}") as client:
            x = np.ones((1, models.HEAVY), np.float32)
            wanted = client.infer("heavy", x=x)["y"].tobytes()
            before, same, sizes = server.settled(), 0, []
            for _ in range(options.cycles):
                client.unload("heavy")
                client.load("heavy")
                same += client.infer("heavy", x=x)["y"].tobytes() == wanted
                sizes.append(server.sample()[0])
            after = server.settled()
            client.unload("heavy")
            empty = server.settled()
    figures = {"cycles": options.cycles, "model_mib": round(models.HEAVY**2 * 4 / 2**20, 1), "before_mib": before}
    figures |= {"after_mib": after, "unloaded_mib": empty, "peak_mib": round(max(sizes), 1)}
    checks = {"the same answer every time": same == options.cycles, "memory back": after - before < 16}
    return "load and unload", figures, checks | {"the model's memory is given back": empty < before}


def r6(options, run):
    """SIGTERM under load: first not ready, then only refusals, status 0; a second one ends it at once."""
    with tempfile.TemporaryDirectory() as root:
        models.line(Path(root, "models/line/1/model.hr"), 2, 1)
        config = Path(root, "headrace.toml")
        config.write_text("[drain]\nlame_duck_s = 1.0\ngrace_s = 10.0\n")
        flags = ["--config", str(config), *options.flags]
        with ServerProcess(Path(root, "models"), *flags) as server:
            requests = Lines("line")
            most = capacity(server, requests, options.probe)
            load = Load(server.grpc, requests)
            seen = {}

            def end():
                began = time.perf_counter()
                server.process.terminate()
                seen["not_ready_s"] = _until(lambda: not server.ready())
                seen["status"] = server.process.wait(PATIENCE)
                seen["drain_s"] = time.perf_counter() - began

            under_load(load, most / 2, end)
            figures = outcome(load) | seen
            load.close()
        with ServerProcess(Path(root, "models"), *flags) as server:
            server.process.terminate()
            _until(lambda: not server.ready())
            began = time.perf_counter()
            server.process.terminate()
            figures["second_status"] = server.process.wait(PATIENCE)
            figures["second_s"] = time.perf_counter() - began
    checks = nothing_bad(load, ("OK", "UNAVAILABLE"))
    checks |= {"status 0": figures["status"] == 0, "not ready at once": seen["not_ready_s"] is not None}
    checks["a second one ends it"] = figures["second_status"] in (-signal.SIGTERM, 128 + signal.SIGTERM, 0)
    return "R6 SIGTERM under load", figures, checks
