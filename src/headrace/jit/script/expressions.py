"""Expressions: what is known is computed as Python computes it; what the graph decides becomes nodes."""

from __future__ import annotations

import ast
import functools
import operator
from collections.abc import Callable
from typing import Any

from headrace.jit.script import numbers, specs
from headrace.jit.script.core import Core
from headrace.jit.script.iteration import element, iterate
from headrace.jit.script.statements import OPERATORS, numbers_as_tensors
from headrace.jit.script.values import List, Maybe, Number, Undefined
from headrace.runtime.shapes import Expr
from headrace.tensors import Tensor

COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq, ast.NotEq: operator.ne, ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}  # fmt: skip
UNARY: dict[type[ast.unaryop], Callable[[Any], Any]] = {
    ast.USub: operator.neg, ast.UAdd: operator.pos, ast.Invert: operator.invert,
}  # fmt: skip


class Expressions(Core):
    def eval(self, node: ast.expr) -> Any:
        found = getattr(self, f"_eval_{type(node).__name__}", None)
        if found is None:
            self.refuse(node, f"`{type(node).__name__}` is not part of the compiled subset", "plain expressions")
        return found(node)

    def _eval_Constant(self, node: ast.Constant) -> Any:
        return node.value

    def _eval_Name(self, node: ast.Name) -> Any:
        if node.id in self.variables:
            value = self.variables[node.id]
            if isinstance(value, Undefined):
                self.refuse_undefined(node, value)
            return value
        try:
            return self.source.surroundings(node.id)
        except KeyError:
            self.refuse(node, f"the name {node.id!r} is not defined", "assign it before it is read on every way")

    def refuse_undefined(self, node: ast.expr, value: Undefined) -> None:
        reason, _, rewrite = value.reason.partition(". Rewrite: ")
        self.refuse(node, reason, rewrite or "assign it on both ways, with one type")

    def _eval_Attribute(self, node: ast.Attribute) -> Any:
        owner = self.eval(node.value)
        if isinstance(owner, Maybe):
            self.refuse(node, f"an attribute of {specs.spec_of(owner)}", "test `is not None` first")
        return getattr(owner, node.attr)

    def _eval_Subscript(self, node: ast.Subscript) -> Any:
        owner, index = self.eval(node.value), self.eval(node.slice)
        if isinstance(owner, Tensor):
            return owner[numbers_as_tensors(index)]
        if isinstance(owner, Maybe):
            self.refuse(node, f"an item of {specs.spec_of(owner)}", "test `is not None` first")
        whole = isinstance(owner, List) and owner.sequence is not None
        if isinstance(index, Tensor) and isinstance(owner, list | tuple):
            index = numbers.number_of(index)
        if whole or (isinstance(index, Number) and isinstance(owner, list | tuple)):
            if isinstance(index, slice):
                self.refuse(
                    node, "a slice of a list whose length only the graph knows", "torch.stack the list and slice that"
                )
            try:
                return element(self, owner if isinstance(owner, List) else List(owner), index)
            except (specs.Mismatch, IndexError) as mismatch:
                what = f"an index that only the graph knows into {mismatch or 'an empty list'}"
                self.refuse(node, what, "a list of tensors of one dtype and rank, or a number known before")
        return owner[index]

    def _eval_Slice(self, node: ast.Slice) -> slice:
        return slice(*(None if part is None else self.eval(part) for part in (node.lower, node.upper, node.step)))

    def _eval_Call(self, node: ast.Call) -> Any:
        function = self.eval(node.func)
        args: list[Any] = []
        for arg in node.args:
            if isinstance(arg, ast.Starred):
                args += iterate(self, self.eval(arg.value), arg).items(self, arg)
            else:
                args.append(self.eval(arg))
        kwargs: dict[str, Any] = {}
        for keyword in node.keywords:
            found = self.eval(keyword.value)
            kwargs.update(found if keyword.arg is None else {keyword.arg: found})
        self.tracer.position = (self.source.file, node.lineno)
        return self.call(function, args, kwargs, node)

    def _eval_Starred(self, node: ast.Starred) -> Any:
        self.refuse(node, "`*` here", "write the items out")

    # ---------------------------------------------------------------- operators

    def _eval_BinOp(self, node: ast.BinOp) -> Any:
        left, right = self.eval(node.left), self.eval(node.right)
        for value in (left, right):
            if isinstance(value, Maybe):
                self.refuse(node, f"arithmetic with {specs.spec_of(value)}", "test `is not None` first")
        if isinstance(left, List) or isinstance(right, List):
            return self._list_arithmetic(node, left, right)
        return numbers.binary(OPERATORS[type(node.op)], left, right)

    def _list_arithmetic(self, node: ast.BinOp, left: Any, right: Any) -> Any:
        if isinstance(node.op, ast.Add) and isinstance(left, list) and isinstance(right, list):
            found = List(left)
            found.sequence, found.element = getattr(left, "sequence", None), getattr(left, "element", None)
            self.call(found.extend, [right], {}, node)
            return found
        dynamic = any(specs.is_traced(v) or getattr(v, "sequence", None) is not None for v in (left, right))
        if dynamic or not isinstance(node.op, ast.Mult):
            self.refuse(node, "this operator on a list", "`+` of two lists, or a loop that appends")
        return List(OPERATORS[type(node.op)](left, right))

    def _eval_UnaryOp(self, node: ast.UnaryOp) -> Any:
        value = self.eval(node.operand)
        if isinstance(node.op, ast.Not):
            return numbers.negate(value)
        if not isinstance(value, Number):
            return UNARY[type(node.op)](value)
        if isinstance(node.op, ast.USub):
            return numbers.binary(operator.sub, 0, value)
        return value if isinstance(node.op, ast.UAdd) else numbers.binary(operator.sub, -1, value)

    def _eval_BoolOp(self, node: ast.BoolOp) -> Any:
        every = isinstance(node.op, ast.And)

        def rest(parts: list[ast.expr]) -> Any:
            left = self.eval(parts[0])
            if len(parts) == 1:
                return left
            held = numbers.truth(left)
            if not isinstance(held, Number):  # as Python: the operand itself
                return rest(parts[1:]) if bool(held) is every else left
            return self.both(held, narrowed(parts[0], parts[1:]), node, every=every)

        def narrowed(test: ast.expr, following: list[ast.expr]) -> Callable[[], Any]:
            """What follows `x is None or` and `x is not None and` knows that x is there."""
            known = self.narrowed(test)

            def right() -> Any:
                if known is None:
                    return rest(following)
                name, present = known
                maybe = self.variables[name]
                self.variables[name] = maybe.value if present is every else None
                try:
                    return rest(following)
                finally:
                    self.variables[name] = maybe

            return right

        return rest(node.values)

    def _eval_Compare(self, node: ast.Compare) -> Any:
        left = self.eval(node.left)
        if len(node.ops) == 1:
            return self._compare(node, node.ops[0], left, self.eval(node.comparators[0]))

        def rest(index: int, left: Any) -> Any:
            right = self.eval(node.comparators[index])
            found = self._compare(node, node.ops[index], left, right)
            if index + 1 == len(node.ops):
                return found
            return self.both(found, lambda: rest(index + 1, right), node)

        return rest(0, left)

    def _compare(self, node: ast.Compare, sign: ast.cmpop, left: Any, right: Any) -> Any:
        if isinstance(sign, ast.Is | ast.IsNot):
            return self._identity(node, left, right, isinstance(sign, ast.Is))
        if isinstance(sign, ast.In | ast.NotIn):
            found = self._contains(node, right, left)
            return numbers.negate(found) if isinstance(sign, ast.NotIn) else found
        if isinstance(left, Maybe) or isinstance(right, Maybe):
            self.refuse(node, "a comparison with a value that may be None", "test `is not None` first")
        return numbers.compare(COMPARISONS[type(sign)], left, right)

    def _identity(self, node: ast.Compare, left: Any, right: Any, same: bool) -> Any:
        for value, other in ((left, right), (right, left)):
            if isinstance(value, Maybe) and other is None:
                return numbers.negate(value.present) if same else value.present
        return (left is right) is same

    def _contains(self, node: ast.Compare, items: Any, value: Any) -> Any:
        if isinstance(items, Tensor):
            return numbers.truth((items == numbers.weak(value, items)).any())
        if not specs.is_traced(value) and not (isinstance(items, list | tuple) and any(map(specs.is_traced, items))):
            return value in items
        found: Any = False
        for item in iterate(self, items, node).items(self, node):
            equal = numbers.truth(numbers.compare(operator.eq, value, item))
            found = self.both(found, functools.partial(lambda e: e, equal), node, every=False)
        return found

    def _eval_IfExp(self, node: ast.IfExp) -> Any:
        condition = numbers.truth(self.eval(node.test))
        return self.choose(condition, lambda: self.eval(node.body), lambda: self.eval(node.orelse), node)

    # ---------------------------------------------------------------- containers

    def _elements(self, nodes: list[ast.expr]) -> list[Any]:
        found: list[Any] = []
        for node in nodes:
            if isinstance(node, ast.Starred):
                found += iterate(self, self.eval(node.value), node).items(self, node)
            else:
                found.append(self.eval(node))
        return found

    def _eval_Tuple(self, node: ast.Tuple) -> tuple[Any, ...]:
        return tuple(self._elements(node.elts))

    def _eval_List(self, node: ast.List) -> List:
        return List(self._elements(node.elts))

    def _eval_Set(self, node: ast.Set) -> Any:
        return frozenset(self._elements(node.elts))

    def _eval_Dict(self, node: ast.Dict) -> dict[Any, Any]:
        found: dict[Any, Any] = {}
        for key, value in zip(node.keys, node.values):
            found.update(self.eval(value) if key is None else {self.eval(key): self.eval(value)})
        return found

    def _eval_ListComp(self, node: ast.ListComp) -> List:
        return List(self._comprehension(node, node.generators, lambda: self.eval(node.elt)))

    _eval_GeneratorExp = _eval_ListComp

    def _eval_SetComp(self, node: ast.SetComp) -> Any:
        return frozenset(self._comprehension(node, node.generators, lambda: self.eval(node.elt)))

    def _eval_DictComp(self, node: ast.DictComp) -> dict[Any, Any]:
        return dict(self._comprehension(node, node.generators, lambda: (self.eval(node.key), self.eval(node.value))))

    def _comprehension(self, node: ast.expr, generators: list[ast.comprehension], make: Callable[[], Any]) -> list[Any]:
        """The items, in a scope of their own."""
        names = {n.id for g in generators for n in ast.walk(g.target) if isinstance(n, ast.Name)}
        outer = {name: self.variables[name] for name in names if name in self.variables}
        found: list[Any] = []
        self._generate(node, generators, make, found)
        for name in names:
            self.variables.pop(name, None)
        self.variables.update(outer)
        return found

    def _generate(
        self, node: ast.expr, generators: list[ast.comprehension], make: Callable[[], Any], found: list[Any]
    ) -> None:
        first, *rest = generators
        for item in iterate(self, self.eval(first.iter), node).items(self, node):
            self.assign(first.target, item)
            tests = [numbers.truth(self.eval(test)) for test in first.ifs]
            if any(isinstance(test, Number) for test in tests):
                self.refuse(
                    node, "a comprehension whose length only the graph knows", "a `for` loop with `if` and append"
                )
            if not all(tests):
                continue
            if rest:
                self._generate(node, rest, make, found)
            else:
                found.append(make())

    def _eval_JoinedStr(self, node: ast.JoinedStr) -> str:
        return "".join(
            str(part.value) if isinstance(part, ast.Constant) else self._formatted(part)  # type: ignore[arg-type]
            for part in node.values
        )

    def _formatted(self, node: ast.FormattedValue) -> str:
        value = self.eval(node.value)
        if specs.is_traced(value) and not isinstance(getattr(value, "expr", None), Expr):
            self.refuse(node, "a text made of a value that only the graph knows", "a plain text")
        spec = "" if node.format_spec is None else self.eval(node.format_spec)
        return format(value, spec)
