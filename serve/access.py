"""The access log: a JSON line for each request that `[log] access` asks for.

Whoever ends a request adds its record to a bounded buffer: requests through Python here, others in the engines of the
versions. A thread takes the records from there and writes; what a full buffer had no room for is counted, in the log and
as a metric. Text of clients is escaped as JSON; no payload and no secret is ever in a record.
"""

import itertools
import json
import logging
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TextIO

from headrace.serve.config import ConfigError, Log
from headrace.serve.log_budget import Budget
from headrace.serve.records import Record

log = logging.getLogger("headrace.serve")

KEPT = 4096  # records between two looks of the thread
DRAIN_SECONDS = 0.1
LONGEST_NAME = 128  # of what a client calls a model


@dataclass(frozen=True, slots=True)
class Policy:
    """Which requests are logged: failed ones, those over `slow_s` seconds (0: no matter how slow), one in `every` (0: none)."""

    errors: bool = False
    slow_s: float = 0.0
    every: int = 0

    @classmethod
    def of(cls, settings: Log) -> "Policy":
        """Each level has what the one before it has. ConfigError for a level that is none."""
        kind, _, number = settings.access.partition(":")
        if kind == "sampled" and number.isascii() and number.isdigit() and int(number) > 0:
            return cls(True, settings.slow_ms / 1000, int(number))
        levels = {
            "off": cls(),
            "errors": cls(True),
            "slow": cls(True, settings.slow_ms / 1000),
            "all": cls(True, settings.slow_ms / 1000, 1),
        }
        if settings.access not in levels:
            raise ConfigError(f"log.access is {settings.access!r}; allowed are {', '.join(levels)} and sampled:N")
        return levels[settings.access]

    @property
    def on(self) -> bool:
        return self.errors

    def wants(self, ok: bool, seconds: float, nth: int) -> bool:
        if not ok or (self.slow_s and seconds > self.slow_s):
            return self.on
        return bool(self.every) and nth % self.every == 0


Row = tuple[str, str, Record]  # model, version
Taken = tuple[list[Row], int]
Source = Callable[[], Iterable[Taken]]  # records of others, and how many they had no room for


class AccessLog:
    """Takes records with `add`, and from `sources`; writes them to the file of the settings, or stderr."""

    def __init__(self, settings: Log | None = None, out: TextIO | None = None) -> None:
        settings = settings or Log(access="off")
        self.policy = Policy.of(settings)
        self._budget = Budget(settings.lines_per_s if self.policy.every != 1 else 0)
        self.lost = 0
        self._file, self._out = settings.file, out
        self._rows: deque[Row] = deque()
        self._count = itertools.count(1)
        self._sources: list[Source] = []
        self._stopping = threading.Event()
        self._draining = threading.Lock()
        self._thread: threading.Thread | None = None

    def follow(self, source: Source) -> None:
        self._sources.append(source)

    def wants(self, ok: bool, seconds: float) -> bool:
        """Whether a request that ended so would be logged: asked once a request, before its record is made."""
        return self.policy.on and self.policy.wants(ok, seconds, next(self._count))

    def add(self, model: str, version: str, record: Record) -> None:
        if len(self._rows) < KEPT:
            self._rows.append((model, version, record))
        else:
            self.lost += 1

    def absorb(self, taken: Taken) -> None:
        """What a source had left when it ended."""
        for row in taken[0]:
            self.add(*row)
        self.lost += taken[1]

    def start(self) -> None:
        """Open the file and begin to write. ConfigError where it cannot be written."""
        if not self.policy.on:
            return
        if self._file:
            try:
                self._out = open(self._file, "a", encoding="utf-8")  # noqa: SIM115
            except OSError as error:
                raise ConfigError(f"log.file cannot be written: {error.strerror}") from None
        self._thread = threading.Thread(target=self._loop, name="headrace-access", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Write what is left."""
        if self._thread is None:
            return
        self._stopping.set()
        self._thread.join()
        self._thread = None
        self.drain(last=True)
        if self._file and self._out is not None:
            self._out.close()

    def drain(self, last: bool = False) -> None:
        """Write the records that are there now. `last`: none will follow."""
        with self._draining:
            lost = 0
            rows = [self._rows.popleft() for _ in range(len(self._rows))]
            for source in self._sources:
                for more, without in source():
                    rows += more
                    lost += without
            self.lost += lost
            lines = list(self._lines(sorted(rows, key=lambda row: row[2].ended_ms), last))
            if lines:
                out = self._out or sys.stderr
                out.write("".join(lines))
                out.flush()

    def _lines(self, rows: Iterable[Row], last: bool) -> Iterator[str]:
        now = 0
        for row in rows:
            now = row[2].ended_ms
            yield from itertools.starmap(suppressed, self._budget.passed(now))
            sampled = row[2].meaning == "ok" and self.policy.every
            if sampled or self._budget.takes(row[2].meaning):
                yield line(*row)
        now = max(now, int(time.time() * 1000)) + 1000 * last  # at the end the last second has passed
        yield from itertools.starmap(suppressed, self._budget.passed(now))

    def _loop(self) -> None:
        told = 0
        while not self._stopping.wait(DRAIN_SECONDS):
            try:
                self.drain()
                if self.lost > told:
                    log.warning("the access log had no room for %d requests", self.lost - told)
                    told = self.lost
            except Exception:
                log.exception("the access log could not be written")


def line(model: str, version: str, record: Record) -> str:
    """One line. JSON escapes what would end it or steer a terminal."""
    shown: dict[str, Any] = {
        "time": _time(record.ended_ms),
        "model": model[:LONGEST_NAME],
        "version": version[:LONGEST_NAME],
    }
    shown |= {key: value for key, value in record.show().items() if key != "ended_ms"}
    return _json(shown)


def suppressed(ended_ms: int, meaning: str, count: int) -> str:
    """The line in place of so many of one meaning."""
    return _json({"time": _time(ended_ms), "meaning": meaning, "suppressed": count})


def _time(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _json(shown: dict[str, Any]) -> str:
    return json.dumps(shown, separators=(",", ":")).replace("\x7f", "\\u007f") + "\n"


__all__ = ["AccessLog", "Policy", "line"]
