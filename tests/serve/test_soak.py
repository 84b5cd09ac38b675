"""The runs of `scripts/soak` in their short form: checks of order, never of time."""

import math
import time
from types import SimpleNamespace

import pytest
from benchmarks.soak.load import Lines, Load
from benchmarks.soak.modes import MODES, Mode, perform

SHORT = {
    "seconds": 2.0, "probe": 1.0, "deaths": 2, "every": 1.0, "swaps": 12, "pace": 0, "rounds": 24, "cycles": 8, "flags": []
}  # fmt: skip


@pytest.mark.parametrize("name", [name for name in MODES if name != "R4"])
def test_short_run(name):
    told = []
    run = perform(name, SimpleNamespace(**SHORT), told.append, slack=math.inf)
    assert all(run.checks.values()), (run.figures, run.checks, told)
    assert told[0].endswith(" s") and name in told[0]  # how long it takes, before it begins
    assert name not in ("R2", "R3", "R5", "R14") or len(run.compared) > 1


def test_a_run_that_breaks_off_keeps_its_figures(monkeypatch):
    def breaks(options, run):
        run.figures["sent"] = 3
        with run.part("all rounds"):
            raise TimeoutError("2 of 3")
        raise OSError("gone")

    monkeypatch.setitem(MODES, "broken", Mode(breaks, lambda options: ("3 rounds", 1.0)))
    told = []
    run = perform("broken", SimpleNamespace(), told.append)
    assert run.figures == {"sent": 3} and run.checks == {"all rounds": False, "ran to its end": False}
    assert any("2 of 3" in text for text in told) and any("gone" in text for text in told)


def test_a_sender_that_cannot_keep_its_pace_ends_in_time():
    """It sends for as long as it was told, not until it has sent all: each call here takes ten times what the pace leaves."""
    load = Load(1, Lines("line"), connections=1)
    load._send = lambda: (setattr(load, "sent", load.sent + 1), time.sleep(0.01))
    load.open_loop(1000, 0.1)
    assert load.sent <= 12
    load.close()


def test_a_stopped_worker(tmp_path):
    """One is stopped, and missed sooner than in production."""
    config = tmp_path / "headrace.toml"
    config.write_text("[workers]\ncount = 1\nheartbeat_timeout_s = 2.0\n")
    run = perform(
        "R4",
        SimpleNamespace(**SHORT | {"deaths": 1, "flags": ["--config", str(config), "--workers=1"]}),
        slack=math.inf,
    )
    assert all(run.checks.values()), (run.figures, run.checks)
