"""Observers: which range of real numbers the integers of one tensor shall cover.

Each is shown batches with `observe` and answers `range() -> (low, high)`. Values beyond the range saturate; a narrower
range has finer steps. Results depend on the data only, never on a clock or a random number.

minmax            all values seen
moving-average    the average of each batch's extremes, later batches counting more
percentile        all but a small share at both ends
entropy           the range whose 8-bit histogram is nearest to the data's by KL divergence
mse               the range of least mean squared rounding and saturation error
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import numpy as np

from headrace.runtime.errors import HeadraceError

HALF_BINS = 2048
LEVELS = 256


class Observer(ABC):
    """Sees batches of one tensor. NaN is an error; infinities count as the largest finite float32."""

    def observe(self, batch: np.ndarray) -> None:
        values = np.asarray(batch, np.float32).ravel()
        if values.size == 0:
            return
        if np.isnan(values).any():
            raise HeadraceError("a tensor holds NaN; a range cannot be taken from it")
        largest = float(np.finfo(np.float32).max)
        self.see(np.clip(values, -largest, largest))

    @abstractmethod
    def see(self, values: np.ndarray) -> None:
        """One batch of finite float32 values, at least one."""

    @abstractmethod
    def range(self) -> tuple[float, float]:
        """The range so far; (0, 0) where nothing was seen."""


class MinMax(Observer):
    def __init__(self) -> None:
        self.low, self.high = np.inf, -np.inf

    def see(self, values: np.ndarray) -> None:
        self.low, self.high = min(self.low, float(values.min())), max(self.high, float(values.max()))

    def range(self) -> tuple[float, float]:
        return (self.low, self.high) if self.low <= self.high else (0.0, 0.0)


class MovingAverage(Observer):
    """Extremes move towards each batch's by `rate`; the first batch sets them."""

    def __init__(self, rate: float = 0.1) -> None:
        self.rate = rate
        self.low: float | None = None
        self.high = 0.0

    def see(self, values: np.ndarray) -> None:
        low, high = float(values.min()), float(values.max())
        if self.low is None:
            self.low, self.high = low, high
        else:
            self.low += self.rate * (low - self.low)
            self.high += self.rate * (high - self.high)

    def range(self) -> tuple[float, float]:
        return (self.low, self.high) if self.low is not None else (0.0, 0.0)


