"""Products with weights of 4 and 8 bits: near the product with dequantized weights, and with 8-bit rows the same bytes as the
reference, on every tier, whatever the number of rows and threads."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from one_kernel import run

from headrace.runtime.ops import find

OPERATOR = "com.microsoft.MatMulNBits"
RNG = np.random.default_rng(11)
# K, N, block size: whole and broken blocks, fewer columns than a vector, more than two panels, several ranges of k
SHAPES = [(16, 1, 16), (40, 3, 16), (64, 70, 32), (100, 33, 32), (300, 130, 128), (1300, 40, 256), (2100, 17, 64)]


def case(depth: int, width: int, block: int, bits: int, zeros: bool, bias: bool, extreme: bool = False) -> list[Any]:
    count = -(-depth // block)

    def some(*shape: int) -> np.ndarray:
        return RNG.choice(np.array([0, 255], np.uint8), shape) if extreme else RNG.integers(0, 256, shape, np.uint8)

    return [
        some(width, count, block * bits // 8),
        RNG.uniform(0.001, 0.1, (width, count)).astype(np.float32),
        some(width, -(-count * bits // 8)) if zeros else None,
        None,
        RNG.standard_normal(width).astype(np.float32) if bias else None,
    ]


def given(depth: int, width: int, block: int, bits: int, level: int) -> dict[str, Any]:
    return {"K": depth, "N": width, "block_size": block, "bits": bits, "accuracy_level": level}


def native(a: np.ndarray, rest: list[Any], attributes: dict[str, Any], threads: int = 1) -> np.ndarray:
    constants = [
        i for i, x in enumerate(rest, 1) if x is not None and (i < 4 or a.shape[0] % 2)
    ]  # a bias of either kind
    inputs = [a, *rest]
    while inputs[-1] is None:
        inputs.pop()
    result: np.ndarray = run(OPERATOR, inputs, attributes, ["float32"], constants=constants, threads=threads)
    return result


def reference(a: np.ndarray, rest: list[Any], attributes: dict[str, Any]) -> np.ndarray:
    operator = find("MatMulNBits", "com.microsoft")
    assert operator is not None
    result: np.ndarray = operator.reference([a, *rest], operator.complete(attributes))[0]
    return result


@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("bits", [4, 8])
def test_rows_of_floats(tier: str, bits: int, zeros: bool) -> None:
    for depth, width, block in SHAPES:
        rest = case(depth, width, block, bits, zeros, depth > 50)
        for m in (0, 1, 2, 5, 9, 13, 100):
            a = RNG.standard_normal((m, depth)).astype(np.float32)
            found = native(a, rest, given(depth, width, block, bits, 0))
            wide = [x if x is None or x.dtype == np.uint8 else x.astype(np.float64) for x in rest]
            right = reference(a.astype(np.float64), wide, given(depth, width, block, bits, 0))
            assert found.shape == right.shape
            if m:
                assert np.abs(found - right).max() <= 64 * 2.0**-23 * np.abs(right).max()


@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("bits", [4, 8])
def test_rows_of_integers(tier: str, bits: int, zeros: bool) -> None:
    for depth, width, block in SHAPES:
        for extreme in (False, True):
            rest = case(depth, width, block, bits, zeros, depth > 50, extreme)
            for m in (0, 1, 2, 5, 9, 13, 100):
                a = RNG.standard_normal((m, depth)).astype(np.float32)
                if extreme:
                    a = np.where(a > 0, np.float32(3), np.float32(-3))
                attributes = given(depth, width, block, bits, 4)
                np.testing.assert_array_equal(native(a, rest, attributes), reference(a, rest, attributes))


@pytest.mark.parametrize("level", [0, 4])
@pytest.mark.parametrize("bits", [4, 8])
def test_a_row_has_the_same_bits_among_any_others(tier: str, bits: int, level: int) -> None:
    for depth, width, block in ((40, 3, 16), (300, 130, 128), (2100, 70, 64)):
        rest = case(depth, width, block, bits, True, True)
        a = RNG.standard_normal((201, depth)).astype(np.float32)
        attributes = given(depth, width, block, bits, level)
        whole = native(a, rest, attributes)
        for rows in (1, 2, 3, 4, 7, 8, 97):
            for threads in (1, 2):
                np.testing.assert_array_equal(native(a[5 : 5 + rows], rest, attributes, threads), whole[5 : 5 + rows])


@pytest.mark.parametrize("level", [0, 4])
def test_extreme_rows(tier: str, level: int) -> None:
    depth, width, block = 64, 20, 32
    rest = case(depth, width, block, 4, True, False)
    a = RNG.standard_normal((6, depth)).astype(np.float32)
    a[0], a[1], a[2] = 0, 1e-42, 1e30
    a[3, 5], a[4, 40] = np.nan, np.inf
    attributes = given(depth, width, block, 4, level)
    found, right = native(a, rest, attributes), reference(a, rest, attributes)
    np.testing.assert_array_equal(np.isnan(found), np.isnan(right))
    if level:
        np.testing.assert_array_equal(found, right)
    else:
        for row in (0, 2, 5):  # a sum near 0 is as far off as its terms are large
            np.testing.assert_allclose(found[row], right[row], rtol=1e-4, atol=1e-6 * np.abs(right[row]).max())


def test_half_precision_runs_between_conversions(tier: str) -> None:
    depth, width, block = 96, 33, 32
    packed, scales, zeros, _, _ = case(depth, width, block, 4, True, False)
    a = RNG.standard_normal((3, depth)).astype(np.float16)
    attributes, inputs = given(depth, width, block, 4, 0), [a, packed, scales.astype(np.float16), zeros]
    found = run(OPERATOR, inputs, attributes, ["float16"], constants=[1, 2, 3])
    right = reference(a.astype(np.float64), [packed, inputs[2].astype(np.float64), zeros], attributes)
    assert np.abs(found - right).max() <= 2.0**-10 * np.abs(right).max()


def test_what_has_no_kernel(tier: str) -> None:
    """Indices of groups, floats as zero points, 2 bits and weights that are not constant run by the reference."""
    packed, scales, _, _, _ = case(32, 3, 16, 4, False, False)
    a = RNG.standard_normal((4, 32)).astype(np.float32)
    groups = (np.arange(32) % 2).astype(np.int32)
    for inputs, bits, constants in (
        ([a, packed, scales, None, groups], 4, [1, 2, 4]),
        ([a, packed, scales, scales], 4, [1, 2, 3]),
        ([a, packed[..., :4], scales], 2, [1, 2]),
        ([a, packed, scales], 4, [2]),
    ):
        with pytest.raises(LookupError):
            run(OPERATOR, inputs, given(32, 3, 16, bits, 0), constants=constants)
