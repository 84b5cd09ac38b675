"""What a `for` walks over: how many items there are, and how one is had by its number."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from headrace.functional.base import is_symbolic
from headrace.jit.abstract import Abstract
from headrace.jit.script import numbers, specs
from headrace.jit.script.core import Core
from headrace.jit.script.values import List, Maybe, Number
from headrace.jit.sizes import SymInt
from headrace.tensors import Tensor


@dataclass(frozen=True)
class Iteration:
    """`count` is an int where it is known; `get` takes the number of a trip, an int or (where `regular`) a Number."""

    count: Any
    get: Callable[[Any], Any]
    regular: bool = True

    def items(self, compiler: Core, node: ast.AST) -> list[Any]:
        """All items. ScriptError where their number is known only in the graph."""
        if not isinstance(self.count, int):
            compiler.refuse(
                node,
                "a list of as many items as only the graph knows",
                "a `for` loop that appends to a list, and torch.stack afterwards",
            )
        return [self.get(trip) for trip in range(self.count)]


def iterate(compiler: Core, value: Any, node: ast.AST) -> Iteration:
    """The iteration over a value."""
    if isinstance(value, Iteration):
        return value
    if isinstance(value, range):
        return span(value.start, value.stop, value.step)
    if isinstance(value, Tensor) and type(value._data) is Abstract:
        if not value._data.shape:
            compiler.refuse(node, "a loop over a tensor without dimensions", "range(int(n)) counts up to a number")
        return Iteration(value._data.shape[0], lambda trip: value[numbers.argument(trip)])
    if isinstance(value, List) and value.sequence is not None:
        return Iteration(length(compiler, value), lambda trip: element(compiler, value, trip))
    if isinstance(value, Number | SymInt | Maybe) or is_symbolic(value):
        compiler.refuse(node, f"a loop over {specs.spec_of(value)}", "loop over range(n), a tensor or a list")
    try:
        items = list(value)
    except TypeError:
        compiler.refuse(node, f"a loop over {type(value).__name__}", "loop over range(n), a tensor or a list")
    return Iteration(len(items), items.__getitem__, regular=False)


def span(start: Any, stop: Any, step: Any) -> Iteration:
    """range(start, stop, step)."""
    if all(isinstance(n, int) for n in (start, stop, step)):
        whole = range(start, stop, step)
        count: Any = len(whole)
    elif isinstance(start, int) and start == 0 and isinstance(step, int) and step == 1:
        count = stop
    else:
        gap = numbers.binary(operator.sub, stop, start)
        up = numbers.binary(
            operator.floordiv, numbers.binary(operator.sub, 0, gap), step
        )  # -(-gap // step) is gap / step, rounded up
        count = numbers.binary(operator.sub, 0, up)

    def get(trip: Any) -> Any:
        moved = trip if isinstance(step, int) and step == 1 else numbers.binary(operator.mul, trip, step)
        return moved if isinstance(start, int) and start == 0 else numbers.binary(operator.add, start, moved)

    return Iteration(count, get)


def numbered(items: Iteration, start: Any) -> Iteration:
    """enumerate(items, start)."""

    def get(trip: Any) -> Any:
        number = trip if isinstance(start, int) and start == 0 else numbers.binary(operator.add, start, trip)
        return number, items.get(trip)

    return Iteration(items.count, get, items.regular)


def together(parts: list[Iteration]) -> Iteration:
    """zip(*parts): as long as the shortest."""
    counts = [part.count for part in parts]
    count = min(counts) if all(isinstance(n, int) for n in counts) else numbers.extreme("min", counts)
    return Iteration(count, lambda trip: tuple(part.get(trip) for part in parts), all(part.regular for part in parts))


def length(compiler: Core, value: List) -> Any:
    """len() of a list."""
    if value.sequence is None:
        return len(value)
    return Number("int", compiler.tracer._tensor(compiler.tracer.node("SequenceLength", [value.sequence], {})))


def element(compiler: Core, value: List, index: Any) -> Any:
    """value[index] where only the graph knows the list or the index."""
    tracer = compiler.tracer
    position = tracer.value(numbers.tensor_of(index, "int"))
    spec = value.element if value.sequence is not None else specs.join_elements(list(map(specs.spec_of, value)))
    found = tracer.node("SequenceAt", [specs.sequence_value(value, spec, tracer), position], {})
    return specs.item_of(found, spec, tracer)
