"""The runs of `scripts/soak` in their short form: checks of order, never of time."""

from types import SimpleNamespace

import pytest
from benchmarks.soak.modes import MODES

SHORT = {
    "seconds": 2.0, "probe": 1.0, "deaths": 2, "every": 1.0, "swaps": 12, "pace": 0, "rounds": 24, "cycles": 8, "flags": []
}  # fmt: skip


@pytest.mark.parametrize("name", [name for name in MODES if name != "R4"])
def test_short_run(name):
    _, figures, checks = MODES[name](SimpleNamespace(**SHORT))
    assert all(checks.values()), (figures, checks)


def test_a_stopped_worker(tmp_path):
    """One is stopped, and missed sooner than in production."""
    config = tmp_path / "headrace.toml"
    config.write_text("[workers]\ncount = 1\nheartbeat_timeout_s = 2.0\n")
    _, figures, checks = MODES["R4"](
        SimpleNamespace(**SHORT | {"deaths": 1, "flags": ["--config", str(config), "--workers=1"]})
    )
    assert all(checks.values()), (figures, checks)
