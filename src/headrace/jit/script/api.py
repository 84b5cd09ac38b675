"""script: a graph compiled from the source of a Module or function, with If and Loop where values decide.

    @headrace.jit.script
    def newton(x):
        ...                                     a Scripted: call it, or capture it

    exported = headrace.jit.script(model, (x,))                            an Exported, as of trace
    exported = headrace.jit.script(model, entries={"encode": (x,), "decode": (z,)})

The source is run on traced tensors. What is known (Modules, sizes, settings, loops over layers) is computed as Python
computes it; where an `if`, `while` or `for` depends on values, all ways are compiled. Functions and Modules of the program
that are called are compiled too, those of the library, and those not written in the subset, run as in a trace.
"""

from __future__ import annotations

import functools
import inspect
import weakref
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, overload

from headrace.autograd.mode import MODE
from headrace.jit.arguments import NUMBERS, Dynamic
from headrace.jit.capture import Request, capture
from headrace.jit.errors import TraceError
from headrace.jit.exported import Exported
from headrace.jit.script.calls import IGNORED
from headrace.jit.script.compiler import Compiler, check_source
from headrace.jit.script.errors import ScriptError
from headrace.jit.state import State
from headrace.nn.module import Module
from headrace.runtime.graph import Program
from headrace.tensors import Tensor

F = TypeVar("F", bound=Callable[..., Any])
_EXPORTED = "__headrace_export__"


class Scripted:
    """A Module or function that is compiled when it is called, once for each kind of arguments (dtypes, numbers of
    dimensions, values that are no inputs of the graph) and each state of its weights. Where gradients are asked for, the
    original itself runs."""

    def __init__(self, original: Callable[..., Any]) -> None:
        self.__headrace_script__ = original
        self._signature = inspect.signature(original.forward if isinstance(original, Module) else original)
        self._captured: dict[Any, Exported] = {}
        self._bound: weakref.WeakKeyDictionary[Any, Scripted] = weakref.WeakKeyDictionary()
        functools.update_wrapper(self, original if not isinstance(original, Module) else type(original).forward)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        original = self.__headrace_script__
        if MODE.tracer is not None:
            compiler = MODE.tracer.compiler or Compiler(MODE.tracer)
            return compiler.entry(original)(*args, **kwargs)
        if MODE.grad and _differentiates(original, args, kwargs):
            return original(*args, **kwargs)
        given = self._signature.bind(*args, **kwargs).arguments
        key = (self._state.stamp(), *((name, self._kind(name, value)) for name, value in given.items()), _shared(given))
        if key not in self._captured:
            if len(self._captured) >= _KEPT:
                self._captured.pop(next(iter(self._captured)))
            self._captured[key] = _capture(original, {**dict(zip(given, args)), **kwargs} if kwargs else args)
        return self._captured[key](*args, **kwargs)

    @functools.cached_property
    def _state(self) -> State:
        return State(self.__headrace_script__)

    def _kind(self, name: str, value: Any) -> Any:
        """What a program is compiled for."""
        number = isinstance(value, bool | int | float)
        if number and self._signature.parameters[name].annotation in NUMBERS:
            return type(value)
        return _kind(value)

    def capture(self, example_inputs: Any, *, dynamic: Dynamic = None, name: str = "main") -> Exported:
        """The program for these arguments. See script."""
        return _capture(self.__headrace_script__, example_inputs, dynamic, name)

    def __get__(self, owner: Any, kind: Any = None) -> Any:
        """As a method of an object."""
        if owner is None:
            return self
        if owner not in self._bound:
            function: Any = self.__headrace_script__
            self._bound[owner] = Scripted(function.__get__(owner, kind))
        return self._bound[owner]

    def __repr__(self) -> str:
        return f"Scripted({getattr(self, '__qualname__', self.__headrace_script__)})"


_KEPT = 64  # programs of one Scripted


