"""However a message is cut into frames, its bytes arrive, and what follows a call that ended early is read as what it is."""

import struct

import numpy as np
import pytest
import serve_fake
from raw_http2 import (
    ACK,
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    Client,
    frame,
    message,
    request,
)
from serve_start import need

from headrace.protos import inference_pb2 as pb
from headrace.serve import Server
from headrace.serve.config import Drain, Limits, Listen, Settings

INFER = b"/inference.GRPCInferenceService/ModelInfer"
PADDED = 8
WIDE = struct.pack(">HI", 4, (1 << 31) - 1)  # the client's window of a stream
LIMIT = 600_000
# What a client may send in one frame, and a frame of which the native front reads the end right into the message.
LARGEST = {"portable": 16_000, "native": 200_000}


@pytest.fixture(scope="module", params=LARGEST)
def server(request, tmp_path_factory):
    need(request.param)
    root = serve_fake.repository(tmp_path_factory.mktemp("frames"), {"fp32": "identity FP32"})
    listen = Listen("127.0.0.1", 0, -1, -1, front=request.param)
    settings = Settings(listen=listen, limits=Limits(max_message_bytes=LIMIT), drain=Drain(0, 5))
    with Server(root, settings=settings, loader=serve_fake.load) as running:
        running.largest = LARGEST[request.param]
        running.padding = 7 if request.param == "native" else 0  # grpcio refuses padded data
        yield running


@pytest.fixture
def client(server):
    it = Client(server.grpc_port, WIDE)
    it.send(frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", 1 << 30)))
    for kind, flags, _, _ in it.frames(5):
        if kind == SETTINGS and not flags & ACK:
            break
    it.send(frame(SETTINGS, ACK, 0))
    yield it
    it.close()


def call(seed, size):
    """(a request, the bytes of its tensor)."""
    tensor = np.random.default_rng(seed).random((1, size // 4), np.float32)
    ask = pb.ModelInferRequest(model_name="fp32", raw_input_contents=[tensor.tobytes()])
    ask.inputs.add(name="x", datatype="FP32", shape=tensor.shape)
    return message(ask.SerializeToString()), tensor.tobytes()


def head(stream, *more):
    return frame(HEADERS, END_HEADERS, stream, request(INFER, *more))


def data(stream, body, last=False, padding=0):
    flags = (END_STREAM if last else 0) | (PADDED if padding else 0)
    return frame(DATA, flags, stream, bytes([padding]) * bool(padding) + body + bytes(padding))


def answers(client, streams):
    """What comes of these streams until each has ended or was reset."""
    seen, left = dict.fromkeys(streams, b""), set(streams)
    for kind, flags, stream, body in client.frames(20):
        if stream in left and kind in (HEADERS, DATA):
            seen[stream] += body
        if stream in left and (kind == RST_STREAM or (kind in (HEADERS, DATA) and flags & END_STREAM)):
            left.remove(stream)
        if not left:
            return seen
    raise AssertionError(f"no end of the streams {left}")


def parts(stream, body, sizes, padding):
    """The DATA frames of a message, of these sizes in turn."""
    at, out = 0, []
    while at < len(body):
        size = sizes[len(out) % len(sizes)]
        out.append(data(stream, body[at : at + size], at + size >= len(body), padding))
        at += size
    return out


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("shares", [(1.0,), (1.0, 0.001), (0.5, 0.9, 0.05)])
def test_messages_in_turns_on_one_connection(server, client, shares, padded):
    sizes = [max(int(share * server.largest), 1) for share in shares]
    calls = {stream: call(stream, int(2.5 * server.largest)) for stream in (1, 3, 5)}
    frames = [parts(stream, body, sizes, padded * server.padding) for stream, (body, _) in calls.items()]
    client.send(b"".join(map(head, calls)))
    for turn in zip(*frames, strict=True):
        client.send(b"".join(turn))
    seen = answers(client, calls)
    for stream, (_, tensor) in calls.items():
        assert tensor in seen[stream]


def interrupted(largest):
    """name -> frames of a call on stream 1 that ends in the middle of a message."""
    body, _ = call(1, 2 * largest)
    begun = data(1, body[:largest])
    return {
        "reset": head(1) + begun + frame(RST_STREAM, 0, 1, struct.pack(">I", 8)),
        "cut short": head(1) + data(1, body[:largest], last=True),
        "longer than it said": head(1, (b"content-length", b"%d" % (largest // 2))) + begun,
        "over the limit, and more of it": head(1) + data(1, message(bytes(largest - 5), size=LIMIT + 1)) + begun,
        "two messages": head(1) + data(1, call(2, largest // 2)[0] + body[: largest // 3]),
    }


@pytest.mark.parametrize("how", interrupted(1000))
def test_what_follows_a_call_that_ended_early_is_served(server, client, how):
    body, tensor = call(9, 2 * server.largest)
    client.send(interrupted(server.largest)[how] + head(3) + b"".join(parts(3, body, [server.largest], 0)))
    assert tensor in answers(client, [3])[3]
