"""Traces of requests: spans receive, queue, assemble, compute, scatter and send under one of the whole request; of an answer in
parts, the last five for each run.

W3C trace context comes in by metadata or header; a request whose caller records is always traced, of the others one in
`rate`, drawn by the front that has them first. Models may have settings of their own. While the level is OFF a request costs one look at a flag. Times of the phases are those that the statistics have.
"""

import contextlib
import itertools
import re
import secrets
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from headrace.serve.config import Trace
from headrace.serve.errors import Meaning, ServeError, bad_argument, quoted, unsupported
from headrace.serve.request import InferRequest, InferResponse
from headrace.serve.scheduler import Execution
from headrace.serve.trace_export import Exporter, Span, make_exporter

HEADER = "traceparent"  # https://www.w3.org/TR/trace-context/
MARK = "headrace-trace"  # on requests that the native front has drawn (`Plane::traced`)
LEVELS = ("OFF", "TIMESTAMPS")
MAX_RUNS = 64  # of one request that have spans
_CONTEXT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?")


class Active:
    """A request that is being traced. `received` ends its first part; `end` gives the trace away."""

    def __init__(self, tracer: "Tracer", trace_id: str, parent_id: str, started: float | None = None) -> None:
        self._tracer, self._trace_id, self._parent = tracer, trace_id, parent_id
        self._own = secrets.token_hex(8)
        self._started, self._received = started or time.monotonic(), 0.0
        self._offset = time.time_ns() - int(time.monotonic() * 1e9)
        self._runs: list[tuple[float, Execution]] = []  # with the time at which each was queued
        self._count = 0
        self._last: Execution | None = None

    def received(self) -> None:
        """The message is read."""
        self._received = time.monotonic()

    def ran(self, enqueued: float, execution: Execution | None) -> None:
        """It has run, once more; `enqueued` on the monotonic clock. The same run twice is one."""
        if execution is None or execution is self._last:
            return
        self._last = execution
        self._count += 1
        if self._count <= MAX_RUNS:
            self._runs.append((enqueued, execution))

    def end(self, attributes: Mapping[str, str | int], meaning: Meaning | None) -> None:
        """The answer is made; `meaning` None: it is a good one."""
        now = time.monotonic()
        rows = [("receive", self._started, self._received or now)]
        for number, (enqueued, ran) in enumerate(self._runs, 1):
            sent = self._runs[number][0] if number < len(self._runs) else now if number == self._count else ran.finished
            rows += [
                ("queue", enqueued, ran.started),
                ("assemble", ran.started, ran.assembled),
                ("compute", ran.assembled, ran.computed),
                ("scatter", ran.computed, ran.finished),
                ("send", ran.finished, sent),
            ]
        if self._last is not None:
            attributes = {
                **attributes, "headrace.batch_rows": self._last.rows, "headrace.batch_id": self._last.number
            }  # fmt: skip
        if self._count > 1:
            attributes = {**attributes, "headrace.runs": self._count}
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
    """A request that may be traced, once it is read and its model known. `alone`: its front draws for no such request."""

    def __init__(
        self, tracer: "Tracer", header: Callable[[str], str | None], front: str, *, alone: bool = False
    ) -> None:
        self._tracer, self._front, self._alone = tracer, front, alone
        self._context, self._mark = header(HEADER), header(MARK)
        self._started = time.monotonic()
        self._active: Active | None = None
        self._request: InferRequest | None = None

    def read(self, reader: Callable[[], InferRequest]) -> InferRequest:
        """The request; its trace is begun as of the time when reading it began."""
        try:
            self._request = request = reader()
        except ServeError:
            self._begin("")
            raise
        self._begin(request.model)
        if self._active is not None:
            self._active.received()
            request.trace = self._active
        return request

    def _begin(self, model: str) -> None:
        self._active = self._tracer.begin(self._context, self._mark, model, self._started, alone=self._alone)

    @contextlib.contextmanager
    def ending(self) -> Iterator[None]:
        """A block that runs the request and makes its answer, or the rest of it; ends the trace whatever comes of it."""
        meaning: Meaning | None = None
        try:
            yield
        except ServeError as error:
            meaning = error.meaning
            raise
        except GeneratorExit:  # of answers in parts: the client left
            meaning = Meaning.CANCELLED
            raise
        except Exception:
            meaning = Meaning.INTERNAL
            raise
        finally:
            self._end(meaning)

    def _end(self, meaning: Meaning | None) -> None:
        asked = self._request
        known = {} if asked is None else {"headrace.model": asked.model[:128], "headrace.request_id": asked.id[:128]}
        if self._active is not None:
            self._active.end({**known, "headrace.front": self._front}, meaning)


@contextlib.contextmanager
def traced(tracer: "Tracer", header: Callable[[str], str | None], front: str) -> Iterator[Reading]:
    """A block that reads a request, runs it and makes its answer; ends the trace whatever comes of it."""
    reading = Reading(tracer, header, front)
    with reading.ending():
        yield reading


Parts = Generator[InferResponse, None, None]


def read_traced(
    tracer: "Tracer", header: Callable[[str], str | None], front: str, reader: Callable[[], InferRequest]
) -> tuple[InferRequest, Callable[[Parts], Parts]]:
    """A request whose answer comes in parts, and what its answers go through: the trace ends with them."""
    if not tracer.on:
        return reader(), lambda answers: answers
    reading = Reading(tracer, header, front, alone=True)
    try:
        request = reading.read(reader)
    except ServeError:
        with reading.ending():
            raise

    def through(answers: Parts) -> Parts:
        with reading.ending(), contextlib.closing(answers):
            yield from answers

    return request, through if request.trace is not None else lambda answers: answers


