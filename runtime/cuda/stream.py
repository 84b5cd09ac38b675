"""Host memory that copies go through: a ring of buffers, pinned where the device can pin.

A call takes a slot, fills it, enqueues copies and kernels, and waits for its own mark on the stream; so one call's host
work overlaps with the device work of the calls before it.
"""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np

from headrace.runtime.cuda.interface import Device

SLOTS = 3


def host_buffer(device: Device, nbytes: int) -> np.ndarray:
    """uint8 [nbytes] of host memory that the device copies from and to without staging, where it has such."""
    pinned: Callable[[int], np.ndarray] = getattr(device, "pinned", None) or (lambda n: np.empty(n, np.uint8))
    return pinned(max(nbytes, 1))


def mark(device: Device) -> Callable[[], None]:
    """A function that waits until everything enqueued so far has run."""
    place: Callable[[], Callable[[], None]] | None = getattr(device, "mark", None)
    return place() if place is not None else device.synchronize


def upload(device: Device, ptr: int, array: np.ndarray) -> None:
    """From a `host_buffer` to the device; the buffer must stay as it is until a later mark."""
    getattr(device, "upload", device.h2d)(ptr, array)


def download(device: Device, array: np.ndarray, ptr: int) -> None:
    """From the device to a `host_buffer`; the bytes are there after a later mark."""
    getattr(device, "download", device.d2h)(array, ptr)


class Staging:
    """`SLOTS` equal buffers. `slot()` waits while all are in use."""

    def __init__(self, device: Device, nbytes: int) -> None:
        self.bytes = nbytes
        self._free: queue.SimpleQueue[np.ndarray] = queue.SimpleQueue()
        for _ in range(SLOTS):
            self._free.put(host_buffer(device, nbytes))

    @contextmanager
    def slot(self) -> Iterator[np.ndarray]:
        buffer = self._free.get()
        try:
            yield buffer
        finally:
            self._free.put(buffer)


def view(buffer: np.ndarray, offset: int, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An array in a buffer of bytes."""
    count = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    return buffer[offset : offset + count].view(dtype).reshape(shape)
