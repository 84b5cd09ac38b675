"""The test of the tests: with a defect put in, the check that is there for it must fail.

Runs under load use the load and the checks of `scripts/soak`; the others call the test itself.
"""

import gc
import itertools
import mmap
import os
import socket
import threading
import time
import zipfile
from pathlib import Path
from types import SimpleNamespace

import grpc
import pytest
import serve_fake
import serve_start
import test_archive_attacks
import test_checker
import test_golden_data
import test_hostile
import test_http_server
import test_manager
import test_scheduler
import test_server
import test_shared_memory
import test_workers
from benchmarks.soak import models
from benchmarks.soak.load import Lines, Load
from benchmarks.soak.server import Samples
from benchmarks.soak.steady import grows, nothing_bad
from serve_packages import package
from serve_start import LIMITS, MODELS

from headrace.serve import (
    batch,
    checker,
    dataplane,
    engine,
    grpc_front,
    http_server,
    manager,
    pending,
    scheduler,
    workers,
)
from headrace.serve.config import Drain, Listen, Settings, SharedMemory
from headrace.serve.policy import State, Unload, next_action
from headrace.serve.server import Server
from headrace.serve.supervisor import Process, Supervisor

FAILURE = (AssertionError, pytest.fail.Exception)


class Here:
    """This process as `Samples` wants a server."""

    def sample(self):
        """MiB that no file is behind: of the others the system takes pages back when it likes."""
        rows = dict(row.split(":", 1) for row in Path("/proc/self/status").read_text().splitlines())
        return sum(int(rows[key].split()[0]) for key in ("RssAnon", "RssShmem")) / 1024, 0, 0


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("defects")
    models.line(folder / "line/1/model.hr", 2, 1)
    (folder / "line/config.toml").write_text("[batching]\nmax_delay_us = 3000\n")
    return folder


def soaked(root, monkeypatch, calls=600, timeout=30.0):
    """The checks after so many calls, however long they take, to a server in this process, whose queue is the one in Python:
    it can be changed."""
    monkeypatch.setattr(engine, "_native", None)
    settings = Settings(listen=Listen("127.0.0.1", 0, -1, -1, front="portable"), drain=Drain(0, 1))
    with Server(root, settings=settings) as server:
        load = Load(server.grpc_port, Lines("line"), mangle=lambda _: (timeout, None))
        gc.collect()  # what earlier tests left would go meanwhile, and hide what grows

        def grew():
            with Samples(Here(), 0.02) as samples:
                for _ in range(calls):
                    load._send()
                    time.sleep(0.001)
                load.settle()
            return grows(samples.rows, load.sent)

        # What grows with the requests does so every time; what many waiting at a time take is there the second time.
        flat = not all(grew() for _ in range(3))
        checks = nothing_bad(load) | {"memory flat": flat}
        load.close()
    return checks


def test_without_a_defect_all_holds(root, monkeypatch):
    assert all(soaked(root, monkeypatch).values())


def test_a_leak(root, monkeypatch):
    """Scaled: 256 KiB a request, in pages of their own: the heap may hold as much that earlier tests have freed."""
    kept, infer = [], dataplane.DataPlane.infer

    def leaking(self, request):
        kept.append(mmap.mmap(-1, 256 * 1024))
        kept[-1].write(bytes(256 * 1024))
        return infer(self, request)

    monkeypatch.setattr(dataplane.DataPlane, "infer", leaking)
    checks = soaked(root, monkeypatch)
    for block in kept:
        block.close()
    assert not checks.pop("memory flat") and all(checks.values())


def test_a_lost_reply(root, monkeypatch):
    count, infer, never = itertools.count(), dataplane.DataPlane.infer, threading.Event()

    def losing(self, request):
        if next(count) == 300:
            never.wait(5)
        return infer(self, request)

    monkeypatch.setattr(dataplane.DataPlane, "infer", losing)
    checks = soaked(root, monkeypatch, timeout=1.0)
    never.set()
    assert not checks["only OK"]


def test_swapped_rows(root, monkeypatch):
    split = batch.split

    def swapping(outputs, rows):
        parts = split(outputs, rows)
        return [parts[1], parts[0], *parts[2:]]

    monkeypatch.setattr(scheduler.batch, "split", swapping)
    assert not soaked(root, monkeypatch)["none wrong"]


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setattr("headrace.serve.workers.SHORT_LIFE_SECONDS", 0.0)
    with test_workers.serve(serve_fake.repository(tmp_path, {"m": "mortal"})) as running:
        yield running


@pytest.fixture
def client(server):
    with test_workers.Client(f"127.0.0.1:{server.grpc_port}", timeout=30) as made:
        yield made


def test_a_worker_that_hangs(server, client, monkeypatch):
    monkeypatch.setattr(Process, "is_stuck", lambda self, patience: False)
    monkeypatch.setattr(workers, "GRACE_SECONDS", 1000.0)
    wait = test_workers.until
    monkeypatch.setattr(test_workers, "until", lambda condition: wait(condition, 2.0))
    with pytest.raises(FAILURE):
        test_workers.test_a_stopped_worker_is_killed_and_replaced(server, client)
    for process in list(test_workers.model(server)._ages):
        process.kill("the test is over")


def test_a_death_that_is_called_internal(server, client, monkeypatch):
    if engine._native is not None:
        monkeypatch.setattr(workers, "LOST", 2)  # HR_FAILED
    else:
        monkeypatch.setattr(scheduler.Lost, "__init__", lambda self, text, outcome: RuntimeError.__init__(self, text))
    with pytest.raises(FAILURE):
        test_workers.test_a_death_fails_what_ran_and_nothing_else(server, client)


