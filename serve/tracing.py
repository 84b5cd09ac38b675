"""Traces of requests: spans receive, queue, assemble, compute, scatter and send under one of the whole request.

W3C trace context comes in by metadata or header; a request whose caller records is always traced, of the others one in
`rate`. While the level is OFF a request costs one look at a flag. Times of the phases are those that the statistics have.
"""

import contextlib
import itertools
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from headrace.serve.config import Trace
from headrace.serve.errors import Meaning, ServeError, bad_argument, quoted, unsupported
from headrace.serve.request import InferRequest
from headrace.serve.scheduler import Execution
from headrace.serve.trace_export import Exporter, Span, make_exporter

HEADER = "traceparent"  # https://www.w3.org/TR/trace-context/
MARK = "headrace-trace"  # on requests that the native front has drawn (`Plane::traced`)
LEVELS = ("OFF", "TIMESTAMPS")
_CONTEXT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?")


class Active:
    """A request that is being traced. `received` ends its first part; `end` gives the trace away."""

    def __init__(self, tracer: "Tracer", trace_id: str, parent_id: str) -> None:
        self._tracer, self._trace_id, self._parent = tracer, trace_id, parent_id
        self._own = secrets.token_hex(8)
        self._started, self._received = time.monotonic(), 0.0
        self._offset = time.time_ns() - int(self._started * 1e9)
        self.enqueued = 0.0  # on the monotonic clock; set, with `execution`, by the data plane
        self.execution: Execution | None = None

    def received(self) -> None:
        """The message is read."""
        self._received = time.monotonic()

    def end(self, attributes: Mapping[str, str | int], meaning: Meaning | None) -> None:
        """The answer is made; `meaning` None: it is a good one."""
        now, ran = time.monotonic(), self.execution
        rows = [("receive", self._started, self._received or now)]
        if ran is not None:
            rows += [
                ("queue", self.enqueued, ran.started),
                ("assemble", ran.started, ran.assembled),
                ("compute", ran.assembled, ran.computed),
                ("scatter", ran.computed, ran.finished),
                ("send", ran.finished, now),
            ]
            attributes = {**attributes, "headrace.batch_rows": ran.rows, "headrace.batch_id": ran.number}
        spans = [
            Span(self._trace_id, secrets.token_hex(8), self._own, name, self._ns(start), self._ns(end))
            for name, start, end in rows
        ]
        error = "" if meaning is None else meaning.value
        whole = Span(
            self._trace_id, self._own, self._parent, "inference", self._ns(self._started), self._ns(now), attributes, error
        )  # fmt: skip
        self._tracer.finish([whole, *spans])

    def _ns(self, at: float) -> int:
        return self._offset + int(at * 1e9)


class Reading:
    """What a traced request turns out to be."""

    def __init__(self, active: Active) -> None:
        self._active = active
        self.request: InferRequest | None = None

    def read(self, reader: Callable[[], InferRequest]) -> InferRequest:
        request = reader()
        self._active.received()
        request.trace, self.request = self._active, request
        return request


@contextlib.contextmanager
def traced(active: Active, front: str) -> Iterator[Reading]:
    """A block that reads a request, runs it and makes its answer; ends the trace whatever comes of it."""
    reading = Reading(active)
    meaning: Meaning | None = None
    try:
        yield reading
    except ServeError as error:
        meaning = error.meaning
        raise
    except Exception:
        meaning = Meaning.INTERNAL
        raise
    finally:
        asked = reading.request
        known = {} if asked is None else {"headrace.model": asked.model[:128], "headrace.request_id": asked.id[:128]}
        active.end({**known, "headrace.front": front}, meaning)


