"""One HTTP/1.1 connection: the state of a client's socket."""

import contextlib
import select
import socket
import ssl
import threading
from collections import deque
from collections.abc import Callable, Sequence

import h11

from headrace.serve.config import Limits
from headrace.serve.datatypes import Buffer
from headrace.serve.http_messages import WRITE_SECONDS

TLS_RECORD_BYTES = 16 * 1024


class Connection:
    """One client, with TLS where there is a `context`. The reading thread owns it, except that one thread of the pool
    sends the answer while `busy`."""

    def __init__(self, sock: socket.socket, limits: Limits, now: float, context: ssl.SSLContext | None = None) -> None:
        peer = sock.getpeername()
        self.sock = sock
        self._tls: ssl.SSLSocket | None = None
        if context is not None:  # the handshake happens within the first reads
            self.sock = self._tls = context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
        self._tls_lock = threading.Lock()  # OpenSSL's state is for one thread at a time
        self._early = b""  # read while an answer was on its way
        self.local = isinstance(peer, str) or peer[0].startswith("127.") or peer[0] in ("::1", "::ffff:127.0.0.1")
        self.h11 = h11.Connection(h11.SERVER, max_incomplete_event_size=limits.max_header_bytes)
        self.request: h11.Request | None = None
        self.body = bytearray()
        self.busy = False
        self.watched = True  # registered with the selector
        self.quiet_since = now  # idle, or reading a head, since then
        self.reading = False  # bytes of an unfinished request have come
        self.window = (now, 0)  # of the body: start and bytes then
        self.linger_until: float | None = None  # refused: what still comes is thrown away
        self._lock = threading.Lock()
        self._gone = False
        self._on_gone: list[Callable[[], None]] = []

    @property
    def greeted(self) -> bool:
        """No handshake is under way: the client would understand an answer."""
        return self._tls is None or self._tls.version() is not None

    def receive(self, size: int) -> bytes | None:
        """What has come, b"" where the client left, None where nothing has."""
        if self._tls is None:
            return self.sock.recv(size)
        try:
            with self._tls_lock:
                return self._tls.recv(size)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return None

    def look_ahead(self) -> bool | None:
        """While busy: True where more has come, to be read after the answer; False where the client left; None: neither."""
        if self._tls is None:
            return bool(self.sock.recv(1, socket.MSG_PEEK))
        data = self.receive(TLS_RECORD_BYTES)
        self._early += data or b""
        return None if data is None else bool(data)

    def send(self, parts: Sequence[Buffer]) -> None:
        """Send all parts. OSError when the client left or takes nothing for WRITE_SECONDS."""
        views = deque(memoryview(part).cast("B") for part in parts if len(part))
        while views:
            try:
                sent = self.sock.sendmsg(list(views)[:64]) if self._tls is None else self._send_tls(views[0])
            except (BlockingIOError, ssl.SSLWantWriteError):
                self._wait(select.POLLOUT)
                continue
            except ssl.SSLWantReadError:
                self._wait(select.POLLIN)
                continue
            while views and sent >= len(views[0]):
                sent -= len(views.popleft())
            if sent:
                views[0] = views[0][sent:]

    def _send_tls(self, data: memoryview) -> int:
        assert self._tls is not None
        with self._tls_lock:
            return self._tls.send(data)

    def _wait(self, event: int) -> None:
        poll = select.poll()
        poll.register(self.sock, event)
        if not poll.poll(WRITE_SECONDS * 1000):
            raise TimeoutError("the client takes no data") from None

    def close(self) -> None:
        """Close the socket, with TLS's word that no data is missing."""
        if self._tls is not None and self.greeted:
            with contextlib.suppress(OSError, ValueError), self._tls_lock:
                self._tls.unwrap()
        self.sock.close()

    def watch(self, callback: Callable[[], None]) -> bool:
        with self._lock:
            if not self._gone:
                self._on_gone.append(callback)
            return not self._gone

    def set_gone(self) -> None:
        with self._lock:
            self._gone, callbacks = True, self._on_gone
            self._on_gone = []
        for callback in callbacks:
            callback()

    def next_cycle(self, now: float) -> bool:
        """Ready for another request on this connection; False when it must be closed."""
        if self._gone or self.h11.our_state is not h11.DONE or self.h11.their_state is not h11.DONE:
            return False
        self.h11.start_next_cycle()
        if self._early:
            self.h11.receive_data(self._early)
            self._early = b""
        self.request, self.body, self.busy, self.reading, self.quiet_since = None, bytearray(), False, False, now
        self._on_gone = []
        return True