@dataclass(slots=True)
class Choice:
    """What is traced, of one model or of those that have no choice of their own. None: as for those."""

    level: str | None = None
    rate: int | None = None
    left: int | None = None
    drawn: "itertools.count[int]" = field(default_factory=lambda: itertools.count(1))


Follower = Callable[[str, bool, int], None]


class Tracer:
    """The settings in force, and where traces go. ConfigError where the exporter cannot be made."""

    def __init__(self, settings: Trace | None = None, exporter: Exporter | None = None) -> None:
        settings = settings or Trace()
        self._first = Choice(settings.level.upper(), settings.rate, settings.count)
        self._exporter = exporter or make_exporter(settings)
        self._all = replace(self._first)
        self._own: dict[str, Choice] = {}  # by model
        self._lock = threading.Lock()
        self._followers: list[Follower] = []
        self.on = self._is_on(self._all)

    @property
    def able(self) -> bool:
        """Whether traces have somewhere to go."""
        return self._exporter is not None

    def follow(self, told: Follower) -> None:
        """Tell a front that draws by itself, of a model ("": of every other): whether it is traced, and one in how many
        requests (0: none)."""
        self._followers.append(told)
        self._tell()

    def begin(
        self,
        context: str | None,
        mark: str | None = None,
        model: str = "",
        started: float | None = None,
        *,
        alone: bool = False,
    ) -> Active | None:
        """A trace for a request with this trace context; None: it is not traced. `mark` is of requests that a front has
        drawn, where it draws; `alone`: for such requests it does not."""
        if not self.on:
            return None
        own = self._own.get(model, self._all)
        if not self._is_on(own):
            return None
        found = _CONTEXT.fullmatch(context) if context else None
        parent = found if found and int(found[3], 16) & 1 and int(found[1], 16) and int(found[2], 16) else None
        if parent is None and not (mark is not None if self._followers and not alone else self._draw(own)):
            return None
        if not self._take(own):
            return None
        known = found is not None and int(found[1], 16) != 0
        trace_id = found[1] if found is not None and known else secrets.token_hex(16)
        return Active(self, trace_id, found[2] if found is not None and known else "", started)

    def _level(self, own: Choice) -> str:
        return own.level or self._all.level or "OFF"

    def _rate(self, own: Choice) -> int:
        return (self._all.rate if own.rate is None else own.rate) or 0

    def _counted(self, own: Choice) -> Choice:
        """Whose count a trace of `own` is on."""
        return self._all if own.left is None else own

    def _is_on(self, own: Choice) -> bool:
        return self._exporter is not None and self._level(own) != "OFF"

    def _draw(self, own: Choice) -> bool:
        rate = self._rate(own)
        return bool(rate) and next(own.drawn) % rate == 0

    def _take(self, own: Choice) -> bool:
        counted = self._counted(own)
        with self._lock:
            if not counted.left:
                return False
            counted.left -= counted.left > 0
        if not counted.left:
            self._tell()
        return True

    def finish(self, spans: list[Span]) -> None:
        if self._exporter is not None:
            self._exporter.export(spans)

    # ---- settings over the network ----

    def show(self, model: str = "") -> dict[str, Any]:
        """Those in force for a model, or for those that have none of their own."""
        own = self._own.get(model, self._all)
        return {
            "trace_file": "",  # paths stay here
            "trace_level": [self._level(own)],
            "trace_rate": str(self._rate(own)),
            "trace_count": str(self._counted(own).left),
            "log_frequency": "0",
            "trace_mode": "opentelemetry" if self._exporter is not None else "off",
        }

    def change(self, changes: Mapping[str, Any], model: str = "") -> dict[str, Any]:
        """All changes or none; answers what is in force. None: back to what is for all models, or, of these, to the setting
        of the server."""
        now = self.show(model)
        own = replace(self._own.get(model, Choice()) if model else self._all)
        back = Choice() if model else self._first
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
                own.level = back.level if text is None else _level(text, where)
            elif key == "trace_rate":
                own.rate = back.rate if text is None else _whole(text, where, 0)
            elif key == "trace_count":
                own.left = back.left if text is None else _whole(text, where, -1)
            elif value is not None:
                raise unsupported(f"{where} cannot be changed over the network")
        if model and changes:
            self._own = {**self._own, model: own}
        elif not model:
            self._all = own
        self.on = any(map(self._is_on, (self._all, *self._own.values())))
        self._tell()
        return self.show(model)

    def _tell(self) -> None:
        for told in self._followers:
            for model, own in (("", self._all), *self._own.items()):
                told(model, self._is_on(own) and self._counted(own).left != 0, self._rate(own))

    def close(self) -> None:
        self.on = False
        if self._exporter is not None:
            self._exporter.close()


def _level(value: Any, where: str) -> str:
    if value not in LEVELS:
        raise bad_argument(f"{where} is {quoted(str(value))}; allowed are {' and '.join(LEVELS)}")
    return str(value)


def _whole(value: Any, where: str, least: int) -> int:
    text = str(value)
    if not re.fullmatch(r"-?[0-9]{1,9}", text) or int(text) < least:
        raise bad_argument(f"{where} must be a whole number from {least}")
    return int(text)


__all__ = ["Reading", "Tracer", "read_traced", "traced"]
