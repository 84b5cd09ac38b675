"""Runs at the limits: more than can be done, less time than is needed, one bad request among good ones."""

import tempfile
import time
from pathlib import Path
from statistics import median

import grpc
import numpy as np
from benchmarks.soak import models
from benchmarks.soak.load import INFER, Load, Work, percentile
from benchmarks.soak.server import ServerProcess
from benchmarks.soak.steady import STRETCH, capacity, nothing_bad, outcome

from headrace.protos import inference_pb2 as pb

QUEUE = 64
SECONDS = 0.01  # a run
FULL = 32  # calls that are open while the capacity is measured: every instance is busy, none is refused


def _trips(server, seconds):
    """How many trips of `work` take about so long."""
    trips, took = 1000, 0.0
    while took < seconds / 4:
        trips *= 2
        load = Load(server.grpc, Work(trips), connections=1)
        load.closed_loop(1, 0.05)  # some calls: the quickest counts
        took = min(load.times)
        load.close()
    return max(1, int(trips * seconds / took))


def _pairs(options):
    return max(1, round(options.seconds / (2 * STRETCH)))


def about_r14(options):
    return f"{options.seconds / 2:g} s of overload", options.probe + 3 + options.seconds + 1.5 * _pairs(options)


def r14(options, run):
    """Three times as many calls as can be done: what is taken is done, the rest is refused at once. What can be done is measured
    between stretches of that, so that a machine that is slower for a while is so for both. Each stretch begins with more calls
    than the queue holds: it is full however short the stretch is, and however wrong what was measured."""
    pairs = _pairs(options)
    stretch = options.seconds / (2 * pairs)
    with tempfile.TemporaryDirectory() as root:
        models.work(Path(root, "work/1/model.hr"))
        Path(root, "work/config.toml").write_text(f"[queue]\nmax_size = {QUEUE}\n")
        with ServerProcess(root, *options.flags) as server:
            requests = Work(_trips(server, SECONDS))
            capacity(server, requests, options.probe, inflight=FULL)
            load, able, shares, again, good = Load(server.grpc, requests), [], [], [], False
            for pair in range(1, pairs + 1):
                if run.over:
                    break
                with run.part("all stretches"):
                    able.append(capacity(server, requests, stretch, inflight=FULL))
                    done, began = len(load.times), time.perf_counter()
                    load.open_loop(3 * able[-1], stretch, burst=2 * QUEUE)
                    shares.append((len(load.times) - done) / (time.perf_counter() - began) / able[-1])
                    began = time.perf_counter()
                    after = Load(server.grpc, requests)
                    after.closed_loop(1, 0.2)
                    again.append(time.perf_counter() - began)
                    good = after.outcomes["OK"] == sum(after.outcomes.values()) > 0
                    after.close()
                    run.step(f"{pair} of {pairs}, {shares[-1]:.2f} of {able[-1]:.0f} good answers a second")
            figures = outcome(load) | {"pairs": len(shares), "queue": QUEUE, "overload_s": stretch * len(shares)}
            load.close()
    if shares:
        longest = 1e3 * (QUEUE + 2) / median(able)  # what waits before a call, and two runs
        figures |= {"capacity_per_s": median(able), "goodput_share": median(shares), "normal_again_s": max(again)}
        goodput = median(share * rate for share, rate in zip(shares, able))
        beside = f"the most it can, {len(shares)} stretches in turns, median share {median(shares):.2f}"
        run.compare("good answers a second at 3x", goodput, beside, median(able), "share at least 0.9")
        run.compare("p99 of them, ms", percentile(load.times, 99), f"{QUEUE} waiting and 2 running", longest, "at most")
        run.compare("normal again, longest, s", max(again), "0.2 of it are calls", goal="at most 2")
    if len(load.refusals):
        figures |= {f"refused_p{share}_ms": percentile(load.refusals, share) for share in (50, 99)}
        p50, p99 = figures["refused_p50_ms"], figures["refused_p99_ms"]
        run.compare("refused after, p99, ms", p99, "p50", p50, "at most 50")
    checks = nothing_bad(load, ("OK", "RESOURCE_EXHAUSTED")) | {"some refused": len(load.refusals) > 0}
    return "R14 three times the capacity", figures, checks | {"normal again": good}


