"""What this machine can do, measured once per process: the yardstick of profiles (runtime/native/peak.cpp); and which of
its CPUs the worker threads use."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path

from headrace.runtime.errors import InputError

PRECISIONS = ("float32", "bf16", "int8")


@cache
def peak(precision: str, threads: int = 1) -> float:
    """Operations a second of `threads` threads together, a multiply-add counted as two; 0.0 where the CPU has no such
    products on the tier in use."""
    from headrace.runtime import _native

    return _native.peak(precision, min(threads, _native.usable_threads()))


def bandwidth(size: float, threads: int = 1) -> float:
    """Bytes a second that `threads` threads together read out of `size` bytes: those of the smallest cache that holds
    them, or else of memory."""
    return next(rate() for _, holds, rate in _levels(threads) if size <= holds)


def bandwidths(threads: int = 1) -> dict[str, float]:
    """The same by where it is read from: "L1", "L2", ... as far as the system tells their sizes, and "memory"."""
    return {name: rate() for name, _, rate in _levels(threads)}


@cache
def cache_sizes() -> tuple[int, ...]:
    """Bytes of the first CPU's data caches, the first level first, as Linux tells them (the C library's sysconf adds up the last
    level of all sockets of some machines); empty where it does not."""
    sizes: dict[int, int] = {}
    for index in Path("/sys/devices/system/cpu/cpu0/cache").glob("index[0-9]*"):
        try:
            kind, level, size = ((index / name).read_text().strip() for name in ("type", "level", "size"))
        except OSError:
            continue
        if kind != "Instruction" and size.endswith("K"):
            sizes[int(level)] = int(size[:-1]) << 10
    return tuple(size for _, size in sorted(sizes.items()))


def _levels(threads: int) -> list[tuple[str, float, Callable[[], float]]]:
    """(name, bytes that it holds for all threads, what answers its rate). The last cache belongs to all threads together,
    the others are each thread's own."""
    from headrace.runtime import _native

    threads = min(threads, _native.usable_threads())
    sizes = cache_sizes()
    levels: list[tuple[str, float, Callable[[], float]]] = []
    for level, size in enumerate(sizes, 1):
        each = size if level < len(sizes) else size // threads
        # Well beyond the level before, and well within this one, whose other part others may be using.
        part = min(each // 2, 4 * sizes[level - 2]) if level > 1 else each // 2
        levels.append((f"L{level}", each * threads, partial(_read_rate, part, threads)))
    beyond = min(max(128 << 20, 2 * max(sizes, default=0)), 1 << 30)
    return [*levels, ("memory", math.inf, partial(_read_rate, beyond // threads, threads))]


@cache
def _read_rate(each: int, threads: int) -> float:
    from headrace.runtime import _native

    return _native.bandwidth(threads, each)


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
