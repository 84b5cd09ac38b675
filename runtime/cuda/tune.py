"""Which of several ways to compute the same thing is fastest here: measured once, kept in a file.

The file is JSON in the cache folder, one for each device and set of library versions: key of the problem -> name of the
choice. It is a cache: a file that cannot be read or written is as good as none.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from headrace.runtime.caches import cache_folder

log = logging.getLogger("headrace")
Call = Callable[[int], None]


class Tuner:
    """Choices for one device. `machine` names the device and the versions that a choice depends on; `seconds` times a
    call."""

    def __init__(self, machine: str, seconds: Callable[[Call], float], folder: Path | None = None) -> None:
        self.machine, self._seconds = machine, seconds
        name = hashlib.sha256(machine.encode()).hexdigest()[:16]
        self.path = (cache_folder("tune") if folder is None else folder) / f"{name}.json"
        self._chosen = self._read()

    def pick(self, key: str, candidates: Sequence[tuple[str, Call]]) -> Call:
        """The fastest of (name, call) pairs: the one chosen before for `key` where it is among them, else by timing each
        once more after a first call."""
        table = dict(candidates)
        if len(table) == 1:
            return candidates[0][1]
        found = table.get(self._chosen.get(key, ""))
        if found is not None:
            return found
        times = {name: self._timed(call) for name, call in table.items()}
        best = min(times, key=times.__getitem__)
        self._chosen[key] = best
        self._write()
        return table[best]

    def _timed(self, call: Call) -> float:
        self._seconds(call)  # loads what the first call loads
        return self._seconds(call)

    def _read(self) -> dict[str, str]:
        try:
            held = json.loads(self.path.read_text())
            chosen = held["chosen"] if held["machine"] == self.machine else {}
            return {str(key): str(name) for key, name in chosen.items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            log.warning("%s is not read, choices are measured again: %s", self.path, error)
            return {}

    def _write(self) -> None:
        try:
            handle, name = tempfile.mkstemp(dir=self.path.parent)
            with os.fdopen(handle, "w") as file:
                json.dump({"machine": self.machine, "chosen": self._chosen}, file, indent=1)
            os.replace(name, self.path)
        except OSError as error:
            log.warning("%s is not written: %s", self.path, error)
