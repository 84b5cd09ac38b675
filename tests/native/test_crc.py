"""The CRC-32 of archives against zlib's."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.runtime import _native
from headrace.runtime.checksums import crc32

DATA = np.random.default_rng(0).bytes(4096)
needed = pytest.mark.skipif(not _native.has_fast_crc(), reason="this CPU has no carry-less products: zlib's is used")


@needed
@pytest.mark.parametrize("size", [*range(300), 1023, 1024, 1025, 4080])
def test_every_length(size: int) -> None:
    for start in (0, 1, 15):
        assert _native.crc32(DATA[start : start + size]) == zlib.crc32(DATA[start : start + size])


@needed
@given(st.binary(max_size=400))
def test_any_bytes(data: bytes) -> None:
    assert _native.crc32(data) == zlib.crc32(data)


@needed
def test_zeros_and_ones() -> None:
    for byte in (b"\0", b"\xff"):
        for size in (64, 1 << 16, (1 << 16) + 7):
            assert _native.crc32(byte * size) == zlib.crc32(byte * size)


def test_buffers() -> None:
    """Views, read-only and writable ones."""
    for data in (memoryview(DATA)[100:900], bytearray(DATA), memoryview(np.frombuffer(DATA, np.uint8))):
        assert crc32(data) == zlib.crc32(data)
