"""The tracer: while it listens (MODE.tracer), every operator that runs on a traced tensor becomes a node.

`autograd.tape.run` asks the tracer first. Operators on traced tensors are added to the graph through BuilderNamespace and
answer tensors whose data is `Abstract`. Operators on weights alone run at once, so that their values stay at hand, and are
recorded as well, so that the graph reads the weights by name; nodes that no output needs are dropped in the end.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from headrace.autograd import tape
from headrace.autograd.mode import MODE
from headrace.jit.abstract import Abstract
from headrace.jit.errors import TraceError, here
from headrace.jit.sizes import SymInt, dim_of, size_of
from headrace.jit.state import State
from headrace.runtime import dtypes
from headrace.runtime.builder import Builder
from headrace.runtime.errors import HeadraceError
from headrace.runtime.graph import Block, Graph, Value
from headrace.runtime.namespaces import BuilderNamespace
from headrace.runtime.shapes import Dim, Expr, bounds, broadcast, symbols
from headrace.runtime.types import TensorType
from headrace.tensors import Tensor, wrap

_SMALL = 64  # constants of at most this many elements are written once per content


class Tracer:
    """Records one graph. `state` knows the parameters and buffers by name."""

    def __init__(self, name: str, state: State) -> None:
        self.graph = Graph(Block([], [], []), name=name)
        self.builder = Builder(self.graph)
        self.operators = BuilderNamespace(self.builder)
        self.state = state
        self._named: dict[str, Value] = {}  # parameters and buffers that were read
        self._known: dict[
            int, tuple[np.ndarray, Any, int, Value]
        ] = {}  # id of an array -> array, storage, version, value
        self._small: dict[Any, Value] = {}
        self._symbols: dict[str, tuple[Value, int]] = {}  # symbol -> a value and the axis that has it as its size
        self._sizes: dict[Dim, Value] = {}
        self.position: tuple[str, int] | None = None  # file and line of the source that is compiled now
        self.depth = 0  # how many blocks are open
        self.negated: dict[int, tuple[Any, Any]] = {}  # id of a number -> the number and its `not`
        self.compiler: Any = None  # what compiles forward of Modules from source, if anything does

    def input(self, name: str, array: np.ndarray, shape: tuple[Dim, ...]) -> Tensor:
        """A traced input of the graph, with the dtype of an example and a symbolic shape."""
        value = self.builder.input(name, TensorType(dtypes.of(array).name, shape))
        return self._tensor(value)

    # ---------------------------------------------------------------- operators

    def run(self, call: tape.Call, inputs: Sequence[Any], attributes: Mapping[str, Any], outputs: int) -> Any:
        """Record one operator; None where it has nothing to do with the graph and shall just run."""
        for x in inputs:
            if isinstance(x, Tensor) and x._base is not None:
                tape.sync(x)
        if any(isinstance(x, Tensor) and isinstance(x._data, Abstract) for x in inputs):
            found = [self._tensor(value) for value in self._record(call, inputs, attributes, outputs)]
            if isinstance(inputs[0], Tensor) and (call.view or self._shows_item(call, inputs)):
                for index, tensor in enumerate(found):
                    _link(tensor, inputs, (call, tuple(inputs[1:]), attributes, outputs, index))
            return found[0] if outputs == 1 else tuple(found)
        if any(self._find(x) is not None for x in inputs):
            return self._run_on_weights(call, inputs, attributes, outputs)
        return None

    def _shows_item(self, call: tape.Call, inputs: Sequence[Any]) -> bool:
        """Whether a Gather is x[i] with a whole number that only the graph knows: a view, as with any other number."""
        index = inputs[1]._data if call.operator.kind == "Gather" and isinstance(inputs[1], Tensor) else None
        data = inputs[0]._data
        return type(index) is Abstract and not index.shape and (type(data) is Abstract or self._find(inputs[0]) is None)

    def _record(
        self, call: tape.Call, inputs: Sequence[Any], attributes: Mapping[str, Any], outputs: int
    ) -> list[Value]:
        values = [self.value(x) for x in inputs]
        if call.operator.kind == "Identity" and values[0] is not None:
            return [values[0]]  # values never change: no node is needed
        try:
            found = self.operators.apply(call.operator, values, _given(call, attributes), outputs)
        except HeadraceError as error:
            raise TraceError(f"{here()}{error}") from error
        for value in found:
            self._learn(value)
        return found

    def _run_on_weights(
        self, call: tape.Call, inputs: Sequence[Any], attributes: Mapping[str, Any], outputs: int
    ) -> Any:
        with self.paused():
            found = tape.run(call, inputs, attributes, outputs)
        for tensor, value in zip([found] if outputs == 1 else found, self._record(call, inputs, attributes, outputs)):
            self._remember(tensor._data, tensor._storage, value)
        return found

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Operators inside run as if nobody listened."""
        before, MODE.tracer = MODE.tracer, None
        try:
            yield
        finally:
            MODE.tracer = before

    @contextlib.contextmanager
    def module(self, module: Any) -> Iterator[None]:
        """Nodes recorded inside carry the path of the module."""
        before = self.operators.path
        self.operators.path = self.state.path(module)
        try:
            yield
        finally:
            self.operators.path = before

    def forward_of(self, module: Any) -> Any:
        """What runs when a module is called."""
        return module.forward if self.compiler is None else self.compiler.forward_of(module)

    # ---------------------------------------------------------------- blocks

    def _learnt(self) -> tuple[dict[Any, Any], ...]:
        """What is known about values that were made so far."""
        return self._known, self._symbols, self._sizes, self.negated

    def _relearn(self, tables: tuple[dict[Any, Any], ...]) -> None:
        self._known, self._symbols, self._sizes, self.negated = tables

    @contextlib.contextmanager
    def scope(self, block: Block) -> Iterator[None]:
        """Nodes recorded inside go to a block. What is computed there is not known outside, constants are."""
        builder, before = self.builder, self._learnt()
        self._relearn(tuple(map(dict, before)))
        self.builder = self.operators.builder = builder.inner(block)
        self.depth += 1
        try:
            yield
        finally:
            self.depth -= 1
            self.builder = self.operators.builder = builder
            constants = {k: v for k, v in self._known.items() if self.graph.constant_of(v[3]) is not None}
            self._relearn(({**constants, **before[0]}, *before[1:]))

    @contextlib.contextmanager
    def attempt(self) -> Iterator[Attempt]:
        """Nodes recorded inside are dropped again unless the attempt is kept, and their names are free."""
        attempt, count, builder = Attempt(), len(self.builder.nodes), self.builder
        before = tuple(map(dict, self._learnt()))
        names, counts = set(builder.names), dict(builder._counts)
        yield attempt
        if not attempt.kept:
            del builder.nodes[count:]
            self._relearn(before)
            builder.release(names | set(self.graph.constants), counts)

    def node(
        self, operator: str, inputs: Sequence[Value | None], attributes: Mapping[str, Any], names: Any = None
    ) -> Any:
        """Add one node: its output, or with `names` the list of its outputs."""
        found = self.builder.node(operator, inputs, attributes, outputs=names or 1, path=self.operators.path)
        for value in found:
            self._learn(value)
        return found if names is not None else found[0]

    def can_size(self, dim: Expr) -> bool:
        """Whether a size can be computed here."""
        return all(name in self._symbols for name in symbols(dim))

    # ---------------------------------------------------------------- values

    def value(self, x: Any) -> Value | None:
        """The value behind an operator's input: a traced tensor, a weight, or a constant."""
        if x is None:
            return None
        if isinstance(x, Tensor):
            tape.sync(x)
        data = x._data if isinstance(x, Tensor) else x
        if type(data) is Abstract:
            return data.value
        found = self._find(x)
        if found is not None:
            return found
        if data.size <= _SMALL and data.dtype.kind != "O":
            key = (data.dtype, data.shape, data.tobytes())
            if key not in self._small:
                self._small[key] = self.builder.constant(data.copy())
            return self._small[key]
        value = self.builder.constant(data.copy() if isinstance(x, Tensor) else data)
        if isinstance(x, Tensor):
            self._remember(data, x._storage, value)
        return value

    def _find(self, x: Any) -> Value | None:
        """The value of a weight, of what was computed from weights, or of a constant seen before, unless it was written
        since."""
        data = x._data if isinstance(x, Tensor) else x
        if type(data) is not np.ndarray:
            return None
        known = self._known.get(id(data))
        if known is not None:
            return known[3] if known[1].version == known[2] else None
        name = self.state.name_of(data)
        return None if name is None else self._weight(name, data)

    def _weight(self, name: str, data: np.ndarray) -> Value:
        """The constant that holds a copy of a parameter or buffer under its own name."""
        if name not in self._named:
            self._named[name] = self.builder.constant(data.copy(), name)
        return self._named[name]

    def _remember(self, data: np.ndarray, storage: Any, value: Value) -> None:
        self._known[id(data)] = (data, storage, storage.version, value)

    def _tensor(self, value: Value) -> Tensor:
        self._learn(value)
        return wrap(Abstract(value))

    def _learn(self, value: Value) -> None:
        """Where sizes can be read from: the first value that has a symbol as one of its dimensions."""
        if isinstance(value.type, TensorType):
            for axis, dim in enumerate(value.type.shape or ()):
                if isinstance(dim, Expr) and dim.name is not None:
                    self._symbols.setdefault(dim.name, (value, axis))

    def static_advice(self, dim: Expr) -> str:
        """How to make a size a plain number, as a rewrite of the call of trace; "" where it depends on values."""
        places: dict[str, list[str]] = {}
        for value in self.graph.inputs:
            for axis, d in enumerate(value.type.shape or ()) if isinstance(value.type, TensorType) else ():
                if isinstance(d, Expr) and symbols(d) & symbols(dim):
                    places.setdefault(value.name, []).append(f"{axis}: None")
        return ", ".join(f"{name!r}: {{{', '.join(axes)}}}" for name, axes in places.items())

    # ---------------------------------------------------------------- sizes as tensors

    def size_tensor(self, size: SymInt) -> Tensor:
        """A symbolic size as a traced int64 tensor of rank 0."""
        return self._tensor(self.operators.Squeeze(self._size(size.expr), self._axes(0)))

    def shape_input(self, dims: Sequence[Any]) -> Tensor:
        """A shape (ints, symbolic sizes, tensors of rank 0) as a traced int64 tensor of rank 1."""
        parts: list[Any] = []
        for dim in dims:
            if isinstance(dim, Tensor):
                parts.append(self._element(dim))
                continue
            known = dim_of(dim)
            known = int(dim) if known is None else known
            if isinstance(known, Expr):
                parts.append(self._size(known))
            elif parts and isinstance(parts[-1], list):
                parts[-1].append(known)
            else:
                parts.append([known])
        values = [self._axes(*part) if isinstance(part, list) else part for part in parts]
        return self._tensor(values[0] if len(values) == 1 else self.operators.Concat(*values, axis=0))

    def _element(self, x: Tensor) -> Value:
        F, value = self.operators, self.value(x)
        if F.dtype(value) != "int64":
            value = F.Cast(value, to=dtypes.of("int64").onnx)
        return F.Reshape(value, self._axes(1))

    def _size(self, dim: Dim) -> Value:
        """An int64 value [1] that is a dimension: a polynomial is computed from the shapes of the tensors that have its
        symbols."""
        if isinstance(dim, int):
            return self._axes(dim)
        if dim not in self._sizes:
            total: Value | None = None
            for monomial, coefficient in dim.terms:
                factors = [self._atom(atom) for atom, power in monomial for _ in range(power)]
                if coefficient != 1 or not factors:
                    factors.append(self._axes(coefficient))
                term = factors[0]
                for factor in factors[1:]:
                    term = self.operators.Mul(term, factor)
                total = term if total is None else self.operators.Add(total, term)
            assert total is not None
            self._sizes[dim] = total
        return self._sizes[dim]

    def _atom(self, atom: Any) -> Value:
        F = self.operators
        if isinstance(atom, str):
            if atom not in self._symbols:
                raise TraceError(
                    f"{here()}no tensor has the size '{atom}' as a dimension of its own, so that it cannot be computed in the graph"
                )
            if atom not in self._sizes:
                value, axis = self._symbols[atom]
                self._sizes[atom] = F.Shape(value, **({"start": axis} if axis else {}), end=axis + 1)  # type: ignore[index]
            return self._sizes[atom]  # type: ignore[index]
        kind, left, right = atom
        a, b = self._size(left), self._size(right)
        match kind:
            case "min":
                return F.Min(a, b)
            case "max":
                return F.Max(a, b)
            case "%":
                return F.Mod(a, b)
        if bounds(left)[0] < 0:  # Div of whole numbers cuts toward 0, // toward the smaller
            a = F.Sub(a, F.Mod(a, b))
        return F.Div(a, b)

    def _axes(self, *numbers: int) -> Value:
        value = self.value(np.array(numbers, np.int64))
        assert value is not None
        return value

    def broadcast_shapes(self, shapes: Sequence[Any]) -> tuple[Any, ...]:
        """The common shape of several, sizes as the user sees them."""
        total: tuple[Dim, ...] = ()
        for shape in shapes:
            dims = [dim_of(size) for size in ((shape,) if isinstance(shape, int) else shape)]
            total = broadcast(total, tuple(dim for dim in dims if dim is not None))
        return tuple(map(size_of, total))

    # ---------------------------------------------------------------- in-place code

    def strided(self, x: Tensor) -> bool:
        """Whether an array in the place of a traced tensor would be spread over the memory of its base."""
        from headrace.jit.views import dense

        return not all(map(dense, x._chain))

    def write(self, base: Tensor, chain: Sequence[Any], result: Tensor) -> None:
        """A write through a view: the base takes the value that it has after the write."""
        from headrace.jit.views import written

        base._data = written(base, chain, result)._data


class Attempt:
    """Whether what was recorded stays."""

    kept = False

    def keep(self) -> None:
        self.kept = True


def _link(tensor: Tensor, inputs: Sequence[Any], step: Any) -> None:
    """Make a traced result a view of the operator's first input."""
    x = inputs[0]
    base = x if x._base is None else x._base
    tensor._storage, tensor._base, tensor._generation = x._storage, base, base._generation
    tensor._chain = (*x._chain, step)


def _given(call: tape.Call, attributes: Mapping[str, Any]) -> dict[str, Any]:
    """The attributes that differ from their defaults, lists as tuples."""
    found = {}
    for key, value in attributes.items():
        value = tuple(value) if isinstance(value, list) else value
        default = call.operator.attributes[key].default
        if isinstance(value, np.ndarray) or type(value) is not type(default) or value != default:
            found[key] = value
    return found


__all__ = ["Tracer"]
