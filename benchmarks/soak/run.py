"""One run: how far it is, what it has found, and when it ends whatever has come of it."""

import contextlib
import sys
import time

SLACK = 2.0  # a run ends after so many times what it should take


class Run:
    """What a run finds, filled while it goes on. `seconds` it should take, `slack` times as long it may;
    `tell(text)` shows how far it is."""

    def __init__(self, name, seconds, tell, slack=SLACK):
        self.name = name
        self.title, self.figures, self.checks = name, {}, {}
        self.compared = []  # rows: what, its value, beside what, its value, the goal
        self._began, self._tell = time.monotonic(), tell
        self.until = self._began + slack * seconds + 5  # on the clock of `time.monotonic`, which all processes share

    @property
    def took(self):
        return time.monotonic() - self._began

    @property
    def over(self):
        """It has taken so long that what is missing stays so."""
        return time.monotonic() > self.until

    def step(self, text):
        """One more part is done."""
        self._tell(f"{self.name}: {self.took:.0f} s: {text}")

    @contextlib.contextmanager
    def part(self, check):
        """What is raised inside is a check that does not hold, and no reason to lose the figures of what came before."""
        try:
            yield
        except Exception as error:
            self._tell(f"{self.name}: {check}: {type(error).__name__}: {error}")
            self.checks[check] = False
        else:
            self.checks.setdefault(check, True)

    def compare(self, what, value, beside="", other=None, goal=""):
        """A figure, what stands beside it, and what it should be."""
        self.compared.append((what, value, beside, other, goal))


def to_stderr(text):
    print(text, file=sys.stderr, flush=True)
