"""Models in worker processes: the same answers, and what the death, the stop or the loop of a worker does to requests."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import serve_fake
from serve_packages import X, package
from serve_start import FRONTS, need

from headrace.serve import Client
from headrace.serve.config import ConfigError, Drain, Listen, RepositorySettings, Settings, Workers
from headrace.serve.errors import Meaning, ServeError
from headrace.serve.server import Server
from headrace.serve.supervisor import Spec

FAKE = Spec("serve_fake:load")
PATIENCE = 1.0  # of the heart, in these tests


def serve(root, front="auto", count=1, loader: Spec | None = FAKE, keep_packed=True, **workers):
    settings = Settings(
        listen=Listen("127.0.0.1", 0, 0, 0, front=front),
        drain=Drain(0, 10),
        workers=Workers(count, heartbeat_timeout_s=PATIENCE, **workers),
        repository=RepositorySettings(keep_packed=keep_packed),
    )
    return Server(root, settings=settings, loader=loader)


def rows(*values):
    return np.array([[value] * 4 for value in values], np.float32)


def until(condition, seconds=30.0):
    """Wait for what must come; what is tested is that it comes at all."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.005)


def model(server, name="m"):
    (version,) = [version for version in server._manager.versions() if version.name == name]
    return version.model


def pids(server, name="m"):
    return [process.pid for process in list(model(server, name)._ages)]


def meaning(client, x):
    with pytest.raises(ServeError) as caught:
        client.infer("m", x=x)
    return caught.value.meaning, caught.value.text


def impatient(server, x):
    """The meaning of a call with a deadline of 0.2 s."""
    with Client(f"127.0.0.1:{server.grpc_port}", timeout=0.2) as client:
        return meaning(client, x)[0]


@pytest.fixture(scope="module", params=FRONTS)
def front(request):
    need(request.param)
    return request.param


@pytest.fixture(scope="module")
def server(tmp_path_factory, front):
    """One for all: what dies there does not speak against the model."""
    root = serve_fake.repository(tmp_path_factory.mktemp("workers"), {"m": "mortal", "t": "mortal BYTES"})
    with pytest.MonkeyPatch.context() as patch, serve(root, front) as running:
        patch.setattr("headrace.serve.workers.SHORT_LIFE_SECONDS", 0.0)
        yield running


@pytest.fixture
def client(server):
    with Client(f"127.0.0.1:{server.grpc_port}", timeout=30) as made:
        yield made


def test_the_same_answers_as_in_the_server_itself(tmp_path, front):
    """Real packages, and every element type, over both protocols."""
    package(tmp_path / "real/r/1/model.hr", 3)
    with serve(tmp_path / "real", front, loader=None) as server, Client(f"127.0.0.1:{server.grpc_port}") as client:
        assert client.infer("r", x=X)["y"].tobytes() == (3 * X).tobytes()
    kinds = {kind.lower(): f"identity {kind}" for kind in ("BF16", "BYTES")}
    with serve(serve_fake.repository(tmp_path / "fake", kinds), front) as server:
        for url in (f"127.0.0.1:{server.grpc_port}", f"http://127.0.0.1:{server.http_port}"):
            with Client(url) as client:
                for x in (np.array([[0, 1.5, np.inf]], ml_dtypes.bfloat16), np.array([[b"", b"\0", b"\xff"]], object)):
                    got = client.infer("bytes" if x.dtype == object else "bf16", x=x)["y"]
                    assert got.dtype == x.dtype and got.tolist() == x.tolist()


