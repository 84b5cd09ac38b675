"""The runs by name, and how long they take."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks.soak import faults, limits, steady, swaps
from benchmarks.soak.run import SLACK, Run

START = 2.0  # seconds: a server, and its end


@dataclass(frozen=True)
class Mode:
    """`function(options, run)` answers title, figures and checks; `about(options)` what it does and in how many seconds."""

    function: Callable[[Any, Run], tuple[str, dict[str, Any], dict[str, bool]]]
    about: Callable[[Any], tuple[str, float]]


MODES = {
    "R1": Mode(steady.r1, lambda o: (f"{o.seconds:g} s of load", o.probe + o.seconds)),
    "R2": Mode(steady.r2, steady.about_r2),
    "R3": Mode(faults.r3, lambda o: (f"{o.deaths} deaths", o.probe + o.deaths * o.every)),
    "R4": Mode(faults.r4, lambda o: (f"{min(4, o.deaths)} stops", o.probe + min(4, o.deaths) * max(5.0, o.every))),
    "R5": Mode(swaps.r5, swaps.about_r5),
    "R6": Mode(faults.r6, lambda o: ("two ends", o.probe + 8)),
    "R14": Mode(limits.r14, limits.about_r14),
    "R15": Mode(limits.r15, lambda o: ("100 calls", 12)),
    "R16": Mode(limits.r16, lambda o: (f"{o.rounds} rounds", o.rounds * 0.03)),
    "cycles": Mode(faults.cycles, lambda o: (f"{o.cycles} cycles", 8 + o.cycles * 0.15)),
}


def announced(name, options):
    """(what the run does, seconds that it should take on a machine that is not shared)."""
    what, seconds = MODES[name].about(options)
    return what, seconds + START


def perform(name, options, tell=lambda text: None, slack=SLACK):
    """The run, done: its figures are there even where it broke off."""
    what, seconds = announced(name, options)
    run = Run(name, seconds, tell, slack)
    tell(f"{name}: {what}, about {seconds:.0f} s")
    figures = {}
    with run.part("ran to its end"):
        run.title, figures, checks = MODES[name].function(options, run)
        run.checks |= checks
    run.figures |= figures
    tell(f"{name}: took {run.took:.0f} s")
    return run
