"""The thread pool: one set of workers for all models of a process. Each case is a process of its own, whose threads are
counted."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PREAMBLE = """
import os, threading, time
if "HEADRACE_NATIVE_DIR" in os.environ:
    import tests.native.use_build
import numpy as np
from headrace.runtime import _native
from headrace.runtime.builder import Builder
from headrace.runtime.graph import Block, Graph, Value
from headrace.runtime.model import Model
from headrace.runtime.types import TensorType

def model(threads, size=256):
    graph = Graph(Block([Value("x", TensorType("float32", (size, size)))], [], []))
    builder, rng = Builder(graph), np.random.default_rng(0)
    (y,) = builder.node("MatMul", [graph.inputs[0], builder.constant(rng.random((size, size), np.float32))])
    graph.outputs.append(y)
    return Model(graph, threads=threads)

x = np.random.default_rng(1).random((256, 256), np.float32)
run = lambda m: next(iter(m.run({"x": x}).values()))
first = threading.Thread()
first.start(), first.join()  # with it a sanitizer starts a thread of its own
tasks = lambda: set(map(int, os.listdir("/proc/self/task")))
def field(task, name):
    for line in open(f"/proc/self/task/{task}/status"):
        if line.startswith(name + ":"):
            return line.split(":")[1].strip()
"""


def in_a_process(body: str) -> None:
    code = PREAMBLE + textwrap.dedent(body)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100, cwd=ROOT)
    assert done.returncode == 0, done.stderr


pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


def test_models_share_the_workers() -> None:
    in_a_process("""
        before = tasks()
        models = [model(threads) for threads in (1, 3, 2, 3, 5, 2)]
        wanted = run(models[0])
        assert all(np.array_equal(run(one), wanted) for one in models)
        assert len(tasks() - before) == _native.pool_workers() == 4  # those of the widest, the caller aside
        [one.close() for one in models]
        more = model(4)
        assert np.array_equal(run(more), wanted) and _native.pool_workers() == 4
    """)


def test_callers_at_once_start_no_more_threads() -> None:
    in_a_process("""
        models = [model(threads) for threads in (2, 3, 1)]
        wanted, before, wrong = run(models[0]), tasks(), []
        def call(one):
            for _ in range(50):
                if not np.array_equal(run(one), wanted):
                    wrong.append(one)
        callers = [threading.Thread(target=call, args=(one,)) for one in models * 2]
        [one.start() for one in callers]
        assert len(tasks() - before) <= len(callers)
        [one.join() for one in callers]
        assert not wrong and _native.pool_workers() == 2
    """)


def test_idle_workers_sleep() -> None:
    in_a_process("""
        before = tasks()
        one = model(3)
        run(one)
        workers, until = tasks() - before, time.monotonic() + 30
        while any(field(task, "State")[0] != "S" for task in workers):
            assert time.monotonic() < until, "a worker without work does not sleep"
            time.sleep(0.01)
        assert len(workers) == 2
    """)


def test_workers_can_be_pinned() -> None:
    in_a_process("""
        before = tasks()
        one = model(2)
        cpus = sorted(os.sched_getaffinity(0))
        assert _native.pin_workers([cpus[-1]])
        two = model(3)  # workers that start later are pinned as well
        workers = tasks() - before
        assert [field(task, "Cpus_allowed_list") for task in workers] == [str(cpus[-1])] * 2
        assert os.sched_getaffinity(0) == set(cpus)  # the caller is not
        assert not _native.pin_workers([100000]) and not _native.pin_workers([-1])
        assert [field(task, "Cpus_allowed_list") for task in workers] == [str(cpus[-1])] * 2
        assert _native.pin_workers([])
        assert {frozenset(os.sched_getaffinity(task)) for task in workers} == {frozenset(cpus)}
        assert np.array_equal(run(one), run(two))
        from headrace.runtime import InputError, pin_threads
        try:
            pin_threads([100000])
        except InputError as error:
            assert f"to CPUs 100000; allowed here: {cpus[0]}" in str(error), error
        else:
            raise AssertionError("pinned to a CPU that does not exist")
        pin_threads([])
    """)


def test_workers_keep_off_the_cpu_of_the_caller() -> None:
    """A worker that the system wakes where the caller runs would wait for it; where somebody has said where it runs, that stands."""
    in_a_process("""
        cpus, main, before = set(sorted(os.sched_getaffinity(0))[:3]), threading.get_native_id(), tasks()
        os.sched_setaffinity(main, cpus)
        one = model(max(2, len(cpus)))
        wanted, where = run(one), lambda: [os.sched_getaffinity(task) for task in sorted(tasks() - before)]
        def until(found, expected, of=one):
            limit = time.monotonic() + 30
            while found() != expected:
                assert time.monotonic() < limit, (found(), expected)
                assert np.array_equal(run(of), wanted)
        others = len(where())
        for cpu in sorted(cpus):
            os.sched_setaffinity(main, {cpu})
            until(where, [cpus - {cpu} or cpus] * others)
        first, last = min(cpus), max(cpus)
        os.sched_setaffinity(min(tasks() - before), cpus)
        os.sched_setaffinity(main, {first})
        until(where, [cpus, *[cpus - {first}] * (others - 1)])
        assert _native.pin_workers([])
        os.sched_setaffinity(main, {last})
        until(where, [cpus - {last} or cpus] * others)
        until(where, [cpus] * (others + 1), model(others + 2))  # as many as there are CPUs need all of them
    """)


def test_a_forked_child_has_workers_of_its_own() -> None:
    in_a_process("""
        one = model(3)
        wanted = run(one)
        child = os.fork()
        if not child:
            good = np.array_equal(run(one), wanted) and len(tasks()) == 3
            os._exit(0 if good else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert np.array_equal(run(one), wanted)
    """)
