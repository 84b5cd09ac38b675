"""What this machine can do, measured once per process: the yardstick of profiles (runtime/native/peak.cpp)."""

from __future__ import annotations

from functools import cache

PRECISIONS = ("float32", "bf16", "int8")


@cache
def peak(precision: str, threads: int = 1) -> float:
    """Operations a second of `threads` threads together, a multiply-add counted as two; 0.0 where the CPU has no such
    products on the tier in use."""
    from headrace.runtime import _native

    return _native.peak(precision, min(threads, _native.usable_threads()))


@cache
def bandwidth(threads: int = 1) -> float:
    """Bytes a second that `threads` threads together read from memory that no cache holds."""
    from headrace.runtime import _native

    return _native.bandwidth(min(threads, _native.usable_threads()))
