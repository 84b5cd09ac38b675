"""What programs ask before they choose a device. The training library computes on the CPU."""

from __future__ import annotations


def is_available() -> bool:
    """False: there is no CUDA device for training."""
    return False


def device_count() -> int:
    return 0


def manual_seed_all(seed: int) -> None:
    """Nothing to seed."""


manual_seed = manual_seed_all
