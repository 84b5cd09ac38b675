"""The native front: gRPC and HTTP/1.1 on one thread of its own in C++ (`serve/native/`), the same table of methods and the
same applications behind it as behind grpcio and h11.

Inferences that fit a published version without doubt never come here. The rest arrives as lists of events, one list a
turn of the loop: quick methods are answered at once, others on threads.
"""

import contextlib
import functools
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from headrace.serve import _native, incidents
from headrace.serve.config import Limits
from headrace.serve.errors import ServeError, overloaded
from headrace.serve.grpc_codes import CODES
from headrace.serve.grpc_methods import INFER_PATH, Method, Methods, Streaming, Unary
from headrace.serve.http_messages import PHRASES, WRITE_SECONDS, Application, HttpRequest, HttpResponse
from headrace.serve.rejections import THREADS, Rejections
from headrace.serve.routes import Routes
from headrace.serve.tls import Certificates, Identity

FLUSH_SECONDS = 0.1  # for the last answers to leave
CALL, MESSAGE, HALF_CLOSE, GONE, HTTP, REFUSAL = range(6)  # kinds of events: `Event::Kind` in plane.h


class NativeFront:
    """One loop with the listeners that `listen_grpc` and `listen_http` open. OSError where a port cannot be taken.

    `methods` None: HTTP only."""

    def __init__(
        self,
        methods: Methods | None,
        limits: Limits,
        threads: int,
        routes: Routes | None = None,
        certificates: Certificates | None = None,
        rejections: Rejections | None = None,
    ) -> None:
        self._certificates = certificates
        self._rejections = rejections or Rejections()
        self._methods = methods
        self._table: dict[str, Method] = methods.table if methods is not None else {}
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="headrace-front")
        self._free = threading.BoundedSemaphore(threads)
        self._applications: dict[int, Application] = {}  # by listener
        self._listeners = 0
        self._calls: dict[int, _Call] = {}
        routes = routes or Routes()
        self.refuse = routes.refuse  # inferences from now on, by the data plane
        self._front = _native.Front(
            routes.native,
            {
                "max_message_bytes": limits.max_message_bytes,
                "max_buffered_bytes": limits.max_buffered_bytes,
                "idle_timeout_s": float(limits.connection_idle_s),
                "age_s": float(limits.connection_age_s),
                "age_grace_s": float(limits.connection_age_grace_s),
                "keepalive_s": float(limits.keepalive_s),
                "keepalive_timeout_s": float(limits.keepalive_timeout_s),
                "max_metadata_bytes": limits.max_metadata_bytes,
                "max_connections": limits.max_connections,
                "max_concurrent_streams": limits.max_concurrent_streams,
                "handshake_timeout_s": float(limits.header_timeout_s),
                "max_header_bytes": limits.max_header_bytes,
                "max_headers": limits.max_header_count,
                "header_timeout_s": float(limits.header_timeout_s),
                "http_idle_timeout_s": float(limits.idle_timeout_s),
            },
            [(path, method.streaming is not None) for path, method in self._table.items()],
            INFER_PATH,
            self._turn,
        )
        self._rejections.follow(self._front.rejections)
        if certificates is not None:
            certificates.follow(lambda identity: self._front.set_tls(_pem(identity)))

    def listen_grpc(self, host: str, port: int) -> int:
        """Take a port for gRPC; its number."""
        return self._listen(host, port, None)

    def listen_http(self, host: str, port: int, application: Application, rest: bool = False) -> int:
        """Take a port for an application; its number. `rest`: REST, most of whose inferences never come here."""
        return self._listen(host, port, application, rest)

    def _listen(self, host: str, port: int, application: Application | None, rest: bool = False) -> int:
        tls = _pem(self._certificates.current) if self._certificates is not None else None
        taken = self._front.listen(host, port, application is not None, tls, rest)
        if application is not None:
            self._applications[self._listeners] = application
        self._listeners += 1
        return taken

    def start(self) -> None:
        """Begin to accept."""
        self._front.start()

    def leave(self) -> None:
        """Answers over HTTP end their connection from now on."""
        self._front.set_closing()

    def stop(self, grace: float) -> None:
        """Refuse new calls, let the last answers leave, close every connection."""
        if self._methods is not None:
            self._methods.stop()
        self.refuse()
        self._front.refuse_new()
        end = time.monotonic() + grace
        time.sleep(min(grace, FLUSH_SECONDS))
        while self._calls and time.monotonic() < end:
            time.sleep(0.005)
        self._front.stop()
        self._threads.shutdown(wait=False)
        if self._methods is not None:
            self._methods.close()

    @property
    def open_connections(self) -> int:
        return self._front.connections

    # ---- events, on the loop's thread ----

    def _turn(self, events: Sequence[tuple[Any, ...]]) -> None:
        for event in events:
            kind = event[0]
            if kind == CALL:
                self._begin(*event[1:])
            elif kind == HTTP:
                self._begin_http(*event[1:])
            elif kind == REFUSAL:
                _, number, listener, status, text = event
                self._respond(number, self._applications[listener].refuse(status, text), True)
            elif (call := self._calls.get(event[1])) is not None:
                if kind == GONE:
                    del self._calls[event[1]]
                    call.end()
                else:
                    call.messages.put(event[2] if kind == MESSAGE else None)

    def _begin(
        self,
        number: int,
        path: str,
        data: bytes | None,
        left: float | None,
        local: bool,
        metadata: list[tuple[str, str]],
    ) -> None:
        method, call = self._table[path], _Call(left, local, metadata)
        if method.quick and method.unary is not None and data is not None:
            self._unary(number, method.unary, data, call)
        elif not self._submit(number, call, self._work, method, data):
            self._rejections.add(THREADS)
            self._fail(number, overloaded("all threads of the server are taken", THREADS))

    def _begin_http(
        self,
        number: int,
        listener: int,
        method: str,
        target: str,
        headers: list[tuple[bytes, bytes]],
        body: bytearray,
        local: bool,
    ) -> None:
        call, application = _Call(None, local, ()), self._applications[listener]
        request = HttpRequest(method, target, dict(headers), body, local, call.watch)
        if not self._submit(number, call, self._answer_http, application, request):
            self._rejections.add(THREADS)
            self._respond(number, application.refuse(429, "all threads of the server are taken"), False)

    def _submit(self, number: int, call: "_Call", step: Callable[..., None], *rest: Any) -> bool:
        """Run `step(number, call, *rest)` on a thread; False: none is free."""
        if not self._free.acquire(blocking=False):
            return False
        self._calls[number] = call
        self._threads.submit(self._run, number, call, step, rest)
        return True

    # ---- calls, on threads ----

    def _run(self, number: int, call: "_Call", step: Callable[..., None], rest: tuple[Any, ...]) -> None:
        try:
            step(number, call, *rest)
        except Exception as error:
            incidents.tell("an answer", incidents.new_number(), error=error)
        finally:
            self._free.release()
            self._calls.pop(number, None)

    def _work(self, number: int, call: "_Call", method: Method, data: bytes | None) -> None:
        if method.unary is not None:
            self._unary(number, method.unary, data or b"", call)
        elif method.streaming is not None:
            self._stream(number, method.streaming, call)

    def _unary(self, number: int, method: Unary, data: bytes, call: "_Call") -> None:
        with self._failing(number):
            self._front.answer(number, method(data, call))

    def _stream(self, number: int, method: Streaming, call: "_Call") -> None:
        with self._failing(number):
            taken = functools.partial(self._front.taken, number)
            for answer in method(call.incoming(taken), call):
                if not call.is_active():
                    return
                self._front.send(number, answer)
                if not self._front.wait_sent(number, WRITE_SECONDS):
                    self._front.drop(number)
                    return
            self._front.finish(number, 0, "")

    @contextlib.contextmanager
    def _failing(self, number: int) -> Iterator[None]:
        """What is raised inside ends the call."""
        try:
            yield
        except ServeError as error:
            self._fail(number, error)
        except Exception as error:
            self._fail(number, incidents.internal("a method", error))

    def _fail(self, number: int, error: ServeError) -> None:
        retry = -1 if error.retry_after_ms is None else error.retry_after_ms
        self._front.finish(number, CODES[error.meaning], error.text, retry)

    def _answer_http(self, number: int, call: "_Call", application: Application, request: HttpRequest) -> None:
        self._respond(number, application(request), application.closing)

    def _respond(self, number: int, response: HttpResponse, close: bool) -> None:
        lines = [b"HTTP/1.1 %d %s" % (response.status, PHRASES.get(response.status, b""))]
        lines += [name + b": " + value for name, value in response.headers]
        head = b"\r\n".join(lines) + b"\r\n"
        if response.stream is None:
            self._front.respond(number, head, list(response.body), close, False)
            return
        self._front.respond(number, head, [], close, True)
        with contextlib.closing(response.stream) as parts:
            for part in parts:
                if number not in self._calls:  # the client left
                    return
                self._front.respond(number, b"", [part], close, True)
                if not self._front.wait_sent(number, WRITE_SECONDS):
                    self._front.drop(number)
                    return
        self._front.respond(number, b"", [], close, False)


