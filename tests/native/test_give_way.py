"""Threads that give way: they are interrupted again and again meanwhile, and only then."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

import pytest

from headrace.runtime import _native
from headrace.runtime.background import LOCK_SECONDS, gives_way, giving_way

OTHERS = """
import signal, time
signal.signal(signal.SIGURG, lambda *_: print("theirs"))
from headrace.runtime import _native
from headrace.runtime.background import giving_way
with giving_way():
    end = time.thread_time() + 0.02
    while time.thread_time() < end:
        pass
signal.raise_signal(signal.SIGURG)
print(_native.times_given_way())
"""


def spin(seconds: float) -> int:
    """How often threads of this process gave way while this one took so much of a processor."""
    before, end = _native.times_given_way(), time.thread_time() + seconds
    while time.thread_time() < end:
        pass
    return _native.times_given_way() - before


def wait_until_given_way() -> None:
    before = _native.times_given_way()
    while _native.times_given_way() < before + 3:  # ended by the time limit of tests
        pass


def test_only_meanwhile() -> None:
    assert not gives_way()
    with giving_way():
        assert gives_way()
        wait_until_given_way()
        with giving_way(False):
            assert not gives_way()
            assert spin(0.005) == 0
        wait_until_given_way()
        with giving_way():
            pass
        assert gives_way()
        wait_until_given_way()
    assert not gives_way()
    assert spin(0.005) == 0


def test_a_block_that_is_left_by_an_error_is_left() -> None:
    try:
        with giving_way():
            raise KeyError
    except KeyError:
        assert not gives_way()


def test_each_thread_for_itself() -> None:
    seen = []

    def other() -> None:
        seen.append(gives_way())
        with giving_way():
            wait_until_given_way()

    with giving_way():
        for _ in range(3):  # a timer goes with its thread
            thread = threading.Thread(target=other)
            thread.start()
            thread.join()
        wait_until_given_way()
    assert seen == [False] * 3


def test_the_interpreter_lock_is_given_away_sooner_meanwhile() -> None:
    usual = sys.getswitchinterval()
    inside, leave, seen = threading.Event(), threading.Event(), []

    def other() -> None:
        with giving_way():
            inside.set()
            leave.wait()
            seen.append(sys.getswitchinterval())

    thread = threading.Thread(target=other)
    with giving_way():
        assert sys.getswitchinterval() == pytest.approx(LOCK_SECONDS)
        with giving_way(False):
            assert sys.getswitchinterval() == pytest.approx(usual)
        thread.start()
        inside.wait()
    assert sys.getswitchinterval() == pytest.approx(LOCK_SECONDS)  # the other one's
    leave.set()
    thread.join()
    assert seen == [pytest.approx(LOCK_SECONDS)] and sys.getswitchinterval() == pytest.approx(usual)


def test_an_interval_that_somebody_sets_is_kept() -> None:
    usual = sys.getswitchinterval()
    try:
        for microseconds in range(1000, 1100):
            sys.setswitchinterval(microseconds * 1e-6)
            long = sys.getswitchinterval()
            with giving_way():
                assert sys.getswitchinterval() < long
            assert sys.getswitchinterval() == long
        sys.setswitchinterval(1e-4)
        shorter = sys.getswitchinterval()
        with giving_way():
            assert sys.getswitchinterval() == shorter
            sys.setswitchinterval(2e-3)
            chosen = sys.getswitchinterval()
        assert sys.getswitchinterval() == chosen
    finally:
        sys.setswitchinterval(usual)


def test_calls_of_the_system_go_on() -> None:
    """What blocks is interrupted, too: no error comes of it, and no sleep is shorter."""
    gate, opened = threading.Event(), []
    with giving_way():
        began = time.monotonic()
        time.sleep(0.02)
        assert time.monotonic() - began >= 0.02
        thread = threading.Thread(target=lambda: (time.sleep(0.01), opened.append(1), gate.set()))
        thread.start()
        assert gate.wait(30) and opened
        assert subprocess.run(["true"], check=False).returncode == 0
        thread.join()


def test_a_signal_that_somebody_else_handles_stays_theirs() -> None:
    done = subprocess.run([sys.executable, "-c", OTHERS], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["theirs", "0"]
