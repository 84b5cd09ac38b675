"""The inputs of a trace: example values bound to forward's parameters, leaf by leaf, and which dimensions are symbolic."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from headrace.jit.errors import TraceError
from headrace.jit.tree import flatten, rebuild
from headrace.nn.module import Module
from headrace.runtime.shapes import Dim, symbol
from headrace.tensors import Tensor, concrete, wrap

BATCH = "batch"
Dynamic = Mapping[Any, Mapping[int, str | None] | Sequence[int] | None] | None


class Arguments:
    """Example arguments of a callable. Tensors and arrays among them, also inside tuples, lists and dicts, are inputs of
    the graph; everything else (numbers, None, texts) is a constant of the call."""

    def __init__(self, function: Callable[..., Any], examples: Any) -> None:
        self._signature = inspect.signature(function.forward if isinstance(function, Module) else function)
        self._bound = self._bind(examples)
        leaves = self._leaves(self._bound)
        self.names = unique([name for name, _ in leaves])
        self.examples = [as_array(value) for _, value in leaves]
        if not leaves:
            raise TraceError("a trace needs at least one tensor or array among the example inputs")

    def _bind(self, examples: Any) -> inspect.BoundArguments:
        """Arguments by parameter. A mapping holds named arguments, a tuple or list positional ones."""
        try:
            if isinstance(examples, Mapping):
                return self._signature.bind(**examples)
            return self._signature.bind(*(examples if isinstance(examples, tuple | list) else (examples,)))
        except TypeError as error:
            raise TraceError(f"the example inputs do not fit {self._signature}: {error}") from error

    def _leaves(self, bound: inspect.BoundArguments) -> list[tuple[str, Any]]:
        """(name, leaf) of the tensors and arrays; those of *args are called args_0, ..., those of **kwargs by their keys."""
        found: list[tuple[str, Any]] = []
        for name, value in bound.arguments.items():
            named = self._signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD
            found += flatten(value, "" if named else name)
        return found

    def arrays(self, args: Sequence[Any], kwargs: Mapping[str, Any] | None = None) -> list[np.ndarray]:
        """The inputs of the graph among other arguments."""
        return [as_array(leaf) for _, leaf in self._leaves(self._signature.bind(*args, **(kwargs or {})))]

    def bound(self, leaves: Iterable[Any]) -> inspect.BoundArguments:
        """The example's arguments with these in the places of its tensors."""
        following = iter(leaves)
        arguments = {name: rebuild(value, following) for name, value in self._bound.arguments.items()}
        return inspect.BoundArguments(self._signature, arguments)

    def call(self, function: Callable[..., Any], leaves: Iterable[Tensor]) -> Any:
        """The function called with these tensors in the places of the examples."""
        bound = self.bound(leaves)
        return function(*bound.args, **bound.kwargs)

    def shapes(self, dynamic: Dynamic) -> dict[str, tuple[Dim, ...]]:
        """The shape of each input, symbolic where wanted. TraceError for an input or axis that does not exist, and for one
        symbol with two sizes."""
        wanted = self._wanted(dynamic)
        sizes: dict[str, tuple[int, str]] = {}
        found = {}
        for name, array in zip(self.names, self.examples):
            shape: list[Dim] = list(array.shape)
            for axis, dim in sorted(wanted[name].items()):
                size, first = sizes.setdefault(dim, (array.shape[axis], f"dimension {axis} of {name!r}"))
                if size != array.shape[axis]:
                    raise TraceError(
                        f"the size '{dim}' is {size} as {first} but {array.shape[axis]} as dimension {axis} of {name!r}; give them two names in dynamic="
                    )
                shape[axis] = symbol(dim)
            found[name] = tuple(shape)
        return found

    def _wanted(self, dynamic: Dynamic) -> dict[str, dict[int, str]]:
        """Input -> axis -> symbol."""
        wanted: dict[str, dict[int, str]] = {name: {} for name in self.names}
        if dynamic is None or len(dynamic):
            first = next((a.shape[0] for a in self.examples if a.ndim), None)
            for name, array in zip(self.names, self.examples):
                if array.ndim:
                    wanted[name][0] = BATCH if array.shape[0] == first else f"{name}_0"
        for key, axes in (dynamic or {}).items():
            name = self._name(key)
            rank = self.examples[self.names.index(name)].ndim
            if not axes:
                wanted[name].clear()
            for axis, dim in axes.items() if isinstance(axes, Mapping) else ((a, True) for a in axes or ()):
                if not isinstance(axis, int) or not -rank <= axis < rank:
                    raise TraceError(f"dynamic: {name!r} has no dimension {axis}; its rank is {rank}")
                axis %= rank
                own = wanted[name].pop(axis, f"{name}_{axis}")
                if dim is not None and dim is not False:
                    wanted[name][axis] = dim if isinstance(dim, str) else own
        return wanted

    def _name(self, key: Any) -> str:
        if isinstance(key, int) and -len(self.names) <= key < len(self.names):
            return self.names[key]
        if key in self.names:
            return str(key)
        raise TraceError(f"dynamic: there is no input {key!r}; the inputs: {', '.join(self.names)}")


def as_array(value: Any) -> np.ndarray:
    """The array behind a tensor, an array, or nested lists of numbers."""
    return concrete(value, "an example input") if isinstance(value, Tensor) else np.asarray(value)


def as_tensor(value: Any) -> Tensor:
    """A tensor without history."""
    return wrap(as_array(value))


def unique(names: Sequence[str]) -> list[str]:
    """The names, the second of a kind with a number."""
    found: list[str] = []
    for name in names:
        candidate, count = name, 1
        while candidate in found:
            count += 1
            candidate = f"{name}_{count}"
        found.append(candidate)
    return found
