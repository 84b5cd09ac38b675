"""Commands for a device, and their capture: a plan's device work as a list that is recorded once and replayed.

The list is the plan: eager running goes through it; a device that has CUDA graphs captures it into one (`Device.capture`
of device.py), any other replays it. Nothing may allocate or touch the host while it is recorded: only launches, copies
inside the device and library products can be commands.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol

import numpy as np

from headrace.runtime.cuda.interface import Arg, Device
from headrace.runtime.errors import RunError

SHORTEST = 2  # commands: one launch alone costs no more than the launch of a graph


class Command(Protocol):
    """One piece of device work with fixed addresses."""

    def run(self, device: Device) -> None: ...


@dataclass(frozen=True)
class Launch:
    """One kernel."""

    kernel: str
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    shared: int
    args: tuple[Arg, ...]

    def run(self, device: Device) -> None:
        device.launch(self.kernel, self.grid, self.block, self.shared, self.args)


@dataclass(frozen=True)
class Copy:
    """Bytes inside the device."""

    target: int
    source: int
    nbytes: int

    def run(self, device: Device) -> None:
        device.d2d(self.target, self.source, self.nbytes)


@dataclass(frozen=True)
class Fill:
    """One byte, repeated."""

    target: int
    byte: int
    nbytes: int

    def run(self, device: Device) -> None:
        device.memset(self.target, self.byte, self.nbytes)


@dataclass(frozen=True)
class Call:
    """A product of a library (lt.Product bound to its operands); takes the stream's handle."""

    name: str
    call: Callable[[int], None]

    def run(self, device: Device) -> None:
        self.call(device.stream_handle)  # type: ignore[attr-defined]  # only devices with the library make these


class Recorder:
    """A device that writes down what it is asked to do. What may not be recorded is an error."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.commands: list[Command] = []

    def launch(self, kernel: str, grid: Sequence[int], block: Sequence[int], shared: int, args: Sequence[Arg]) -> None:
        self.commands.append(Launch(kernel, _three(grid), _three(block), shared, tuple(args)))

    def d2d(self, dst: int, src: int, nbytes: int) -> None:
        self.commands.append(Copy(dst, src, nbytes))

    def memset(self, ptr: int, byte: int, nbytes: int) -> None:
        self.commands.append(Fill(ptr, byte, nbytes))

    def call(self, name: str, call: Callable[[int], None]) -> None:
        self.commands.append(Call(name, call))

    def alloc(self, nbytes: int) -> NoReturn:
        _refuse("allocate memory")

    def free(self, ptr: int) -> NoReturn:
        _refuse("free memory")

    def h2d(self, ptr: int, array: np.ndarray) -> NoReturn:
        _refuse("copy from the host")

    def d2h(self, array: np.ndarray, ptr: int) -> NoReturn:
        _refuse("copy to the host")

    def synchronize(self) -> NoReturn:
        _refuse("wait")


def _refuse(what: str) -> NoReturn:
    raise RunError(f"a kernel may not {what} while a plan is recorded")


def _three(sizes: Sequence[int]) -> tuple[int, int, int]:
    x, y, z = (*sizes, 1, 1)[:3]
    return int(x), int(y), int(z)


def eager(device: Device, commands: Sequence[Command]) -> Callable[[], None]:
    """A function that enqueues the commands one by one."""

    def run() -> None:
        for command in commands:
            command.run(device)

    return run


def capture(device: Device, commands: Sequence[Command]) -> Callable[[], None]:
    """A function that enqueues the commands at once: a CUDA graph where the device has them, else the list."""
    graph: Any = getattr(device, "capture", None)
    if graph is None or len(commands) < SHORTEST:
        return eager(device, commands)
    replay: Callable[[], None] = graph(eager(device, commands))
    return replay