def r15(options, run):
    """A hundred calls with 50 ms each, to a model that takes a second."""
    with tempfile.TemporaryDirectory() as root:
        models.work(Path(root, "work/1/model.hr"))
        with ServerProcess(root, *options.flags) as server:
            requests = Work(_trips(server, 1.0))
            busy = "headrace_compute_seconds_sum"
            before, runs = server.metric(busy), server.metric("nv_inference_exec_count")
            load = Load(server.grpc, requests, mangle=lambda _: (0.05, None))
            for _ in range(100):
                load._send()
            load.settle()
            while server.metric("headrace_inflight_requests"):
                time.sleep(0.05)
            time.sleep(2.5)  # what has begun ends
            spent = server.metric(busy) - before
            ran = server.metric("nv_inference_exec_count") - runs
            figures = outcome(load) | {"busy_s": spent, "runs": ran, "answered_ms_max": percentile(load.late, 100)}
            figures["expired_before_run"] = int(server.metric("headrace_expired_before_run_total"))
            load.close()
    checks = {
        "none lost": load.lost == 0,
        "all expired": set(load.outcomes) == {"DEADLINE_EXCEEDED"},
        "work stopped: below a tenth of all runs": ran < 10,
    }
    return "R15 deadlines that cannot be kept", figures, checks


def r16(options, run):
    """One bad request among seven good ones, in one batch: it alone gets an error, the others their bytes."""
    with tempfile.TemporaryDirectory() as root:
        models.lookup(Path(root, "lookup/1/model.hr"))
        models.line(Path(root, "line/1/model.hr"), 2, 1)
        for name in ("lookup", "line"):
            text = "[batching]\nmax_batch_size = 8\nmax_delay_us = 20000\n"
            Path(root, name, "config.toml").write_text(text)
        with ServerProcess(root, *options.flags) as server:
            with grpc.insecure_channel(f"127.0.0.1:{server.grpc}") as channel:
                call, seen = channel.unary_unary(INFER), {}
                wrong = 0
                for turn in range(options.rounds):
                    kind = ("raises", "bytes", "cancelled", "nan")[turn % 4]
                    wrong += _round(call, kind, turn, seen)
            batches = server.metric("nv_inference_count") / server.metric("nv_inference_exec_count")
    figures = {"rounds": options.rounds, "wrong": wrong, "bad_ones": seen, "batch_rows": round(batches, 2)}
    expected = {"raises INTERNAL", "bytes INVALID_ARGUMENT", "cancelled CANCELLED", "nan OK"}
    checks = {"none wrong": wrong == 0, "the bad one alone fails": set(seen) <= expected | {"cancelled OK"}}
    return "R16 one bad among seven", figures, checks | {"they met in batches": batches > 1.5}


def _lookup(index, cut=0):
    data = np.int64(index).tobytes()
    message = pb.ModelInferRequest(model_name="lookup", raw_input_contents=[data[: len(data) - cut]])
    message.inputs.add(name="i", datatype="INT64", shape=[1])
    return message.SerializeToString()


def _line(x):
    message = pb.ModelInferRequest(model_name="line", raw_input_contents=[x.tobytes()])
    message.inputs.add(name="x", datatype="FP32", shape=x.shape)
    return message.SerializeToString()


def _round(call, kind, turn, seen):
    """Eight calls at once; how many of the seven good answers were not theirs."""
    if kind == "nan":
        good = [np.full((1, models.WIDTH), turn + k, np.float32) for k in range(7)]
        wanted = [(x * np.float32(2) + np.float32(1)).tobytes() for x in good]
        messages, bad = [_line(x) for x in good], _line(np.full((1, models.WIDTH), np.nan, np.float32))
    else:
        wanted = [models.TABLE[(turn + k) % 10].tobytes() for k in range(7)]
        messages = [_lookup((turn + k) % 10) for k in range(7)]
        bad = _lookup(99 if kind == "raises" else 0, cut=1 if kind == "bytes" else 0)
    messages.insert(turn % 8, bad)
    futures = [call.future(message, timeout=30) for message in messages]
    odd = futures.pop(turn % 8)
    if kind == "cancelled":
        odd.cancel()
    code = f"{kind} {odd.code().name}"
    seen[code] = seen.get(code, 0) + 1
    wrong = 0
    for future, right in zip(futures, wanted):
        fine = future.code() is grpc.StatusCode.OK
        wrong += not fine or list(pb.ModelInferResponse.FromString(future.result()).raw_output_contents) != [right]
    return wrong
