"""Work of a thread beside others that answer requests: it lets them have its processor whenever they wait for it
(`runtime/native/give_way.h`), and the interpreter lock sooner than Python would. Without the extension it does not."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Iterator
from functools import cache
from typing import Any

LOCK_SECONDS = 0.0005


def gives_way() -> bool:
    """Whether this thread does, now."""
    native = _native()
    return native is not None and bool(native.gives_way())


@contextlib.contextmanager
def giving_way(on: bool = True) -> Iterator[None]:
    """This thread gives way meanwhile; or it does not (`on` False): while it waits for something, it has no processor to give
    away."""
    native = _native()
    if native is None or native.gives_way() is on:
        yield
        return
    native.give_way(on)
    _interval.count(1 if on else -1)
    try:
        yield
    finally:
        native.give_way(not on)
        _interval.count(-1 if on else 1)


class _Interval:
    """For how long a thread keeps the interpreter lock when others want it: while some thread gives way, shorter than the
    5 ms of Python, which a request waits for each time that it needs the lock."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._threads = 0  # that give way
        self._before = self._set = 0.0

    def count(self, change: int) -> None:
        with self._lock:
            before, self._threads = self._threads, self._threads + change
            if not before:
                self._before = sys.getswitchinterval()
                if self._before > LOCK_SECONDS:
                    sys.setswitchinterval(LOCK_SECONDS)
                self._set = sys.getswitchinterval()
            elif not self._threads and sys.getswitchinterval() == self._set:  # nobody else has set it since
                sys.setswitchinterval(self._before + 5e-7)  # it counts whole microseconds, rounded down


_interval = _Interval()


@cache
def _native() -> Any:
    """The extension; None in a source tree without a build."""
    try:
        from headrace.runtime import _native
    except ImportError:
        return None
    return _native
