"""Inferences that need no Python: the portable front answers them by the engine, on the thread of the call."""

import hashlib
import logging
import threading

import grpc
import numpy as np
import pytest
import serve_call
from onnx import TensorProto, helper
from serve_packages import X, package
from test_engine import INFER, repository, save
from test_engine import start as start_real

from headrace.serve import Server, engine
from headrace.serve.config import Auth, Drain, Listen, Log, Settings
from headrace.serve.errors import Meaning, ServeError
from headrace.serve.routes import Routes

pytestmark = pytest.mark.skipif(engine._native is None, reason="built without libnghttp2: there is no engine")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with start_real(repository(tmp_path_factory.mktemp("routes")), "portable") as running:
        yield running


DENSE = {"x": np.linspace(-1, 1, 12, dtype=np.float32).reshape(2, 6)}


@pytest.fixture
def no_plane(server, monkeypatch):
    def refuse(request):
        raise ServeError(Meaning.INTERNAL, "it came to the plane")

    monkeypatch.setattr(server._plane, "infer", refuse)


def test_what_fits_passes_the_plane_by(server, no_plane):
    before = {key: server._plane.statistics("dense", "")["model_stats"][0][key] for key in ("inference_count",)}
    found, _ = serve_call.infer(server, "grpc", "dense", DENSE)
    assert found["y"].shape == (2, 5)
    (now,) = server._plane.statistics("dense", "")["model_stats"]
    assert now["inference_count"] == before["inference_count"] + 2
    with pytest.raises(ServeError, match="it came to the plane"):
        serve_call.infer(server, "grpc", "dense", DENSE, {"headrace_explain": True})
    assert server._plane.inflight == 0


def test_both_ways_give_the_same_bytes(server):
    direct, _ = serve_call.infer(server, "grpc", "dense", DENSE)
    plane, _ = serve_call.infer(server, "grpc", "dense", DENSE, {"headrace_explain": True})
    assert direct["y"].tobytes() == plane["y"].tobytes()


def test_a_traced_server_takes_the_long_way(server, no_plane, monkeypatch):
    monkeypatch.setattr(server._plane.tracer, "on", True)
    with pytest.raises(ServeError, match="it came to the plane"):
        serve_call.infer(server, "grpc", "dense", DENSE)


def test_an_expired_request_does_not_run(server):
    data = serve_call.message("dense", DENSE).SerializeToString()
    routes = Routes(server._manager)
    with pytest.raises(ServeError) as caught:
        routes.infer(data, 0.0, tuple, lambda told: True, 8)
    assert caught.value.meaning is Meaning.EXPIRED
    assert routes.infer(data, None, tuple, lambda told: True, 8) is not None


def test_no_more_threads_than_there_is_room_for(server):
    routes = Routes(server._manager)
    data = serve_call.message("dense", DENSE).SerializeToString()
    assert routes.infer(data, None, tuple, lambda told: True, 0) is None  # the plane refuses it
    routes.refuse()
    assert routes.infer(data, None, tuple, lambda told: True, 8) is None


def test_a_watch_that_raises_leaves_nothing_behind(server):
    """The message must live until its run has ended, whatever the front's callback does."""
    routes = Routes(server._manager)
    x = {"x": np.ones((3, 4), np.float32)}
    data = serve_call.message("single", x).SerializeToString()

    def watch(told):
        raise RuntimeError("no")

    for _ in range(20):  # the first runs wait for a thread, later ones do not ask
        try:
            assert routes.infer(data, None, tuple, watch, 8) is not None
        except RuntimeError:
            assert routes.waiting == 0
    assert server._plane.inflight == 0


def test_callers_at_once_get_their_own_rows(server):
    failures = []

    def call(index):
        with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
            ask = channel.unary_unary(INFER)
            for turn in range(30):
                x = np.full((1 + index % 3, 6), index * 100 + turn, np.float32)
                sent = serve_call.message("dense", {"x": x}, id=f"{index}-{turn}")
                answer = serve_call.pb.ModelInferResponse.FromString(ask(sent.SerializeToString(), timeout=20))
                want = alone[x.tobytes()]
                if answer.id != sent.id or serve_call.arrays(answer)["y"].tobytes() != want:
                    failures.append(sent.id)

    alone = {}
    for index in range(8):
        for turn in range(30):
            x = np.full((1 + index % 3, 6), index * 100 + turn, np.float32)
            alone[x.tobytes()] = serve_call.infer(server, "http", "dense", {"x": x})[0]["y"].tobytes()
    threads = [threading.Thread(target=call, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failures


def test_a_failure_is_told(tmp_path, caplog):
    """The number that the client has is in the log, with what went wrong."""
    inputs, outputs = [("i", TensorProto.INT64, ["n", 2])], [("y", TensorProto.FLOAT, ["n", 2])]
    table = [("t", np.arange(10, dtype=np.float32))]
    save(tmp_path, "told", [helper.make_node("Gather", ["t", "i"], ["y"])], inputs, outputs, table)
    told = threading.Event()
    handler = logging.Handler()
    handler.emit = lambda record: told.set() if "model told" in record.getMessage() else None
    log = logging.getLogger("headrace.serve")
    log.addHandler(handler)
    try:
        with start_real(tmp_path, "portable") as server:
            with pytest.raises(ServeError) as caught:
                serve_call.infer(server, "grpc", "told", {"i": np.array([[1, 99]])})
            assert caught.value.meaning is Meaning.INTERNAL
            assert told.wait(20)
    finally:
        log.removeHandler(handler)
    number = caught.value.text.split()[-1]
    assert f"incident {number}, model told version 1: " in caplog.text


def test_unknown_limits_are_refused():
    with pytest.raises(ValueError, match=r"limits has max_conections, which is none; known are .*max_connections"):
        engine._native.Front(engine._native.Routes(), {"max_conections": 5}, [], INFER, print)


def test_a_token_is_looked_at(tmp_path):
    package(tmp_path / "models/double/1/model.hr", 2.0)
    tokens = tmp_path / "tokens.toml"
    tokens.write_text(f'[[token]]\nname = "a"\nsha256 = "{hashlib.sha256(b"good").hexdigest()}"\nroles = ["infer"]\n')
    settings = Settings(
        listen=Listen("127.0.0.1", 0, -1, -1, front="portable"), drain=Drain(0, 5), log=Log(access="all", file=str(tmp_path / "log")),
        auth=Auth(tokens=str(tokens)),
    )  # fmt: skip
    with Server(tmp_path / "models", settings=settings) as server, serve_call.channel(server) as channel:
        ask = channel.unary_unary(INFER)
        data = serve_call.message("double", {"x": X}, id="known").SerializeToString()
        for metadata in ((), (("authorization", "Bearer bad"),), (("authorization-bin", b"Bearer good"),)):
            with pytest.raises(grpc.RpcError) as caught:
                ask(data, timeout=20, metadata=metadata)
            assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
        assert ask(data, timeout=20, metadata=(("authorization", "Bearer good"),))
    assert '"principal":"a"' in (tmp_path / "log").read_text()
