"""Clients that break HTTP/2 and gRPC on purpose: the server says so or hangs up, and a healthy client beside them is served
in under a second, every time. Each case runs on both fronts; what only the native one promises is asserted there alone."""

import gzip
import socket
import struct
import time
import zlib

import grpc
import numpy as np
import pytest
import serve_fake
from raw_http2 import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    PING,
    PREFACE,
    PRIORITY,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    Client,
    frame,
    indexed,
    literal,
    message,
    request,
)
from serve_start import need

from headrace.protos import inference_pb2 as pb
from headrace.serve import Server
from headrace.serve.config import Drain, Limits, Listen, Settings

INFER = b"/inference.GRPCInferenceService/ModelInfer"
LIVE = b"/inference.GRPCInferenceService/ServerLive"
EMPTY = message(b"")
LIMITS = Limits(max_message_bytes=1 << 20, header_timeout_s=1.0, max_connections=64, max_concurrent_streams=32)


@pytest.fixture(scope="module", params=["portable", "native"])
def server(request, tmp_path_factory):
    need(request.param)
    root = serve_fake.repository(tmp_path_factory.mktemp("abuse"), {"add": "add", "fp32": "identity FP32"})
    settings = Settings(listen=Listen("127.0.0.1", 0, -1, -1, front=request.param), limits=LIMITS, drain=Drain(0, 5))
    with Server(root, settings=settings, loader=serve_fake.load) as running:
        running.kind = request.param
        yield running


@pytest.fixture
def native(server):
    return server.kind == "native"


@pytest.fixture
def port(server):
    """The port; afterwards a healthy client on a new connection is answered, correctly and soon."""
    yield server.grpc_port
    options = [("grpc.use_local_subchannel_pool", 1)]
    started = time.monotonic()
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}", options) as channel:
        x = np.arange(4, dtype=np.float32)
        ask = pb.ModelInferRequest(model_name="fp32")
        ask.inputs.add(name="x", datatype="FP32", shape=[1, 4])
        ask.raw_input_contents.append(x.tobytes())
        answer = channel.unary_unary(INFER.decode())(ask.SerializeToString(), timeout=10, wait_for_ready=True)
        assert pb.ModelInferResponse.FromString(answer).raw_output_contents[0] == x.tobytes()
    assert time.monotonic() - started < 5  # a bound on liveness, not a speed


def call(client, stream, path=LIVE, body=EMPTY, more=(), **changed):
    client.send(frame(HEADERS, END_HEADERS, stream, request(path, *more, **changed)) + pieces(stream, body))
    return client.answer(stream)


def pieces(stream, body):
    """The body as DATA frames of the size that every server takes; the last one ends the stream."""
    cut = [body[at : at + 16000] for at in range(0, max(len(body), 1), 16000)]
    flags = [0] * (len(cut) - 1) + [END_STREAM]
    return b"".join(frame(DATA, flag, stream, piece) for flag, piece in zip(flags, cut))


def test_an_ordinary_call(port):
    client = Client(port)
    assert call(client, 1) is not None
    client.close()


@pytest.mark.parametrize(
    "path", [b"/\xff\xfe", b"/inference.GRPCInferenceService/\xc3\x28", b"", b"no slash", b"/" + b"x" * 5000]
)
def test_paths_that_are_none(port, path):
    client = Client(port)
    call(client, 1, path)
    assert call(client, 3) is not None or client.closed_within(2)
    client.close()


@pytest.mark.parametrize(
    "first",
    [
        b"",
        b"PRI * HT",
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00",
        bytes(64),
        PREFACE[:-1] + b"X",
        PREFACE,
    ],
    ids=["nothing", "half a preface", "http1", "tls", "zeros", "wrong preface", "no settings"],
)
def test_connections_that_never_begin(port, first):
    """Cut within the handshake's time."""
    client = Client(port, greet=False)
    client.send(first)
    assert client.closed_within(10)


def test_many_idle_connections(port, native):
    """Beyond the cap the connection is closed at once; half-open ones are cut in time."""
    opened = [socket.create_connection(("127.0.0.1", port), timeout=5) for _ in range(100)]
    time.sleep(0.2)
    if native:
        ended = sum(_closed(sock) for sock in opened)
        assert ended >= 100 - LIMITS.max_connections
        time.sleep(1.5)
        assert all(_closed(sock) for sock in opened)
    for sock in opened:
        sock.close()


def _closed(sock):
    sock.setblocking(False)
    try:
        while data := sock.recv(65536):
            assert data
        return True
    except BlockingIOError:
        return False
    except OSError:
        return True


