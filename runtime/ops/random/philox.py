"""Philox4x32-10, the counter-based generator behind every random operator.

J. K. Salmon, M. A. Moraes, R. O. Dror, D. E. Shaw, "Parallel random numbers: as easy as 1, 2, 3" (SC 2011). A draw is a
pure function of (seed, operator id, counter, element), so NumPy, C++ and CUDA give the same bits in any order and on any
number of threads.

Layout: key = (seed's low word, seed's high word); counter block = (block number, operator id, counter's low word,
counter's high word). One block gives four 32-bit words; element i of a tensor takes words from block i // (4 / words).
"""

from __future__ import annotations

import numpy as np

_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_WEYL = (0x9E3779B9, 0xBB67AE85)
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)
WORD = 0xFFFFFFFF


def philox(blocks: np.ndarray, seed: int, identity: int, counter: int) -> np.ndarray:
    """uint32 [n, 4]: the four words of each numbered block."""
    c0 = blocks.astype(np.uint64) & _LOW
    c1, c2, c3 = (np.full_like(c0, word & WORD) for word in (identity, counter, counter >> 32))
    k0, k1 = seed & WORD, (seed >> 32) & WORD
    for _ in range(10):
        p0, p1 = _MULTIPLIERS[0] * c0, _MULTIPLIERS[1] * c2
        c0, c1, c2, c3 = (p1 >> _HALF) ^ c1 ^ np.uint64(k0), p1 & _LOW, (p0 >> _HALF) ^ c3 ^ np.uint64(k1), p0 & _LOW
        k0, k1 = (k0 + _WEYL[0]) & WORD, (k1 + _WEYL[1]) & WORD
    return np.stack([c0, c1, c2, c3], axis=-1).astype(np.uint32)


def words(count: int, each: int, seed: int, identity: int = 0, counter: int = 0) -> np.ndarray:
    """uint32 [count, each]: `each` (1, 2 or 4) words for every element."""
    blocks = np.arange(-(-count * each // 4), dtype=np.uint64)
    return philox(blocks, seed, identity, counter).reshape(-1, each)[:count]


def uniform(count: int, dtype: str, seed: int, identity: int = 0, counter: int = 0) -> np.ndarray:
    """[0, 1) as float32 (24 bits; 11 and 8 bits for float16 and bfloat16, so that 1 is never reached) or float64 (53 bits)."""
    if dtype == "float64":
        pair = words(count, 2, seed, identity, counter).astype(np.uint64)
        return ((pair[:, 0] >> np.uint64(5)) * np.uint64(1 << 26) + (pair[:, 1] >> np.uint64(6))).astype(
            np.float64
        ) * 2.0**-53
    bits = {"float16": 11, "bfloat16": 8}.get(dtype, 24)
    top = words(count, 1, seed, identity, counter)[:, 0] >> np.uint32(32 - bits)
    return top.astype(np.float32) * np.float32(2.0**-bits)


def normal(count: int, seed: int, identity: int = 0, counter: int = 0) -> np.ndarray:
    """Standard normal numbers as float64, by Box and Muller, two words each (so |z| <= 6.66)."""
    pair = words(count, 2, seed, identity, counter).astype(np.float64)
    radius = np.sqrt(-2.0 * np.log((pair[:, 0] + 1.0) * 2.0**-32))
    return radius * np.cos(2.0 * np.pi * 2.0**-32 * pair[:, 1])


def integers(count: int, low: int, high: int, seed: int, identity: int = 0, counter: int = 0) -> np.ndarray:
    """Integers in [low, high) as int64, from 64 bits each modulo the range (bias below range / 2**64)."""
    pair = words(count, 2, seed, identity, counter).astype(np.uint64)
    wide = (pair[:, 0] << _HALF) | pair[:, 1]
    return ((wide % np.uint64(high - low)).astype(np.int64) + np.int64(low)).astype(np.int64)
