"""What a device offers to the executor: memory, copies, launches. `device.CudaDevice` is one, `emul.EmulDevice` the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray


class Ptr(NamedTuple):
    """A device address as an argument of a kernel; 0 is the null pointer."""

    address: int


Array = NDArray[Any]
# An array is passed by value: a parameter structure of the kernel.
Arg = Ptr | np.int32 | np.int64 | np.float32 | Array
Dim3 = tuple[int, int, int]


class Device(Protocol):
    """Copies and launches are ordered among each other; h2d and d2h may return before they are done only if the device
    keeps what it needs. Addresses are plain integers, so that parts of a buffer are sums."""

    name: str

    def alloc(self, nbytes: int) -> int:
        """The address of a new buffer, aligned to 256 bytes, its bytes undefined."""

    def free(self, ptr: int) -> None: ...

    def h2d(self, ptr: int, array: Array) -> None:
        """The bytes of a C-contiguous array to the device."""

    def d2h(self, array: Array, ptr: int) -> None:
        """Bytes from the device into a C-contiguous, writable array; they are there on return."""

    def d2d(self, dst: int, src: int, nbytes: int) -> None: ...

    def memset(self, ptr: int, byte: int, nbytes: int) -> None: ...

    def launch(self, kernel: str, grid: Dim3, block: Dim3, shared: int, args: Sequence[Arg]) -> None:
        """Runs an exported kernel of csrc/ by name; `shared`: bytes of dynamic shared memory, at most 48 KiB."""

    def synchronize(self) -> None: ...
