"""The memory of the program that is compiled: variables of all open functions, buffers, and what can be changed in place.

A branch or a loop body runs on this memory, is compared with what was there before, and is undone, so that the graph can
say afterwards what changed. A place is a variable, a buffer, or an object that is written in place (a tensor, list, dict).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from headrace.autograd import tape
from headrace.jit.script import specs
from headrace.jit.script.values import List, Maybe, Number
from headrace.tensors import Tensor, wrap

Place = tuple[Any, ...]


class Snapshot:
    """The memory at one moment: what every place holds, as values that later writes do not reach."""

    def __init__(self) -> None:
        self.bindings: dict[Place, Any] = {}
        self.values: dict[Place, Any] = {}  # place -> frozen value
        self.objects: dict[int, tuple[Any, tuple[Any, ...]]] = {}  # id -> the object and its state
        self._frozen: dict[int, Any] = {}

    def get(self, place: Place, default: Any) -> Any:
        return self.values.get(place, default)


class Store:
    """`frames` are the variables of the functions that run now, outermost first; `tables` the buffers of all modules."""

    def __init__(self, tables: list[dict[str, Any]], is_weight: Callable[[np.ndarray], bool]) -> None:
        self.frames: list[dict[str, Any]] = []
        self._tables, self._is_weight = tables, is_weight

    def _places(self) -> Iterator[tuple[Place, Any]]:
        for depth, frame in enumerate(self.frames):
            for name, value in frame.items():
                yield ("variable", depth, name), value
        for index, table in enumerate(self._tables):
            for name, value in table.items():
                yield ("buffer", index, name), value

    def snapshot(self) -> Snapshot:
        found = Snapshot()
        for place, value in self._places():
            found.bindings[place] = value
            found.values[place] = self._freeze(value, found)
        for key, (thing, _) in found.objects.items():
            found.values["object", key] = found._frozen[key]
            found.bindings["object", key] = thing
        return found

    def _freeze(self, value: Any, into: Snapshot) -> Any:
        """A copy that shares nothing which can be written; notes the objects on the way."""
        if id(value) in into._frozen and id(value) in into.objects:
            return into._frozen[id(value)]
        if isinstance(value, Tensor):
            return self._freeze_tensor(value, into)
        if isinstance(value, List):
            copy = List()
            self._note(value, (tuple(value), value.sequence, value.element), copy, into)
            copy[:] = [self._freeze(item, into) for item in value]
            copy.sequence, copy.element = value.sequence, value.element
            return copy
        if type(value) is dict:
            table: dict[Any, Any] = {}
            self._note(value, (dict(value),), table, into)
            table.update((key, self._freeze(item, into)) for key, item in value.items())
            return table
        if isinstance(value, tuple):
            items = [self._freeze(item, into) for item in value]
            if all(a is b for a, b in zip(items, value)):
                return value
            return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
        return Maybe(value.present, self._freeze(value.value, into)) if isinstance(value, Maybe) else value

    def _freeze_tensor(self, value: Tensor, into: Snapshot) -> Tensor:
        if value._base is not None:
            tape.sync(value)
            self._freeze(value._base, into)
        data = value._data
        plain = type(data) is np.ndarray
        if plain and self._is_weight(data):
            return value
        frozen = wrap(data.copy() if plain else data)
        state = (data, frozen._data, value._storage.version, value._generation)
        self._note(value, state, frozen, into)
        return frozen

    def _note(self, thing: Any, state: tuple[Any, ...], frozen: Any, into: Snapshot) -> None:
        into.objects[id(thing)] = (thing, state)
        into._frozen[id(thing)] = frozen

    def restore(self, snapshot: Snapshot) -> None:
        """Make everything as it was."""
        for depth, frame in enumerate(self.frames):
            frame.clear()
            frame.update((p[2], value) for p, value in snapshot.bindings.items() if p[:2] == ("variable", depth))
        for index, table in enumerate(self._tables):
            table.update((p[2], value) for p, value in snapshot.bindings.items() if p[:2] == ("buffer", index))
        for thing, state in snapshot.objects.values():
            if isinstance(thing, Tensor):
                data, copy, version, generation = state
                if type(data) is np.ndarray and thing._base is None and thing._storage.version != version:
                    data[...] = copy
                thing._data, thing._storage.version, thing._generation = data, version, generation
            elif isinstance(thing, List):
                thing[:], thing.sequence, thing.element = state
            else:
                thing.clear()
                thing.update(state[0])

    def assign(self, place: Place, value: Any, snapshot: Snapshot) -> None:
        """Give a place another value; objects keep their identity."""
        if place[0] == "variable":
            self.frames[place[1]][place[2]] = value
        elif place[0] == "buffer":
            self._tables[place[1]][place[2]] = value
        else:
            thing = snapshot.bindings[place]
            if isinstance(thing, Tensor):
                thing._data = value._data
                thing._generation += 1
            elif isinstance(thing, List):
                thing.become(value)
            else:
                thing.clear()
                thing.update(value)


def changed(before: Snapshot, after: Snapshot) -> list[Place]:
    """The places that hold something else after than before, those that are new among them."""
    found: list[Place] = []
    for place, value in after.bindings.items():
        if place[0] == "object":
            if place in before.bindings and _state_differs(before.objects[place[1]], after.objects[place[1]]):
                found.append(place)
        elif place not in before.bindings or not _is(before.bindings[place], value):
            found.append(place)
    return found


def _is(a: Any, b: Any) -> bool:
    """Whether two bindings are one: the same object, or equal values of which nobody can tell the difference."""
    if specs.same(a, b):
        return True
    if isinstance(a, Number) and isinstance(b, Number):
        return a.kind == b.kind and a.tensor._data is b.tensor._data
    if isinstance(a, tuple) and type(a) is type(b) and len(a) == len(b):
        return all(map(_is, a, b))
    return False


def _state_differs(before: tuple[Any, tuple[Any, ...]], after: tuple[Any, tuple[Any, ...]]) -> bool:
    thing, old = before
    _, new = after
    if isinstance(thing, Tensor):
        return thing._base is None and (old[0] is not new[0] or old[2] != new[2])
    if isinstance(thing, List):
        return old[1] is not new[1] or len(old[0]) != len(new[0]) or not all(map(_is, old[0], new[0]))
    return old[0].keys() != new[0].keys() or not all(_is(old[0][key], new[0][key]) for key in old[0])