class Tracer:
    """The settings in force, and where traces go. ConfigError where the exporter cannot be made."""

    def __init__(self, settings: Trace | None = None, exporter: Exporter | None = None) -> None:
        settings = settings or Trace()
        self._settings = settings
        self._exporter = exporter or make_exporter(settings)
        self._rate, self._left = settings.rate, settings.count
        self._drawn = itertools.count(1)
        self._lock = threading.Lock()
        self._followers: list[Callable[[bool, int], None]] = []
        self.level = settings.level.upper()
        self.on = self._exporter is not None and self.level != "OFF"

    @property
    def able(self) -> bool:
        """Whether traces have somewhere to go."""
        return self._exporter is not None

    def follow(self, told: Callable[[bool, int], None]) -> None:
        """Tell a front that draws by itself: whether traces are on, and one in how many (0: none)."""
        self._followers.append(told)
        told(self.on, self._rate)

    def begin(self, context: str | None, mark: str | None = None) -> Active | None:
        """A trace for a request with this trace context; None: it is not traced. `mark` is of requests that a front has
        drawn, where it draws."""
        if not self.on:
            return None
        found = _CONTEXT.fullmatch(context) if context else None
        parent = found if found and int(found[3], 16) & 1 and int(found[1], 16) and int(found[2], 16) else None
        if parent is None and not (mark is not None if self._followers else self._draw()):
            return None
        if not self._take():
            return None
        known = found is not None and int(found[1], 16) != 0
        trace_id = found[1] if found is not None and known else secrets.token_hex(16)
        return Active(self, trace_id, found[2] if found is not None and known else "")

    def _draw(self) -> bool:
        return bool(self._rate) and next(self._drawn) % self._rate == 0

    def _take(self) -> bool:
        with self._lock:
            if self._left == 0:
                return False
            if self._left > 0:
                self._left -= 1
        if self._left == 0:
            self._tell()
        return True

    def finish(self, spans: list[Span]) -> None:
        if self._exporter is not None:
            self._exporter.export(spans)

    # ---- settings over the network ----

    def show(self) -> dict[str, Any]:
        return {
            "trace_file": "",  # paths stay here
            "trace_level": [self.level],
            "trace_rate": str(self._rate),
            "trace_count": str(self._left),
            "log_frequency": "0",
            "trace_mode": "opentelemetry" if self._exporter is not None else "off",
        }

    def change(self, changes: Mapping[str, Any]) -> dict[str, Any]:
        """All changes or none (None: back to the setting of the server); answers what is in force."""
        now = self.show()
        level, rate, left = self.level, self._rate, self._left
        for key, value in changes.items():
            where = f"trace setting {quoted(key)}"
            if key not in now:
                raise bad_argument(f"{where} is unknown; known are {', '.join(now)}")
            if value in (now[key], [now[key]]) or [value] == now[key]:
                continue
            if self._exporter is None and value is not None:
                raise unsupported(f"{where} cannot be changed: this server does not trace ([trace] file or otlp)")
            text = value[0] if isinstance(value, list) and len(value) == 1 else value
            if key == "trace_level":
                level = _level(text, where, self._settings.level.upper())
            elif key == "trace_rate":
                rate = _whole(text, where, 0, self._settings.rate)
            elif key == "trace_count":
                left = _whole(text, where, -1, self._settings.count)
            elif value is not None:
                raise unsupported(f"{where} cannot be changed over the network")
        self.level, self._rate, self._left = level, rate, left
        self.on = self._exporter is not None and level != "OFF"
        self._tell()
        return self.show()

    def _tell(self) -> None:
        for told in self._followers:
            told(self.on and self._left != 0, self._rate)

    def close(self) -> None:
        self.on = False
        if self._exporter is not None:
            self._exporter.close()


def _level(value: Any, where: str, default: str) -> str:
    if value is None:
        return default
    if value not in LEVELS:
        raise bad_argument(f"{where} is {quoted(str(value))}; allowed are {' and '.join(LEVELS)}")
    return str(value)


def _whole(value: Any, where: str, least: int, default: int) -> int:
    if value is None:
        return default
    text = str(value)
    if not re.fullmatch(r"-?[0-9]{1,9}", text) or int(text) < least:
        raise bad_argument(f"{where} must be a whole number from {least}")
    return int(text)


__all__ = ["HEADER", "MARK", "Active", "Reading", "Tracer", "traced"]
