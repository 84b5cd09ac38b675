"""Parameters and buffers of what is traced: their names, the paths of modules, and the promise that a trace changes nothing."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from headrace.jit.errors import TraceError, is_library
from headrace.nn.module import Module
from headrace.tensors import Tensor


class State:
    """The tensors that the traced code owns, by name. Those of a Module are called as in its state_dict; those of a
    function are the Modules, tensors and dicts of tensors that it reads from around itself, called as their variables."""

    def __init__(self, traced: Any) -> None:
        self.modules: list[Module] = []
        self._paths: dict[int, str] = {}
        self._tensors: dict[str, Tensor] = {}
        self._names: dict[int, str] = {}  # id of an array -> name
        traced = getattr(traced, "__headrace_script__", traced)
        owner = getattr(traced, "__self__", None)
        if isinstance(traced, Module) or isinstance(owner, Module):
            self._add_module("", traced if isinstance(traced, Module) else owner)  # type: ignore[arg-type]
        else:
            for name, found in _surroundings(traced).items():
                self._add(name, found)

    def _add(self, name: str, found: Any) -> None:
        if isinstance(found, Module):
            self._add_module(name, found)
        elif isinstance(found, Tensor):
            self._add_tensor(name, found)
        elif isinstance(found, Mapping) and found and all(isinstance(v, Tensor | np.ndarray) for v in found.values()):
            for key, value in found.items():
                if isinstance(value, Tensor):
                    self._add_tensor(str(key), value)

    def _add_module(self, prefix: str, module: Module) -> None:
        self.modules.append(module)
        for path, inner in module.named_modules(prefix=prefix):
            self._paths.setdefault(id(inner), path)
        for name, tensor in [*module.named_parameters(prefix), *module.named_buffers(prefix)]:
            self._add_tensor(name, tensor)

    def _add_tensor(self, name: str, tensor: Tensor) -> None:
        if type(tensor._data) is np.ndarray and id(tensor._data) not in self._names:
            self._tensors[name] = tensor
            self._names[id(tensor._data)] = name

    def name_of(self, array: np.ndarray) -> str | None:
        """The name of the parameter or buffer that has this array."""
        name = self._names.get(id(array))
        return name if name is not None and self._tensors[name]._data is array else None

    def stamp(self) -> tuple[Any, ...]:
        """Something that differs after any of these tensors was written or replaced."""
        return tuple((id(tensor._data), tensor._storage.version) for tensor in self._tensors.values())

    def path(self, module: Module) -> str:
        """Where a module is in the tree. One that was made elsewhere goes by its class."""
        if id(module) not in self._paths:
            taken = set(self._paths.values())
            name = type(module).__name__.lower()
            path = next(p for p in (name, *(f"{name}_{i}" for i in range(2, 10_000))) if p not in taken)
            self._add_module(path, module)
        return self._paths[id(module)]

    @contextlib.contextmanager
    def evaluation(self) -> Iterator[None]:
        """All modules in evaluation mode; afterwards each is as it was."""
        modes = {id(inner): (inner, inner.training) for module in self.modules for inner in module.modules()}
        try:
            for inner, _ in modes.values():
                inner.training = False
            yield
        finally:
            for inner, training in modes.values():
                inner.training = training

    @contextlib.contextmanager
    def unchanged(self, *, strict: bool = True) -> Iterator[list[Buffer]]:
        """Put everything back afterwards. Answers a list that then holds the buffers which the code inside wrote; where
        `strict`, and where a parameter was written, that is a TraceError: a graph has no memory."""
        before = {name: (tensor, tensor._data, tensor._storage.version) for name, tensor in self._tensors.items()}
        owners = [
            (owner, owner._buffers, dict(owner._buffers)) for module in self.modules for owner in module.modules()
        ]
        buffers = {id(value): Buffer(owner, key) for owner, _, table in owners for key, value in table.items()}
        copies = {n: t._data.copy() for n, (t, d, _) in before.items() if id(t) in buffers and type(d) is np.ndarray}
        written: list[Buffer] = []
        names: list[str] = []
        parameters: list[str] = []
        try:
            yield written
        finally:
            for name, (tensor, data, version) in before.items():
                if tensor._data is data and tensor._storage.version == version:
                    continue
                names.append(name)
                tensor._data = data
                if name in copies:
                    data[...] = copies[name]
                if id(tensor) in buffers:
                    written.append(buffers[id(tensor)])
                else:
                    parameters.append(name)
            for owner, now, table in owners:
                replaced = [key for key, value in table.items() if now.get(key) is not value]
                names += replaced
                written += [buffer for key in replaced if (buffer := Buffer(owner, key)) not in written]
                now.update(table)
        if parameters or (names and strict):
            raise TraceError(
                f"forward writes to {(parameters or names)[0]!r}: a graph has no memory of its own. Rewrite: capture with headrace.jit.script,"
                " which makes a buffer that forward writes a state of the program; or take the state as an argument of forward"
                " and return the new one."
            )

    def name_of_buffer(self, buffer: Buffer) -> str:
        """ "encoder.cache" of a buffer of a module."""
        path = self.path(buffer.owner)
        return f"{path}.{buffer.key}" if path else buffer.key


@dataclass(frozen=True, eq=False)
class Buffer:
    """A place of a module that holds a buffer."""

    owner: Module
    key: str

    @property
    def tensor(self) -> Tensor:
        found: Tensor = self.owner._buffers[self.key]
        return found

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Buffer) and (self.owner, self.key) == (other.owner, other.key)

    def __hash__(self) -> int:
        return hash((id(self.owner), self.key))


def _surroundings(function: Callable[..., Any], seen: frozenset[int] = frozenset()) -> dict[str, Any]:
    """What a function reads from around itself: closure first, then globals, then what partial objects and methods hold;
    and what the functions of the program read that it finds there."""
    found: dict[str, Any] = {}
    function = getattr(function, "__headrace_script__", function)
    inner = inspect.unwrap(getattr(function, "func", function))
    if inspect.ismethod(inner):
        found.update(getattr(inner.__self__, "__dict__", {}))
        inner = inner.__func__
    if inspect.isfunction(inner):
        variables = inspect.getclosurevars(inner)
        found.update({**variables.globals, **variables.nonlocals})
        seen |= {id(inner)}
    for key, value in getattr(function, "keywords", {}).items():
        found[key] = value
    for value in list(found.values()):
        called = getattr(value, "__headrace_script__", value)
        if inspect.isfunction(called) and id(called) not in seen and not is_library(called):
            found = {**_surroundings(called, seen), **found}
    return found
