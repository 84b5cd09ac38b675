"""Observers against closed forms."""

import numpy as np
import pytest

from headrace.runtime.errors import HeadraceError
from headrace.runtime.quant.observers import (
    OBSERVERS,
    Entropy,
    Histogram,
    LeastSquares,
    MinMax,
    MovingAverage,
    Percentile,
    make,
)


@pytest.mark.parametrize("name", OBSERVERS)
def test_every_observer_takes_odd_batches(name: str) -> None:
    observer = make(name)
    assert observer.range() == (0.0, 0.0)
    observer.observe(np.zeros((0, 3), np.float32))
    observer.observe(np.zeros(4, np.float32))
    assert observer.range() == (0.0, 0.0)
    observer.observe(np.array([[5.0]], np.float32))
    low, high = observer.range()
    assert 0.0 <= low <= high <= 5.0
    with pytest.raises(HeadraceError, match="NaN"):
        observer.observe(np.array([np.nan], np.float32))


def test_unknown_observer_lists_the_known_ones() -> None:
    with pytest.raises(HeadraceError, match="allowed: minmax"):
        make("max")


def test_minmax_covers_all_batches() -> None:
    observer = MinMax()
    for batch in ([1.0, 2.0], [-3.0, 0.5]):
        observer.observe(np.array(batch))
    assert observer.range() == (-3.0, 2.0)


def test_infinities_count_as_the_largest_float() -> None:
    observer = MinMax()
    observer.observe(np.array([-np.inf, np.inf]))
    assert observer.range() == (float(np.finfo(np.float32).min), float(np.finfo(np.float32).max))


def test_moving_average_is_a_geometric_sum() -> None:
    observer = MovingAverage(rate=0.25)
    for high in (4.0, 8.0, 0.0):
        observer.observe(np.array([-high, high]))
    expected = (4.0 + 0.25 * 4.0) * 0.75
    assert observer.range() == pytest.approx((-expected, expected))


def test_a_histogram_that_grows_keeps_every_count() -> None:
    observer = Histogram()
    for scale in (0.001, 1.0, 1000.0):
        observer.observe(np.linspace(-scale, scale, 101, dtype=np.float32))
    assert observer.counts.sum() == 303
    assert observer.range() == (-1000.0, 1000.0)


def test_percentile_of_a_uniform_distribution() -> None:
    observer = Percentile(percent=90.0)
    observer.observe(np.linspace(0.0, 1.0, 100_001, dtype=np.float32))
    low, high = observer.range()
    assert low == pytest.approx(0.05, abs=2e-3) and high == pytest.approx(0.95, abs=2e-3)


def test_percentile_cuts_a_lone_outlier() -> None:
    observer = Percentile(percent=99.9)
    observer.observe(np.concatenate([np.linspace(-1, 1, 10_000), [100.0]]).astype(np.float32))
    low, high = observer.range()
    assert high < 1.2 and low >= -1.0


@pytest.mark.parametrize("percent", [50.0, 101.0])
def test_percentile_refuses_senseless_shares(percent: float) -> None:
    with pytest.raises(HeadraceError, match="allowed: more than 50"):
        Percentile(percent)


def test_entropy_keeps_a_uniform_range_and_cuts_a_long_tail() -> None:
    uniform = Entropy()
    uniform.observe(np.linspace(-1.0, 1.0, 200_000, dtype=np.float32))
    assert uniform.range()[1] > 0.95
    tailed = Entropy()
    rng = np.random.default_rng(0)
    tailed.observe(np.concatenate([rng.standard_normal(100_000), [60.0]]).astype(np.float32))
    assert 2.0 < tailed.range()[1] < 30.0


def test_mse_keeps_what_is_even_and_cuts_what_is_rare() -> None:
    even = LeastSquares()
    even.observe(np.linspace(0.0, 1.0, 10_000, dtype=np.float32))
    assert even.range() == pytest.approx((0.0, 1.0), abs=0.02)
    rng = np.random.default_rng(0)
    rare = LeastSquares()
    rare.observe(np.concatenate([rng.standard_normal(1_000_000), [12.0]]).astype(np.float32))
    low, high = rare.range()
    assert high < 11.0 and low > -11.0


def test_nonnegative_data_gets_a_nonnegative_range() -> None:
    data = np.abs(np.random.default_rng(1).standard_normal(10_000)).astype(np.float32)
    for name in OBSERVERS:
        observer = make(name)
        observer.observe(data)
        assert observer.range()[0] >= 0.0, name
