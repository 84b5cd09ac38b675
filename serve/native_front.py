"""The native gRPC front: HTTP/2 on one thread of its own in C++ (`serve/native/`), the same table of methods behind it.

Inferences that fit a published version without doubt never come here. The rest arrives as lists of events, one list a
turn of the loop: quick methods are answered at once, others on threads.
"""

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from headrace.serve import _native
from headrace.serve.config import Limits, Listen
from headrace.serve.dataplane import DataPlane
from headrace.serve.errors import Meaning, ServeError, overloaded
from headrace.serve.grpc_codes import CODES
from headrace.serve.grpc_methods import INFER_PATH, Method, Methods, Streaming, Unary
from headrace.serve.manager import Published

log = logging.getLogger("headrace.serve")

FLUSH_SECONDS = 0.1  # for the last answers to leave
CALL, MESSAGE, HALF_CLOSE, GONE, FAILURE = range(5)  # kinds of events: `Event::Kind` in plane.h

_INTERNAL = ServeError(Meaning.INTERNAL, "internal error")


class NativeFront:
    """One listening gRPC server."""

    def __init__(self, plane: DataPlane, listen: Listen, limits: Limits) -> None:
        self._methods = Methods(plane, listen, limits)
        self._table = self._methods.table
        self._threads = ThreadPoolExecutor(limits.grpc_threads, thread_name_prefix="headrace-grpc")
        self._free = threading.BoundedSemaphore(limits.grpc_threads)
        self._calls: dict[int, _Call] = {}
        self._front = _native.Front(
            listen.host,
            listen.grpc_port,
            {
                "max_message_bytes": limits.max_message_bytes,
                "max_metadata_bytes": limits.max_metadata_bytes,
                "max_connections": limits.max_connections,
                "max_concurrent_streams": limits.max_concurrent_streams,
                "handshake_timeout_s": float(limits.header_timeout_s),
            },
            [(path, method.streaming is not None) for path, method in self._table.items()],
            INFER_PATH,
            self._turn,
            None,
        )
        self.port: int = self._front.port
        plane.manager.subscribe(self._publish)

    def start(self) -> None:
        """Begin to accept."""
        self._front.start()

    def refuse(self) -> None:
        """Inferences are refused from now on, by the data plane."""
        self._front.set_refusing()

    def stop(self, grace: float) -> None:
        """Refuse new calls, let the last answers leave, close every connection."""
        self._methods.stop()
        self._front.refuse_new()
        time.sleep(min(grace, FLUSH_SECONDS))
        self._front.stop()
        self._threads.shutdown(wait=False)
        self._methods.close()

    def _publish(self, model: str, published: Published) -> None:
        """The manager swapped in what is ready of a model: versions with an engine take requests without us."""
        engines = {key: version.engine for key, version in published.versions.items() if version.engine is not None}
        self._front.publish(model, list(engines.items()), published.preferred if published.preferred in engines else "")

    # ---- events, on the loop's thread ----

    def _turn(self, events: Sequence[tuple[Any, ...]]) -> None:
        for event in events:
            kind = event[0]
            if kind == CALL:
                self._begin(*event[1:])
            elif kind == FAILURE:
                log.error("incident %s, model %s version %s: %s", event[3], event[1], event[2], event[4])
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
        elif not self._free.acquire(blocking=False):
            self._fail(number, overloaded("all threads of the server are taken"))
        else:
            self._calls[number] = call
            self._threads.submit(self._work, number, method, data, call)

    # ---- calls, on threads ----

    def _work(self, number: int, method: Method, data: bytes | None, call: "_Call") -> None:
        try:
            if method.unary is not None:
                self._unary(number, method.unary, data or b"", call)
            elif method.streaming is not None:
                self._stream(number, method.streaming, call)
        finally:
            self._free.release()
            self._calls.pop(number, None)

    def _unary(self, number: int, method: Unary, data: bytes, call: "_Call") -> None:
        try:
            self._front.answer(number, method(data, call))
        except ServeError as error:
            self._fail(number, error)
        except Exception:
            log.exception("a method failed")
            self._fail(number, _INTERNAL)

    def _stream(self, number: int, method: Streaming, call: "_Call") -> None:
        try:
            for answer in method(call.incoming(), call):
                if not call.is_active():
                    return
                self._front.send(number, answer)
            self._front.finish(number, 0, "")
        except ServeError as error:
            self._fail(number, error)
        except Exception:
            log.exception("a method failed")
            self._fail(number, _INTERNAL)

    def _fail(self, number: int, error: ServeError) -> None:
        retry = -1 if error.retry_after_ms is None else error.retry_after_ms
        self._front.finish(number, CODES[error.meaning], error.text, retry)


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

    def incoming(self) -> Iterator[bytes]:
        """The client's messages, until it closes its side or the call is over."""
        while (data := self.messages.get()) is not None:
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
