"""The kept inputs of the fuzz targets, and a few mutations of each, in every run of the tests."""

from __future__ import annotations

import random

import harness
import pytest

COUNT = 400


@pytest.mark.parametrize("name", harness.TARGETS)
def test_kept_inputs_break_no_rule(name: str) -> None:
    module, inputs = harness.target(name), harness.corpus(name)
    assert len(inputs) >= 10
    for data in inputs:
        harness.check(module.read, data)


@pytest.mark.parametrize("name", harness.TARGETS)
def test_neither_do_mutations(name: str) -> None:
    module, inputs, rng = harness.target(name), harness.corpus(name), random.Random(1)
    for _ in range(COUNT):
        harness.check(module.read, getattr(module, "mutate", harness.mutate)(rng.choice(inputs), rng, inputs))
