"""Calls: functions and Modules of the program are compiled in place, those of the library run on traced tensors."""

from __future__ import annotations

import ast
import builtins
import functools
import inspect
from collections.abc import Callable, Sequence
from types import FunctionType, MethodType
from typing import Any

import headrace.functional as F
from headrace import scalar_types
from headrace.jit.errors import is_library
from headrace.jit.script import iteration, numbers, specs
from headrace.jit.script.core import Core
from headrace.jit.script.errors import ScriptError
from headrace.jit.script.iteration import Iteration, iterate
from headrace.jit.script.source import Source, source_of
from headrace.jit.script.subset import check
from headrace.jit.script.values import List, Maybe, Number
from headrace.jit.sequences import SEQUENCES, concatenate, inserted
from headrace.jit.sizes import SymInt
from headrace.nn.module import Module
from headrace.tensors import Tensor

IGNORED = "__headrace_ignore__"
_READERS = frozenset({"item", "tolist", "__bool__", "__int__", "__float__"})


class Calls(Core):
    def call(self, function: Any, args: Sequence[Any], kwargs: dict[str, Any], node: ast.expr) -> Any:
        wrapped = getattr(function, "__headrace_script__", None)
        if wrapped is not None:
            function = wrapped
        while isinstance(function, functools.partial):
            args, kwargs, function = [*function.args, *args], {**function.keywords, **kwargs}, function.func
        special = self._special(function, args, kwargs, node)
        if special is not None:
            return special[0]
        if isinstance(function, Module):
            return (
                self._library(function, args, kwargs, node)
                if is_library(type(function).forward)
                else function(*args, **kwargs)
            )
        found = self.compiled(function)
        if found is not None:
            return found(*args, **kwargs)
        if isinstance(function, type) and not issubclass(function, Tensor):
            return function(*args, **kwargs)
        return self._library(function, args, kwargs, node)

    # ---------------------------------------------------------------- the program's own functions

    def compiled(self, function: Any) -> Callable[..., Any] | None:
        """A function or method of the program as compiled code; None for what the library or the interpreter runs."""
        method = function if isinstance(function, MethodType) else None
        plain = function.__func__ if isinstance(function, MethodType) else function
        while isinstance(plain, FunctionType) and is_library(plain) and hasattr(plain, "__wrapped__"):
            plain = plain.__wrapped__  # @torch.no_grad() around a function of the program
        if not isinstance(plain, FunctionType) or is_library(plain) or getattr(plain, IGNORED, False):
            return None
        source = source_of(plain)
        if source is None:
            return None
        try:
            check(source)
        except ScriptError:
            return None  # a leaf that is not written in the subset: it is traced

        def run(*args: Any, **kwargs: Any) -> Any:
            return self.enter(source, self._arguments(source, ([method.__self__, *args] if method else args), kwargs))

        return run

    def enter(self, source: Source, variables: dict[str, Any]) -> Any:
        raise NotImplementedError

    def _arguments(self, source: Source, args: Sequence[Any], kwargs: dict[str, Any]) -> dict[str, Any]:
        bound = inspect.signature(source.function).bind(*args, **kwargs)
        bound.apply_defaults()
        return {name: own(value) for name, value in bound.arguments.items()}

    # ---------------------------------------------------------------- the library

    def _library(self, function: Any, args: Sequence[Any], kwargs: dict[str, Any], node: ast.expr) -> Any:
        """Call something that is not compiled: numbers become tensors, lists plain lists."""
        plain = [self._plain_argument(arg, node) for arg in args]
        return own(function(*plain, **{key: self._plain_argument(value, node) for key, value in kwargs.items()}))

    def _plain_argument(self, value: Any, node: ast.expr) -> Any:
        if isinstance(value, Number):
            return numbers.argument(value)
        if isinstance(value, Maybe):
            self.refuse(node, f"{specs.spec_of(value)} as an argument", "test `is not None` first")
        if isinstance(value, Iteration):
            return value.items(self, node)
        if isinstance(value, List):
            if value.sequence is not None:
                what = "a list whose length only the graph knows as an argument of this function"
                self.refuse(node, what, "torch.stack or torch.cat make one tensor of it")
            return [self._plain_argument(item, node) for item in value]
        if type(value) is tuple:
            return tuple(self._plain_argument(item, node) for item in value)
        return value

    # ---------------------------------------------------------------- functions with a meaning of their own

    def _special(self, function: Any, args: Sequence[Any], kwargs: dict[str, Any], node: ast.expr) -> tuple[Any] | None:
        """The answer in a tuple, or None where nothing is special."""
        if isinstance(function, List | Tensor | Number):
            return None
        owner = getattr(function, "__self__", None)
        name = getattr(function, "__name__", "")
        if isinstance(owner, List):
            return (self._list_method(owner, name, args, node, function),)
        if isinstance(owner, Tensor) and name in _READERS and specs.is_traced(owner):
            if name == "tolist" and owner._data.ndim:
                self.refuse(node, "tolist() of a tensor that only the graph knows", "loop over the tensor, or index it")
            return (numbers.number_of(owner),)
        if numbers.is_math(function) and any(map(specs.is_traced, args)):
            return (numbers.mathematics(function, args[0]),)
        replacement = BUILTINS.get("len" if function is builtins.len else name)  # a capture puts its own len in place
        if replacement is not None and function is getattr(builtins, name, builtins.len):
            return replacement(self, args, kwargs, node)
        if function in SEQUENCES.values():
            return (function(*(numbers.argument(arg) for arg in args), **kwargs),)
        if function in (F.stack, F.cat) and isinstance(args[0], List) and args[0].sequence is not None:
            dim = kwargs.get("dim", args[1] if len(args) > 1 else 0)
            return (concatenate(self.tracer, args[0], dim, stacked=function is F.stack),)
        if function is F.tensor and isinstance(args[0], List) and args[0].sequence is not None:
            found = concatenate(self.tracer, args[0], 0, stacked=True)
            plain = scalar_types.get_default_dtype() if args[0].element.dtype == "float64" else None
            dtype = kwargs.get("dtype", plain)
            return (found if dtype is None else found.to(dtype),)
        if function is F.tensor and args and holds_traced(args[0]):
            return (self._tensor_of(args[0], kwargs.get("dtype"), node),)
        return None

    def _tensor_of(self, value: Any, dtype: Any, node: ast.expr) -> Tensor:
        """torch.tensor of values that only the graph knows."""
        if isinstance(value, list | tuple):
            return F.stack([self._tensor_of(item, dtype, node) for item in value])
        found = numbers.argument(value) if isinstance(value, Number) else value
        if isinstance(found, SymInt):
            found = numbers.tensor_of(found)
        found = found if isinstance(found, Tensor) else F.tensor(found)
        return found if dtype is None else found.to(dtype)

    def _list_method(self, owner: List, name: str, args: Sequence[Any], node: ast.expr, function: Any) -> Any:
        if name == "extend" and isinstance(args[0], List) and args[0].sequence is not None:
            self.refuse(node, "extend() by a list whose length only the graph knows", "append in a loop over it")
        if owner.sequence is None:
            given = [iterate(self, args[0], node).items(self, node)] if name == "extend" else args
            found = function(*given)
            return List(found) if name == "copy" else found
        if name in ("append", "extend"):
            for item in [args[0]] if name == "append" else iterate(self, args[0], node).items(self, node):
                try:
                    owner.become(inserted(self.tracer, owner, item))
                except specs.Mismatch as mismatch:
                    what = f"the elements of a list whose length only the graph knows are {mismatch}"
                    self.refuse(node, what, "append tensors of one dtype and number of dimensions")
            return None
        if name == "pop" and not args:
            last = iteration.element(self, owner, -1)
            shorter = self.tracer.node("SequenceErase", [owner.sequence], {})
            owner.become(specs.dynamic_list(shorter, owner.element, self.tracer))
            return last
        self.refuse(node, f"{name}() of a list whose length only the graph knows", "append, pop() and len")

    # Where an argument is only known in the graph, these replace the built-in functions.

    def _len(self, args: Sequence[Any], kwargs: dict[str, Any], node: ast.expr) -> tuple[Any] | None:
        value = args[0]
        if isinstance(value, List):
            return (iteration.length(self, value),)
        return (value._data.shape[0],) if isinstance(value, Tensor) and value._data.ndim else None

    def _range(self, args: Sequence[Any], kwargs: dict[str, Any], node: ast.expr) -> tuple[Any]:
        numbers_ = [numbers.number_of(a) if isinstance(a, Tensor) else a for a in args]
        start, stop, step = (0, *numbers_, 1) if len(args) == 1 else (*numbers_, 1)[:3]
        return (iteration.span(start, stop, step),)

    def _enumerate(self, args: Sequence[Any], kwargs: dict[str, Any], node: ast.expr) -> tuple[Any]:
        start = kwargs.get("start", args[1] if len(args) > 1 else 0)
        return (iteration.numbered(iterate(self, args[0], node), start),)

    def _zip(self, args: Sequence[Any], kwargs: dict[str, Any], node: ast.expr) -> tuple[Any]:
        return (iteration.together([iterate(self, arg, node) for arg in args]),)

    def _listed(self, args: Sequence[Any], kwargs: dict[str, Any], node: ast.expr) -> tuple[Any] | None:
        if not args:
            return (List(),)
        if isinstance(args[0], List) and args[0].sequence is not None:
            copy = List()
            copy.become(args[0])
            return (copy,)
        return (List(iterate(self, args[0], node).items(self, node)),)

    def _tupled(self, args: Sequence[Any], kwargs: dict[str, Any], node: ast.expr) -> tuple[Any] | None:
        return (tuple(iterate(self, args[0], node).items(self, node)),) if args else None

    def _number(self, args: Sequence[Any], kwargs: dict[str, Any], node: ast.expr, kind: str) -> tuple[Any] | None:
        return (numbers.convert(kind, args[0]),) if args and specs.is_traced(args[0]) else None

    def _extreme(self, args: Sequence[Any], kwargs: dict[str, Any], node: ast.expr, kind: str) -> tuple[Any] | None:
        values = iterate(self, args[0], node).items(self, node) if len(args) == 1 else list(args)
        if not any(map(specs.is_traced, values)):
            return None
        values = [numbers.number_of(v) if isinstance(v, Tensor) else v for v in values]
        return (numbers.extreme(kind, values),)

    def _abs(self, args: Sequence[Any], kwargs: dict[str, Any], node: ast.expr) -> tuple[Any] | None:
        return (numbers.absolute(args[0]),) if isinstance(args[0], Number) else None

    def _sum(self, args: Sequence[Any], kwargs: dict[str, Any], node: ast.expr) -> tuple[Any] | None:
        import operator

        total = kwargs.get("start", args[1] if len(args) > 1 else 0)
        for item in iterate(self, args[0], node).items(self, node):
            total = numbers.binary(operator.add, total, item)
        return (total,)

    def _any(self, args: Sequence[Any], kwargs: dict[str, Any], node: ast.expr, every: bool) -> tuple[Any]:
        found: Any = every
        for item in iterate(self, args[0], node).items(self, node):
            found = self.both(found, functools.partial(lambda i: i, item), node, every=every)
        return (found,)

    def _isinstance(self, args: Sequence[Any], kwargs: dict[str, Any], node: ast.expr) -> tuple[Any] | None:
        if isinstance(args[0], Number | SymInt):
            kinds = args[1] if isinstance(args[1], tuple) else (args[1],)
            return (
                any(
                    kind in kinds
                    for kind in (
                        {"bool": (bool, int), "int": (int,), "float": (float,)}[numbers.kind_of(args[0]) or "int"]
                    )
                ),
            )
        return None

    def _print(self, args: Sequence[Any], kwargs: dict[str, Any], node: ast.expr) -> tuple[Any]:
        self.refuse(node, "print() has no form as a graph", "leave it out, or return the value")


BUILTINS: dict[str, Callable[..., Any]] = {
    "len": Calls._len, "range": Calls._range, "enumerate": Calls._enumerate, "zip": Calls._zip, "list": Calls._listed,
    "tuple": Calls._tupled, "abs": Calls._abs, "sum": Calls._sum, "isinstance": Calls._isinstance, "print": Calls._print,
    "int": functools.partial(Calls._number, kind="int"), "float": functools.partial(Calls._number, kind="float"),
    "bool": functools.partial(Calls._number, kind="bool"), "min": functools.partial(Calls._extreme, kind="min"),
    "max": functools.partial(Calls._extreme, kind="max"), "all": functools.partial(Calls._any, every=True),
    "any": functools.partial(Calls._any, every=False),
}  # fmt: skip


def own(value: Any) -> Any:
    """A plain list from outside as a list of the program."""
    return List(map(own, value)) if type(value) is list else value


def holds_traced(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return any(map(holds_traced, value))
    return specs.is_traced(value)