@pytest.mark.parametrize("size", [17_000, 60_000, 200_000])
def test_metadata_that_is_too_large(port, size):
    client = Client(port)
    block = request(LIVE, (b"x-long", b"a" * size))
    pieces = [block[at : at + 16000] for at in range(0, len(block), 16000)]
    data = frame(HEADERS, 0, 1, pieces[0]) + b"".join(frame(CONTINUATION, 0, 1, piece) for piece in pieces[1:-1])
    client.send(data + frame(CONTINUATION, END_HEADERS, 1, pieces[-1]) + frame(DATA, END_STREAM, 1, message(b"")))
    client.answer(1, 2)
    client.close()


def test_a_continuation_flood(port, native):
    client = Client(port)
    client.send(frame(HEADERS, 0, 1, request(LIVE)))
    for _ in range(2000):
        if not client.send(frame(CONTINUATION, 0, 1, literal(b"x", b"y" * 100))):
            break
    assert client.closed_within(10) or not native
    client.close()


def test_a_header_bomb(port):
    """One long field in the dynamic table, named a few thousand times by one byte each."""
    client = Client(port)
    block = request(LIVE) + literal(b"x-bomb", b"b" * 3900, index=True) + indexed(62) * 4000
    client.send(frame(HEADERS, END_HEADERS, 1, block) + frame(DATA, END_STREAM, 1, message(b"")))
    client.answer(1, 2)
    client.close()


FLOODS = {
    "ping": frame(PING, 0, 0, bytes(8)),
    "settings": frame(SETTINGS, 0, 0),
    "priority": frame(PRIORITY, 0, 1, struct.pack(">IB", 0, 1)),
    "empty data": frame(DATA, 0, 1),
    "window": frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", 1)),
}


@pytest.mark.parametrize("kind", FLOODS)
def test_floods(port, kind, native):
    client = Client(port)
    client.send(frame(HEADERS, END_HEADERS, 1, request(LIVE)))
    for _ in range(100):
        if not client.send(FLOODS[kind] * 100):
            break
    if native and kind != "window":
        assert client.closed_within(10)
    client.close()


def test_rapid_reset(port, native):
    client = Client(port)
    for k in range(20_000):
        stream = 2 * k + 1
        if not client.send(
            frame(HEADERS, END_HEADERS, stream, request(INFER)) + frame(RST_STREAM, 0, stream, struct.pack(">I", 8))
        ):
            break
    if native:
        assert client.closed_within(10)
    client.close()


def test_deadlines_that_pass_are_no_abuse(port, native):
    """Clients reset a stream when its deadline passes: some hundreds a second for as long as they like."""
    if not native:
        pytest.skip("grpcio counts resets in its own way")
    client = Client(port)
    for turn in range(2):
        for k in range(800):
            stream = 2 * (800 * turn + k) + 1
            assert client.send(
                frame(HEADERS, END_HEADERS, stream, request(INFER)) + frame(RST_STREAM, 0, stream, struct.pack(">I", 8))
            )
        time.sleep(1.1)
    assert call(client, 2 * 1600 + 1, LIVE, EMPTY) is not None
    client.close()


def test_more_streams_than_allowed(port):
    client = Client(port)
    for k in range(200):
        client.send(frame(HEADERS, END_HEADERS, 2 * k + 1, request(INFER)))
    refused = sum(1 for kind, *_ in client.frames(1) if kind == RST_STREAM)
    assert refused >= 200 - LIMITS.max_concurrent_streams
    client.close()


WRONG_BODIES = {
    "two messages": message(b"") + message(b""),
    "half a prefix": b"\0\0",
    "half a message": message(b"abc", size=100),
    "no message": b"",
    "four gigabytes claimed": message(b"", size=0xFFFFFFFF),
    "over the limit by one": message(b"", size=(1 << 20) + 1),
    "compressed, but not said so": message(gzip.compress(b""), flag=1),
    "surplus bytes": message(b"") + b"x",
}


@pytest.mark.parametrize("kind", WRONG_BODIES)
def test_bodies_that_are_no_message(port, kind):
    client = Client(port)
    answer = call(client, 1, LIVE, WRONG_BODIES[kind])
    assert answer is not None  # a status, not silence
    client.close()


@pytest.mark.parametrize("encoding", [b"gzip", b"deflate"])
def test_a_compressed_bomb(port, encoding):
    """A kilobyte for each megabyte: inflation stops at the limit."""
    bomb = gzip.compress(bytes(64 << 20)) if encoding == b"gzip" else zlib.compress(bytes(64 << 20))
    client = Client(port)
    assert call(client, 1, INFER, message(bomb, flag=1), [(b"grpc-encoding", encoding)]) is not None
    client.close()


