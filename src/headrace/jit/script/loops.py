"""Loops: unrolled where the number of trips is known and small, else one Loop whose carried values are what a trip changes.

A body is compiled until the types of what it carries stand still: the first time on the values before the loop, then on
inputs of the body for everything that had changed.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from headrace.jit.script import specs
from headrace.jit.script.core import FALL, Core, Flow
from headrace.jit.script.iteration import Iteration, iterate
from headrace.jit.script.numbers import negate, tensor_of, truth
from headrace.jit.script.store import Place, Snapshot, changed
from headrace.jit.script.subset import exits
from headrace.jit.script.values import MISSING, Number, Undefined
from headrace.runtime.errors import HeadraceError
from headrace.runtime.graph import Block, Value
from headrace.runtime.types import TensorType

UNROLLED = 64  # trips of a loop that is written out
UNROLLED_EXITS = 8  # of one with `break` or `return`, which nests
_PASSES = 12
_RETURNED, _VALUE = ("flow", "returned"), ("flow", "value")


@dataclass
class Trip:
    """One compiled body: the block, whether the loop goes on, and the memory before and after."""

    block: Block
    going: Value
    entry: Snapshot
    after: Snapshot
    flow: Flow


class Loops(Core):
    def for_loop(self, statement: ast.For) -> Flow:
        items = iterate(self, self.eval(statement.iter), statement.iter)
        if isinstance(items.count, int):
            leaves = any(exits(part, proceeding=False) for part in statement.body)
            if items.count <= (UNROLLED_EXITS if leaves else UNROLLED) or not items.regular:
                return self._unrolled(statement, items, 0)
        return self._looped(
            statement,
            self.tracer.value(tensor_of(items.count, "int")),
            lambda trip: self.assign(statement.target, items.get(trip)),
            None,
        )

    def _unrolled(self, statement: ast.For, items: Iteration, first: int) -> Flow:
        """The trips from `first` on, one after the other."""
        for trip in range(first, items.count):
            self.assign(statement.target, items.get(trip))
            flow = self.run(statement.body)
            if isinstance(flow.broke, Number):
                rest = functools.partial(self._unrolled, statement, items, trip + 1)
                return self.branch(flow.broke, functools.partial(lambda ended: ended, flow), rest, statement)
            if flow.broke:
                return Flow(flow.returned, flow.returned, flow.value)
        return FALL

    def while_loop(self, statement: ast.While) -> Flow:
        test = self.truth_of(statement.test)
        before = self.store.snapshot()
        with self.tracer.attempt() as attempt:
            for _ in range(UNROLLED + 1):
                if isinstance(test, Number):
                    break
                if not test:
                    attempt.keep()
                    return FALL
                flow = self.run(statement.body)
                if isinstance(flow.broke, Number):
                    break
                if flow.broke:
                    attempt.keep()
                    return Flow(flow.returned, flow.returned, flow.value)
                test = self.truth_of(statement.test)
        self.store.restore(before)
        return self._looped(statement, None, None, lambda: self.truth_of(statement.test))

    def truth_of(self, test: ast.expr) -> Any:
        return truth(self.eval(test))

    # ---------------------------------------------------------------- Loop

    def _looped(
        self,
        statement: ast.For | ast.While,
        count: Value | None,
        bind: Callable[[Number], None] | None,
        test: Callable[[], Any] | None,
    ) -> Flow:
        condition = None if test is None else self.tracer.value(tensor_of(test(), "bool"))
        before = self.store.snapshot()
        before.values[_RETURNED], before.values[_VALUE] = False, MISSING
        carried: dict[Place, Any] = {}
        spoiled: dict[Place, Undefined] = {}
        for _ in range(_PASSES):
            with self.tracer.attempt() as attempt:
                trip = self._trip(statement, before, carried, spoiled, bind, test)
                if not self._widened(statement, before, trip, carried, spoiled):
                    attempt.keep()
            if attempt.kept:
                return self._emit_loop(statement, (count, condition), before, trip, carried, spoiled)
        self.refuse(
            statement,
            "the types of the loop's variables do not stand still",
            "give each variable its final type before the loop",
        )

    def _trip(
        self,
        statement: ast.For | ast.While,
        before: Snapshot,
        carried: dict[Place, Any],
        spoiled: dict[Place, Undefined],
        bind: Callable[[Number], None] | None,
        test: Callable[[], Any] | None,
    ) -> Trip:
        block = Block([], [], [])
        with self.tracer.scope(block):
            builder = self.tracer.builder
            number = builder.input("trip", TensorType("int64", ()))
            going_on = builder.input("going", TensorType("bool", ()))
            for place, spec in carried.items():
                types = specs.types(spec, builder.inference.fresh)
                values = iter([builder.input(_name(place), type) for type in types])
                value = specs.build(spec, values, self.tracer)
                if place[0] != "flow":
                    self.store.assign(place, value, before)
            for place, undefined in spoiled.items():
                self.store.assign(place, undefined, before)
            entry = self.store.snapshot()
            if bind is not None:
                bind(Number("int", self.tracer._tensor(number)))
            flow = self.run(statement.body)
            going = negate(flow.broke)
            if test is not None:
                going = self.both(going, test, statement)
            after = self.store.snapshot()
            after.values[_RETURNED] = flow.returned
            after.values[_VALUE] = self.store._freeze(flow.value, after)
            ends = going_on if going is True else self.tracer.value(tensor_of(going, "bool"))
        self.store.restore(before)
        return Trip(block, ends, entry, after, flow)

    def _widened(
        self,
        statement: ast.For | ast.While,
        before: Snapshot,
        trip: Trip,
        carried: dict[Place, Any],
        spoiled: dict[Place, Undefined],
    ) -> bool:
        """Note the types that a place needs to hold both what was there before and what a trip leaves; whether any is new."""
        places = [place for place in changed(trip.entry, trip.after) if place in before.bindings]
        if trip.flow.returned is not False:
            places += [_RETURNED, _VALUE]
        wider = False
        for place in places:
            if place in spoiled:
                continue
            first, last = specs.spec_of(before.values[place]), specs.spec_of(trip.after.values[place])
            try:
                spec = specs.join(specs.join(carried.get(place, first), first), last)
            except specs.Mismatch:
                carried.pop(place, None)
                spoiled[place] = self._mismatch(statement, place, first, last)
                wider = True
                continue
            if carried.get(place) != spec:
                carried[place] = spec
                wider = True
        return wider

    def _mismatch(self, statement: ast.For | ast.While, place: Place, first: Any, last: Any) -> Undefined:
        for spec in (first, last):
            if isinstance(spec, specs.Fixed) and isinstance(spec.value, Undefined):
                return spec.value
        name = f"`{place[-1]}`" if place[0] in ("variable", "buffer") else "a value"
        text = f"{name} is {first} before the loop of {self.source.line(statement)} and {last} after a trip"
        if place[0] != "variable":
            self.refuse(statement, text, _start(place, last))
        return Undefined(f"{text}. Rewrite: {_start(place, last)}")

    def _emit_loop(
        self,
        statement: ast.For | ast.While,
        bounds: tuple[Value | None, Value | None],
        before: Snapshot,
        trip: Trip,
        carried: dict[Place, Any],
        spoiled: dict[Place, Undefined],
    ) -> Flow:
        initial: list[Value] = []
        names: list[str] = []
        for place, spec in carried.items():
            found = specs.leaves(before.values[place], spec, self.tracer)
            initial += found
            names += [_name(place)] * len(found)
        with self.tracer.scope(trip.block):
            trip.block.outputs.append(trip.going)
            for place, spec in carried.items():
                trip.block.outputs += specs.leaves(trip.after.values[place], spec, self.tracer)
        if names:
            try:
                found_values = iter(self.tracer.node("Loop", [*bounds, *initial], {"body": trip.block}, names))
            except HeadraceError as error:
                self.refuse(statement, f"the trips do not fit together: {error}", "give each variable one type")
        results = {place: specs.build(spec, found_values, self.tracer) for place, spec in carried.items()}
        for place in [p for p in trip.after.bindings if p[0] == "variable" and p not in before.bindings]:
            reason = f"`{place[-1]}` is assigned inside the loop of {self.source.line(statement)} only, which may make no trip"
            self.store.assign(place, Undefined(f"{reason}. Rewrite: give it a first value before the loop"), before)
        for place, value in [*results.items(), *spoiled.items()]:
            if place[0] != "flow":
                self.store.assign(place, value, before)
        returned = results.get(_RETURNED, False)
        return Flow(returned, returned, results.get(_VALUE, MISSING))


def _name(place: Place) -> str:
    return "written" if place[0] == "object" else str(place[-1])


def _start(place: Place, last: Any) -> str:
    """How a variable begins with the type that it has after a trip."""
    name = place[-1] if place[0] in ("variable", "buffer") else "it"
    if isinstance(last, specs.Array) and last.shape is not None:
        sizes = ", ".join("n" if not isinstance(d, int) else str(d) for d in last.shape)
        return f"begin with `{name} = torch.zeros(({sizes}{',' if len(last.shape) == 1 else ''}), dtype=torch.{last.dtype})`, or keep the type inside the loop"
    if isinstance(last, specs.Scalar):
        example = {"bool": "False", "int": "0", "float": "0.0"}[last.kind]
        return f"begin with a number of that kind, `{name} = {example}`, or keep the kind inside the loop"
    return f"give `{name}` one type before and inside the loop"
