"""The generator's published answers, and the distributions drawn from it."""

from __future__ import annotations

import numpy as np
import pytest

from headrace.runtime.executor import run_node
from headrace.runtime.ops import find
from headrace.runtime.ops.random import philox


@pytest.mark.parametrize(
    "block, seed, identity, counter, expected",
    [  # Random123's kat_vectors for philox4x32-10
        (0, 0, 0, 0, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        (0xFFFFFFFF, (1 << 64) - 1, 0xFFFFFFFF, (1 << 64) - 1, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (0x243F6A88, 0x299F31D0A4093822, 0x85A308D3, 0x0370734413198A2E, "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ],
)
def test_known_answers(block: int, seed: int, identity: int, counter: int, expected: str) -> None:
    found = philox.philox(np.array([block], np.uint64), seed, identity, counter)[0]
    assert " ".join(f"{word:08x}" for word in found) == expected


def test_uniform() -> None:
    for dtype in ("float32", "float64", "float16", "bfloat16"):
        drawn = philox.uniform(100_000, dtype, 1)
        assert drawn.min() >= 0 and drawn.max() < 1
        assert abs(drawn.mean() - 0.5) < 0.005 and abs(drawn.var() - 1 / 12) < 0.002


def test_normal() -> None:
    drawn = philox.normal(100_000, 1)
    assert abs(drawn.mean()) < 0.01 and abs(drawn.std() - 1) < 0.01
    assert abs((np.abs(drawn) < 1.959964).mean() - 0.95) < 0.003


def test_integers() -> None:
    drawn = philox.integers(60_000, -2, 4, 1)
    assert set(np.unique(drawn)) == set(range(-2, 4))
    assert np.abs(np.bincount(drawn + 2) - 10_000).max() < 400


def test_draws_differ_by_seed_operator_and_counter() -> None:
    draws = [
        philox.words(8, 1, *key).tobytes()
        for key in ((1, 0, 0), (2, 0, 0), (1, 1, 0), (1, 0, 1), (1, 0, 1 << 32), (1 << 32, 0, 0))
    ]
    assert len(set(draws)) == len(draws)


def test_prefix_does_not_depend_on_the_count() -> None:
    assert np.array_equal(philox.words(100, 1, 5)[:10], philox.words(10, 1, 5))


def test_same_key_same_bits() -> None:
    operator = find("RandomNormal", "headrace")
    assert operator is not None
    shape = np.array([3, 4], np.int64)
    one, same = (run_node(operator, [shape, np.array([7, 1], np.int64)], {})[0] for _ in range(2))
    other = run_node(operator, [shape, np.array([7, 2], np.int64)], {})[0]
    assert np.array_equal(one, same) and not np.array_equal(one, other)


def test_no_seed_draws_anew() -> None:
    operator = find("RandomUniform")
    assert operator is not None
    assert not np.array_equal(run_node(operator, [], {"shape": (8,)})[0], run_node(operator, [], {"shape": (8,)})[0])


def test_dropout_keeps_the_mean() -> None:
    operator = find("Dropout")
    assert operator is not None
    y, mask = run_node(
        operator, [np.ones(100_000, np.float32), np.array(0.2, np.float32), np.array(True)], {"seed": 1}, 2
    )
    assert abs(y.mean() - 1) < 0.01 and abs(mask.mean() - 0.8) < 0.01
    assert set(np.unique(y)) == {np.float32(0), np.float32(1.25)}


def test_multinomial_follows_its_probabilities() -> None:
    operator = find("Multinomial")
    assert operator is not None
    p = np.array([0.1, 0.2, 0.7])
    (drawn,) = run_node(operator, [np.log(p)[None].astype(np.float32)], {"sample_size": 50_000, "seed": 2.0})
    np.testing.assert_allclose(np.bincount(drawn[0]) / 50_000, p, atol=0.01)
