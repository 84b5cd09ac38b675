"""The response cache of one model version: answers by what was asked, the least recently used go first."""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Mapping

from headrace.serve.datatypes import Array, to_wire
from headrace.serve.request import InferRequest
from headrace.serve.validate import Port

ENTRY_BYTES = 512  # of an entry besides its arrays, about
_NOT_IN_THE_ANSWER = ("timeout", "priority", "headrace_explain")  # parameters that say how, not what

Outputs = Mapping[str, Array]


class ResponseCache:
    """At most `max_bytes` of answers. It belongs to a loaded version, so package and version are the same for every entry."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._entries: OrderedDict[bytes, tuple[int, Outputs]] = OrderedDict()  # the latest used is last
        self._lock = threading.Lock()
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: bytes) -> Outputs | None:
        """The outputs that were put for `key`, read-only; None where they are not (or no longer) here."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                return None
            self._entries.move_to_end(key)
            return entry[1]

    def put(self, key: bytes, outputs: Outputs) -> None:
        """Keep copies: outputs are often views of a whole batch. What alone is over the limit is not kept."""
        size = ENTRY_BYTES + sum(map(_size, outputs.values()))
        if size > self._max_bytes:
            return
        copies = {name: array.copy() for name, array in outputs.items()}
        for array in copies.values():
            array.flags.writeable = False
        with self._lock:
            self._forget(key)
            while self._entries and self.bytes + size > self._max_bytes:
                self._forget(next(iter(self._entries)))
            self._entries[key] = size, copies
            self.bytes += size

    def _forget(self, key: bytes) -> None:
        size, _ = self._entries.pop(key, (0, None))
        self.bytes -= size


def _size(array: Array) -> int:
    if array.dtype != object:
        return array.nbytes
    return sum(array.itemsize + len(item) for item in array.flat)


def key_of(request: InferRequest, feeds: Mapping[str, Array], ports: tuple[Port, ...]) -> bytes | None:
    """What the answer depends on: parameters, the outputs asked for, and every input's shape and bytes. None: the request
    is part of a sequence, whose answers depend on what came before."""
    if request.parameters.get("sequence_id"):
        return None
    digest = hashlib.sha256()  # clients choose what goes in: no collision may be makeable
    parameters = [
        (k, type(v).__name__, v) for k, v in sorted(request.parameters.items()) if k not in _NOT_IN_THE_ANSWER
    ]
    names = [port.name for port in ports]
    shapes = [(name, feeds[name].shape) for name in sorted(feeds)]
    digest.update(repr((parameters, names, shapes)).encode("utf-8", "surrogatepass"))
    for name in sorted(feeds):
        data = to_wire(feeds[name])
        digest.update(b"%d:" % len(data))
        digest.update(data)
    return digest.digest()


__all__ = ["ResponseCache", "key_of"]
