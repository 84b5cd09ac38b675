"""The tracer: receives every operator call while a program runs once on abstract data, and builds the graph."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from headrace.autograd.tape import Call, replay
from headrace.jit.abstract import Abstract, SymInt, TraceError, dim_of, place, size
from headrace.runtime import dtypes
from headrace.runtime.builder import Builder
from headrace.runtime.errors import GraphError
from headrace.runtime.graph import Block, Graph, Value
from headrace.runtime.shapes import Dim, Expr
from headrace.runtime.types import TensorType
from headrace.tensors import Tensor, wrap


class Tracer:
    """Builds one graph. `names` maps the identity of parameters and buffers to their state_dict keys, `paths` that of
    modules to their dotted paths."""

    def __init__(self, names: Mapping[int, str] | None = None, paths: Mapping[int, str] | None = None) -> None:
        self.graph = Graph(Block([], [], []))
        self.builder = Builder(self.graph)
        self.names, self.paths = dict(names or {}), dict(paths or {})
        self.path = ""
        self._constants: dict[int, tuple[Any, Value]] = {}  # identity -> (the array, kept alive, and its value)
        self._symbols: dict[str, tuple[Value, int]] = {}  # symbol -> where its size can be read
        self._sizes: dict[Dim, Value] = {}  # dimension -> int64 [1]

    # ---------------------------------------------------------------- values

    def input(self, name: str, dtype: str, shape: tuple[Dim, ...]) -> Tensor:
        """Add an input of the graph; answers the traced tensor."""
        self.builder.inference._symbols.update(d.name for d in shape if isinstance(d, Expr) and d.name)
        return self.tensor(self.builder.input(name, TensorType(dtype, shape)))

    def tensor(self, value: Value) -> Tensor:
        """The traced tensor of a value. TraceError where not even its rank is known."""
        kind = value.type
        if not isinstance(kind, TensorType) or kind.shape is None:
            raise TraceError(f"{place()}: the result %{value.name} has type {kind}; a traced tensor needs a known rank")
        for axis, dim in enumerate(kind.shape):
            if isinstance(dim, Expr) and dim.name is not None:
                self._symbols.setdefault(dim.name, (value, axis))
        return wrap(Abstract(value, dtypes.of(kind.dtype).numpy, tuple(map(size, kind.shape))))

    def value(self, x: Any) -> Value | None:
        """The graph's value for an operator's input: traced data, a parameter (by its name), or a constant."""
        if x is None:
            return None
        data = x._data if isinstance(x, Tensor) else x
        if type(data) is Abstract:
            return data.value
        owner = x if isinstance(x, Tensor) else data
        known = self._constants.get(id(owner))
        if known is None:
            name = self.names.get(id(owner), "")
            if not name and data.size <= 16:
                known = self._small(data)
            else:
                known = (owner, self.builder.constant(np.array(data), name))
            self._constants[id(owner)] = (owner, known[1])
        return known[1]

    def _small(self, data: np.ndarray) -> tuple[Any, Value]:
        """Small constants without a name are shared by value."""
        key = hash((data.dtype.str, data.shape, data.tobytes()))
        found = self._constants.get(~key)
        if found is None:
            found = self._constants[~key] = (None, self.builder.constant(np.array(data), ""))
        return found

    # ---------------------------------------------------------------- calls

    def run(self, call: Call, inputs: Sequence[Any], attributes: Mapping[str, Any], outputs: int) -> Any:
        """Record a call, if it touches traced data; None: it does not, and may run at once."""
        from headrace.autograd.tape import sync

        for x in inputs:
            if isinstance(x, Tensor) and x._base is not None:
                sync(x)
        if not any(isinstance(x, Tensor) and type(x._data) is Abstract for x in inputs):
            return None
        operator = call.operator
        defaults = operator.attributes
        given = {k: v for k, v in attributes.items() if v is not None and v != defaults[k].default}
        try:
            values = self.builder.node(
                operator.name, [self.value(x) for x in inputs], given, domain=operator.domain, outputs=outputs, path=self.path
            )
        except GraphError as error:
            raise TraceError(f"{place()}: {error}") from error
        found = [self.tensor(value) for value in values]
        x = inputs[0]
        if call.view and isinstance(x, Tensor) and type(x._data) is Abstract:
            for index, tensor in enumerate(found):
                tensor._base = x if x._base is None else x._base
                tensor._generation = tensor._base._generation
                tensor._chain = (*x._chain, (call, tuple(inputs[1:]), attributes, outputs, index))
                tensor._storage = x._storage
        return found[0] if outputs == 1 else tuple(found)

    @contextlib.contextmanager
    def module(self, module: Any) -> Iterator[None]:
        """Nodes recorded inside carry the module's path."""
        before = self.path
        self.path = self.paths.get(id(module), before)
        try:
            yield
        finally:
            self.path = before

    # ---------------------------------------------------------------- sizes

    def size_value(self, dim: Dim) -> Value:
        """A dimension as an int64 [1] value of the graph."""
        found = self._sizes.get(dim)
        if found is None:
            found = self._sizes[dim] = self._make_size(dim)
        return found

    def _make_size(self, dim: Dim) -> Value:
        if isinstance(dim, int):
            return self._small(np.array([dim], np.int64))[1]
        if dim.name is not None:
            value, axis = self._symbols[dim.name]
            return self._node("Shape", [value], {"start": axis, "end": axis + 1})
        total: Value | None = None
        for monomial, coefficient in dim.terms:
            term = self._monomial(monomial, coefficient)
            total = term if total is None else self._node("Add", [total, term])
        assert total is not None
        return total

    def _monomial(self, monomial: Any, coefficient: int) -> Value:
        product: Value | None = None
        for atom, power in monomial:
            factor = self.size_value(Expr({((atom, 1),): 1})) if isinstance(atom, str) else self._atom(atom)
            for _ in range(power):
                product = factor if product is None else self._node("Mul", [product, factor])
        if product is None:
            return self.size_value(coefficient)
        return product if coefficient == 1 else self._node("Mul", [product, self.size_value(coefficient)])

    def _atom(self, atom: Any) -> Value:
        kind, left, right = atom
        a, b = self.size_value(left), self.size_value(right)
        return self._node({"//": "Div", "%": "Mod", "min": "Min", "max": "Max"}[kind], [a, b])

    def _node(self, op: str, inputs: list[Value], attributes: dict[str, Any] | None = None) -> Value:
        return self.builder.node(op, inputs, attributes, path=self.path)[0]

    def size_tensor(self, value: SymInt) -> Tensor:
        """A size as a traced 0-d int64 tensor."""
        axes = self._small(np.array([0], np.int64))[1]
        return self.tensor(self._node("Squeeze", [self.size_value(dim_of(value)), axes]))

    def shape_input(self, dims: Sequence[Any]) -> Tensor:
        """Sizes as a traced int64 vector."""
        pieces: list[Value] = []
        run: list[int] = []

        def flush() -> None:
            if run:
                pieces.append(self._small(np.array(run, np.int64))[1])
                run.clear()

        for d in dims:
            if isinstance(d, Tensor):
                flush()
                pieces.append(self._node("Reshape", [self.value(d), self._small(np.array([1], np.int64))[1]]))  # type: ignore[list-item]
            elif isinstance(d, SymInt):
                flush()
                pieces.append(self.size_value(d.expr))
            else:
                run.append(int(d))
        flush()
        return self.tensor(pieces[0] if len(pieces) == 1 else self._node("Concat", pieces, {"axis": 0}))

    # ---------------------------------------------------------------- writes through views

    def write(self, base: Tensor, chain: Sequence[Any], value: Tensor) -> None:
        """The base takes a new value where the chain shows it: places are found by sending a numbered twin of the base
        through the same views."""
        from headrace.autograd.tape import ops
        from headrace.functional.creation import arange
        from headrace.functional.shape import reshape

        shape = tuple(base.shape)
        numbers = reshape(arange(base.shape.numel()), shape)
        places = reshape(replay(chain, numbers), (-1,))
        flat = ops.ScatterElements(reshape(base, (-1,)), places, reshape(value, (-1,)), axis=0)
        base._data = reshape(flat, shape)._data
