"""Change detection: what is half written is never a model, what is whole is switched in, what is gone goes."""

import shutil
import time

import pytest
import serve_fake
from serve_start import LIMITS

from headrace.serve import Client
from headrace.serve.config import Drain, Listen, RepositorySettings, Settings
from headrace.serve.errors import Meaning, ServeError
from headrace.serve.manager import Manager
from headrace.serve.poller import Poller
from headrace.serve.repository import Repository
from headrace.serve.server import Server


@pytest.fixture
def polled(tmp_path):
    """(folder, manager, loads by (model, version), look)"""
    serve_fake.repository(tmp_path, {"m/1": "scale 1"})
    loads = []

    def loader(path):
        loads.append((path.parts[-3], path.parts[-2]))
        return serve_fake.load(path)

    store = Repository([tmp_path])
    manager = Manager(store, loader, drain_seconds=1)
    poller = Poller(store, manager, 1)
    poller.look()
    manager.start()
    return tmp_path, manager, loads, poller.look


def ready(manager):
    return [row[:2] for row in manager.index() if row[2] == "READY"]


def test_nothing_changed_nothing_done(polled):
    _, manager, loads, look = polled
    for _ in range(3):
        look()
    assert loads == [("m", "1")] and ready(manager) == [("m", "1")]


def test_a_change_counts_when_it_is_seen_twice(polled):
    root, manager, loads, look = polled
    look()
    serve_fake.repository(root, {"m/2": "scale 2", "n/1": "scale 3"})
    look()
    assert loads == [("m", "1")]
    look()
    assert ready(manager) == [("m", "2"), ("n", "1")] and len(loads) == 3


def test_a_file_that_is_still_growing_is_left_alone(polled):
    root, manager, loads, look = polled
    place = root / "m/2"
    place.mkdir()
    with open(place / "model.hr", "w") as file:
        for piece in "scale 2":
            file.write(piece)
            file.flush()
            look()
            assert loads == [("m", "1")]
    look()
    assert ready(manager) == [("m", "2")]


def test_half_a_file_that_rests_does_not_replace_anything(polled):
    root, manager, loads, look = polled
    serve_fake.repository(root, {"m/2": "sca"})
    for _ in range(4):
        look()
    assert ready(manager) == [("m", "1")] and loads.count(("m", "2")) == 1  # tried once, not at every look
    (root / "m/2/model.hr").write_text("scale 2")
    look()
    look()
    assert ready(manager) == [("m", "2")]


def test_what_is_gone_goes(polled):
    root, manager, _, look = polled
    serve_fake.repository(root, {"n/1": "scale 3"})
    look()
    look()
    shutil.rmtree(root / "n")
    look()
    assert ready(manager) == [("m", "1"), ("n", "1")]
    look()
    assert ready(manager) == [("m", "1")]


def test_settings_count_as_a_change(polled):
    root, manager, loads, look = polled
    (root / "m/config.toml").write_text("[batching]\nmax_batch_size = 3\n")
    look()
    look()
    handle = manager.acquire("m", "")
    assert handle.interface.max_batch_size == 3 and len(loads) == 2
    manager.release(handle)
    (root / "m/config.toml").write_text("[batching]\nmax_batchsize = 3\n")  # wrong: what runs stays
    look()
    look()
    assert ready(manager) == [("m", "1")] and len(loads) == 2


def test_a_polling_server(tmp_path):
    serve_fake.repository(tmp_path, {"m/1": "scale 1"})
    settings = Settings(
        listen=Listen("127.0.0.1", 0, -1, -1),
        limits=LIMITS,
        drain=Drain(0, 5),
        repository=RepositorySettings(control="poll", poll_s=0.05),
    )
    server = Server(tmp_path, settings=settings, loader=serve_fake.load)
    with server, Client(f"127.0.0.1:{server.grpc_port}") as client:
        for verb in (client.load, client.unload):
            with pytest.raises(ServeError, match="control is poll") as caught:
                verb("m")
            assert caught.value.meaning is Meaning.UNSUPPORTED
        serve_fake.repository(tmp_path, {"m/2": "scale 2"})
        end = time.monotonic() + 20
        while not client.ready("m", 2) and time.monotonic() < end:
            time.sleep(0.02)
        assert client.ready("m", 2)