def test_many_clients_get_their_own_answers_from_two_workers(tmp_path, front):
    with serve(serve_fake.repository(tmp_path, {"m": "scale 3"}), front, count=2) as server:
        wrong = []

        def load(index):
            random = np.random.default_rng(index)
            with Client(f"127.0.0.1:{server.grpc_port}") as client:
                for _ in range(40):
                    x = random.random((int(random.integers(1, 4)), 4), np.float32)
                    if client.infer("m", x=x)["y"].tobytes() != (x * np.float32(3)).tobytes():
                        wrong.append(index)

        threads = [threading.Thread(target=load, args=(i,)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert not wrong and len(pids(server)) == 2


def test_a_raising_model_is_an_incident_and_its_worker_lives(server, client):
    (pid,) = pids(server)
    why, text = meaning(client, rows(669))
    assert why is Meaning.INTERNAL and "incident" in text and "secret" not in text
    assert (client.infer("m", x=rows(2))["y"] == 4).all() and pids(server) == [pid]


def test_a_death_fails_what_ran_and_nothing_else(server, client):
    """Unavailable, at once; the next request finds another worker; what waited goes on; the texts' model the same way."""
    before, restarts = pids(server), model(server).restarts
    why, text = meaning(client, rows(666))
    assert why is Meaning.UNAVAILABLE and "SIGKILL" in text
    assert (client.infer("m", x=rows(2))["y"] == 4).all()
    assert pids(server) != before and model(server).restarts == restarts + 1
    with pytest.raises(ServeError) as caught:
        client.infer("t", x=np.array([[b"666"] * 4], object))
    assert caught.value.meaning is Meaning.UNAVAILABLE
    assert client.infer("t", x=np.array([[b"1"] * 4], object))["y"].tolist() == [[b"11"] * 4]


def test_an_idle_worker_that_is_killed_is_replaced(server, client, caplog):
    """And the log says whose it was."""
    (pid,) = pids(server)
    os.kill(pid, signal.SIGKILL)
    until(lambda: pids(server) not in ([], [pid]))
    assert f"a worker of m/1/model.hr (process {pid}) was ended by SIGKILL" in caplog.text
    assert client.ready()
    assert (client.infer("m", x=rows(2))["y"] == 4).all()


def test_a_request_in_two_deaths_is_refused_and_others_run(server, client):
    bad, restarts = rows(666, 1), model(server).restarts + 2
    for _ in range(2):
        assert meaning(client, bad)[0] is Meaning.UNAVAILABLE
    until(lambda: model(server).restarts == restarts)
    for _ in range(5):
        why, text = meaning(client, bad)
        assert why is Meaning.UNAVAILABLE and "refused" in text
    assert model(server).restarts == restarts
    assert (client.infer("m", x=rows(2, 1))["y"] == 2 * rows(2, 1)).all()


def test_a_stopped_worker_is_killed_and_replaced(server, client):
    (pid,) = pids(server)
    os.kill(pid, signal.SIGSTOP)
    assert impatient(server, rows(2)) is Meaning.EXPIRED
    until(lambda: pids(server) not in ([], [pid]))
    assert (client.infer("m", x=rows(3))["y"] == 6).all()


def test_a_batch_that_outlives_its_deadlines_is_killed(server, client):
    """A loop in a kernel: its heart beats on, the deadline tells."""
    (pid,) = pids(server)
    assert impatient(server, rows(667)) is Meaning.EXPIRED
    until(lambda: pids(server) not in ([], [pid]))
    assert (client.infer("m", x=rows(3))["y"] == 6).all()


def test_a_batch_without_deadline_has_a_limit(tmp_path, front):
    root = serve_fake.repository(tmp_path, {"m": "mortal"})
    with serve(root, front, run_timeout_s=0.5) as server, Client(f"127.0.0.1:{server.grpc_port}") as client:
        why, text = meaning(client, rows(667))
        assert why is Meaning.UNAVAILABLE and "ran for 0.5 s" in text


def test_a_model_whose_workers_keep_dying_is_given_up_and_others_live(tmp_path, front, monkeypatch):
    monkeypatch.setattr("headrace.serve.workers.SHORT_LIFE_SECONDS", 1000.0)  # however slow the machine is
    monkeypatch.setattr("headrace.serve.workers.WITHIN_SECONDS", 1000.0)
    root = serve_fake.repository(tmp_path, {"m": "mortal", "good": "scale 3"})
    with serve(root, front) as server, Client(f"127.0.0.1:{server.grpc_port}", timeout=30) as client:
        held = model(server)
        for value in range(1, 6):
            assert meaning(client, rows(666, value))[0] is Meaning.UNAVAILABLE
        until(lambda: held._given_up)
        until(lambda: not server._manager.ready("m"))
        why, text = meaning(client, rows(2))
        assert why is Meaning.UNAVAILABLE and ("5 workers died" in text or "being unloaded" in text)
        until(lambda: "5 workers died" in meaning(client, rows(2))[1])
        assert (client.infer("good", x=rows(2))["y"] == 6).all() and client.ready()
        shown = {row[0]: row for row in server._manager.index()}
        assert shown["m"][2] == "UNAVAILABLE" and "5 workers died" in shown["m"][3]
        client.load("m")  # asked for again, it gets another chance
        assert (client.infer("m", x=rows(2))["y"] == 4).all()


def test_not_ready_without_a_worker(server, client):
    assert client.ready()
    held = model(server)
    held._bring_up = lambda process: process.kill("no start in this test")
    os.kill(pids(server)[0], signal.SIGKILL)
    until(lambda: not client.ready())
    assert not server._manager.ready("m")
    del held._bring_up
    until(client.ready)


@pytest.mark.parametrize(
    ("text", "reason"), [("crash", "SIGSEGV"), ("golden bad", "golden"), ("nonsense", "ValueError")]
)
def test_a_version_that_does_not_load_is_a_reason(tmp_path, text, reason):
    with serve(serve_fake.repository(tmp_path, {"m": "scale 2", "bad": text}), count=2) as server:
        shown = {row[0]: row for row in server._manager.index()}
        assert shown["bad"][2] == "UNAVAILABLE" and reason in shown["bad"][3]
        assert shown["m"][2] == "READY"


def test_swaps_leave_no_process_behind(tmp_path):
    root = serve_fake.repository(tmp_path, {"m": "scale 1"})
    with serve(root) as server, Client(f"127.0.0.1:{server.grpc_port}") as client:
        seen = set(pids(server))
        for number in range(2, 6):
            serve_fake.repository(root, {f"m/{number}": f"scale {number}"})
            client.load("m")
            assert (client.infer("m", x=rows(1))["y"] == number).all()
            seen |= set(pids(server))
        (now,) = pids(server)
        assert len(seen) == 5
        assert [pid for pid in seen if Path(f"/proc/{pid}").exists()] == [now]
        page = metrics(server)
        assert 'headrace_workers_alive{model="m",version="5"} 1.0' in page
        assert 'headrace_worker_restarts_total{model="m",version="5"} 0.0' in page
    until(lambda: not Path(f"/proc/{now}").exists())


def metrics(server):
    import urllib.request

    with urllib.request.urlopen(f"http://127.0.0.1:{server.metrics_port}/metrics", timeout=10) as page:
        return page.read().decode()


CHILD = """
import sys, os
sys.path.insert(0, {here!r})
import test_workers as t
server = t.serve({root!r}).start()
print(*t.pids(server), flush=True)
sys.stdin.read()
os._exit(9)
"""


def test_workers_end_with_a_server_that_dies(tmp_path):
    root = serve_fake.repository(tmp_path, {"m": "scale 1"})
    code = CHILD.format(here=str(Path(__file__).parent), root=str(root))
    path = os.pathsep.join(place for place in sys.path if place)
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": path},
    )
    assert process.stdout is not None
    (worker,) = map(int, process.stdout.readline().split())
    os.kill(worker, signal.SIGSTOP)  # not even a stopped one stays
    process.send_signal(signal.SIGKILL)
    process.wait(10)
    until(lambda: not Path(f"/proc/{worker}").exists() or "Z" in Path(f"/proc/{worker}/stat").read_text().split(")")[1])


def test_settings_that_cannot_be(tmp_path):
    root = serve_fake.repository(tmp_path, {"m": "scale 1"})
    with pytest.raises(ConfigError, match="65"):
        serve(root, count=65)
    with pytest.raises(ConfigError, match="Spec"):
        serve(root, loader=serve_fake.load)
