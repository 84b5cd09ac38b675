"""Devices. The training library computes on the CPU; other devices are refused by name."""

from __future__ import annotations

from typing import Any


class device:
    """A place that holds tensors: `device("cpu")`."""

    __slots__ = ("index", "type")
    type: str
    index: int | None

    def __init__(self, type: str | device = "cpu", index: int | None = None) -> None:
        if isinstance(type, device):
            index = type.index
            type = type.type
        kind, _, number = type.partition(":")
        if kind not in ("cpu", "meta", "cuda"):
            raise RuntimeError(f"no device of type {kind!r}; allowed: cpu")
        self.type, self.index = kind, int(number) if number else index

    def __eq__(self, other: object) -> bool:
        return isinstance(other, device) and (self.type, self.index or 0) == (other.type, other.index or 0)

    def __hash__(self) -> int:
        return hash((self.type, self.index or 0))

    def __str__(self) -> str:
        return self.type if self.index is None else f"{self.type}:{self.index}"

    def __repr__(self) -> str:
        index = "" if self.index is None else f", index={self.index}"
        return f"device(type='{self.type}'{index})"


CPU = device("cpu")


def check_device(value: Any) -> None:
    """RuntimeError unless tensors can be made on this device (None: yes)."""
    if value is not None and device(value).type != "cpu":
        raise RuntimeError(f"the training library has no device {value}; allowed: cpu")


__all__ = ["device"]