def _differentiates(original: Any, args: Any, kwargs: Mapping[str, Any]) -> bool:
    owner = original if isinstance(original, Module) else getattr(original, "__self__", None)
    if isinstance(owner, Module) and owner.training:
        return True
    return any(isinstance(value, Tensor) and value.requires_grad for value in [*args, *kwargs.values()])


def _kind(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.dtype, value.dim(), tuple(value.shape)[1:]
    if isinstance(value, tuple | list):
        return type(value), *map(_kind, value)
    return (type(value), value) if isinstance(value, bool | int | float | str | None) else id(value)


def _shared(given: Mapping[str, Any]) -> tuple[bool, ...]:
    """Which tensors have the batch of the first."""
    sizes = [value.shape[0] for value in given.values() if isinstance(value, Tensor) and value.dim()]
    return tuple(size == sizes[0] for size in sizes)


@overload
def script(module_or_function: Any) -> Any: ...
@overload
def script(
    module_or_function: Any,
    example_inputs: Any = None,
    *,
    dynamic: Dynamic = None,
    name: str = "main",
    entries: Mapping[str, Any] | None = None,
    states: Mapping[str, str] | None = None,
) -> Exported: ...
def script(
    module_or_function: Any,
    example_inputs: Any = None,
    *,
    dynamic: Dynamic = None,
    name: str = "main",
    entries: Mapping[str, Any] | None = None,
    states: Mapping[str, str] | None = None,
) -> Any:
    """Compile a Module or function from source. Alone (also as `@script`): a Scripted, compiled at its first call.

    example_inputs, dynamic, name: as of trace; the answer is an Exported then. Numbers among the examples are inputs of the
        graph where forward annotates them as int, float or bool, else constants.
    entries: method of the Module -> its example inputs, for a program of several entry points that share weights by name;
        methods are marked with `@headrace.jit.export`. With example_inputs as well, forward is the entry point "main".
    states: input -> output, of inputs that are a state by declaration: they start from the example. Buffers that forward
        writes become states by themselves.

    Raises ScriptError naming file, line, construct and a rewrite for source outside of the subset, for variables that
    have different types on different ways, and TraceError as trace does.
    """
    if entries is None and example_inputs is None:
        check_source(module_or_function)
        return Scripted(module_or_function)
    original = getattr(module_or_function, "__headrace_script__", module_or_function)
    asked: list[tuple[str, Any, Any]] = []
    if example_inputs is not None:
        asked.append((name, original, example_inputs))
    for method, examples in (entries or {}).items():
        function = original.forward if method == "forward" else getattr(original, method, None)
        function = getattr(function, "__headrace_script__", function)
        if method != "forward" and not getattr(function, _EXPORTED, False):
            marked = ", ".join(exports(original)) or "none"
            raise TraceError(
                f"{type(original).__name__} has no entry point {method!r}; marked with @headrace.jit.export: {marked}. Rewrite: decorate"
                " the method"
            )
        asked.append(
            ("main" if method == "forward" else method, original if method == "forward" else function, examples)
        )
    found = {key: _capture(function, examples, dynamic, key, states) for key, function, examples in asked}
    first = next(iter(found.values()))
    program = Program({key: exported.graph for key, exported in found.items()})
    for exported in found.values():
        exported.program, exported.entries = program, found
    return first


def exports(module: Any) -> list[str]:
    """The names of a Module's methods that are marked with `@export`."""
    return [name for name in dir(type(module)) if getattr(getattr(type(module), name), _EXPORTED, False)]


def _capture(
    function: Any, examples: Any, dynamic: Dynamic = None, name: str = "main", states: Mapping[str, str] | None = None
) -> Exported:
    check_source(function)
    return capture(Request(function, examples, dynamic, name, Compiler, states))


def ignore(function: F) -> F:
    """Leave a function or method out of compilation: where compiled code calls it, it runs as in a trace."""
    setattr(function, IGNORED, True)
    return function


def export(function: F) -> F:
    """Mark a method as an entry point for `script(module, entries=...)`."""
    setattr(function, _EXPORTED, True)
    return function


__all__ = ["Compiler", "ScriptError", "Scripted", "export", "exports", "ignore", "script"]
