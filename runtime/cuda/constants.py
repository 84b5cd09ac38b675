"""Constant arrays on the device, and arrays made from them.

A model has one `Constants` for the arrays of its graph; each plan has another, inside that one, for what its sizes made
constant. So weights are uploaded and packed once, and what belongs to one signature goes with its plan.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from headrace.runtime.cuda.interface import Device


class Constants:
    """Uploads an array when it is first asked for, into an allocation of its own (so that a kernel that reads past its end
    is found by the emulator). Memory is freed with this object."""

    def __init__(self, device: Device, arrays: Iterable[np.ndarray] = (), outer: Constants | None = None) -> None:
        self.device, self.bytes = device, 0
        self._lock, self._outer = threading.Lock(), outer
        self._held = {id(array): array for array in arrays}  # keeps ids from being given to other arrays
        self._places: dict[int, int] = {}
        self._derived: dict[tuple[object, ...], np.ndarray] = {}

    def owns(self, array: np.ndarray) -> bool:
        return id(array) in self._held

    def inner(self) -> Constants:
        """One for what is made beside these."""
        return Constants(self.device, outer=self)

    def address(self, array: np.ndarray) -> int:
        """Where the array's bytes are. The same array object has one address."""
        if self._outer is not None and self._outer.owns(array):
            return self._outer.address(array)
        with self._lock:
            if id(array) not in self._places:
                dense = np.ascontiguousarray(array)
                at = self.device.alloc(max(dense.nbytes, 1))
                self._held[id(array)], self._places[id(array)] = array, at
                if dense.nbytes:
                    self.device.h2d(at, dense)
                self.bytes += dense.nbytes
            return self._places[id(array)]

    def derive(self, what: str, sources: Sequence[np.ndarray], make: Callable[[], np.ndarray]) -> np.ndarray:
        """An array made from constants, once for each way (`what`) and sources."""
        if self._outer is not None and all(map(self._outer.owns, sources)):
            return self._outer.derive(what, sources, make)
        key = (what, *map(id, sources))
        with self._lock:
            if key not in self._derived:
                made = self._derived[key] = make()
                self._held.update((id(array), array) for array in (made, *sources))
            return self._derived[key]

    def __del__(self) -> None:
        for at in self.__dict__.get("_places", {}).values():
            self.device.free(at)
