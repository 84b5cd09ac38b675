"""Where traces go: a file of OTLP's JSON, or OTLP by the `opentelemetry` library."""

import json
import logging
import os
import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from headrace.serve.config import ConfigError, Trace

log = logging.getLogger("headrace.serve")

KEPT = 2048  # traces between two looks of the thread; more are dropped


@dataclass(frozen=True, slots=True)
class Span:
    """One span; times in nanoseconds since 1970, ids in hexadecimal."""

    trace_id: str
    span_id: str
    parent_id: str
    name: str
    start_ns: int
    end_ns: int
    attributes: Mapping[str, str | int] = field(default_factory=dict)
    error: str = ""


class Exporter(Protocol):
    """Takes finished traces, on any thread, without waiting."""

    def export(self, spans: list[Span]) -> None: ...
    def close(self) -> None: ...


def make_exporter(settings: Trace) -> Exporter | None:
    if settings.file and settings.otlp:
        raise ConfigError("trace.file and trace.otlp exclude each other")
    if settings.file:
        return FileExporter(settings.file)
    return OtlpExporter() if settings.otlp else None


class FileExporter:
    """OTLP's JSON, a line a trace, appended to a file by a thread. ConfigError where it cannot be written."""

    def __init__(self, path: str) -> None:
        try:
            self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115
        except OSError as error:
            raise ConfigError(f"trace.file cannot be written: {error.strerror}") from None
        self._waiting: deque[list[Span]] = deque()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="headrace-trace", daemon=True)
        self._thread.start()

    def export(self, spans: list[Span]) -> None:
        if len(self._waiting) < KEPT:
            self._waiting.append(spans)

    def close(self) -> None:
        self._stopping.set()
        self._thread.join()
        self._write()
        self._file.close()

    def _loop(self) -> None:
        while not self._stopping.wait(0.2):
            try:
                self._write()
            except OSError:
                log.exception("traces could not be written")

    def _write(self) -> None:
        while self._waiting:
            self._file.write(json.dumps(otlp_json(self._waiting.popleft()), separators=(",", ":")) + "\n")
        self._file.flush()


def otlp_json(spans: list[Span]) -> dict[str, Any]:
    """A TracesData message in OTLP's JSON form."""
    rows = []
    for span in spans:
        row = {
            "traceId": span.trace_id,
            "spanId": span.span_id,
            "name": span.name,
            "kind": 2 if span.name == "inference" else 1,  # SERVER, INTERNAL
            "startTimeUnixNano": str(span.start_ns),
            "endTimeUnixNano": str(span.end_ns),
            "attributes": [{"key": key, "value": _any(value)} for key, value in span.attributes.items()],
            "status": {"code": 2, "message": span.error} if span.error else {},
        }
        rows.append(row | ({"parentSpanId": span.parent_id} if span.parent_id else {}))
    name = os.environ.get("OTEL_SERVICE_NAME", "headrace")
    resource = {"attributes": [{"key": "service.name", "value": {"stringValue": name}}]}
    return {"resourceSpans": [{"resource": resource, "scopeSpans": [{"scope": {"name": "headrace"}, "spans": rows}]}]}


def _any(value: str | int) -> dict[str, str]:
    return {"intValue": str(value)} if isinstance(value, int) else {"stringValue": value}


class OtlpExporter:
    """Sends traces by the `opentelemetry` library, in batches on its thread; where to is in OTEL_EXPORTER_OTLP_ENDPOINT and
    the other standard variables. ConfigError without the library."""

    def __init__(self) -> None:
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
        except ImportError:
            raise ConfigError("trace.otlp needs the opentelemetry library: pip install 'headrace[otel]'") from None
        self._resource = Resource.create({"service.name": os.environ.get("OTEL_SERVICE_NAME", "headrace")})
        self._processor = BatchSpanProcessor(OTLPSpanExporter())

    def export(self, spans: list[Span]) -> None:
        for span in spans:
            self._processor.on_end(self._readable(span))

    def _readable(self, span: Span) -> Any:
        from opentelemetry.sdk.trace import ReadableSpan
        from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

        def context(span_id: str, remote: bool) -> Any:
            return SpanContext(int(span.trace_id, 16), int(span_id, 16), remote, TraceFlags(TraceFlags.SAMPLED))

        whole = span.name == "inference"
        return ReadableSpan(
            span.name,
            context(span.span_id, False),
            context(span.parent_id, whole) if span.parent_id else None,
            self._resource,
            attributes=dict(span.attributes),
            kind=SpanKind.SERVER if whole else SpanKind.INTERNAL,
            status=Status(StatusCode.ERROR, span.error) if span.error else Status(StatusCode.UNSET),
            start_time=span.start_ns,
            end_time=span.end_ns,
        )

    def close(self) -> None:
        shutdown: Callable[[], None] = self._processor.shutdown  # without types of its own
        shutdown()


__all__ = ["Exporter", "FileExporter", "OtlpExporter", "Span", "make_exporter"]
