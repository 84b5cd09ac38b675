"""Change detection: looks at the repository every few seconds and has changes loaded or unloaded.

A change counts when two looks in a row see the same, so that a file that is still being written is left alone; and what
is loaded then must be whole, by its digests, before it replaces anything. A model that fails is tried again when its
files change.
"""

import contextlib
import logging
import threading
from typing import Any

from headrace.runtime.errors import HeadraceError
from headrace.serve.errors import ServeError
from headrace.serve.manager import Manager
from headrace.serve.repository import Repository

log = logging.getLogger("headrace.serve")


class Poller:
    """Follows `repository` with `manager`. `look` is one look; `start` looks every `seconds` on a thread."""

    def __init__(self, repository: Repository, manager: Manager, seconds: float) -> None:
        self._repository = repository
        self._manager = manager
        self._seconds = seconds
        self._seen: dict[str, Any] = {}  # model name -> what the last look saw
        self._applied: dict[str, Any] | None = None  # what the manager was told of; the first look is for its start
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="headrace-poll", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Look no more; a load that is under way goes on."""
        self._stopping.set()

    def look(self) -> None:
        """One look. The manager is told of what has changed since the last time and is the same as at the last look."""
        seen = {name: self._mark(name) for name in self._names()}
        if self._applied is None:
            self._applied = dict(seen)
        for name in sorted(seen.keys() | self._applied.keys()):
            mark = seen.get(name)
            if mark != self._applied.get(name) and mark == self._seen.get(name):
                self._apply(name, mark)
        self._seen = seen

    def _names(self) -> list[str]:
        try:
            return self._repository.names()
        except OSError as error:  # unreadable for now: nothing is gone because of that
            log.warning("the repository cannot be read: %s", error.strerror)
            return list(self._seen)

    def _mark(self, name: str) -> Any:
        """Stands for what the model's files and settings are now; equal marks, equal files."""
        try:
            entry = self._repository.find(name)
            return None if entry is None else (entry.wanted(), entry.config)
        except HeadraceError as error:
            return str(error)
        except OSError:
            return object()  # changing under our feet: equal to nothing, so not stable

    def _apply(self, name: str, mark: Any) -> None:
        assert self._applied is not None
        if mark is None or (not isinstance(mark, str) and not mark[0]):
            self._applied.pop(name, None)
            with contextlib.suppress(ServeError):  # known to the log; it will be gone when its requests are
                self._manager.unload(name)
            return
        self._applied[name] = mark
        with contextlib.suppress(ServeError):  # logged there
            self._manager.load(name)

    def _loop(self) -> None:
        while not self._stopping.wait(self._seconds):
            try:
                self.look()
            except Exception:
                log.exception("a look at the repository failed")
