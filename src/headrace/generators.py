"""Random numbers: NumPy's Philox, seeded by `manual_seed`. With one seed the same program draws the same bits."""

from __future__ import annotations

import os
from typing import Any

import numpy as np


class Generator:
    """A stream of random numbers of its own."""

    def __init__(self, device: Any = "cpu") -> None:
        from headrace.devices import check_device

        check_device(device)
        self.manual_seed(67280421310721)

    def manual_seed(self, seed: int) -> Generator:
        """Start the stream anew from a seed."""
        self._seed = int(seed)
        self.stream = np.random.Generator(np.random.Philox(key=self._seed & (2**64 - 1)))
        return self

    def initial_seed(self) -> int:
        return self._seed

    def seed(self) -> int:
        """Start from a seed that the system gives, and answer it."""
        self.manual_seed(int.from_bytes(os.urandom(8), "little"))
        return self._seed

    def get_state(self) -> Any:
        """The state as a uint8 tensor."""
        from headrace.tensors import wrap

        state: Any = self.stream.bit_generator.state
        words = np.concatenate([
            state["state"]["counter"], state["state"]["key"], state["buffer"],
            np.array([state["buffer_pos"], state["has_uint32"], state["uinteger"], self._seed & (2**64 - 1)], np.uint64),
        ])  # fmt: skip
        return wrap(words.astype(np.uint64).view(np.uint8).copy())

    def set_state(self, new_state: Any) -> Generator:
        """Take a state from `get_state`. ValueError for anything of another size."""
        raw = np.ascontiguousarray(new_state._data)
        if raw.dtype != np.uint8 or raw.size != 14 * 8:
            raise ValueError(f"a generator's state is a uint8 tensor of {14 * 8} elements")
        words = raw.view(np.uint64)
        self._seed = int(words[13])
        self.stream.bit_generator.state = {
            "bit_generator": "Philox", "state": {"counter": words[0:4].copy(), "key": words[4:6].copy()}, "buffer": words[6:10].copy(),
            "buffer_pos": int(words[10]), "has_uint32": int(words[11]), "uinteger": int(words[12]),
        }  # fmt: skip
        return self

    def clone_state(self) -> Generator:
        return Generator().set_state(self.get_state())


default_generator = Generator()
default_generator.seed()


def stream(generator: Generator | None = None) -> np.random.Generator:
    """The NumPy generator behind a Generator (None: the default one)."""
    return (default_generator if generator is None else generator).stream


def manual_seed(seed: int) -> Generator:
    """Seed the default generator; answers it."""
    return default_generator.manual_seed(seed)


def seed() -> int:
    """Seed the default generator from the system."""
    return default_generator.seed()


def initial_seed() -> int:
    return default_generator.initial_seed()


def get_rng_state() -> Any:
    """The default generator's state."""
    return default_generator.get_state()


def set_rng_state(new_state: Any) -> None:
    default_generator.set_state(new_state)


__all__ = ["Generator", "default_generator", "get_rng_state", "initial_seed", "manual_seed", "seed", "set_rng_state"]
