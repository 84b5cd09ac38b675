"""The device memory of a plan: one allocation that its values lie in, at offsets of runtime/plan.py."""

from __future__ import annotations

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
