"""Every kernel test runs on each instruction-set tier that this CPU has."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiers import TIERS

sys.path.append(str(Path(__file__).parents[1] / "passes"))  # graphs by hand


@pytest.fixture(params=TIERS)
def tier(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Kernels made during the test are of this tier: the variable is read when a kernel is made."""
    monkeypatch.setenv("HEADRACE_CPU_TIER", request.param)
    yield request.param
