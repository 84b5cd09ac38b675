"""Arguments and answers of a traced program: which are tensors, and how they are nested."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from headrace.tensors import Tensor


class Structure:
    """The shape of arguments and answer. Tensors (and arrays) are inputs; other arguments are baked in."""

    def __init__(self, args: Sequence[Any], names: Sequence[str]) -> None:
        self.args = tuple(args)
        self.names: list[str] = []
        self.answer: Any = None
        for arg, name in zip(args, names):
            self._collect(arg, name)

    def _collect(self, arg: Any, name: str) -> None:
        if isinstance(arg, Tensor | np.ndarray):
            self.names.append(name)
        elif isinstance(arg, tuple | list):
            for i, item in enumerate(arg):
                self._collect(item, f"{name}_{i}")
        elif isinstance(arg, Mapping):
            for key, item in arg.items():
                self._collect(item, f"{name}_{key}")

    def arguments(self, tensors: Sequence[Any]) -> tuple[Any, ...]:
        """The original's arguments with the tensors put in."""
        rest = iter(tensors)
        return tuple(_fill(arg, rest) for arg in self.args)

    def arrays(self, args: Sequence[Any]) -> list[np.ndarray]:
        """The arrays among arguments, in the order of the inputs."""
        return [t.detach().numpy() if isinstance(t, Tensor) else np.asarray(t) for t in _leaves(args)]

    def remember(self, answer: Any) -> list[tuple[str, Any]]:
        """Keep the structure of the answer; answers (name, tensor) for each output. TypeError for what is no tensor."""
        found: list[tuple[str, Any]] = []
        self.answer = _shape_of(answer, "output", found)
        return found

    def flatten(self, answer: Any) -> list[Any]:
        """The tensors of an answer, in the order of the outputs."""
        return _leaves(answer)

    def rebuild(self, values: Sequence[Any]) -> Any:
        """An answer as the original gives it."""
        return _fill(self.answer, iter(values))


class _Hole:
    """Stands where a tensor was."""


def _shape_of(value: Any, name: str, found: list[tuple[str, Any]]) -> Any:
    if isinstance(value, Tensor):
        found.append((name, value))
        return _Hole()
    if value is None:
        return None
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_shape_of(item, field, found) for field, item in zip(value._fields, value)))
    if isinstance(value, tuple | list):
        items = [_shape_of(item, f"{name}_{i}", found) for i, item in enumerate(value)]
        return tuple(items) if isinstance(value, tuple) else items
    if isinstance(value, Mapping):
        return {key: _shape_of(item, str(key), found) for key, item in value.items()}
    raise TypeError(f"a traced program must answer tensors, or tuples, lists and dicts of them; found {type(value).__name__}")


def _leaves(value: Any) -> list[Any]:
    if isinstance(value, Tensor | np.ndarray):
        return [value]
    if isinstance(value, tuple | list):
        return [leaf for item in value for leaf in _leaves(item)]
    if isinstance(value, Mapping):
        return [leaf for item in value.values() for leaf in _leaves(item)]
    return []


def _fill(value: Any, rest: Any) -> Any:
    if isinstance(value, Tensor | np.ndarray | _Hole):
        return next(rest)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_fill(item, rest) for item in value))
    if isinstance(value, tuple | list):
        items = [_fill(item, rest) for item in value]
        return tuple(items) if isinstance(value, tuple) else items
    if isinstance(value, Mapping):
        return {key: _fill(item, rest) for key, item in value.items()}
    return value
