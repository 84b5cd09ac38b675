"""What a server and its worker processes say to each other: small bounded frames over a socket pair, tensors in memory that
both have mapped, passed by descriptor. Data only; both sides check every number before they use it.

A frame is a header (payload bytes, kind, number, little-endian) and its payload. Tensors are described in the payload and
lie in a segment: a sealed memfd that cannot shrink under the side that reads it.
"""

import fcntl
import math
import mmap
import os
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from headrace.runtime.errors import HeadraceError
from headrace.serve.datatypes import DATATYPES, Array, decode_bytes, of_array, to_wire

HEADER = struct.Struct("<IIQ")
MAX_PAYLOAD = 60 * 1024
MAX_SEGMENT = 1 << 40
MAX_RANK = 32
ALIGN = 64
_COUNT, _TENSOR = struct.Struct("<H"), struct.Struct("<BBQQ")
_CODES = tuple(DATATYPES.values())
_CODE_OF = {datatype.name: code for code, datatype in enumerate(_CODES)}


class Kind(IntEnum):
    """What a frame is. LOAD, RUN, UNLOAD and REHEARSE are asked of a worker; the others are its answers."""

    LOAD, LOADED, RUN, RESULT, FAILED, UNLOAD, UNLOADED, REHEARSE, REHEARSED = range(1, 10)


class FrameError(HeadraceError):
    """The other side does not keep to the format: it is not to be talked to any more."""


@dataclass(frozen=True, slots=True)
class Frame:
    kind: Kind
    number: int
    payload: bytes
    descriptor: int | None = None  # of a segment, the receiver's to close


def send(
    connection: socket.socket, kind: Kind, number: int, payload: bytes = b"", descriptor: int | None = None
) -> None:
    """Send one frame, with a descriptor if there is one. FrameError where the payload is too long; OSError."""
    if len(payload) > MAX_PAYLOAD:
        raise FrameError(f"a frame would have {len(payload)} bytes; allowed are {MAX_PAYLOAD}")
    data = HEADER.pack(len(payload), kind, number) + payload
    if descriptor is None:
        connection.send(data)
    else:
        socket.send_fds(connection, [data], [descriptor])


def receive(connection: socket.socket) -> Frame | None:
    """The next frame; None where the other side is gone. TimeoutError, FrameError, OSError."""
    data, descriptors, flags, _ = socket.recv_fds(connection, HEADER.size + MAX_PAYLOAD, 2)
    try:
        if not data:
            return None
        if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC) or len(data) < HEADER.size or len(descriptors) > 1:
            raise FrameError("a frame is cut or has more than one descriptor")
        length, kind, number = HEADER.unpack_from(data)
        if length != len(data) - HEADER.size or kind not in Kind.__members__.values():
            raise FrameError(f"a frame of kind {kind} claims {length} bytes and has {len(data) - HEADER.size}")
        return Frame(Kind(kind), number, data[HEADER.size :], descriptors.pop() if descriptors else None)
    finally:
        for left in descriptors:
            os.close(left)


class Segment:
    """Mapped memory that both sides have. `descriptor` stays open until `close_descriptor`; the mapping lives as long as
    something uses it."""

    def __init__(self, descriptor: int, size: int, *, writable: bool) -> None:
        self.descriptor, self.size = descriptor, size
        self.memory = mmap.mmap(descriptor, size, prot=mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0))

    @classmethod
    def make(cls, size: int) -> "Segment":
        """A new one of at least `size` bytes, sealed against any change of its size."""
        size = max(64 * 1024, 1 << (size - 1).bit_length())
        descriptor = os.memfd_create("headrace", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(descriptor, size)
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
            return cls(descriptor, size, writable=True)
        except BaseException:
            os.close(descriptor)
            raise

    @classmethod
    def adopt(cls, descriptor: int) -> "Segment":
        """The other side's, to read. FrameError where it could shrink under us."""
        try:
            if not fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK:
                raise FrameError("a segment is not sealed against shrinking")
            size = os.fstat(descriptor).st_size
            if not 0 < size <= MAX_SEGMENT:
                raise FrameError(f"a segment has {size} bytes; allowed are {MAX_SEGMENT}")
            return cls(descriptor, size, writable=False)
        except OSError:
            os.close(descriptor)
            raise FrameError("a descriptor is no segment") from None
        except BaseException:
            os.close(descriptor)
            raise

    def close_descriptor(self) -> None:
        """The mapping stays."""
        descriptor, self.descriptor = self.descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


class Outbox:
    """The segment that this side writes: used again for every message, replaced by a larger one where it is too small."""

    def __init__(self) -> None:
        self._segment: Segment | None = None

    def write(self, arrays: Sequence[Array]) -> tuple[bytes, int | None]:
        """Put arrays in: the payload that describes them, and the segment's descriptor where the reader does not have it.
        The caller calls `sent` afterwards."""
        parts, rows, end = [], [], 0
        for array in arrays:
            data = memoryview(to_wire(array)).cast("B")
            offset = -(-end // ALIGN) * ALIGN
            end = offset + len(data)
            if array.ndim > MAX_RANK:
                raise FrameError(f"a tensor has {array.ndim} dimensions; allowed are {MAX_RANK}")
            code = _CODE_OF[of_array(array).name]
            rows.append(
                _TENSOR.pack(code, array.ndim, offset, len(data)) + struct.pack(f"<{array.ndim}Q", *array.shape)
            )
            parts.append((offset, data))
        segment, fresh = self._segment, False
        if segment is None or segment.size < end:
            segment, fresh = Segment.make(end), True
            self._segment = segment
        for offset, data in parts:
            segment.memory[offset : offset + len(data)] = data
        return _COUNT.pack(len(rows)) + b"".join(rows), segment.descriptor if fresh else None

    def sent(self) -> None:
        """The reader has its own descriptor now."""
        if self._segment is not None:
            self._segment.close_descriptor()

    def close(self) -> None:
        self.sent()
        self._segment = None


class Inbox:
    """The segment that the other side writes."""

    def __init__(self) -> None:
        self._segment: Segment | None = None

    def read(self, frame: Frame) -> list[Array]:
        """The arrays that a frame describes, views of the segment where they are numbers. FrameError where anything is not
        inside it."""
        if frame.descriptor is not None:
            self._segment = Segment.adopt(frame.descriptor)
            self._segment.close_descriptor()
        if self._segment is None:
            raise FrameError("tensors came without a segment")
        try:
            return _read(frame.payload, self._segment)
        except (struct.error, ValueError) as error:
            raise FrameError(f"tensors are described wrongly: {error}") from None


def _read(payload: bytes, segment: Segment) -> list[Array]:
    (count,), at, out = _COUNT.unpack_from(payload), _COUNT.size, []
    for _ in range(count):
        code, rank, offset, size = _TENSOR.unpack_from(payload, at)
        at += _TENSOR.size
        if (
            code >= len(_CODES)
            or rank > MAX_RANK
            or offset % ALIGN
            or size > segment.size
            or offset > segment.size - size
        ):
            raise FrameError("a tensor is not inside its segment")
        shape = struct.unpack_from(f"<{rank}Q", payload, at)
        at += 8 * rank
        datatype, elements = _CODES[code], math.prod(shape)
        if not datatype.size:
            array = decode_bytes(memoryview(segment.memory)[offset : offset + size], elements)
        elif elements * datatype.size != size:
            raise FrameError(f"a tensor of {elements} elements has {size} bytes")
        else:
            array = np.frombuffer(segment.memory, datatype.dtype, elements, offset)
        out.append(array.reshape(shape))
    if at != len(payload):
        raise FrameError("bytes are left after the tensors")
    return out