def test_a_compressed_request(server):
    """What grpcio's own client compresses is understood."""
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}", compression=grpc.Compression.Gzip) as channel:
        x = np.zeros(1000, np.float32)
        ask = pb.ModelInferRequest(model_name="fp32")
        ask.inputs.add(name="x", datatype="FP32", shape=[1, 1000])
        ask.raw_input_contents.append(x.tobytes())
        answer = channel.unary_unary(INFER.decode())(ask.SerializeToString(), timeout=10)
        assert pb.ModelInferResponse.FromString(answer).raw_output_contents[0] == x.tobytes()


@pytest.mark.parametrize(
    "changed",
    [{"method": b"GET"}, {"kind": b"application/json"}, {"kind": b""}, {"method": b"BREW"}],
    ids=["GET", "json", "no content type", "method"],
)
def test_requests_that_are_not_grpc(port, changed):
    client = Client(port)
    call(client, 1, **changed)
    assert call(client, 3) is not None
    client.close()


@pytest.mark.parametrize("value", [b"", b"5", b"S", b"-1S", b"999999999S", b"1x", b"0n", b"99999999H"])
def test_timeouts(port, value):
    client = Client(port)
    assert call(client, 1, LIVE, message(b""), [(b"grpc-timeout", value)]) is not None
    client.close()


BROKEN = {
    "even stream": frame(HEADERS, END_HEADERS, 2, request(LIVE)),
    "stream zero": frame(HEADERS, END_HEADERS, 0, request(LIVE)),
    "going back": frame(HEADERS, END_HEADERS, 5, request(LIVE)) + frame(HEADERS, END_HEADERS, 3, request(LIVE)),
    "data without a stream": frame(DATA, 0, 7, b"x"),
    "depends on itself": frame(HEADERS, END_HEADERS | 32, 1, struct.pack(">IB", 1, 1) + request(LIVE)),
    "window overflow": frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", 2**31 - 1)) * 2,
    "window of zero": frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", 0)),
    "settings of odd size": frame(SETTINGS, 0, 0, b"abc"),
    "acknowledged settings with a body": frame(SETTINGS, ACK, 0, b"abcdef"),
    "long ping": frame(PING, 0, 0, bytes(9)),
    "frame too large": frame(DATA, 0, 1, bytes(1 << 19)),
    "bad compression": frame(HEADERS, END_HEADERS, 1, b"\xff\xff\xff\xff\xff"),
    "upper case": frame(HEADERS, END_HEADERS, 1, request(LIVE) + literal(b"X-Up", b"1")),
    "pseudo header last": frame(HEADERS, END_HEADERS, 1, request(LIVE) + literal(b":path", b"/")),
    "no path": frame(HEADERS, END_HEADERS | END_STREAM, 1, literal(b":method", b"POST") + literal(b":scheme", b"http")),
    "connection header": frame(HEADERS, END_HEADERS, 1, request(LIVE) + literal(b"connection", b"close")),
    "unknown frame": frame(0xEE, 0xFF, 1, b"anything"),
    "reserved bit": frame(PING, 0, 1 << 31, bytes(8)),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_frames(port, kind):
    client = Client(port)
    client.send(BROKEN[kind])
    for _ in client.frames(0.2):
        pass
    client.close()


def test_a_client_that_takes_nothing(port):
    """A window of zero: the answers wait, and only this client's."""
    client = Client(port, settings=struct.pack(">HI", 4, 0))
    ask = pb.ModelInferRequest(model_name="fp32")
    ask.inputs.add(name="x", datatype="FP32", shape=[1, 50_000])
    ask.raw_input_contents.append(bytes(200_000))
    for k in range(8):
        client.send(frame(HEADERS, END_HEADERS, 2 * k + 1, request(INFER)))
        client.send(pieces(2 * k + 1, message(ask.SerializeToString())))
    assert all(kind != DATA for kind, *_ in client.frames(0.5))
    client.close()


def test_clients_that_vanish_in_the_middle(port):
    for k in range(50):
        client = Client(port)
        ask = pb.ModelInferRequest(model_name="fp32")
        ask.inputs.add(name="x", datatype="FP32", shape=[1, 4])
        ask.raw_input_contents.append(bytes(16))
        data = message(ask.SerializeToString())
        client.send(
            frame(HEADERS, END_HEADERS, 1, request(INFER)) + frame(DATA, END_STREAM if k % 2 else 0, 1, data[: 5 + k])
        )
        client.close()
