"""ONNX's own backend suite: every case that may pass does, and so does a third of them after export and through the archive.

The full count of each way: `python tests/ops/conformance.py [--via onnx|archive]`; the figures are in docs/conformance.md.
"""

from __future__ import annotations

import pytest

pytest.importorskip("onnx.backend.test", reason="onnx is not installed")

from conformance import FAILING, WAYS, failures, names, reason

SHARDS = 12
RUNS = [("directly", shard) for shard in range(SHARDS)] + [("onnx", s) for s in range(4)] + [("archive", s) for s in range(4, 8)]  # fmt: skip

pytestmark = [pytest.mark.timeout(300), pytest.mark.xdist_group("conformance")]


@pytest.mark.parametrize(("way", "shard"), RUNS)
def test_every_case_passes_that_is_not_listed(way: str, shard: int) -> None:
    chosen, listed = names(shard, SHARDS), WAYS[way][1]
    failed = dict(failures(chosen, way))
    assert len(chosen) > 100
    assert set(failed) == {name for name in chosen if reason(name.split(".")[1], listed)}, failed


def test_2026_of_2033_are_expected_to_pass() -> None:
    every = names()
    expected = [name for name in every if not reason(name.split(".")[1], FAILING)]
    assert (len(every), len(expected)) == (2033, 2026)
