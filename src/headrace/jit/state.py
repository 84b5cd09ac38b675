"""Parameters and buffers of what is traced: their names, the paths of modules, and the promise that a trace changes nothing."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from headrace.jit.errors import TraceError
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
        if isinstance(traced, Module):
            self._add_module("", traced)
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
    def unchanged(self) -> Iterator[None]:
        """TraceError, and the old contents, where the code inside writes to a parameter or buffer: a graph has no memory."""
        before = {name: (tensor, tensor._data, tensor._storage.version) for name, tensor in self._tensors.items()}
        buffers = {id(owner): (owner, dict(owner._buffers)) for module in self.modules for owner in module.modules()}
        copies = {name: value._data.copy() for name, value in self._buffers(buffers) if type(value._data) is np.ndarray}
        try:
            yield
        finally:
            written = [
                name
                for name, (t, data, version) in before.items()
                if t._data is not data or t._storage.version != version
            ]
            for name, (tensor, data, _) in before.items():
                tensor._data = data
                if name in written and name in copies:
                    data[...] = copies[name]
            for owner, table in buffers.values():
                written += [key for key, value in table.items() if owner._buffers.get(key) is not value]
                owner._buffers.update(table)
        if written:
            raise TraceError(
                f"forward writes to {written[0]!r}: a graph has no memory of its own. Rewrite: take the state as an argument of"
                " forward and return the new one."
            )

    def _buffers(self, tables: Mapping[int, tuple[Module, dict[str, Any]]]) -> Iterator[tuple[str, Tensor]]:
        ids = {id(value) for _, table in tables.values() for value in table.values()}
        return ((name, tensor) for name, tensor in self._tensors.items() if id(tensor) in ids)


def _surroundings(function: Callable[..., Any]) -> dict[str, Any]:
    """What a function reads from around itself: closure first, then globals, then what partial objects and methods hold."""
    found: dict[str, Any] = {}
    inner = inspect.unwrap(getattr(function, "func", function))
    if inspect.ismethod(inner):
        found.update(getattr(inner.__self__, "__dict__", {}))
        inner = inner.__func__
    if inspect.isfunction(inner):
        variables = inspect.getclosurevars(inner)
        found.update({**variables.globals, **variables.nonlocals})
    for key, value in getattr(function, "keywords", {}).items():
        found[key] = value
    return found
