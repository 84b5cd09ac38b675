"""A bounded HTTP/1.1 server: h11 parses, one thread reads every connection, a small pool answers.

Only complete requests reach the pool, so a slow or silent client costs a table entry and never a thread. All limits
are applied before or while bytes are read. While a request is answered its socket is watched: a client that goes
away cancels it.
"""

import contextlib
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import h11

from headrace.serve import incidents
from headrace.serve.config import Limits
from headrace.serve.http_connection import Connection
from headrace.serve.http_messages import PHRASES, Application, HttpRequest, HttpResponse
from headrace.serve.rejections import CONNECTIONS, OF_STATUS, Rejections
from headrace.serve.tls import Certificates

READ_BYTES = 256 * 1024
MAX_TARGET_BYTES = 8 * 1024
BODY_WINDOW_SECONDS = 10.0
BODY_WINDOW_BYTES = 10 * 1024  # at least 1 KiB/s
SWEEP_SECONDS = 0.5
LINGER_SECONDS = 2.0  # reading on after a refusal, so that a client still sending sees the answer and no reset


class HttpServer:
    """Listens at once; `start` begins to accept. OSError when the port cannot be taken."""

    def __init__(
        self,
        application: Application,
        host: str,
        port: int,
        limits: Limits,
        threads: int | None = None,
        certificates: Certificates | None = None,
    ) -> None:
        self._application = application
        self._certificates = certificates
        self._limits = limits
        self.rejections = Rejections()
        self._pool = ThreadPoolExecutor(threads or limits.http_threads, thread_name_prefix="headrace-http")
        self._listener = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
        self._listener.setblocking(False)
        self.port: int = self._listener.getsockname()[1]
        self._selector = selectors.DefaultSelector()
        self._connections: set[Connection] = set()
        self._answered: deque[tuple[Connection, bool]] = deque()
        self._wake, self._woken = socket.socketpair()
        self._woken.setblocking(False)
        self._wake.setblocking(False)
        self._stop_at: float | None = None
        self._thread = threading.Thread(target=self._loop, name="headrace-http-loop", daemon=True)

    def start(self) -> None:
        """Begin to accept."""
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._thread.start()

    def stop(self, grace: float) -> None:
        """Accept nothing more, let requests in progress finish within `grace` seconds, close everything."""
        self._stop_at = time.monotonic() + grace
        if self._thread.ident is not None:
            self._poke()
            self._thread.join()
        else:
            self._listener.close()
        self._pool.shutdown(wait=False)

    @property
    def open_connections(self) -> int:
        return len(self._connections)

    # ---- the reading thread ----

    def _loop(self) -> None:
        next_sweep = 0.0
        while True:
            for key, _ in self._selector.select(SWEEP_SECONDS):
                if key.fileobj is self._listener:
                    self._accept()
                elif key.fileobj is self._woken:
                    self._drain_wakes()
                else:
                    self._guard(self._readable, key.data)
            while self._answered:
                connection, keep = self._answered.popleft()
                self._guard(self._continue, connection, keep)
            now = time.monotonic()
            if now >= next_sweep:
                next_sweep = now + SWEEP_SECONDS
                self._sweep(now)
            if self._stop_at is not None and self._stopped(now):
                return

    def _guard(self, step: Callable[..., None], connection: Connection, *rest: Any) -> None:
        """No connection may end the loop."""
        try:
            step(connection, *rest)
        except OSError:
            self._close(connection)
        except Exception as error:
            incidents.tell("an HTTP connection", incidents.new_number(), error=error)
            self._close(connection)

    def _accept(self) -> None:
        for _ in range(64):
            try:
                sock, _address = self._listener.accept()
            except OSError:
                return
            if len(self._connections) >= self._limits.max_connections:
                self.rejections.add(CONNECTIONS)
                sock.close()
                continue
            try:
                sock.setblocking(False)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                context = self._certificates.current.context if self._certificates is not None else None
                connection = Connection(sock, self._limits, time.monotonic(), context)
            except OSError:
                sock.close()
                continue
            self._connections.add(connection)
            self._selector.register(connection.sock, selectors.EVENT_READ, connection)

    def _readable(self, connection: Connection) -> None:
        if connection.busy:
            more = connection.look_ahead()
            if more is not None:  # the next request already: it is read after the answer
                self._unwatch(connection)
            if more is False:
                connection.set_gone()
            return
        data = connection.receive(READ_BYTES)
        if data is None:
            return
        if connection.linger_until is not None:
            if not data:
                self._close(connection)
            return
        if data and not connection.reading:
            connection.reading, connection.quiet_since = True, time.monotonic()
        try:
            connection.h11.receive_data(data)
        except h11.RemoteProtocolError as error:
            self._refuse(connection, error.error_status_hint or 400, "the request is not valid HTTP/1.1")
            return
        self._advance(connection)

    def _advance(self, connection: Connection) -> None:
        """Take events until more bytes are needed or a request is complete."""
        while True:
            try:
                event = connection.h11.next_event()
            except h11.RemoteProtocolError as error:
                status = error.error_status_hint or 400
                text = "the headers are too long" if status == 431 else "the request is not valid HTTP/1.1"
                self._refuse(connection, status, text)
                return
            if event is h11.NEED_DATA:
                if connection.h11.they_are_waiting_for_100_continue:
                    go_on = connection.h11.send(h11.InformationalResponse(status_code=100, headers=[]))
                    connection.send([go_on or b""])
                return
            if isinstance(event, h11.Request):
                connection.request = event
                connection.window = (time.monotonic(), 0)
                refusal = self._check_head(event)
                if refusal is not None:
                    self._refuse(connection, *refusal)
                    return
            elif isinstance(event, h11.Data):
                if len(connection.body) + len(event.data) > self._limits.max_message_bytes:
                    self._refuse(connection, 413, self._too_long())
                    return
                connection.body += event.data
            elif isinstance(event, h11.EndOfMessage):
                connection.busy = True
                self._pool.submit(self._answer, connection)
                return
            else:  # PAUSED or ConnectionClosed
                self._close(connection)
                return

    def _check_head(self, head: h11.Request) -> tuple[int, str] | None:
        headers = list(head.headers)
        names = [name for name, _ in headers]
        if head.http_version.startswith(b"2"):
            return 505, "this port speaks HTTP/1.1 (REST, /v2/...); gRPC has a port of its own"
        if len(head.target) > MAX_TARGET_BYTES:
            return 414, f"the request line is longer than {MAX_TARGET_BYTES} bytes"
        if len(headers) > self._limits.max_header_count:
            return 431, f"more than {self._limits.max_header_count} headers"
        if sum(len(name) + len(value) + 4 for name, value in headers) > self._limits.max_header_bytes:
            return 431, f"the headers are longer than {self._limits.max_header_bytes} bytes"
        if b"transfer-encoding" in names and b"content-length" in names:
            return 400, "Content-Length and Transfer-Encoding exclude each other"
        for name, value in headers:
            if name == b"content-length" and int(value) > self._limits.max_message_bytes:
                return 413, self._too_long()
        return None

    def _too_long(self) -> str:
        return f"the body is longer than {self._limits.max_message_bytes} bytes"

    def _refuse(self, connection: Connection, status: int, text: str) -> None:
        """Answer what cannot be a request, and close once the client has stopped sending."""
        if status in OF_STATUS:
            self.rejections.add(OF_STATUS[status])
        try:
            if connection.h11.our_state in (h11.IDLE, h11.SEND_RESPONSE):
                self._write(connection, self._application.refuse(status, text), close=True)
            connection.sock.shutdown(socket.SHUT_WR)
        except (OSError, h11.LocalProtocolError):
            self._close(connection)
            return
        connection.linger_until = time.monotonic() + LINGER_SECONDS

    def _continue(self, connection: Connection, keep: bool) -> None:
        now = time.monotonic()
        if not keep or self._stop_at is not None or not connection.next_cycle(now):
            self._close(connection)
            return
        if not connection.watched:
            self._selector.register(connection.sock, selectors.EVENT_READ, connection)
            connection.watched = True
        if connection.h11.trailing_data[0]:
            connection.reading = True
        self._advance(connection)  # a pipelined request may be here already

    def _sweep(self, now: float) -> None:
        limits = self._limits
        for connection in list(self._connections):
            if connection.busy:
                continue
            if connection.linger_until is not None:
                if now > connection.linger_until:
                    self._close(connection)
                continue
            quiet = now - connection.quiet_since
            if not connection.greeted:
                if quiet > limits.header_timeout_s:
                    self._close(connection)
            elif not connection.reading:
                if quiet > limits.idle_timeout_s:
                    self._close(connection)
            elif connection.request is None:
                if quiet > limits.header_timeout_s:
                    self._refuse(connection, 408, "the headers did not come in time")
            else:
                start, had = connection.window
                if now - start > BODY_WINDOW_SECONDS:
                    if len(connection.body) - had < BODY_WINDOW_BYTES:
                        self._refuse(connection, 408, "the body came too slowly")
                    else:
                        connection.window = (now, len(connection.body))

    def _stopped(self, now: float) -> bool:
        if self._listener.fileno() >= 0:
            self._selector.unregister(self._listener)
            self._listener.close()
        assert self._stop_at is not None
        for connection in list(self._connections):
            if not connection.busy or now >= self._stop_at:
                self._close(connection)
        if self._connections:
            return False
        self._selector.close()
        self._wake.close()
        self._woken.close()
        return True

    def _unwatch(self, connection: Connection) -> None:
        if connection.watched:
            self._selector.unregister(connection.sock)
            connection.watched = False

    def _close(self, connection: Connection) -> None:
        if connection in self._connections:
            self._connections.discard(connection)
            self._unwatch(connection)
            connection.set_gone()
            connection.close()

    def _drain_wakes(self) -> None:
        try:
            while self._woken.recv(4096):
                pass
        except BlockingIOError:
            pass

    # ---- threads of the pool ----

    def _answer(self, connection: Connection) -> None:
        keep = False
        try:
            head = connection.request
            assert head is not None
            request = HttpRequest(
                head.method.decode("ascii"),
                head.target.decode("ascii", "replace"),
                dict(head.headers),
                connection.body,
                connection.local,
                connection.watch,
            )
            response = self._application(request)
            self._write(connection, response, close=self._application.closing)
            keep = True
        except OSError:
            pass  # the client left
        except Exception as error:
            incidents.tell("an HTTP answer", incidents.new_number(), error=error)
        self._answered.append((connection, keep))
        self._poke()

    def _write(self, connection: Connection, response: HttpResponse, *, close: bool) -> None:
        size = sum(len(part) for part in response.body)
        length = [] if response.stream is not None else [(b"content-length", b"%d" % size)]
        headers = [*response.headers, *length]
        if close:
            headers.append((b"connection", b"close"))
        encode = connection.h11.send_with_data_passthrough
        parts: list[Any] = list(
            encode(h11.Response(status_code=response.status, headers=headers, reason=PHRASES.get(response.status, b"")))
            or []
        )
        head_only = connection.request is not None and connection.request.method == b"HEAD"
        for part in response.body if not head_only else ():
            parts += encode(h11.Data(data=part)) or []  # type: ignore[arg-type]
        if response.stream is not None:
            connection.send(parts)
            with contextlib.closing(response.stream) as stream:
                for part in stream:
                    connection.send(encode(h11.Data(data=part)) or [])
            parts = []
        parts += encode(h11.EndOfMessage()) or []
        connection.send(parts)

    def _poke(self) -> None:
        with contextlib.suppress(OSError):  # full: the loop is about to wake anyway; closed: it has ended
            self._wake.send(b"\0")
