"""The runs of `scripts/soak` in their short form: checks of order, never of time."""

from types import SimpleNamespace

import pytest
from benchmarks.soak.modes import MODES

SHORT = SimpleNamespace(seconds=2.0, probe=1.0, deaths=2, every=1.0, swaps=12, pace=0, rounds=24, cycles=8, flags=[])


@pytest.mark.parametrize("name", [name for name in MODES if name != "R4"])  # test_workers.py stops workers
def test_short_run(name):
    _, figures, checks = MODES[name](SHORT)
    assert all(checks.values()), (figures, checks)
