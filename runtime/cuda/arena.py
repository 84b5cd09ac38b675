"""Device memory that a model owns: constants, uploaded once, and one arena of activations for each plan."""

from __future__ import annotations

import threading

import numpy as np

from headrace.runtime.cuda.interface import Device
from headrace.runtime.errors import RunError

ALIGNMENT = 256  # bytes: what cudaMalloc gives, and enough for every vector load and for cuBLASLt


class Arena:
    """One allocation that a plan's values lie in. Freed with the last reference: a call in progress holds its plan."""

    def __init__(self, device: Device, nbytes: int) -> None:
        self.device, self.bytes = device, nbytes
        self.base = device.alloc(max(nbytes, ALIGNMENT))
        if self.base % ALIGNMENT:
            raise RunError(f"{device.name} gave memory at {self.base:#x}, which is not a multiple of {ALIGNMENT}")

    def at(self, offset: int, nbytes: int) -> int:
        """The address of `nbytes` at `offset`. RunError where they do not lie inside."""
        if offset < 0 or nbytes < 0 or offset + nbytes > self.bytes:
            raise RunError(f"bytes {offset} to {offset + nbytes} lie outside an arena of {self.bytes}")
        return self.base + offset

    def __del__(self) -> None:
        if self.__dict__.get("base"):
            self.device.free(self.base)


class Weights:
    """The constants of one model on the device. An array is uploaded when it is first asked for, into an allocation of
    its own (so that a kernel that reads past its end is found by the emulator); it stays as long as this object."""

    def __init__(self, device: Device) -> None:
        self.device, self.bytes = device, 0
        self._lock = threading.Lock()
        self._kept: dict[int, tuple[np.ndarray, int]] = {}

    def address(self, array: np.ndarray) -> int:
        """Where the array's bytes are. The same array object has one address."""
        with self._lock:
            found = self._kept.get(id(array))
            if found is not None:
                return found[1]
            dense = np.ascontiguousarray(array)
            at = self.device.alloc(max(dense.nbytes, 1))
            if dense.nbytes:
                self.device.h2d(at, dense)
            self.device.synchronize()  # `dense` may be a copy that nobody else holds
            self._kept[id(array)] = (array, at)
            self.bytes += dense.nbytes
            return at

    def __del__(self) -> None:
        for _, at in self.__dict__.get("_kept", {}).values():
            self.device.free(at)
