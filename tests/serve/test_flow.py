"""Back-pressure: who reads slowly, or not at all, makes the server wait and not grow; on both fronts and protocols."""

import contextlib
import itertools
import json
import socket
import threading
import time

import numpy as np
import pytest
import serve_call
import serve_fake
from serve_start import FRONTS, need, start

from headrace.serve import http_connection, native_front

STEPS = 4000
WIDTH = 32 * 1024  # 128 KiB a part
MOST = 300  # parts that may be under way: what the mark, the windows and the sockets' buffers hold is less
GENERATE = f'[generate]\ninput = "token"\noutput = "next"\nmax_steps = {STEPS}\n'


@pytest.fixture(scope="module", params=FRONTS)
def server(request, tmp_path_factory):
    need(request.param)
    models = {"flood": f"flood {WIDTH}", "slow": "slow 0.2", "plain": "identity FP32", "other": "identity FP32"}
    root = serve_fake.repository(tmp_path_factory.mktemp("flow"), models)
    (root / "flood/config.toml").write_text(GENERATE)
    with start(root, request.param) as running:
        yield running


@contextlib.contextmanager
def unread_events(server):
    """A generation over REST whose answer nobody reads."""
    body = json.dumps({"token": 0}).encode()
    head = f"POST /v2/models/flood/generate_stream HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
        sock.connect(("127.0.0.1", server.http_port))
        sock.sendall(head + body)
        yield lambda size: read(sock, size)


def read(sock, size):
    got = 0
    while got < size and (data := sock.recv(1 << 20)):
        got += len(data)
    return got


@contextlib.contextmanager
def unread_stream(server):
    """The same over gRPC."""
    message = serve_call.message("flood", {"token": np.zeros((1, 1), np.int64)}).SerializeToString()
    with serve_call.channel(server) as opened:
        call = opened.stream_stream(serve_call.SERVICE + "ModelStreamInfer")(iter([message]))
        yield lambda size: sum(len(part) for part in itertools.islice(call, size // (WIDTH * 4) + 1))
        call.cancel()


HOWS = {"http": unread_events, "grpc": unread_stream}


def steps_of(server):
    version = next(v for v in server._manager.versions() if v.name == "flood")
    return version.count().execution_count


def settled(server):
    """Steps so far, when no more seem to come: too few rather than too many, so what is asserted of it is at most."""
    before, since = steps_of(server), time.monotonic()
    while time.monotonic() - since < 0.5:
        time.sleep(0.05)
        if (now := steps_of(server)) != before:
            before, since = now, time.monotonic()
    return before


def until(condition, seconds=20.0):
    deadline = time.monotonic() + seconds
    while not (met := condition()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return met


def idle(server):
    return until(lambda: not server._plane.inflight)


@pytest.mark.parametrize("how", HOWS)
def test_a_slow_reader_holds_the_model_back(server, how):
    first = steps_of(server)
    with HOWS[how](server) as take:
        assert until(lambda: steps_of(server) > first)
        made = settled(server) - first
        assert made < MOST
        assert take(8 << 20) >= 8 << 20
        assert until(lambda: steps_of(server) - first > made), "it reads on: the model goes on, too"
        assert settled(server) - first < made + MOST
    assert idle(server)  # the client left: nobody makes the rest
    assert steps_of(server) - first < 2 * MOST


@pytest.mark.parametrize("how", HOWS)
def test_who_reads_nothing_is_left_in_the_end(server, how, monkeypatch):
    if how == "grpc" and "GrpcFront" in str(server._fronts):
        pytest.skip("grpcio ends such a stream only by the keepalive of its connection")
    for module in (http_connection, native_front):
        monkeypatch.setattr(module, "WRITE_SECONDS", 0.5)
    with HOWS[how](server) as take:
        assert idle(server), "the request is still there"
        del take


def test_a_client_that_only_sends_is_held_back(server):
    """A stream whose requests take their time: the client's sends wait."""
    message = serve_call.message("slow", {"x": np.zeros((16 * 1024, 4), np.float32)[:64]})
    message.parameters["filler"].string_param = "x" * 60_000
    data, sent, done = message.SerializeToString(), itertools.count(), threading.Event()
    last = 0

    def requests():
        nonlocal last
        for last in sent:
            if last >= 5000 or done.is_set():
                return
            yield data

    with serve_call.channel(server) as opened:
        call = opened.stream_stream(serve_call.SERVICE + "ModelStreamInfer")(requests())
        assert until(lambda: last > 0)
        time.sleep(0.5)  # too short a time hides a fault, and never shows one that is not there
        assert last < 1000, last  # 60 KB each: less than 60 MB are under way
        answers = list(itertools.islice(call, 3))
        done.set()
        call.cancel()
    assert len(answers) == 3
    assert idle(server)


def test_every_message_of_a_long_stream_is_answered(server):
    """More bytes than any window, in messages small and large."""
    rng = np.random.default_rng(3)
    sizes = [int(size) for size in rng.integers(1, 60_000, 200)] + [200_000] * 10
    sent = [serve_call.message("plain", {"x": np.full((1, size), i, np.float32)}) for i, size in enumerate(sizes)]
    answers = list(serve_call.stream(server, sent))
    assert [serve_call.arrays(a.infer_response)["y"].shape[1] for a in answers] == sizes


def test_requests_sent_ahead_to_different_models_are_answered(server):
    """Pipelined over HTTP/1.1 on one connection: each answer frees the connection for the next."""
    names = ["plain", "other", "plain", "nope", "other", "other", "plain"] * 5
    data = b""
    for i, name in enumerate(names):
        body = json.dumps({"inputs": [{"name": "x", "shape": [1, 1], "datatype": "FP32", "data": [i]}]}).encode()
        data += b"POST /v2/models/%s/infer HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (
            name.encode(),
            len(body),
        )
        data += body
    with socket.create_connection(("127.0.0.1", server.http_port), timeout=30) as sock:
        sock.sendall(data)
        began, file = time.monotonic(), sock.makefile("rb")
        for i, name in enumerate(names):
            status = int(file.readline().split()[1])
            length = 0
            while (line := file.readline()) != b"\r\n":
                if line.lower().startswith(b"content-length:"):
                    length = int(line.split(b":")[1])
            found = json.loads(file.read(length))
            assert (status, name) == (404, "nope") or found["outputs"][0]["data"] == [i]
        assert time.monotonic() - began < 10  # none of them waited for a timer of the loop


def test_answers_that_nobody_reads_stop_the_next_requests(server):
    """Requests sent ahead by a client that reads nothing: at some point they are not even taken."""
    body = json.dumps(
        {"inputs": [{"name": "x", "shape": [1, 20000], "datatype": "FP32", "data": [0.123456789] * 20000}]}
    )
    one = f"POST /v2/models/plain/infer HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
        sock.connect(("127.0.0.1", server.http_port))
        sock.settimeout(1.0)
        count = 0
        with pytest.raises(TimeoutError):
            for count in range(2000):  # noqa: B007
                sock.sendall(one)
    assert count < 200  # of about 200 KB each
