"""The number of threads that kernels may use."""

from __future__ import annotations

import os

_threads = 0


def get_num_threads() -> int:
    """How many threads one operation may use."""
    return _threads or int(os.environ.get("HEADRACE_THREADS") or 0) or len(os.sched_getaffinity(0))


def set_num_threads(threads: int) -> None:
    """Set how many threads one operation may use. RuntimeError below 1."""
    global _threads
    if threads < 1:
        raise RuntimeError(f"set_num_threads expects a positive integer, not {threads}")
    _threads = int(threads)


__all__ = ["get_num_threads", "set_num_threads"]
