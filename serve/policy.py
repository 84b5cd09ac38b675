"""Which version to load or unload next. Pure: states in, action out; `manager` has the effects.

Availability-preserving: wanted versions are loaded first, and an unwanted one goes only when no wanted version of the
model is still on its way, or something else can answer. So the last ready version is never unloaded while a wanted
one is not ready.
"""

from collections.abc import Mapping, Set
from dataclasses import dataclass
from enum import Enum


class State(Enum):
    """Life of a version (after TensorFlow Serving), left to right; ERROR from any loading state."""

    NEW = "new"
    LOAD_REQUESTED = "load_requested"
    APPROVED = "approved"
    LOADING = "loading"
    READY = "ready"
    UNLOAD_REQUESTED = "unload_requested"
    QUIESCING = "quiescing"
    QUIESCED = "quiesced"
    UNLOADING = "unloading"
    DISABLED = "disabled"
    ERROR = "error"

    @property
    def shown(self) -> str:
        """The state in a repository index."""
        return _SHOWN[self]


_SHOWN = (
    dict.fromkeys((State.NEW, State.LOAD_REQUESTED, State.APPROVED, State.LOADING), "LOADING")
    | {State.READY: "READY", State.DISABLED: "UNAVAILABLE", State.ERROR: "UNAVAILABLE"}
    | dict.fromkeys((State.UNLOAD_REQUESTED, State.QUIESCING, State.QUIESCED, State.UNLOADING), "UNLOADING")
)
_COMING = frozenset({State.NEW, State.LOAD_REQUESTED, State.APPROVED, State.LOADING})


@dataclass(frozen=True, order=True, slots=True)
class VersionKey:
    """A version is its number and the identity of its file: a replaced file is another version with that number."""

    number: int
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Load:
    """Bring this version up."""

    key: VersionKey


@dataclass(frozen=True, slots=True)
class Unload:
    """Take this version down, after its last handle is gone."""

    key: VersionKey


def next_action(desired: Set[VersionKey], actual: Mapping[VersionKey, State]) -> Load | Unload | None:
    """The next step of one model towards `desired`, or None when it is reached or only waiting is left.

    Newest first when loading, oldest first when unloading. A version in ERROR is not tried again: forget it first.
    """
    for key in sorted(desired, reverse=True):
        if actual.get(key, State.DISABLED) is State.DISABLED:
            return Load(key)
    coming = any(actual[key] in _COMING for key in desired)
    wanted_ready = any(actual[key] is State.READY for key in desired)
    if coming or (desired and not wanted_ready):
        return None
    for key in sorted(actual):
        if key not in desired and actual[key] is State.READY:
            return Unload(key)
    return None
