"""Metrics of the machine, the process and the fronts; those of models are in `metrics`."""

import threading
from collections.abc import Iterator
from pathlib import Path

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from headrace.serve.dataplane import DataPlane

_lock = threading.Lock()
_before = (0.0, 0.0)  # busy and all ticks of the CPUs, when somebody asked last


def collect(plane: DataPlane) -> Iterator[Metric]:
    yield from _machine()
    inflight = GaugeMetricFamily("headrace_inflight_requests", "Inference requests in progress", labels=("front",))
    for front, count in sorted(plane.inflight_by_front().items()):
        inflight.add_metric([front], count)
    yield inflight
    opened = GaugeMetricFamily("headrace_open_connections", "Connections of clients", labels=("front",))
    for front, count in sorted(plane.connections().items()):
        opened.add_metric([front], count)
    yield opened
    limits = CounterMetricFamily(
        "headrace_limit_rejections", "What each limit refused: requests, streams, connections", labels=("limit",)
    )
    for limit, count in sorted(plane.rejections.show().items()):
        limits.add_metric([limit], count)
    yield limits
    yield CounterMetricFamily(
        "headrace_access_log_lost", "Lines that the access log had no room for", plane.access.lost
    )
    build = GaugeMetricFamily("headrace_build_info", "The version of the server", labels=("version",))
    build.add_metric([plane.server_metadata()["version"]], 1)
    yield build


def _machine() -> Iterator[Metric]:
    yield GaugeMetricFamily("nv_cpu_utilization", "Share of the CPUs in use since the last scrape", _utilization())
    memory = {
        name: int(rest.split()[0]) * 1024
        for name, _, rest in (line.partition(":") for line in Path("/proc/meminfo").read_text().splitlines())
        if name in ("MemTotal", "MemAvailable")
    }
    total = memory["MemTotal"]
    yield GaugeMetricFamily("nv_cpu_memory_total_bytes", "Memory of the machine", total)
    yield GaugeMetricFamily("nv_cpu_memory_used_bytes", "Memory in use", total - memory["MemAvailable"])


def _utilization() -> float:
    global _before
    ticks = [float(number) for number in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    idle, total = ticks[3] + ticks[4], sum(ticks)
    with _lock:
        (busy_before, total_before), _before = _before, (total - idle, total)
    passed = total - total_before
    return round((total - idle - busy_before) / passed, 4) if passed > 0 else 0.0


__all__ = ["collect"]
