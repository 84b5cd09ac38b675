"""The whole process: start, what it imports, drain, and what a stop does to requests in flight."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import serve_fake
from serve_packages import X, package
from serve_start import FRONTS, need, start

from headrace.cli.serve import _announce, _bounds
from headrace.runtime import _native
from headrace.serve import Client
from headrace.serve.config import Drain, Listen, Settings
from headrace.serve.errors import Meaning, ServeError
from headrace.serve.server import Server

HERE = Path(__file__).parent
CHILD = """
import json, signal, sys
sys.path.insert(0, {here!r})
import serve_fake
from headrace.serve.config import Drain, Listen, Settings
from headrace.serve.server import Server
from headrace.serve.signals import catching
settings = Settings(listen=Listen("127.0.0.1", 0, 0, 0), drain=Drain(lame_duck_s={duck}, grace_s=10))
with catching(signal.SIGTERM) as wait, Server({root!r}, settings=settings, loader=serve_fake.load) as server:
    resident = int(open("/proc/self/statm").read().split()[1]) * 4096
    print(json.dumps([server.grpc_port, server.http_port, resident, sorted(sys.modules)]), flush=True)
    wait()
"""


def child(root, duck=0.0, code=CHILD):
    code = code.format(here=str(HERE), root=str(root), duck=duck)
    paths = [str(HERE.parents[1] / "src"), os.environ.get("PYTHONPATH", "")]
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
    )
    return process, json.loads(process.stdout.readline())


def test_a_server_is_light(tmp_path):
    """No autograd core, no onnx, no compiler of anything in a serving process; idle below 100 MiB."""
    process, (_, _, resident, modules) = child(serve_fake.repository(tmp_path, {"m": "scale 2"}))
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0
    heavy = {"onnx", "torch", "click", "rich", "headrace.tensor", "headrace.autograd", "headrace.nn"}
    assert not heavy & set(modules)
    assert not [name for name in modules if name.startswith(("headrace.nn.", "headrace.optim", "headrace.jit"))]
    assert resident < 100 * 2**20


def test_a_signal_shows_stacks_and_queues(tmp_path):
    """Behind a run that goes on: the stack that computes, and how many wait. The server then serves on."""
    with (tmp_path / "dump").open("w+") as file:
        code = CHILD.replace(
            "    wait()", f"    with dumping(signal.SIGUSR1, server.queues, open({file.name!r}, 'w')): wait()"
        )
        code = code.replace("import catching", "import catching, dumping")
        process, (grpc_port, *_) = child(serve_fake.repository(tmp_path / "models", {"m": "slow 1"}), code=code)
        x, url = np.ones((1, 4), np.float32), f"127.0.0.1:{grpc_port}"

        def ask(answers):
            with Client(url) as client:
                answers.append(client.infer("m", x=x)["y"].tolist())

        answers: list[object] = []
        threads = [threading.Thread(target=ask, args=(answers,)) for _ in range(3)]
        text, end = "", time.monotonic() + 30
        for thread in threads:
            thread.start()
        while "m 1: 2 waiting" not in text and time.monotonic() < end:
            time.sleep(0.1)
            process.send_signal(signal.SIGUSR1)
            text = file.seek(0) or file.read()
        for thread in threads:
            thread.join()
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    assert "m 1: 2 waiting, 3 in progress" in text and "inferences in progress: 3" in text
    assert "Thread 0x" in text and "serve_fake.py" in text
    assert answers == [[[2.0] * 4]] * 3


@pytest.mark.parametrize("front", ["grpc", "rest"])
def test_drain_under_load(tmp_path, front):
    """Accepted calls finish, then only UNAVAILABLE; never another code; exit status 0."""
    process, (grpc_port, http_port, _, _) = child(serve_fake.repository(tmp_path, {"m": "slow 0.02"}), duck=0.3)
    url = f"127.0.0.1:{grpc_port}" if front == "grpc" else f"http://127.0.0.1:{http_port}"
    counts: dict[str, int] = {}
    stop, lock = threading.Event(), threading.Lock()
    not_ready = threading.Event()

    def load(value):
        x = np.full((1, 4), value, np.float32)
        with Client(url, timeout=20) as client:
            while not stop.is_set():
                try:
                    outcome = "ok" if (client.infer("m", x=x)["y"] == 2 * x).all() else "wrong"
                except ServeError as error:
                    outcome = error.meaning.value if error.meaning is Meaning.UNAVAILABLE else repr(error)
                    time.sleep(0.01)
                with lock:
                    counts[outcome] = counts.get(outcome, 0) + 1

    threads = [threading.Thread(target=load, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    while counts.get("ok", 0) < 30:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    with Client(url) as client:
        for _ in range(50):
            if not client.ready():
                not_ready.set()
                break
            time.sleep(0.005)
    status = process.wait(20)
    time.sleep(0.05)
    stop.set()
    for thread in threads:
        thread.join(20)
    assert status == 0 and not_ready.is_set()
    assert set(counts) <= {"ok", "unavailable"}, counts


def test_stop_waits_for_a_request_in_flight(tmp_path):
    server = start(serve_fake.repository(tmp_path, {"m": "slow 0.3"}))
    outcome = []
    with server:
        client = Client(f"127.0.0.1:{server.grpc_port}")
        thread = threading.Thread(target=lambda: outcome.append(client.infer("m", x=np.ones((1, 4), np.float32))))
        thread.start()
        while not server._plane.inflight:
            time.sleep(0.002)
    thread.join(10)
    assert outcome[0]["y"][0, 0] == 2
    assert server.wait(0)
    server.stop()  # once more does nothing
    client.close()


@pytest.mark.parametrize("front", FRONTS)
def test_swaps_under_load_never_fail_or_mix(tmp_path, front):
    """28 swaps of real packages under unary gRPC, streams and REST: no request fails, every answer is of one version, and
    versions only go forward."""
    need(front)
    package(tmp_path / "m/1/model.hr", 1)
    settings = Settings(listen=Listen("127.0.0.1", 0, 0, -1, front=front), drain=Drain(0, 10))
    with Server(tmp_path, settings=settings) as server:
        bad, counts, stop = [], [0, 0, 0], threading.Event()
        grpc_url, rest_url = f"127.0.0.1:{server.grpc_port}", f"http://127.0.0.1:{server.http_port}"

        def unary(client):
            while not stop.is_set():
                yield client.infer("m", x=X)

        def streamed(client):
            return client.stream("m", ({"x": X} for _ in iter(stop.is_set, True)))

        def load(index, url, answers):
            last = 0
            try:
                with Client(url) as client:
                    for outputs in answers(client):
                        (factor,) = set((outputs["y"] / X).ravel().tolist())
                        assert factor >= last, f"{factor} after {last}"
                        last, counts[index] = factor, counts[index] + 1
            except (ServeError, ValueError, AssertionError) as error:
                bad.append((index, repr(error)))

        jobs = [(0, grpc_url, unary), (0, grpc_url, unary), (1, grpc_url, streamed), (2, rest_url, unary)]
        threads = [threading.Thread(target=load, args=job) for job in jobs]
        for thread in threads:
            thread.start()
        with Client(grpc_url) as client:
            for version in range(2, 30):
                package(tmp_path / f"m/{version}/model.hr", version)
                client.load("m")
        stop.set()
        for thread in threads:
            thread.join(20)
        assert not bad and all(counts), (bad, counts)
        assert [row[1:3] for row in server._manager.index() if row[2] == "READY"] == [("29", "READY")]


def test_many_clients_get_their_own_answers(tmp_path):
    with start(serve_fake.repository(tmp_path, {"m": "scale 3"})) as server:
        wrong = []

        def load(index):
            url = f"127.0.0.1:{server.grpc_port}" if index % 2 else f"http://127.0.0.1:{server.http_port}"
            random = np.random.default_rng(index)
            with Client(url) as client:
                for _ in range(40):
                    x = random.random((int(random.integers(1, 4)), 4), np.float32)
                    if client.infer("m", x=x)["y"].tobytes() != (x * np.float32(3)).tobytes():
                        wrong.append(index)

        threads = [threading.Thread(target=load, args=(i,)) for i in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert not wrong


def test_overload_is_refused_at_once(tmp_path):
    with start(serve_fake.repository(tmp_path, {"m": "slow 0.2"})) as server:
        server._plane.max_inflight["grpc"] = 1
        with Client(f"127.0.0.1:{server.grpc_port}") as client:
            thread = threading.Thread(target=client.infer, args=("m",), kwargs={"x": np.ones((1, 4), np.float32)})
            thread.start()
            while not server._plane.inflight:
                time.sleep(0.002)
            with pytest.raises(ServeError) as caught:
                client.infer("m", x=np.ones((1, 4), np.float32))
            assert caught.value.meaning is Meaning.OVERLOADED
            thread.join(10)


def test_an_address_of_another_machine(tmp_path):
    with pytest.raises(OSError, match=r"'192\.0\.2\.1' is no address of this machine .* --host"):
        Server(serve_fake.repository(tmp_path, {}), host="192.0.2.1").start()


BOUNDS = _native.cpu_tier()


@pytest.mark.parametrize(
    ("host", "metrics", "ready", "lines"),
    [
        ("::1", -1, True, [BOUNDS, "gRPC [::1]:1   REST http://[::1]:2/v2", "ready; Ctrl-C stops"]),
        (
            "h",
            3,
            False,
            [BOUNDS, "gRPC h:1   REST http://h:2/v2   metrics http://h:3/metrics", "not ready, as not every model is"],
        ),
    ],
)
def test_the_command_says_where_it_listens(host, metrics, ready, lines, capsys):
    ports = {"grpc_port": 1, "http_port": 2, "metrics_port": metrics}
    _announce(SimpleNamespace(host=host, ready=ready, settings=Settings(), describe=lambda: [], **ports), False)
    for line, words in zip(capsys.readouterr().out.splitlines(), lines, strict=True):
        assert line.startswith(words)
    assert not _native.has_cpu_quota() or "a CPU quota" in _bounds(Settings())
    assert "at most 65,536 KiB a message, 1024 connections, 128 calls on each" in _bounds(Settings())


def test_a_taken_port_is_an_error_and_leaves_nothing(tmp_path):
    root = serve_fake.repository(tmp_path, {"m": "scale 1"})
    with start(root) as server:
        before = threading.active_count()
        for ports in ({"grpc_port": server.grpc_port}, {"http_port": server.http_port}):
            with pytest.raises(OSError):
                Server(root, loader=serve_fake.load, **ports).start()
        assert threading.active_count() <= before + 1


def test_front_can_be_switched_off(tmp_path):
    root = serve_fake.repository(tmp_path, {"m": "scale 1"})
    with Server(root, http_port=-1, metrics_port=-1, loader=serve_fake.load) as server:
        assert server.grpc_port > 0 and server.http_port == server.metrics_port == -1
        assert server.describe() == ["m 1 READY: batching on, up to 256 rows"]
