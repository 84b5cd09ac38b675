"""torch's names for how memory is laid out. Every tensor here is dense and strided; formats are taken and change nothing."""

from __future__ import annotations

from typing import Any


class layout:
    """How a tensor holds its elements; the only kind is `strided`."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return f"headrace.{self.name}"


class memory_format(layout):
    """The order of dimensions in memory. Kernels choose it themselves, so a tensor's values never depend on it."""

    def __init__(self, name: str, rank: int | None = None) -> None:
        super().__init__(name)
        self.rank = rank


strided, sparse_coo = layout("strided"), layout("sparse_coo")
contiguous_format, preserve_format = memory_format("contiguous_format"), memory_format("preserve_format")
channels_last, channels_last_3d = memory_format("channels_last", 4), memory_format("channels_last_3d", 5)


def check_format(given: Any, rank: int) -> None:
    """RuntimeError where a format does not suit a tensor of this rank; TypeError for what is none."""
    if given is None:
        return
    if not isinstance(given, memory_format):
        raise TypeError(f"memory_format must be headrace.memory_format, not {type(given).__name__}")
    if given.rank not in (None, rank):
        raise RuntimeError(f"required rank {given.rank} tensor to use {given.name} format")


__all__ = [
    "channels_last",
    "channels_last_3d",
    "contiguous_format",
    "layout",
    "memory_format",
    "preserve_format",
    "sparse_coo",
    "strided",
]