def _pem(identity: Identity) -> tuple[str, str, str]:
    texts = (identity.certificate, identity.key, identity.authority)
    certificate, key, authority = (text.decode("latin-1") for text in texts)  # what is not ASCII is commentary
    return certificate, key, authority


class _Call:
    """A call that is in Python's hands."""

    def __init__(self, left: float | None, local: bool, metadata: Sequence[tuple[str, str]]) -> None:
        self.local, self.metadata = local, metadata
        self.messages: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._deadline = None if left is None else time.monotonic() + left
        self._lock = threading.Lock()
        self._over = False
        self._on_end: list[Callable[[], None]] = []

    def remaining(self) -> float | None:
        return None if self._deadline is None else self._deadline - time.monotonic()

    def watch(self, callback: Callable[[], None]) -> bool:
        with self._lock:
            if not self._over:
                self._on_end.append(callback)
            return not self._over

    def is_active(self) -> bool:
        return not self._over

    def incoming(self, taken: Callable[[int], None]) -> Iterator[bytes]:
        """The client's messages, until it closes its side or the call is over; `taken` hears of each that was read."""
        while (data := self.messages.get()) is not None:
            taken(len(data))
            yield data

    def end(self) -> None:
        """The client left, or the deadline passed."""
        with self._lock:
            self._over, callbacks = True, self._on_end
            self._on_end = []
        self.messages.put(None)
        for callback in callbacks:
            callback()


__all__ = ["NativeFront"]
