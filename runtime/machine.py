"""What this machine can do, measured once per process: the yardstick of profiles (runtime/native/peak.cpp); and which of
its CPUs the worker threads use."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from headrace.runtime.errors import InputError

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


def pin_threads(cpus: Sequence[int]) -> None:
    """Worker thread i of this process runs on CPU cpus[i % len(cpus)] from now on, those that start later as well; an empty
    sequence lets them run anywhere again. Callers of `run`, which take part in the work, stay where they are.

    Raises InputError for a CPU that this process may not use.
    """
    import os

    from headrace.runtime import _native

    if not _native.pin_workers(list(cpus)):
        allowed = ", ".join(map(str, sorted(os.sched_getaffinity(0))))
        raise InputError(f"threads cannot be pinned to CPUs {', '.join(map(str, cpus))}; allowed here: {allowed}")