class Histogram(Observer):
    """Counts in 2 * HALF_BINS equal bins over [-limit, limit]. A value beyond doubles the limit: pairs of bins merge."""

    def __init__(self) -> None:
        self.extremes = MinMax()
        self.limit = 0.0
        self.zeros = 0  # seen before anything else, when there was no width to count them in
        self.counts = np.zeros(2 * HALF_BINS)

    def see(self, values: np.ndarray) -> None:
        self.extremes.see(values)
        largest = float(np.abs(values).max())
        if self.limit == 0.0:
            self.limit = largest
            self.zeros += values.size if largest == 0.0 else 0
            self.counts[HALF_BINS] = self.zeros
        while self.limit and largest > self.limit:
            self._double()
        if self.limit == 0.0:
            return
        self.counts += np.histogram(values, bins=2 * HALF_BINS, range=(-self.limit, self.limit))[0]

    def _double(self) -> None:
        merged = self.counts.reshape(-1, 2).sum(axis=1)
        self.counts = np.concatenate([np.zeros(HALF_BINS // 2), merged, np.zeros(HALF_BINS // 2)])
        self.limit *= 2.0

    @property
    def edges(self) -> np.ndarray:
        return np.linspace(-self.limit, self.limit, 2 * HALF_BINS + 1)

    def range(self) -> tuple[float, float]:
        low, high = self.extremes.range()
        if self.limit == 0.0 or self.counts.sum() == 0:
            return low, high
        chosen_low, chosen_high = self.choose()
        return max(low, chosen_low), min(high, chosen_high)

    def choose(self) -> tuple[float, float]:
        return self.extremes.range()


class Percentile(Histogram):
    """Cuts (100 - percent) / 2 percent of the values at each end."""

    def __init__(self, percent: float = 99.99) -> None:
        super().__init__()
        if not 50.0 < percent <= 100.0:
            raise HeadraceError(f"a percentile of {percent} is not allowed; allowed: more than 50, at most 100")
        self.percent = percent

    def choose(self) -> tuple[float, float]:
        share = (100.0 - self.percent) / 200.0
        below = np.concatenate([[0.0], np.cumsum(self.counts)]) / self.counts.sum()
        low, high = np.interp([share, 1.0 - share], below, self.edges)
        return float(low), float(high)


class Entropy(Histogram):
    """The range whose clipped and quantized histogram loses least information against the data's.

    Ranges [max(low, -t), min(high, t)] are tried for growing t, each with all 256 levels. Values that are exactly 0 (half
    of what follows a Relu) have a level in every range and would drown the rest: they are left out.
    Source: Migacz, "8-bit inference with TensorRT", GTC 2017.
    """

    def choose(self) -> tuple[float, float]:
        counts = self.counts.copy()
        counts[HALF_BINS] = (counts[HALF_BINS - 1] + counts[HALF_BINS + 1]) / 2.0
        filled = np.flatnonzero(counts)
        if filled.size == 0:
            return self.extremes.range()
        first, last = int(filled[0]), int(filled[-1]) + 1
        best, chosen = np.inf, (first, last)
        for half in range(LEVELS // 2, HALF_BINS + 1, 16):
            start, stop = max(first, HALF_BINS - half), min(last, HALF_BINS + half)
            if stop - start < LEVELS // 2 and (start, stop) != (first, last):
                continue
            loss = _information_loss(counts, start, stop)
            if loss < best:
                best, chosen = loss, (start, stop)
        return float(self.edges[chosen[0]]), float(self.edges[chosen[1]])


def _information_loss(counts: np.ndarray, start: int, stop: int) -> float:
    """KL divergence of the data, saturated to bins start..stop, from what 256 levels over them can tell apart."""
    inside = counts[start:stop]
    target = inside.copy()
    target[0] += counts[:start].sum()
    target[-1] += counts[stop:].sum()
    groups = (np.arange(inside.size) * LEVELS) // inside.size
    occupied = target > 0
    sums = np.bincount(groups, weights=inside, minlength=LEVELS)
    members = np.bincount(groups, weights=occupied, minlength=LEVELS)
    spread = np.where(occupied, (sums / np.maximum(members, 1))[groups], 0.0)
    return _divergence(target, spread)


def _divergence(p: np.ndarray, q: np.ndarray) -> float:
    """KL(p || q) of two histograms; infinite where q is empty."""
    if q.sum() == 0:
        return np.inf
    p, q = p / p.sum(), q / q.sum()
    where = p > 0
    return float(np.sum(p[where] * np.log(p[where] / np.maximum(q[where], 1e-12))))


class LeastSquares(Histogram):
    """Tries ranges of 100, 99, ... 20 percent of the extremes."""

    def choose(self) -> tuple[float, float]:
        centres = (self.edges[:-1] + self.edges[1:]) / 2.0
        seen = self.counts > 0
        centres, counts = centres[seen], self.counts[seen]
        low, high = (min(self.extremes.low, 0.0), max(self.extremes.high, 0.0))
        shares = np.arange(100, 19, -1) / 100.0
        losses = [_squared_error(centres, counts, low * share, high * share) for share in shares]
        share = shares[int(np.argmin(losses))]
        return float(low * share), float(high * share)


def _squared_error(centres: np.ndarray, counts: np.ndarray, low: float, high: float) -> float:
    step = (high - low) / (LEVELS - 1)
    if step == 0:
        return float(np.sum(counts * centres**2))
    rounded = np.clip(np.rint((centres - low) / step), 0, LEVELS - 1) * step + low
    return float(np.sum(counts * (centres - rounded) ** 2))


OBSERVERS: dict[str, Callable[[], Observer]] = {
    "minmax": MinMax,
    "moving-average": MovingAverage,
    "percentile": Percentile,
    "entropy": Entropy,
    "mse": LeastSquares,
}


def make(name: str) -> Observer:
    """A new observer by name. Raises HeadraceError listing the names."""
    if name not in OBSERVERS:
        raise HeadraceError(f"no observer is called {name!r}; allowed: {', '.join(OBSERVERS)}")
    return OBSERVERS[name]()
