"""Files that may change while the server runs: certificates, tokens."""

import logging
import os
import threading
from collections.abc import Callable, Sequence

from headrace.serve.config import ConfigError

log = logging.getLogger("headrace.serve")

WATCH_SECONDS = 1.0

Mark = tuple[tuple[int, int, int] | None, ...]


class FileWatch:
    """Calls `changed` after a change of one of `files`. A ConfigError of it is logged: what was in force stays, and the next
    change is another try. `look` is one look; `start` looks every `seconds` on a thread."""

    def __init__(self, files: Sequence[str], changed: Callable[[], None], seconds: float = WATCH_SECONDS) -> None:
        self._files, self._changed, self._seconds = files, changed, seconds
        self._seen = self._mark()
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="headrace-files", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()

    def look(self) -> bool:
        """True where something had changed and is in force now."""
        with self._lock:
            mark = self._mark()
            if mark == self._seen:
                return False
            self._seen = mark
            try:
                self._changed()
            except ConfigError as error:
                log.warning("%s; what was in force stays", error)
                return False
            return True

    def _mark(self) -> Mark:
        """Stands for the files as they are: equal marks, equal files. Links are followed, as Kubernetes swaps them."""
        marks: list[tuple[int, int, int] | None] = []
        for file in self._files:
            try:
                found = os.stat(file)
                marks.append((found.st_mtime_ns, found.st_size, found.st_ino))
            except OSError:
                marks.append(None)
        return tuple(marks)

    def _loop(self) -> None:
        while not self._stopping.wait(self._seconds):
            try:
                self.look()
            except Exception:
                log.exception("a look at the files of the server failed")
