"""Signals: the one that asks a server to stop, and the one that asks what it is doing."""

import contextlib
import faulthandler
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TextIO


@contextlib.contextmanager
def catching(*numbers: int) -> Iterator[Callable[[], int]]:
    """Within the block the signals `numbers` do nothing but end the call of the given function, which answers the first.

    The main thread reads a pipe. It must not wait for a lock that a Python handler would release: the system may hand
    the signal to any thread, a library's as well, and Python's handler then runs only when the main thread wakes.
    """
    ready, written = os.pipe()
    os.set_blocking(written, False)
    before = {number: signal.signal(number, lambda *_: None) for number in numbers}
    earlier = signal.set_wakeup_fd(written, warn_on_full_buffer=False)

    def wait() -> int:
        while (number := os.read(ready, 1)[0]) not in numbers:
            pass
        for one in numbers:  # the next one ends the process at once
            signal.signal(one, signal.SIG_DFL)
        return number

    try:
        yield wait
    finally:
        signal.set_wakeup_fd(earlier)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(ready)
        os.close(written)


@contextlib.contextmanager
def dumping(number: int, lines: Callable[[], Sequence[str]], file: TextIO | None = None) -> Iterator[None]:
    """Within the block the signal `number` writes the stack of every thread to `file` (stderr), then `lines()`.

    The stacks are written at once, whatever the threads are waiting for; `lines` waits for the main thread to be free.
    """
    out = file or sys.__stderr__
    assert out is not None

    def tell(*_: object) -> None:
        print(*lines(), sep="\n", file=out, flush=True)

    before = signal.signal(number, tell)
    faulthandler.register(number, file=out, all_threads=True, chain=True)
    try:
        yield
    finally:
        faulthandler.unregister(number)
        signal.signal(number, before)
