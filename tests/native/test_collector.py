"""The cycle collector rests while a model is loaded, and works again afterwards, whatever happened."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator

import pytest

from headrace.runtime import load, model
from headrace.runtime.collector import paused
from headrace.runtime.errors import LoadError


@pytest.fixture(autouse=True)
def enabled() -> Iterator[None]:
    assert gc.isenabled()
    yield
    assert gc.isenabled()


def test_pauses_of_several_threads_end_with_the_last() -> None:
    inside, leave = threading.Event(), threading.Event()

    def other() -> None:
        with paused():
            inside.set()
            leave.wait()

    thread = threading.Thread(target=other)
    with paused():
        thread.start()
        inside.wait()
    assert not gc.isenabled()
    leave.set()
    thread.join()
    assert gc.isenabled()


def test_who_had_it_off_keeps_it_off() -> None:
    gc.disable()
    try:
        with paused():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_a_load_that_fails_ends_its_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def broken(*_: object, **__: object) -> None:
        seen.append(gc.isenabled())
        raise LoadError("broken")

    monkeypatch.setattr(model, "open_source", broken)
    with pytest.raises(LoadError, match="broken"):
        load("x.hr")
    assert seen == [False]