def test_an_expired_request_that_runs(monkeypatch):
    monkeypatch.setattr(pending.Pending, "settle", lambda self, now: [])
    monkeypatch.setattr(scheduler, "_expired", lambda: None)
    with pytest.raises((AttributeError, *FAILURE)):
        test_scheduler.test_a_waiting_job_expires_and_never_runs()


def test_an_old_version_that_goes_first(tmp_path, monkeypatch):
    def hasty(desired, states):
        ready = [key for key, state in states.items() if state is State.READY and key not in desired]
        return Unload(ready[0]) if ready else next_action(desired, states)

    monkeypatch.setattr(manager, "next_action", hasty)
    with pytest.raises((manager.ServeError, *FAILURE)):
        test_manager.test_load_then_switch(tmp_path, test_manager.Loader())


def test_not_found_while_draining(tmp_path, monkeypatch):
    """The models go before the calls: what Triton does."""
    defect = (
        "from headrace.serve.dataplane import DataPlane\n"
        "def forget(self):\n    self.manager._records.clear(); self.manager._served.clear()\n"
        "DataPlane.set_draining = forget\n"
        "import headrace.serve.engine; headrace.serve.engine._native = None\n"
        "with catching"
    )
    monkeypatch.setattr(test_server, "CHILD", test_server.CHILD.replace("with catching", defect))
    monkeypatch.setattr(test_server.child, "__defaults__", (0.0, test_server.CHILD))
    with pytest.raises(FAILURE):
        test_server.test_drain_under_load(tmp_path, "grpc")


def test_a_manifest_that_nobody_checks(tmp_path, monkeypatch):
    path = tmp_path / "net.hr"
    package(path, 2)
    with zipfile.ZipFile(path) as file:
        members = {name: file.read(name) for name in file.namelist()}
    monkeypatch.setattr(test_archive_attacks.manifest, "check_members", lambda *_: None)
    with pytest.raises(FAILURE):
        test_archive_attacks.test_changed_bytes_with_a_right_crc(members)


def test_a_path_in_a_text(tmp_path, monkeypatch):
    monkeypatch.setattr(checker, "_with_limit", lambda text, limit: f"{tmp_path}: {text}")
    supervisor = Supervisor()
    try:
        with pytest.raises(FAILURE):
            test_checker.test_a_bad_package_ends_with_a_reason_and_the_next_one_loads(
                tmp_path, supervisor, "nonsense", 20, "failed with ValueError"
            )
    finally:
        supervisor.close()


def test_a_golden_bound_that_is_ignored(tmp_path, monkeypatch):
    report = SimpleNamespace(ok=True, message="", max_error=0.0)
    monkeypatch.setattr("headrace.serve.version.proven", lambda model: report)
    monkeypatch.setattr(checker.CheckedLoader, "check", lambda self, path, config: None)
    with pytest.raises(FAILURE):
        test_golden_data.test_a_package_whose_golden_outputs_do_not_come_out_is_not_ready(
            tmp_path, "127.0.0.1:{0.grpc_port}"
        )


def wrapping(offset, length, total):
    """`spans.inside` as it goes wrong in 64-bit arithmetic."""
    return (offset + length + 2**63) % 2**64 - 2**63 <= total


@pytest.fixture
def portable(tmp_path):
    listen = Listen("127.0.0.1", 0, 0, -1, front="portable")
    settings = Settings(listen=listen, drain=Drain(0, 1), limits=LIMITS, shared_memory=SharedMemory(enabled=True))
    with Server(serve_fake.repository(tmp_path, MODELS), settings=settings, loader=serve_fake.load) as running:
        yield running


def test_a_sum_that_wraps_in_a_request(portable, tmp_path, monkeypatch):
    monkeypatch.setattr("headrace.serve.shared_memory.inside", wrapping)
    key = f"headless_{os.getpid()}"
    place = Path("/dev/shm", key)
    place.write_bytes(bytes(64))
    try:
        with pytest.raises(FAILURE):
            test_shared_memory.test_what_is_not_registered(
                portable, "grpc", lambda _: key, tmp_path, "KEY", 2**62, 2**62, "the shared memory has 64"
            )
    finally:
        place.unlink()


def test_a_limit_under_a_wrong_name(tmp_path, monkeypatch):
    """grpcio takes any name without a word."""
    options = grpc_front.options

    def misspelt(limits):
        return [(name.replace("receive", "recieve"), value) for name, value in options(limits)]

    monkeypatch.setattr(grpc_front, "options", misspelt)
    with (
        serve_start.start(serve_fake.repository(tmp_path, MODELS), "portable") as server,
        grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel,
        pytest.raises(FAILURE),
    ):
        test_hostile.test_message_over_the_limit(channel, server, None)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_exception_where_connections_are_accepted(monkeypatch):
    accept, count = http_server.HttpServer._accept, itertools.count()

    def failing(self):
        accept(self)
        if next(count) == 0:
            raise UnicodeDecodeError("utf-8", b"\xff", 0, 1, "a client said it")

    monkeypatch.setattr(http_server.HttpServer, "_accept", failing)
    server, port = test_http_server.listening("portable", test_http_server.Echo(), LIMITS)
    server.start()
    try:
        with socket.create_connection(("127.0.0.1", port)):
            server._thread.join(10)
        connect = socket.create_connection
        monkeypatch.setattr(test_http_server.socket, "create_connection", lambda to, timeout: connect(to, 1.0))
        with pytest.raises((OSError, *FAILURE)):
            test_http_server.test_pipelined_requests_are_answered_in_order(port)
    finally:
        server.stop(0)
