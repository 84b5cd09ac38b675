"""Prometheus text from the counters of the data plane: `prometheus_client` only renders, at scrape time.

Labels come from loaded models alone, never from client text.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from headrace.serve import metrics_host
from headrace.serve.dataplane import DataPlane
from headrace.serve.statistics import Histogram, Statistics
from headrace.serve.tls import Certificates
from headrace.serve.version import ModelVersion

_LABELS = ("model", "version")
_REASONS = {"overloaded": "REJECTED", "expired": "REJECTED", "cancelled": "CANCELED", "internal": "BACKEND"}


def render(plane: DataPlane, certificates: Certificates | None = None) -> tuple[bytes, bytes]:
    """The page and its content type."""
    registry = CollectorRegistry(auto_describe=False)
    ProcessCollector(registry=registry)
    registry.register(_Collector(plane, certificates))
    return generate_latest(registry), CONTENT_TYPE_LATEST.encode()


class _Collector:
    def __init__(self, plane: DataPlane, certificates: Certificates | None) -> None:
        self._plane, self._certificates = plane, certificates

    def collect(self) -> Iterator[Metric]:
        versions = self._plane.manager.versions()
        for version in versions:
            version.count()
        yield from _counters(versions)
        yield from _histograms(versions)
        yield from _requests(versions, self._plane.refusals.copy())
        yield from _gauges(self._plane, versions)
        yield from _timings(self._plane)
        yield from metrics_host.collect(self._plane)
        if self._certificates is not None:
            text = "When the TLS certificate ends, in seconds since 1970"
            family = GaugeMetricFamily("headrace_certificate_expiry_seconds", text, labels=("of",))
            for name, end in self._certificates.current.expiries().items():
                family.add_metric([name], end)
            yield family


def _counters(versions: list[ModelVersion]) -> Iterator[Metric]:
    rows: tuple[tuple[str, str, Callable[[Statistics], int]], ...] = (
        ("nv_inference_request_success", "Inference requests answered", lambda s: s.success.count),
        ("nv_inference_count", "Inferences, every row of a batch counted", lambda s: s.inference_count),
        ("nv_inference_exec_count", "Model executions", lambda s: s.execution_count),
        ("nv_inference_request_duration_us", "Time in requests", lambda s: s.success.ns // 1000),
        ("nv_inference_queue_duration_us", "Time waiting", lambda s: s.queue.ns // 1000),
        ("nv_inference_compute_input_duration_us", "Time merging", lambda s: s.compute_input.ns // 1000),
        ("nv_inference_compute_infer_duration_us", "Time computing", lambda s: s.compute_infer.ns // 1000),
        ("nv_inference_compute_output_duration_us", "Time splitting", lambda s: s.compute_output.ns // 1000),
        ("nv_cache_num_hits_per_model", "Answers from the response cache", lambda s: s.cache_hit.count),
        ("nv_cache_num_misses_per_model", "Answers that were not in the response cache", lambda s: s.cache_miss.count),
        ("nv_cache_hit_duration_per_model", "Microseconds of hits", lambda s: s.cache_hit.ns // 1000),
        ("nv_cache_miss_duration_per_model", "Microseconds that misses added", lambda s: s.cache_miss.ns // 1000),
        ("headrace_expired_before_run", "Requests expired before they ran", lambda s: s.expired_before_run),
        ("headrace_cancelled_before_run", "Requests cancelled before they ran", lambda s: s.cancelled_before_run),
    )
    for name, text, value in rows:
        family = _counter(name, text, _LABELS)
        for version in versions:
            family.add_metric([version.name, version.number], value(version.statistics))
        yield family
    failures = _counter("nv_inference_request_failure", "Inference requests refused or failed", (*_LABELS, "reason"))
    releases = CounterMetricFamily("headrace_batch_release", "Why batches were released", labels=(*_LABELS, "reason"))
    for version in versions:
        sums: dict[str, int] = dict.fromkeys(("REJECTED", "CANCELED", "BACKEND", "OTHER"), 0)
        for (_, meaning), count in version.statistics.meanings.copy().items():
            if meaning != "ok":
                sums[_REASONS.get(meaning, "OTHER")] += count
        for reason, count in sums.items():
            failures.add_metric([version.name, version.number, reason], count)
        for reason, count in version.statistics.releases.copy().items():
            releases.add_metric([version.name, version.number, reason], count)
    yield failures
    yield releases


def _counter(name: str, text: str, labels: Sequence[str]) -> Any:
    """A counter under exactly this name: the compatible names have no `_total`."""
    if name.startswith("headrace_"):
        return CounterMetricFamily(name, text, labels=labels)
    family = GaugeMetricFamily(name, text, labels=labels)
    family.type = "unknown"
    return family


def _histograms(versions: list[ModelVersion]) -> Iterator[Metric]:
    rows: tuple[tuple[str, str, Callable[[Statistics], Histogram]], ...] = (
        ("headrace_queue_seconds", "Waiting for the model", lambda s: s.queue_seconds),
        ("headrace_assemble_seconds", "Merging a batch", lambda s: s.assemble_seconds),
        ("headrace_compute_seconds", "Running the model", lambda s: s.compute_seconds),
        ("headrace_scatter_seconds", "Splitting a batch", lambda s: s.scatter_seconds),
        ("headrace_batch_rows", "Rows of executed batches", lambda s: s.batch_rows),
    )
    for name, text, value in rows:
        family = HistogramMetricFamily(name, text, labels=_LABELS)
        for version in versions:
            _add(family, [version.name, version.number], value(version.statistics))
        yield family
    family = HistogramMetricFamily(
        "nv_inference_first_response_histogram_ms", "To the first part of an answer", labels=_LABELS
    )
    for version in versions:
        if version.decoupled:
            _add(family, [version.name, version.number], version.statistics.first_response_ms)
    yield family
    family = HistogramMetricFamily("headrace_request_seconds", "Whole requests", labels=(*_LABELS, "front"))
    for version in versions:
        for front, histogram in version.statistics.request_seconds.copy().items():
            _add(family, [version.name, version.number, front], histogram)
    yield family


def _add(family: HistogramMetricFamily, labels: list[str], histogram: Histogram) -> None:
    total, buckets = 0, []
    for bound, count in zip((*map(str, histogram.bounds), "+Inf"), list(histogram.counts)):
        total += count
        buckets.append((bound, float(total)))
    family.add_metric(labels, buckets, histogram.total)


def _requests(versions: list[ModelVersion], refusals: dict[tuple[str, str], int]) -> Iterator[Metric]:
    """Requests that named no ready model carry empty labels: their names are client text."""
    family = CounterMetricFamily(
        "headrace_requests", "Inference requests by outcome", labels=(*_LABELS, "front", "meaning")
    )
    for version in versions:
        for (front, meaning), count in version.statistics.meanings.copy().items():
            family.add_metric([version.name, version.number, front, meaning], count)
    for (front, meaning), count in refusals.items():
        family.add_metric(["", "", front, meaning], count)
    yield family


def _gauges(plane: DataPlane, versions: list[ModelVersion]) -> Iterator[Metric]:
    cached = GaugeMetricFamily("headrace_cache_bytes", "Answers in the response cache", labels=_LABELS)
    for version in versions:
        if version.cache is not None:
            cached.add_metric([version.name, version.number], version.cache.bytes)
    yield cached
    pending = GaugeMetricFamily("nv_inference_pending_request_count", "Requests waiting", labels=_LABELS)
    for version in versions:
        scheduler = getattr(version, "scheduler", None)  # gone when it was unloaded meanwhile
        pending.add_metric([version.name, version.number], scheduler.pending if scheduler else 0)
    yield pending
    state = GaugeMetricFamily("headrace_model_state", "1 for the state a version is in", labels=(*_LABELS, "state"))
    for name, number, shown, _ in plane.manager.index():
        if number:
            state.add_metric([name, number, shown], 1)
    yield state
    alive = GaugeMetricFamily("headrace_workers_alive", "Worker processes that are ready", labels=_LABELS)
    restarts = CounterMetricFamily("headrace_worker_restarts", "Worker processes that died", labels=_LABELS)
    for version in versions:
        if version.workers is not None:
            alive.add_metric([version.name, version.number], version.workers.alive)
            restarts.add_metric([version.name, version.number], version.workers.restarts)
    yield alive
    yield restarts
    yield from _facts(versions)


def _facts(versions: list[ModelVersion]) -> Iterator[Metric]:
    """What each loaded version is, and how it is doing."""
    info = GaugeMetricFamily(
        "headrace_model_info", "What a version is", labels=(*_LABELS, "platform", "device", "precision", "digest")
    )
    mapped = GaugeMetricFamily("headrace_model_mapped_bytes", "Weights, mapped once", labels=_LABELS)
    arenas = GaugeMetricFamily("headrace_arena_bytes", "Arenas of calls, one for each at a time", labels=_LABELS)
    measured = (*_LABELS, "output", "measure")
    error = GaugeMetricFamily("headrace_golden_error", "Largest error of the golden data here", labels=measured)
    bound = GaugeMetricFamily("headrace_golden_bound", "The error that the package allows", labels=measured)
    oldest = GaugeMetricFamily(
        "headrace_oldest_queued_seconds", "Wait of the request that waits longest", labels=_LABELS
    )
    busy = GaugeMetricFamily(
        "headrace_busy_ratio", "Share of the time since it was loaded that it computed", labels=_LABELS
    )
    for version in versions:
        labels = [version.name, version.number]
        facts = version.properties
        kind = [version.platform, facts.get("device", "cpu"), facts.get("precision", ""), facts.get("digest", "")]
        info.add_metric([*labels, *kind], 1)
        mapped.add_metric(labels, version.statistics.memory_bytes)
        model = getattr(version, "model", None)  # gone when it was unloaded meanwhile
        if (arena := getattr(model, "arena_bytes", None)) is not None:
            arenas.add_metric(labels, arena)
        for output, (seen, allowed) in version.golden.items():
            error.add_metric([*labels, output, "max_abs"], seen)
            bound.add_metric([*labels, output, "max_abs"], allowed)
        oldest.add_metric(labels, getattr(getattr(version, "scheduler", None), "oldest_seconds", 0.0))
        busy.add_metric(labels, version.statistics.busy_ratio())
    yield from (info, mapped, arenas, error, bound, oldest, busy)


def _timings(plane: DataPlane) -> Iterator[Metric]:
    rows = (
        ("load", "Loading a version until it is ready"),
        ("swap", "Taking a version's place, until the old one is gone"),
        ("drain", "Waiting for the requests of a version that is unloaded"),
    )
    for kind, text in rows:
        family = HistogramMetricFamily(f"headrace_{kind}_seconds", text, labels=("model",))
        for model, histogram in plane.manager.timings[kind].copy().items():
            _add(family, [model], histogram)
        yield family
