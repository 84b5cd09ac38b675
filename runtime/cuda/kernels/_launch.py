"""What the launch functions share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from headrace.runtime.cuda.interface import Arg, Array, Device, Ptr

BLOCK = 256


def ceil_div(n: int, by: int) -> int:
    return -(-n // by)


def each(device: Device, kernel: str, n: int, args: Sequence[Arg]) -> None:
    """One thread for each of n elements."""
    if n:
        device.launch(kernel, (ceil_div(n, BLOCK), 1, 1), (BLOCK, 1, 1), 0, args)


def structure(dtype: np.dtype[Any], **fields: Any) -> Array:
    """A parameter structure; fields not named are zero."""
    value = np.zeros((), dtype)
    for name, field in fields.items():
        value[name] = field
    return value


def longs(*values: int) -> list[np.int64]:
    return [np.int64(value) for value in values]


def ints(*values: int) -> list[np.int32]:
    return [np.int32(value) for value in values]


def pointers(*addresses: int) -> list[Ptr]:
    return [Ptr(address) for address in addresses]
