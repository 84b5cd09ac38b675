"""Every kernel test runs on each instruction-set tier that this CPU has."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from headrace.runtime import _native

# avx512_bf16 adds products of low precision alone (test_bf16.py); the rest is avx512_vnni's code.
TIERS = [name for name in _native.cpu_tiers() if name != "avx512_bf16"]


@pytest.fixture(params=TIERS)
def tier(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Kernels made during the test are of this tier: the variable is read when a kernel is made."""
    monkeypatch.setenv("HEADRACE_CPU_TIER", request.param)
    yield request.param
