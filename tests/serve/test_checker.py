"""The check in a process of its own: what goes wrong there is a reason, never the server's end; and what is remembered of it."""

import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import serve_fake
from serve_packages import X, package

from headrace.runtime import notes
from headrace.runtime.background import giving_way
from headrace.serve import Client, checker
from headrace.serve.checker import CheckedLoader, CheckError, Known
from headrace.serve.config import Batching, Drain, Listen, ModelConfig, RepositorySettings, Settings
from headrace.serve.errors import ServeError
from headrace.serve.repository import Repository
from headrace.serve.server import Server
from headrace.serve.supervisor import Process, Spec, Supervisor

FAKE = Spec("serve_fake:load")


@pytest.fixture(scope="module")
def supervisor():
    made = Supervisor()
    yield made
    made.close()


def loader(supervisor, spec=FAKE, timeout=20.0, memory_bytes=1 << 28, folder=None):
    return CheckedLoader(spec, supervisor, timeout=timeout, memory_bytes=memory_bytes, folder=folder)


def model(folder, text):
    return serve_fake.repository(folder, {"m": text}) / "m/1/model.hr"


@pytest.mark.parametrize(
    ("text", "timeout", "reason"),
    [
        ("crash", 20, "which was ended by SIGSEGV"),
        ("exit", 20, "which ended with status 3"),
        ("loop", 1, "which was not ready after 1 s"),
        ("eat", 20, "ran out of memory (repository.load_memory_bytes allows 268435456)"),
        ("golden bad", 20, "the golden data of the package do not come out on this machine"),
        ("nonsense", 20, "failed with ValueError"),
        ("last", 20, "run for the first time in a process of its own, which was ended by SIGABRT"),
    ],
)
def test_a_bad_package_ends_with_a_reason_and_the_next_one_loads(tmp_path, supervisor, text, timeout, reason):
    checked = loader(supervisor, timeout=timeout)
    with pytest.raises(CheckError) as caught:
        checked(model(tmp_path / "bad", text))
    assert reason in str(caught.value) and str(tmp_path) not in str(caught.value)
    good = loader(supervisor)(model(tmp_path / "good", "scale 2"))
    assert (good.run({"x": np.ones((1, 4), np.float32)})["y"] == 2).all()
    checked.close()


@pytest.mark.parametrize("serving", [False, True])
def test_a_check_beside_requests_gives_way_to_them(tmp_path, supervisor, serving):
    """As the thread that asks for it does, which only waits meanwhile."""
    checked = loader(supervisor)
    with giving_way(serving), pytest.raises(CheckError, match=f"gives way: {serving}"):
        checked(model(tmp_path, "way"))
    checked.close()


def test_a_model_that_never_ends_on_zeros_is_taken(tmp_path, supervisor):
    """Nobody said that zeros fit it: only that it ends the process would speak against it."""
    checked = loader(supervisor)
    taken = checked(model(tmp_path, "endless"))
    assert (taken.run({"x": np.ones((1, 4), np.float32)})["y"] == 2).all()
    assert checked._process is None  # it goes on there
    checked.close()


def test_the_process_is_there_before_the_first_load_wants_it(tmp_path, supervisor):
    package(tmp_path / "models/m/1/model.hr", 2)
    found = Repository([tmp_path / "models"])

    def started():
        made = loader(supervisor, spec=Spec(), folder=tmp_path / "proven")
        made.start_for(found).join(20)
        return made

    checked = started()
    process = checked._process
    assert process is not None
    checked(tmp_path / "models/m/1/model.hr").close()
    assert checked._process is process
    checked.close()
    assert started()._process is None  # what is there is proven


def test_a_process_is_used_again_and_ends_when_told(tmp_path, supervisor):
    checked = loader(supervisor)
    checked.check(model(tmp_path, "scale 2"))
    pid = checked._process.pid
    checked.check(model(tmp_path, "scale 3"))
    assert checked._process.pid == pid
    checked.close()
    for _ in range(500):
        if not Path(f"/proc/{pid}").exists():
            break
        time.sleep(0.01)
    assert not Path(f"/proc/{pid}").exists()


def test_what_was_proven_is_not_proven_again_until_it_changes(tmp_path, supervisor, monkeypatch):
    checked = loader(supervisor, spec=Spec(), folder=tmp_path / "proven")
    asked: list[Path] = []
    monkeypatch.setattr(checked, "check", lambda path, config: asked.append(path))
    path = tmp_path / "model.hr"
    package(path, 2)
    checked(path).close()
    checked(path).close()
    assert len(asked) == 1
    package(path, 3)
    checked(path).close()
    assert len(asked) == 2
    other = loader(supervisor, spec=Spec(options=(("threads", 1),)), folder=tmp_path / "proven")
    monkeypatch.setattr(other, "check", lambda path, config: asked.append(path))
    other(path).close()
    assert len(asked) == 3  # other options are another case
    other(path, ModelConfig(batching=Batching(max_batch_size=4))).close()
    assert len(asked) == 4  # and so are runs of other sizes


