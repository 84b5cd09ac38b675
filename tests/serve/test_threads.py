"""Threads for short tasks: order, limits, callbacks, errors."""

import threading

import pytest

from headrace.serve.threads import Threads


@pytest.fixture
def threads():
    made = Threads(3, "test")
    yield made
    made.shutdown()


def test_no_more_threads_than_allowed_and_none_more_than_needed(threads):
    seen, gate, running = set(), threading.Event(), threading.Semaphore(0)

    def step():
        seen.add(threading.get_ident())
        running.release()
        assert gate.wait(20)

    ended = threading.Semaphore(0)
    threads.submit(step).add_done_callback(lambda _: ended.release())
    for _ in range(6):
        threads.submit(step).add_done_callback(lambda _: ended.release())
    for _ in range(3):
        assert running.acquire(timeout=20)
    assert not running.acquire(timeout=0.05)  # the others wait for a thread
    gate.set()
    for _ in range(7):
        assert ended.acquire(timeout=20)
    assert len(seen) == 3


def test_one_thread_does_in_order_what_comes_one_after_the_other():
    threads, done = Threads(1, "test"), []
    for number in range(100):
        last = threads.submit(done.append, number)
    over = threading.Event()
    last.add_done_callback(lambda _: over.set())
    assert over.wait(20) and done == list(range(100))
    threads.shutdown()


def test_a_callback_after_the_end_is_called_at_once(threads):
    over, told = threading.Event(), []
    task = threads.submit(int)
    task.add_done_callback(lambda _: over.set())
    assert over.wait(20)
    task.add_done_callback(told.append)
    assert told == [task]


def test_an_error_is_logged_and_ends_no_thread(threads, caplog):
    over = threading.Semaphore(0)
    for _ in range(5):
        threads.submit(lambda: 1 / 0).add_done_callback(lambda _: over.release())
        assert over.acquire(timeout=20)
    assert caplog.text.count("ZeroDivisionError") == 5


def test_shutdown_ends_the_threads_after_their_work():
    threads, made = Threads(2, "test-ends"), []
    started = threading.Barrier(3)
    for _ in range(2):
        threads.submit(lambda: (made.append(threading.current_thread()), started.wait(20)))
    started.wait(20)
    threads.shutdown()
    for thread in made:
        thread.join(20)
        assert not thread.is_alive()
