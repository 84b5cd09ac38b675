"""The inputs of a trace: example values bound to forward's parameters, leaf by leaf, and which dimensions are symbolic."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from headrace.jit.errors import TraceError
from headrace.jit.script.numbers import number_of
from headrace.jit.script.values import DTYPES
from headrace.jit.tree import flatten, rebuild
from headrace.nn.module import Module
from headrace.runtime.shapes import Dim, symbol
from headrace.tensors import Tensor, concrete, wrap

BATCH = "batch"
Dynamic = Mapping[Any, Mapping[int, str | None] | Sequence[int] | None] | None


class Arguments:
    """Example arguments of a callable. Tensors and arrays among them, also inside tuples, lists and dicts, are inputs of
    the graph; everything else (numbers, None, texts) is a constant of the call. With `numbers`, those given for a
    parameter that is annotated int, float or bool are inputs as well: tensors of rank 0."""

    def __init__(self, function: Callable[..., Any], examples: Any, *, numbers: bool = False) -> None:
        self._signature = inspect.signature(function.forward if isinstance(function, Module) else function)
        self._numbers = {
            name: kind
            for name, parameter in self._signature.parameters.items()
            if numbers and (kind := NUMBERS.get(parameter.annotation)) is not None
        }
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
                return self._with_numbers(self._signature.bind(**examples))
            given = examples if isinstance(examples, tuple | list) else (examples,)
            return self._with_numbers(self._signature.bind(*given))
        except TypeError as error:
            raise TraceError(f"the example inputs do not fit {self._signature}: {error}") from error

    def _with_numbers(self, bound: inspect.BoundArguments) -> inspect.BoundArguments:
        for name, kind in self._numbers.items():
            if isinstance(bound.arguments.get(name), bool | int | float):
                bound.arguments[name] = np.asarray(bound.arguments[name], DTYPES[kind])
        return bound

    def _leaves(self, bound: inspect.BoundArguments) -> list[tuple[str, Any]]:
        """(name, leaf) of the tensors and arrays; those of *args are called args_0, ..., those of **kwargs by their keys."""
        found: list[tuple[str, Any]] = []
        for name, value in bound.arguments.items():
            named = self._signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD
            found += flatten(value, "" if named else name)
        return found

    def arrays(self, args: Sequence[Any], kwargs: Mapping[str, Any] | None = None) -> list[np.ndarray]:
        """The inputs of the graph among other arguments."""
        bound = self._with_numbers(self._signature.bind(*args, **(kwargs or {})))
        return [as_array(leaf) for _, leaf in self._leaves(bound)]

    def bound(self, leaves: Iterable[Any]) -> inspect.BoundArguments:
        """The example's arguments with these in the places of its tensors."""
        following = iter(leaves)
        arguments = {name: rebuild(value, following) for name, value in self._bound.arguments.items()}
        for name in self._numbers.keys() & arguments.keys():
            if isinstance(arguments[name], Tensor):
                arguments[name] = number_of(arguments[name])
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


NUMBERS = {key: kind.__name__ for kind in (bool, int, float) for key in (kind, kind.__name__)}  # as annotated


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
