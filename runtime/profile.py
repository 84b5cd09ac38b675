"""What a profile says."""

from __future__ import annotations

from typing import TypedDict


class ProfileRow(TypedDict):
    """The time of one node: mean milliseconds a run, and its share (0 to 1) of all nodes together. `kernel` is the
    variant of the native kernel ("native" where there is one only), or "reference"."""

    node: str
    operator: str
    kernel: str
    ms: float
    share: float
