"""One HTTP/1.1 connection: requests and responses as the application sees them, and the state of the client's socket."""

import http
import select
import socket
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import h11

from headrace.serve.config import Limits
from headrace.serve.datatypes import Buffer

WRITE_SECONDS = 30.0
PHRASES = {status.value: status.phrase.encode() for status in http.HTTPStatus}

Headers = list[tuple[bytes, bytes]]


@dataclass(slots=True)
class HttpRequest:
    """A complete request. `headers` have lower-case names; `watch` registers a callback for a client that left."""

    method: str
    target: str
    headers: dict[bytes, bytes]
    body: bytearray
    local: bool
    watch: Callable[[Callable[[], None]], bool]


@dataclass(slots=True)
class HttpResponse:
    """Status, body in pieces (sent without joining them) and headers besides length and connection."""

    status: int
    body: Sequence[Buffer] = ()
    headers: Headers = field(default_factory=list)


class Application(Protocol):
    """What answers requests, on threads of the pool. It raises nothing."""

    @property
    def closing(self) -> bool:
        """True when clients should be told to take their next request elsewhere."""
        ...

    def __call__(self, request: HttpRequest) -> HttpResponse: ...

    def refuse(self, status: int, text: str) -> HttpResponse:
        """The answer to a request that is no request."""
        ...


class Connection:
    """One client. The reading thread owns it, except `answer`, which one thread of the pool runs while `busy`."""

    def __init__(self, sock: socket.socket, limits: Limits, now: float) -> None:
        self.sock = sock
        peer = sock.getpeername()
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
        self.request, self.body, self.busy, self.reading, self.quiet_since = None, bytearray(), False, False, now
        self._on_gone = []
        return True


def send(sock: socket.socket, parts: Sequence[Buffer]) -> None:
    """Send all parts on a non-blocking socket. OSError when the client left or takes nothing for WRITE_SECONDS."""
    views = deque(memoryview(part) for part in parts if len(part))
    while views:
        try:
            sent = sock.sendmsg(list(views)[:64])
        except BlockingIOError:
            poll = select.poll()
            poll.register(sock, select.POLLOUT)
            if not poll.poll(WRITE_SECONDS * 1000):
                raise TimeoutError("the client takes no data") from None
            continue
        while views and sent >= len(views[0]):
            sent -= len(views.popleft())
        if sent:
            views[0] = views[0][sent:]
