"""HTTP/2 frames by hand, for clients that do what no library would. Source of the layouts: RFC 9113, RFC 7541."""

import socket
import struct
import time

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM, END_HEADERS, ACK = 1, 4, 1


def frame(kind: int, flags: int, stream: int, body: bytes = b"") -> bytes:
    return struct.pack(">I", len(body))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + body


def _integer(value: int, bits: int, first: int) -> bytes:
    limit = (1 << bits) - 1
    if value < limit:
        return bytes([first | value])
    out, value = bytearray([first | limit]), value - limit
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes(out) + bytes([value])


def literal(name: bytes, value: bytes, index: bool = False) -> bytes:
    """A header field that refers to nothing; `index`: it enters the dynamic table."""
    return (b"\x40" if index else b"\x00") + _integer(len(name), 7, 0) + name + _integer(len(value), 7, 0) + value


def indexed(number: int) -> bytes:
    return _integer(number, 7, 0x80)


def request(
    path: bytes, *more: tuple[bytes, bytes], method: bytes = b"POST", kind: bytes = b"application/grpc"
) -> bytes:
    fields = [
        (b":method", method),
        (b":scheme", b"http"),
        (b":path", path),
        (b":authority", b"x"),
        (b"te", b"trailers"),
        (b"content-type", kind),
    ]
    return b"".join(literal(name, value) for name, value in [*fields, *more])


def message(data: bytes, flag: int = 0, size: int | None = None) -> bytes:
    return bytes([flag]) + struct.pack(">I", len(data) if size is None else size) + data


class Client:
    """A connection that has sent the preface and its settings."""

    def __init__(self, port: int, settings: bytes = b"", greet: bool = True) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), timeout=5)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._pending = b""
        if greet:
            self.send(PREFACE + frame(SETTINGS, 0, 0, settings))

    def send(self, data: bytes) -> bool:
        """False: the server has closed the connection."""
        try:
            self.sock.sendall(data)
            return True
        except OSError:
            return False

    def frames(self, seconds: float):
        """(kind, flags, stream, body) of what comes within `seconds`, until the server closes."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            while len(self._pending) >= 9:
                size = int.from_bytes(self._pending[:3], "big")
                if len(self._pending) < 9 + size:
                    break
                head, body = self._pending[:9], self._pending[9 : 9 + size]
                self._pending = self._pending[9 + size :]
                yield head[3], head[4], int.from_bytes(head[5:9], "big"), body
            self.sock.settimeout(left)
            try:
                got = self.sock.recv(65536)
            except TimeoutError:
                return
            except OSError:
                return
            if not got:
                return
            self._pending += got

    def closed_within(self, seconds: float) -> bool:
        """The server ends the connection."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self.sock.settimeout(left)
            try:
                if not self.sock.recv(65536):
                    return True
            except TimeoutError:
                return False
            except OSError:
                return True
        return False

    def answer(self, stream: int, seconds: float = 5) -> bytes | None:
        """All header and data bytes of a stream until it ends; None where it was reset or the connection closed."""
        seen = b""
        for kind, flags, number, body in self.frames(seconds):
            if number == stream and kind == RST_STREAM:
                return seen or None
            if number == stream and kind in (HEADERS, DATA):
                seen += body
                if flags & END_STREAM:
                    return seen
        return None

    def close(self) -> None:
        self.sock.close()
