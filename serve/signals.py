"""Waiting for the signal that asks a server to stop."""

import contextlib
import os
import signal
from collections.abc import Callable, Iterator


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
