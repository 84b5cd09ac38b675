"""Frames and segments: what goes in comes out, and whatever else comes in is refused before it is used."""

import os
import socket
import struct

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.serve import frames
from headrace.serve.datatypes import DATATYPES
from headrace.serve.frames import Frame, FrameError, Inbox, Kind, Outbox, Segment


@pytest.fixture
def pair():
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    yield ends
    for end in ends:
        end.close()


def through(outbox, inbox, arrays):
    payload, descriptor = outbox.write(arrays)
    passed = None if descriptor is None else os.dup(descriptor)
    outbox.sent()
    return inbox.read(Frame(Kind.RUN, 1, payload, passed)), descriptor is not None


ARRAYS = [
    *(np.zeros((2, 3), row.dtype) for row in DATATYPES.values() if row.size),
    np.array([1.5, -0.0, np.inf, np.nan], ml_dtypes.bfloat16),
    np.array([[b"", b"\0\xff", "ä".encode()]], object),
    np.float32(3.0),
    np.empty((0, 7), np.int64),
    np.arange(24.0).reshape(2, 3, 4).transpose(2, 0, 1),
]


def test_arrays_of_every_type_and_form():
    outbox, inbox = Outbox(), Inbox()
    arrays = [np.asarray(array) for array in ARRAYS]
    found, _ = through(outbox, inbox, arrays)
    for got, wanted in zip(found, arrays, strict=True):
        assert got.shape == wanted.shape and got.dtype == wanted.dtype
        assert got.tolist() == wanted.tolist() if got.dtype == object else got.tobytes() == wanted.tobytes()


@given(st.lists(st.integers(0, 200_000), min_size=1, max_size=6))
def test_segments_are_used_again_and_grow(sizes):
    outbox, inbox = Outbox(), Inbox()
    most = -1
    for size in sizes:
        (got,), fresh = through(outbox, inbox, [np.arange(size, dtype=np.uint8)])
        assert np.array_equal(got, np.arange(size, dtype=np.uint8))
        assert not (fresh and size <= most)  # a larger one came before
        most = max(most, size)


def test_frames_keep_their_edges(pair):
    frames.send(pair[0], Kind.LOAD, 7, b"x" * frames.MAX_PAYLOAD)
    frames.send(pair[0], Kind.RUN, 2**64 - 1, b"")
    first, second = frames.receive(pair[1]), frames.receive(pair[1])
    assert (first.kind, first.number, len(first.payload)) == (Kind.LOAD, 7, frames.MAX_PAYLOAD)
    assert (second.kind, second.number, second.payload) == (Kind.RUN, 2**64 - 1, b"")
    with pytest.raises(FrameError):
        frames.send(pair[0], Kind.RUN, 1, b"x" * (frames.MAX_PAYLOAD + 1))
    pair[0].close()
    assert frames.receive(pair[1]) is None


HEAD = frames.HEADER.pack
BAD_FRAMES = [b"x", HEAD(1, 3, 1), HEAD(0, 99, 1), HEAD(0, 0, 1), HEAD(0, 3, 1) + b"y", HEAD(frames.MAX_PAYLOAD, 3, 1)]


@pytest.mark.parametrize("data", [*BAD_FRAMES, HEAD(frames.MAX_PAYLOAD + 1, 3, 1) + b"x" * (frames.MAX_PAYLOAD + 1)])
def test_a_frame_that_is_none_is_refused(pair, data):
    pair[0].send(data)
    with pytest.raises(FrameError):
        frames.receive(pair[1])


def test_descriptors_that_nobody_asked_for_are_closed(pair):
    before = len(os.listdir("/proc/self/fd"))
    for count in (2, 3):
        socket.send_fds(pair[0], [HEAD(0, 3, 1)], [0] * count)
        with pytest.raises(FrameError):
            frames.receive(pair[1])
    assert len(os.listdir("/proc/self/fd")) == before


def tensor(code=10, rank=1, offset=0, size=16, dims=(4,), count=1, tail=b""):
    row = struct.pack("<BBQQ", code, rank, offset, size) + struct.pack(f"<{len(dims)}Q", *dims)
    return struct.pack("<H", count) + row + tail


SEGMENT = 64 * 1024
BAD_TENSORS = [
    b"",
    b"\1",
    tensor(code=len(DATATYPES)),
    tensor(rank=33, dims=(1,) * 33),
    tensor(rank=2),
    tensor(offset=SEGMENT),
    tensor(offset=SEGMENT - 64, size=128, dims=(32,)),
    tensor(offset=2**64 - 64, size=128, dims=(32,)),  # wraps
    tensor(offset=8),
    tensor(size=2**64 - 1),
    tensor(dims=(2**62, 1)[:1]),
    tensor(rank=2, dims=(2**32, 2**32)),  # a product that is 0 in 64 bits
    tensor(size=15),
    tensor(count=2),
    tensor(tail=b"\0"),
    tensor(code=list(DATATYPES).index("BYTES"), dims=(2**40,)),
    tensor(code=list(DATATYPES).index("BYTES"), dims=(5,)),
]


@pytest.mark.parametrize("payload", BAD_TENSORS)
def test_tensors_that_are_not_there_are_refused(payload):
    inbox = Inbox()
    inbox.read(Frame(Kind.RUN, 1, tensor(), Segment.make(SEGMENT).descriptor))  # a good one: it has the segment now
    with pytest.raises(FrameError):
        inbox.read(Frame(Kind.RUN, 2, payload))


def test_memory_that_could_shrink_is_refused(tmp_path):
    plain = os.memfd_create("plain")
    os.ftruncate(plain, SEGMENT)
    with (tmp_path / "file").open("w+b") as file:
        file.truncate(SEGMENT)
        for descriptor in (plain, os.dup(file.fileno()), os.open(os.devnull, os.O_RDWR)):
            with pytest.raises(FrameError):
                Inbox().read(Frame(Kind.RUN, 1, tensor(), descriptor))
    with pytest.raises(FrameError):
        Inbox().read(Frame(Kind.RUN, 1, tensor()))  # and none at all
