"""Statements: lists of them run until one leaves; assignments; functions of the program, inlined."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Sequence
from typing import Any

from headrace.jit.script import numbers, specs
from headrace.jit.script.core import FALL, Core, Flow
from headrace.jit.script.iteration import iterate
from headrace.jit.script.subset import exits
from headrace.jit.script.values import MISSING, List, Maybe, Number
from headrace.nn.module import Module
from headrace.runtime.errors import HeadraceError
from headrace.tensors import Tensor

OPERATORS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod, ast.Pow: operator.pow, ast.MatMult: operator.matmul,
    ast.BitAnd: operator.and_, ast.BitOr: operator.or_, ast.BitXor: operator.xor, ast.LShift: operator.lshift,
    ast.RShift: operator.rshift,
}  # fmt: skip
_IN_PLACE = {f: getattr(operator, f"i{f.__name__.strip('_')}") for f in OPERATORS.values()}


class Statements(Core):
    def run(self, statements: Sequence[ast.stmt]) -> Flow:
        pending = list(statements)
        while pending:
            statement = pending.pop(0)
            self.tracer.position = (self.source.file, statement.lineno)
            try:
                ended, pending = self._step(statement, pending)
            except HeadraceError:
                raise
            except Exception as error:
                place = self.source.place(statement)
                if not any(place in note for note in getattr(error, "__notes__", ())):
                    error.add_note(f"while compiling {place.rstrip(': ')}")
                raise
            if ended is not None:
                return ended
        return FALL

    def _step(self, statement: ast.stmt, pending: list[ast.stmt]) -> tuple[Flow | None, list[ast.stmt]]:
        """Run one statement: how the whole list ended, or None and what is still to run."""
        match statement:
            case ast.If():
                return self._if(statement, pending)
            case ast.For() | ast.While():
                loop = self.for_loop(statement) if isinstance(statement, ast.For) else self.while_loop(statement)
                if isinstance(loop.returned, Number):
                    left = Flow(True, True, loop.value)
                    return self.branch(loop.returned, lambda: left, lambda: self.run(pending), statement), []
                return (Flow(True, True, loop.value) if loop.returned else None), pending
            case ast.With():
                return None, [*statement.body, *pending]
            case ast.Return():
                value = None if statement.value is None else self.eval(statement.value)
                return Flow(True, True, value), []
            case ast.Break():
                return Flow(True), []
            case ast.Continue():
                return FALL, []
        self._plain(statement)
        return None, pending

    def _if(self, statement: ast.If, pending: list[ast.stmt]) -> tuple[Flow | None, list[ast.stmt]]:
        test, ways = statement.test, (statement.body, statement.orelse)
        while isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
            test, ways = test.operand, (ways[1], ways[0])
        condition = numbers.truth(self._checked(self.eval(test), test))
        if not isinstance(condition, Number):
            return None, [*ways[0 if condition else 1], *pending]
        rest = pending if exits(statement) else []
        narrowed = self.narrowed(test)

        def way(index: int) -> Callable[[], Flow]:
            def taken() -> Flow:
                if narrowed is not None:
                    name, present = narrowed
                    maybe = self.variables[name]
                    self.variables[name] = maybe.value if present == (index == 0) else None
                return self.run([*ways[index], *rest])

            return taken

        flow = self.branch(condition, way(0), way(1), statement)
        return (flow, []) if exits(statement) else (None, pending)

    def _checked(self, value: Any, node: ast.expr) -> Any:
        if isinstance(value, Maybe):
            self.refuse(node, "the truth of a value that may be None", "compare with `is None` or `is not None`")
        if isinstance(value, List) and value.sequence is not None:
            return self.call(len, [value], {}, node)
        return value

    def narrowed(self, test: ast.expr) -> tuple[str, bool] | None:
        """The variable that `x is None` or `x is not None` asks about, and whether it is there where the test holds."""
        if not isinstance(test, ast.Compare) or not isinstance(test.left, ast.Name) or len(test.ops) != 1:
            return None
        asks = isinstance(test.ops[0], ast.Is | ast.IsNot)
        if not asks or not isinstance(self.variables.get(test.left.id), Maybe):
            return None
        return test.left.id, isinstance(test.ops[0], ast.IsNot)

    def _plain(self, statement: ast.stmt) -> None:
        match statement:
            case ast.Expr(value=value):
                if not isinstance(value, ast.Constant):
                    self.eval(value)
            case ast.Assign(targets=targets, value=value):
                found = self.eval(value)
                for target in targets:
                    self.assign(target, found)
            case ast.AnnAssign(target=target, value=value):
                if value is not None:
                    self.assign(target, self.eval(value))
            case ast.AugAssign():
                self._augmented(statement)
            case ast.Assert():
                self._assert(statement)
            case ast.Raise():
                self._raise(statement)
            case ast.Pass():
                pass
            case _:
                self.refuse(
                    statement, f"`{type(statement).__name__}` is not part of the compiled subset", "plain statements"
                )

    # ---------------------------------------------------------------- assignment

    def assign(self, target: ast.expr, value: Any) -> None:
        match target:
            case ast.Name(id=name):
                self.variables[name] = value
            case ast.Tuple(elts=targets) | ast.List(elts=targets):
                self._unpack(target, targets, value)
            case ast.Attribute(value=owner, attr=name):
                self._attribute(target, self.eval(owner), name, value)
            case ast.Subscript(value=owner, slice=index):
                self._item(target, self.eval(owner), self.eval(index), value)
            case _:
                self.refuse(target, f"an assignment to {type(target).__name__}", "assign to a variable")

    def _unpack(self, target: ast.expr, targets: list[ast.expr], value: Any) -> None:
        items = iterate(self, value, target).items(self, target)
        starred = [i for i, part in enumerate(targets) if isinstance(part, ast.Starred)]
        if len(items) != len(targets) if not starred else len(items) < len(targets) - 1:
            self.refuse(
                target, f"{len(items)} values for {len(targets)} targets", "as many targets as there are values"
            )
        if starred:
            first, after = starred[0], len(targets) - starred[0] - 1
            rest = items[first : len(items) - after]
            items = [*items[:first], List(rest), *items[len(items) - after :]]
            targets = [t.value if isinstance(t, ast.Starred) else t for t in targets]
        for part, item in zip(targets, items, strict=True):
            self.assign(part, item)

    def _attribute(self, node: ast.expr, owner: Any, name: str, value: Any) -> None:
        if isinstance(owner, Module) and name in owner._buffers and isinstance(value, Tensor):
            setattr(owner, name, value)
            return
        what = f"an assignment to the attribute {name!r}, which is no buffer of a Module"
        self.refuse(
            node,
            what,
            f"self.register_buffer({name!r}, torch.tensor(...)) in __init__ makes it a state; or use a variable",
        )

    def _item(self, node: ast.expr, owner: Any, index: Any, value: Any) -> None:
        if isinstance(owner, Tensor):
            owner[numbers_as_tensors(index)] = numbers.weak(value, owner)
        elif (type(owner) is dict or (isinstance(owner, List) and owner.sequence is None)) and not specs.is_traced(
            index
        ):
            owner[index] = value
        else:
            self.refuse(node, "an assignment to an item of this list", "a tensor, x[i] = value, or a new list")

    def _augmented(self, node: ast.AugAssign) -> None:
        function = OPERATORS[type(node.op)]
        load = ast.copy_location(ast.parse(ast.unparse(node.target), mode="eval").body, node)
        ast.fix_missing_locations(load)
        owner, value = self.eval(load), self.eval(node.value)
        if isinstance(owner, Tensor):
            self.assign(node.target, _IN_PLACE[function](owner, numbers.weak(value, owner)))
        elif isinstance(owner, List) and function is operator.add:
            self.call(owner.extend, [value], {}, load)
        else:
            self.assign(node.target, numbers.binary(function, owner, value))

    # ---------------------------------------------------------------- checks

    def _assert(self, node: ast.Assert) -> None:
        held = numbers.truth(self._checked(self.eval(node.test), node.test))
        if isinstance(held, Number):
            self.notes.append(f"the assert of {self.source.place(node).rstrip(': ')} is not checked by the graph")
            known = self.narrowed(node.test)
            if known is not None and known[1]:
                self.variables[known[0]] = self.variables[known[0]].value
        elif not held:
            raise AssertionError(*([] if node.msg is None else [self.eval(node.msg)]))

    def _raise(self, node: ast.Raise) -> None:
        if self.tracer.depth:
            self.refuse(
                node,
                "`raise` where the graph decides whether it is reached",
                "return a value that tells, or check before the call",
            )
        raise AssertionError if node.exc is None else self.eval(node.exc)

    # ---------------------------------------------------------------- functions

    def enter(self, source: Any, variables: dict[str, Any]) -> Any:
        """Run a function's body with these arguments; answers what it returns."""
        if len(self.sources) > 60:
            self.refuse(source.tree, "functions that call each other without end", "a loop")
        position = self.tracer.position
        self.sources.append(source)
        self.store.frames.append(variables)
        try:
            flow = self.run(source.tree.body)
            if isinstance(flow.returned, Number):
                return Maybe(flow.returned, flow.value)
            return None if flow.value is MISSING else flow.value
        finally:
            self.store.frames.pop()
            self.sources.pop()
            self.tracer.position = position


def numbers_as_tensors(index: Any) -> Any:
    """An index with numbers that only the graph knows as tensors of rank 0."""
    if isinstance(index, tuple):
        return tuple(map(numbers_as_tensors, index))
    if isinstance(index, List):
        return [numbers_as_tensors(item) for item in index]
    if isinstance(index, slice):
        return slice(*(numbers_as_tensors(part) for part in (index.start, index.stop, index.step)))
    return numbers.argument(index) if isinstance(index, Number) else index