def test_what_is_known_of_a_file_goes_with_its_bytes(tmp_path, monkeypatch):
    known, path = Known(tmp_path / "proven", Spec()), tmp_path / "model.hr"
    package(path, 2)
    assert not known.has(path)
    known.add(path)
    assert known.has(path)
    copy = tmp_path / "copy.hr"
    copy.write_bytes(path.read_bytes())
    assert known.has(copy)  # the same bytes elsewhere
    copy.write_bytes(path.read_bytes() + b"x")
    assert not known.has(copy)
    (tmp_path / "model.onnx").write_bytes(path.read_bytes())
    known.add(tmp_path / "model.onnx")
    assert not known.has(tmp_path / "model.onnx")  # other files may belong to it


def test_a_known_file_that_nobody_has_written_since_is_not_read(tmp_path, monkeypatch):
    read: list[Path] = []
    real = checker._digest
    monkeypatch.setattr(checker, "_digest", lambda path, identity: [read.append(path), real(path, identity)][1])
    known, path = Known(tmp_path / "proven", Spec()), tmp_path / "model.hr"
    package(path, 2)
    known.add(path)
    assert known.has(path) and known.has(path)
    assert len(read) == 3  # its last write is so near that another one might not show
    monkeypatch.setattr(notes, "SETTLED_NS", 0)
    assert known.has(path) and known.has(path)
    assert len(read) == 4
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert not known.has(path)


def test_bad_packages_beside_a_good_model(tmp_path, monkeypatch):
    """Loaded by name under load: the good model answers throughout, the bad ones are shown with their reasons, the old version
    of one serves on."""
    load = Process.load
    seconds = {"b": 1.0}  # the one that never ends; the others have time on the busiest machine
    monkeypatch.setattr(
        Process, "load", lambda self, path, spec, most: load(self, path, spec, seconds.get(path.parts[-3], most))
    )
    root = serve_fake.repository(tmp_path, {"good": "scale 3", "old": "scale 2"})
    settings = Settings(
        listen=Listen("127.0.0.1", 0, -1, -1),
        repository=RepositorySettings(load_timeout_s=60.0, load_memory_bytes=1 << 28),
        drain=Drain(0, 10),
    )
    with Server(root, settings=settings, loader=FAKE) as server:
        url, stop, wrong, done = f"127.0.0.1:{server.grpc_port}", threading.Event(), [], [0]
        x = np.ones((1, 4), np.float32)

        def ask():
            with Client(url) as client:
                while not stop.is_set():
                    try:
                        wrong.extend([] if (client.infer("good", x=x)["y"] == 3).all() else ["value"])
                    except ServeError as error:
                        wrong.append(error.text)
                    done[0] += 1

        thread = threading.Thread(target=ask)
        thread.start()
        serve_fake.repository(
            root, {"a": "crash", "b": "loop", "c": "eat", "d": "golden bad", "e": "last", "old/2": "last"}
        )
        with Client(url) as client:
            for name in ("a", "b", "c", "d", "e", "old"):
                with pytest.raises(ServeError):
                    client.load(name)
            assert (client.infer("old", x=x)["y"] == 2).all()
        stop.set()
        thread.join(20)
        shown = {row[0]: row for row in server._manager.index()}
        assert not wrong and done[0]
        for name, part in (("a", "SIGSEGV"), ("b", "after 1 s"), ("c", "memory"), ("d", "golden"), ("e", "SIGABRT")):
            assert shown[name][2] == "UNAVAILABLE" and part in shown[name][3]
        assert "replacement" in shown["old"][3] or shown["old"][2] == "UNAVAILABLE"


def test_a_server_takes_real_packages_through_the_check(tmp_path, monkeypatch):
    monkeypatch.setenv("HEADRACE_CACHE_DIR", str(tmp_path / "cache"))
    package(tmp_path / "models/m/1/model.hr", 2)
    package(tmp_path / "models/bad/1/model.hr", 2, off=1.0)
    settings = Settings(listen=Listen("127.0.0.1", 0, -1, -1), drain=Drain(0, 10))
    with Server(tmp_path / "models", settings=settings) as server, Client(f"127.0.0.1:{server.grpc_port}") as client:
        assert (client.infer("m", x=X)["y"] == 2 * X).all()
        assert [row[2] for row in server._manager.index()] == ["UNAVAILABLE", "READY"]
    assert len(os.listdir(tmp_path / "cache/proven")) == 1


def test_a_file_exchanged_under_the_load_is_not_taken(tmp_path, supervisor, monkeypatch):
    checked = loader(supervisor)
    path = model(tmp_path, "scale 2")
    monkeypatch.setattr(checked, "check", lambda path, config: path.write_text("scale 30"))
    with pytest.raises(CheckError, match="exchanged"):
        checked(path)
