"""The emulated device in three thread orders, and arrays to and from it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from headrace.runtime.cuda import emul


@dataclass
class Result:
    device: emul.EmulDevice
    at: int
    array: Any

    def read(self) -> Any:
        self.device.d2h(self.array, self.at)
        return self.array


class Bench:
    """Buffers of one test; `alignment` 16 lets the forbidden page begin at most 15 bytes after their end."""

    def __init__(self, library: Any = None, order: str = "forward", seed: int = 0) -> None:
        self.device = emul.EmulDevice(library, order, seed, alignment=16)
        self.buffers: list[int] = []

    def up(self, array: Any) -> int:
        array = np.ascontiguousarray(array)
        self.buffers.append(self.device.alloc(array.nbytes))
        self.device.h2d(self.buffers[-1], array)
        return self.buffers[-1]

    def out(self, shape: Any, dtype: Any) -> Result:
        """A buffer for a result, filled with a pattern."""
        array = np.empty(shape, dtype)
        return Result(self.device, self.up(np.full(array.nbytes, 0x5A, np.uint8)), array)

    def close(self) -> None:
        """Raises where bytes beside a buffer were written."""
        for address in self.buffers:
            self.device.free(address)


@pytest.fixture(params=emul.ORDERS)
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    found = Bench(order=request.param, seed=3)
    yield found
    found.close()


@pytest.fixture
def forward() -> Iterator[Bench]:
    found = Bench()
    yield found
    found.close()


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """One worker builds the emulator and its mutants; without a compiler nothing here can run."""
    for item in items:
        if "/cuda/" in item.path.as_posix():
            item.add_marker(pytest.mark.xdist_group("cuda"))
            if emul.compiler() is None:
                item.add_marker(pytest.mark.skip(reason="the CUDA emulator needs g++"))
