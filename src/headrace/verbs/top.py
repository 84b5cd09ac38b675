"""What a running server does right now: the difference of two looks at its statistics."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from headrace.serve.client import Client
from headrace.serve.errors import ServeError


@dataclass(frozen=True)
class ModelRow:
    """One version between two looks. Rates a second, times in ms a request (`compute_ms` a batch), `batch` rows on average."""

    model: str
    version: str
    state: str
    per_second: float = 0.0
    failed_per_second: float = 0.0
    rows_per_second: float = 0.0
    batch: float = 0.0
    queue_ms: float = 0.0
    compute_ms: float = 0.0
    request_ms: float = 0.0
    busy: float = 0.0
    total: int = 0


Look = tuple[float, dict[tuple[str, str], dict[str, Any]]]


class Watcher:
    """Looks at one server again and again. ServeError where it cannot."""

    def __init__(self, url: str, clock: Callable[[], float] = time.monotonic, **options: Any) -> None:
        self._client, self._clock = Client(url, timeout=5.0, **options), clock
        self.server = self._client.metadata()
        self._before: Look | None = None

    def look(self) -> list[ModelRow]:
        """Every version the server knows, the busiest first; rates since the last look (0 with the first)."""
        states = {(row["name"], row.get("version", "")): row.get("state", "") for row in self._index()}
        now: Look = (self._clock(), {(row["name"], row["version"]): row for row in self._client.statistics()})
        before, self._before = self._before, now
        names = dict.fromkeys([*now[1], *states])
        rows = [row_of(name, states.get(name, "READY") or "not loaded", before, now) for name in names]
        return sorted(rows, key=lambda row: (-row.busy, -row.per_second, row.model, row.version))

    def _index(self) -> list[dict[str, str]]:
        try:
            return self._client.index()
        except ServeError:
            return []

    def close(self) -> None:
        self._client.close()


def row_of(name: tuple[str, str], state: str, before: Look | None, now: Look) -> ModelRow:
    """The row of one version from two looks."""
    row = now[1].get(name)
    if row is None:
        return ModelRow(*name, state)
    total = _count(row, "success")
    old = before[1].get(name) if before is not None else None
    if before is None or old is None or total < _count(old, "success"):  # not there before, or begun anew
        return ModelRow(*name, state, total=total)
    seconds = max(now[0] - before[0], 1e-9)

    def grown(key: str, part: str = "count") -> int:
        return _value(row, key, part) - _value(old, key, part)

    requests, runs = grown("success"), int(row.get("execution_count", 0)) - int(old.get("execution_count", 0))
    rows = int(row.get("inference_count", 0)) - int(old.get("inference_count", 0))
    compute = _batches(row) - _batches(old)
    return ModelRow(
        *name,
        state,
        requests / seconds,
        grown("fail") / seconds,
        rows / seconds,
        rows / runs if runs else 0.0,
        grown("queue", "ns") / 1e6 / requests if requests else 0.0,
        compute / 1e6 / runs if runs else 0.0,
        grown("success", "ns") / 1e6 / requests if requests else 0.0,
        compute / 1e9 / seconds,
        total,
    )


def _value(row: Mapping[str, Any], key: str, part: str) -> int:
    return int(row.get("inference_stats", {}).get(key, {}).get(part, 0))


def _count(row: Mapping[str, Any], key: str) -> int:
    return _value(row, key, "count")


def _batches(row: Mapping[str, Any]) -> int:
    """Nanoseconds of computing, each batch counted once."""
    return sum(int(one.get("compute_infer", {}).get("ns", 0)) for one in row.get("batch_stats", ()))


__all__ = ["ModelRow", "Watcher", "row_of"]
