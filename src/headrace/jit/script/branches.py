"""Branches that the graph decides: both ways are compiled, and what they leave behind becomes outputs of one If."""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import headrace.functional as F
from headrace.jit.script import specs
from headrace.jit.script.core import Core, Flow
from headrace.jit.script.numbers import negate, truth
from headrace.jit.script.store import Place, Snapshot, changed
from headrace.jit.script.values import Number, Undefined
from headrace.runtime.errors import HeadraceError
from headrace.runtime.graph import Block, Node
from headrace.runtime.ops import find

_FLOW = ("broke", "returned", "value")
_TRAPS = frozenset({"Div", "Mod"})  # whole numbers may be divided by 0


@dataclass
class Arm:
    """One way: its block, how it ended, and the memory at its end."""

    block: Block
    flow: Flow
    after: Snapshot


class Branches(Core):
    def branch(
        self, condition: Any, then: Callable[[], Flow], other: Callable[[], Flow], node: ast.stmt | ast.expr
    ) -> Flow:
        """Run one of two ways; where the condition is known only in the graph, compile both."""
        if not isinstance(condition, Number):
            return then() if condition else other()
        before = self.store.snapshot()
        arms = [self._arm(way, before) for way in (then, other)]
        return self._join(condition, before, arms, node)

    def choose(
        self, condition: Any, then: Callable[[], Any], other: Callable[[], Any], node: ast.expr | ast.stmt
    ) -> Any:
        """The value of one of two expressions."""
        flow = self.branch(condition, lambda: Flow(value=then()), lambda: Flow(value=other()), node)
        if isinstance(flow.value, Undefined):
            self.refuse(node, flow.value.reason, "give both ways one type")
        return flow.value

    def _arm(self, way: Callable[[], Flow], before: Snapshot) -> Arm:
        block = Block([], [], [])
        with self.tracer.scope(block):
            flow = way()
            after = self.store.snapshot()
            for name in _FLOW:
                after.values["flow", name] = self.store._freeze(getattr(flow, name), after)
        self.store.restore(before)
        return Arm(block, flow, after)

    def _join(self, condition: Number, before: Snapshot, arms: list[Arm], node: ast.stmt | ast.expr) -> Flow:
        flows: list[Place] = [("flow", name) for name in _FLOW]
        places = dict.fromkeys([*(place for arm in arms for place in changed(before, arm.after)), *flows])
        joined: dict[Place, Any] = {}
        outputs: list[tuple[Place, Any]] = []
        for place in places:
            a, b = (self._held(place, arm.after, before, node) for arm in arms)
            if type(a) is bool and type(b) is bool and a is not b:
                joined[place] = condition if a else negate(condition)
                continue
            try:
                spec = specs.join(specs.spec_of(a), specs.spec_of(b))
            except specs.Mismatch as mismatch:
                joined[place] = self._differs(place, (a, b), str(mismatch), node)
                continue
            if specs.types(spec, self.tracer.builder.inference.fresh):
                outputs.append((place, spec))
            else:
                joined[place] = a
        joined.update(self._emit_if(condition, outputs, arms, before, node))
        for place in places:
            if place[0] != "flow":
                self.store.assign(place, joined[place], before)
        return Flow(*(joined["flow", name] for name in _FLOW))

    def _held(self, place: Place, after: Snapshot, before: Snapshot, node: ast.AST) -> Any:
        """What a place holds at the end of a way."""
        missing = f"`{place[-1]}` is assigned on one way of {self.source.line(node)} only"
        return after.get(place, before.get(place, Undefined(missing)))

    def _differs(self, place: Place, values: tuple[Any, Any], mismatch: str, node: ast.AST) -> Undefined:
        """A place that cannot be read after the branch. Objects that others may hold cannot be left so."""
        for value in values:
            if isinstance(value, Undefined):
                return value
        name = {"flow": "the value", "object": "what is written in place"}.get(place[0], f"`{place[-1]}`")
        text = f"{name} is {mismatch}, by the way that {self.source.line(node)} takes"
        if place[0] != "variable":
            self.refuse(node, text, "let both ways give one dtype and one number of dimensions")
        return Undefined(text)

    def _emit_if(
        self,
        condition: Number,
        outputs: list[tuple[Place, Any]],
        arms: list[Arm],
        before: Snapshot,
        node: ast.stmt | ast.expr,
    ) -> dict[Place, Any]:
        """Add the If node; answers the values that come out of it."""
        if not outputs:
            return {}
        for arm in arms:
            with self.tracer.scope(arm.block):
                for place, spec in outputs:
                    held = self._held(place, arm.after, before, node)
                    arm.block.outputs += specs.leaves(held, spec, self.tracer)
        fresh = self.tracer.builder.inference.fresh
        names = [
            str(place[-1]) if place[0] != "object" else "written"
            for place, spec in outputs
            for _ in specs.types(spec, fresh)
        ]
        blocks = {"then_branch": arms[0].block, "else_branch": arms[1].block}
        try:
            found = iter(self.tracer.node("If", [self.tracer.value(condition.tensor)], blocks, names))
        except HeadraceError as error:
            self.refuse(node, f"the two ways do not fit together: {error}", "give both ways one type")
        return {place: specs.build(spec, found, self.tracer) for place, spec in outputs}

    # ---------------------------------------------------------------- and, or

    def both(self, left: Any, right: Callable[[], Any], node: ast.expr | ast.stmt, *, every: bool = True) -> Any:
        """`left and right` as truth values (`every` False: or); right is computed only where left does not decide."""
        left = truth(left)
        if not isinstance(left, Number):
            return truth(right()) if bool(left) is every else left
        before, block = self.store.snapshot(), Block([], [], [])
        with self.tracer.scope(block):
            value = truth(right())
        if not isinstance(value, Number):
            self.store.restore(before)
            return left if value is every else value
        if all(map(_harmless, block.nodes)) and not changed(before, self.store.snapshot()):
            self.tracer.builder.nodes.extend(block.nodes)
            combine = F.logical_and if every else F.logical_or
            return Number("bool", combine(left.tensor, value.tensor))
        self.store.restore(before)
        if every:
            return self.choose(left, lambda: truth(right()), lambda: False, node)
        return self.choose(left, lambda: True, lambda: truth(right()), node)


def _harmless(node: Node) -> bool:
    """Whether a node may run although nobody asked for its answer: it is cheap and cannot fail."""
    operator = find(node.operator, node.domain)
    family = type(operator).__module__.split(".")[-2]
    return family in ("elementwise", "shape") and node.operator not in _TRAPS and not node.blocks
