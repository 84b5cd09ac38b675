"""HTTP/1.1 abuse by raw sockets: the right refusal, the connection closed, and the others undisturbed."""

import contextlib
import socket
import threading
import time

import pytest
from serve_start import FRONTS, LIMITS, need

from headrace.serve.config import Limits
from headrace.serve.http_messages import HttpResponse
from headrace.serve.http_server import HttpServer


class Echo:
    """Answers with the body; `gate` holds answers back; `left` is set when a client goes away meanwhile."""

    closing = False

    def __init__(self):
        self.gate, self.left = threading.Event(), threading.Event()
        self.gate.set()

    def __call__(self, request):
        request.watch(self.left.set)
        self.gate.wait(10)
        return HttpResponse(200, [bytes(request.body)])

    def refuse(self, status, text):
        return HttpResponse(status, [text.encode()])


@pytest.fixture
def echo():
    return Echo()


def listening(kind, application, limits, port=0):
    """A server with one application, and its port: the portable one, or the native loop."""
    if kind == "portable":
        server = HttpServer(application, "127.0.0.1", port, limits, threads=2)
        return server, server.port
    need("native")
    from headrace.serve.native_front import NativeFront

    front = NativeFront(None, limits, threads=2)
    return front, front.listen_http("127.0.0.1", port, application)


@pytest.fixture(params=FRONTS)
def port(request, echo):
    limits = Limits(max_message_bytes=100_000, max_connections=8, header_timeout_s=1.0, idle_timeout_s=1.5)
    running, port = listening(request.param, echo, limits)
    running.start()
    yield port
    running.stop(1)


def exchange(port, data, end=True):
    """Everything the server sends until it closes."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as sock:
        with contextlib.suppress(OSError):  # it has answered and closed already
            sock.sendall(data)
        out = b""
        try:
            while part := sock.recv(65536):
                out += part
                if not end and b"\r\n\r\n" in out:
                    break
        except ConnectionResetError:
            pass
        return out


HEAD = b"POST / HTTP/1.1\r\nHost: x\r\n"
REFUSED = {
    "no request": (b"\x16\x03\x01\x00\xa5\x01\x00\r\n\r\n", b" 400 "),
    "request line over 8 KiB": (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", b" 414 "),
    "headers over 32 KiB": (HEAD + b"A: " + b"a" * 40_000 + b"\r\n\r\n", b" 431 "),
    "endless header": (HEAD + b"A: " + b"a" * 200_000, b" 431 "),
    "101 headers": (HEAD + b"".join(b"h%d: x\r\n" % i for i in range(101)) + b"\r\n", b" 431 "),
    "body over the limit": (HEAD + b"Content-Length: 100001\r\n\r\n", b" 413 "),
    "length of 2^70": (HEAD + b"Content-Length: 1180591620717411303424\r\n\r\n", b" 4"),
    "chunks over the limit": (
        HEAD
        + b"Transfer-Encoding: chunked\r\n\r\n"
        + b"8000\r\n"
        + b"x" * 32768
        + b"\r\n" * 1
        + (b"8000\r\n" + b"x" * 32768 + b"\r\n") * 4,
        b" 413 ",
    ),
    "negative length": (HEAD + b"Content-Length: -1\r\n\r\n", b" 400 "),
    "two lengths": (HEAD + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nx", b" 400 "),
    "length and chunks": (HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", b" 400 "),
    "bad chunk size": (HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", b" 400 "),
    "unknown transfer coding": (HEAD + b"Transfer-Encoding: gzip\r\n\r\n", b" 501 "),
    "no host": (b"GET / HTTP/1.1\r\n\r\n", b" 400 "),
    "space in a header name": (HEAD + b"A b: c\r\n\r\n", b" 400 "),
    "zero byte in a header": (HEAD + b"A: \0\r\n\r\n", b" 400 "),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(port, name):
    data, status = REFUSED[name]
    answer = exchange(port, data)
    assert answer.startswith(b"HTTP/1.1") and status in answer[:16], answer[:100]
    assert b"connection: close" in answer.lower()
    assert exchange(port, HEAD + b"Content-Length: 2\r\n\r\nok", end=False).endswith(b"ok")


def test_at_the_limits(port):
    body = b"x" * 100_000
    request = HEAD + b"Connection: close\r\nContent-Length: 100000\r\n\r\n" + body
    assert exchange(port, request).endswith(b"\r\n\r\n" + body)
    many = b"".join(b"h%d: x\r\n" % i for i in range(97))
    assert b" 200 " in exchange(port, HEAD + many + b"Connection: close\r\nContent-Length: 0\r\n\r\n")


def test_very_many_chunks(port):
    chunks = b"1\r\nx\r\n" * 20_000
    request = HEAD + b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"
    assert exchange(port, request).endswith(b"x" * 20_000)


def test_pipelined_requests_are_answered_in_order(port):
    one = HEAD + b"Content-Length: 1\r\n\r\n"
    last = HEAD + b"Connection: close\r\nContent-Length: 1\r\n\r\n"
    answer = exchange(port, one + b"1" + one + b"2" + last + b"3")
    assert [part[-1:] for part in answer.split(b"HTTP/1.1 200")[1:]] == [b"1", b"2", b"3"]


def test_slow_body_bytes_arrive(port):
    with socket.create_connection(("127.0.0.1", port), timeout=20) as sock:
        for part in (HEAD, b"Content-Length: 3\r\n", b"\r\n", b"a", b"b", b"c"):
            sock.sendall(part)
            time.sleep(0.02)
        assert sock.recv(65536).endswith(b"abc")


def test_expect_continue(port):
    with socket.create_connection(("127.0.0.1", port), timeout=20) as sock:
        sock.sendall(HEAD + b"Expect: 100-continue\r\nContent-Length: 1\r\n\r\n")
        assert sock.recv(65536).startswith(b"HTTP/1.1 100")
        sock.sendall(b"z")
        assert sock.recv(65536).endswith(b"z")


def test_half_a_head_and_silence_are_cut(port):
    assert b" 408 " in exchange(port, HEAD)
    assert exchange(port, b"") == b""


def test_excess_connections_are_closed_and_room_comes_back(port):
    held = [socket.create_connection(("127.0.0.1", port)) for _ in range(8)]
    time.sleep(0.1)
    assert exchange(port, b"") == b""
    for sock in held:
        sock.close()
    time.sleep(0.1)
    assert exchange(port, HEAD + b"Content-Length: 2\r\n\r\nok", end=False).endswith(b"ok")


def test_a_client_that_leaves_is_seen_while_its_request_runs(port, echo):
    echo.gate.clear()
    sock = socket.create_connection(("127.0.0.1", port))
    sock.sendall(HEAD + b"Content-Length: 0\r\n\r\n")
    time.sleep(0.05)
    sock.close()
    assert echo.left.wait(5)
    echo.gate.set()


def test_head_has_no_body(port):
    answer = exchange(port, b"HEAD / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert b" 200 " in answer and answer.endswith(b"\r\n\r\n")


@pytest.mark.parametrize("kind", FRONTS)
def test_the_port_is_taken_once(port, kind):
    with pytest.raises(OSError):
        listening(kind, Echo(), LIMITS, port)
