"""The tape: what runs an operator on tensors and remembers it.

    ops.Add(x, y)         runs the operator Add of the domain "" (else of "headrace") and records it if a gradient is needed
    ops.Conv(x, w, None, strides=(2, 2))

A `Node` remembers (operator, inputs, outputs, attributes) as arrays plus, for each input, the edge to what gave it.
Nodes never hold tensors, so there are no reference cycles. The sequence number of a node is larger than those of the
nodes it depends on, so walking nodes by falling number is a topological order.
"""

from __future__ import annotations

import itertools
import traceback
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from headrace import eager
from headrace.autograd.mode import MODE
from headrace.runtime.namespaces import Namespace
from headrace.runtime.ops import find
from headrace.runtime.ops.base import Operator
from headrace.runtime.types import TensorType
from headrace.tensors import Storage, Tensor

ndarray = np.ndarray
_sequence = itertools.count(1)
_CONSTANT = Storage()  # of arrays that are no tensors: nobody writes them
Edge = tuple[Any, int] | None
FREED = (
    "Trying to backward through the graph a second time (or directly access saved tensors after they have"
    " already been freed). Saved intermediate values of the graph are freed when you call .backward() or"
    " autograd.grad(). Specify retain_graph=True if you need to backward through the graph a second time."
)


class Call:
    """One operator as a function of tensors. NumPy arrays among the inputs are constants; None is an absent input."""

    __slots__ = ("_completed", "differentiable", "kernel", "operator", "rule", "view")

    def __init__(self, operator: Operator) -> None:
        self.operator = operator
        self.kernel: Callable[[list[Any], Mapping[str, Any], int], Sequence[Any]] = (
            eager.find(operator) or operator.reference
        )
        self.rule = eager.find_rule(operator)
        self.view = operator.kind in eager.VIEWS
        self.differentiable = operator.differentiable
        self._completed: dict[Any, dict[str, Any]] = {}

    def __call__(self, *inputs: Any, outputs: int = 1, **attributes: Any) -> Any:
        return run(self, inputs, self.complete(attributes), outputs)

    def complete(self, attributes: dict[str, Any]) -> dict[str, Any]:
        """Attributes with defaults; remembered, because programs call with the same ones again and again."""
        try:
            key = tuple(attributes.items())
            return self._completed[key]
        except KeyError:
            full = self.operator.complete(attributes)
            if len(self._completed) < 4096:
                self._completed[key] = full
            return full
        except TypeError:  # an attribute that cannot be hashed
            return self.operator.complete(attributes)


_calls: dict[int, Call] = {}


def call_of(operator: Operator) -> Call:
    """The one Call of an operator."""
    found = _calls.get(id(operator))
    if found is None:
        found = _calls[id(operator)] = Call(operator)
    return found


class TensorNamespace(Namespace):
    """Operators over tensors: what the torch-like functions and differentiable gradients are written in."""

    def _caller(self, operator: Operator) -> Call:
        return call_of(operator)

    def has(self, name: str) -> bool:
        return (find(name) or find(name, "headrace")) is not None

    def constant(self, array: object) -> np.ndarray:
        return np.asarray(array)

    def type(self, value: Any) -> TensorType:
        from headrace.runtime import dtypes

        data = value._data if isinstance(value, Tensor) else value
        return TensorType(dtypes.of(data.dtype).name, tuple(getattr(d, "expr", d) for d in data.shape))


ops: Any = TensorNamespace()


def run(call: Call, inputs: Sequence[Any], attributes: Mapping[str, Any], outputs: int = 1) -> Any:
    """Run one operator: a Tensor, or a tuple of them where outputs > 1."""
    mode = MODE
    if mode.tracer is not None:
        traced = mode.tracer.run(call, inputs, attributes, outputs)
        if traced is not None:
            return traced
    arrays: list[Any] = []
    recorded = False
    for x in inputs:
        if x is None or type(x) is ndarray:
            arrays.append(x)
            continue
        if x._base is not None and x._generation != x._base._generation:
            sync(x)
        arrays.append(x._data)
        if x._node is not None:
            recorded = True
    while arrays and arrays[-1] is None:
        arrays.pop()
    if mode.quiet:
        results = call.kernel(arrays, attributes, outputs)
    else:
        with np.errstate(all="ignore"):
            results = call.kernel(arrays, attributes, outputs)
    if outputs == 1:
        found = _tensor(call, inputs, arrays, attributes, 1, 0, results[0])
        if mode.inference:
            found._inference = True
        elif recorded and mode.grad and call.differentiable and found._data.dtype.kind in "fcV":
            found._node = Node(call, arrays, inputs, attributes, (found,))
        return found
    several = tuple(_tensor(call, inputs, arrays, attributes, outputs, i, results[i]) for i in range(outputs))
    if mode.inference:
        for tensor in several:
            tensor._inference = True
    elif recorded and mode.grad and call.differentiable:
        node = Node(call, arrays, inputs, attributes, several)
        for index, tensor in enumerate(several):
            if tensor._data.dtype.kind in "fcV":
                tensor._node, tensor._index = node, index
    return several


def _tensor(
    call: Call, inputs: Sequence[Any], arrays: list[Any], attributes: Any, outputs: int, index: int, array: Any
) -> Tensor:
    """Wrap one result; a result in the memory of input 0 becomes a view of it, or is copied where none is meant."""
    if type(array) is not ndarray:
        array = np.asarray(array)
    found = object.__new__(Tensor)
    found._data = array
    if array.base is None:
        for a in arrays:
            if a is array:
                break
        else:
            found._storage = Storage()
            return found
    x = inputs[0] if inputs else None
    if call.view and isinstance(x, Tensor) and np.may_share_memory(array, x._data):
        found._storage = x._storage
        base = x if x._base is None else x._base
        found._base, found._generation = base, base._generation
        found._chain = (*x._chain, (call, tuple(arrays[1:]), attributes, outputs, index))
        if array is x._data:
            found._data = array.view()
        return found
    found._storage = Storage()
    if any(type(a) is ndarray and np.may_share_memory(array, a) for a in arrays):
        found._data = array.copy()
    return found


class TapeNode:
    """What all tape nodes have: edges to where gradients go, hooks, and the places of retained gradients."""

    __slots__ = ("__weakref__", "_hooks", "_retained", "edges", "n_outputs", "seq", "trace")

    def __init__(self, edges: Sequence[Edge], n_outputs: int) -> None:
        self.edges, self.n_outputs, self.seq = edges, n_outputs, next(_sequence)
        self._hooks: dict[Any, dict[int, Any]] | None = None
        self._retained: dict[int, Any] | None = None
        self.trace = "".join(traceback.format_stack()[:-3]) if MODE.anomaly else ""  # where it was recorded

    @property
    def next_functions(self) -> tuple[Edge, ...]:
        return tuple(self.edges)

    def name(self) -> str:
        return type(self).__name__

    def tensor_hooks(self, index: int) -> dict[int, Any]:
        """Hooks on the gradient of one output."""
        if self._hooks is None:
            self._hooks = {}
        return self._hooks.setdefault(index, {})

    @property
    def retained(self) -> dict[int, Any]:
        if self._retained is None:
            self._retained = {}
        return self._retained

    def register_hook(self, hook: Callable[..., Any]) -> Any:
        """Call `hook(grad_inputs, grad_outputs)` when this node has run backward."""
        from headrace.autograd.hooks import Handle

        return Handle.add(self.tensor_hooks(-1), hook)

    def register_prehook(self, hook: Callable[..., Any]) -> Any:
        """Call `hook(grad_outputs)` before this node runs backward; what it answers replaces them."""
        from headrace.autograd.hooks import Handle

        return Handle.add(self.tensor_hooks(-2), hook)

    def release(self) -> None:
        """Drop what backward would need."""


class Node(TapeNode):
    """One recorded operator."""

    __slots__ = ("attributes", "call", "inputs", "outputs", "stores", "versions")

    def __init__(
        self, call: Call, arrays: list[Any], inputs: Sequence[Any], attributes: Any, found: Sequence[Tensor]
    ) -> None:
        edges: list[Edge] = []
        stores: list[Storage] = []
        versions: list[int] = []
        for x, _ in zip(inputs, arrays):
            if x is None or type(x) is ndarray:
                edges.append(None)
                stores.append(_CONSTANT)
                versions.append(0)
                continue
            if x._inference:
                raise RuntimeError(
                    "Inference tensors cannot be saved for backward. To work around you can make a clone."
                )
            store, node = x._storage, x._node
            stores.append(store)
            versions.append(store.version)
            edges.append(None if node is None else (node, x._index))
        for t in found:
            store = t._storage
            stores.append(store)
            versions.append(store.version)
        self.edges, self.n_outputs, self.seq, self._hooks, self._retained = (
            edges,
            len(found),
            next(_sequence),
            None,
            None,
        )
        self.trace = "".join(traceback.format_stack()[:-3]) if MODE.anomaly else ""
        self.call, self.attributes, self.stores, self.versions = call, attributes, stores, versions
        self.inputs: list[Any] | None = arrays
        self.outputs: list[Any] = [t._data for t in found]

    def name(self) -> str:
        return f"{self.call.operator.name}Backward"

    def __repr__(self) -> str:
        return f"<{self.name()}>"

    def release(self) -> None:
        self.inputs, self.outputs = None, []

    def saved(self) -> tuple[list[Any], list[Any]]:
        """Inputs and outputs as they were. RuntimeError where the graph was freed; what was overwritten since is `Stale`."""
        if self.inputs is None:
            raise RuntimeError(FREED)
        if self.versions == [store.version for store in self.stores]:
            return self.inputs, self.outputs
        arrays = [*self.inputs, *self.outputs]
        seen = [
            a if a is None or s.version == v else Stale(a, self.name(), v, s.version)
            for a, s, v in zip(arrays, self.stores, self.versions)
        ]
        return seen[: len(self.inputs)], seen[len(self.inputs) :]


class Stale:
    """Stands for a saved array that an in-place operation has overwritten: its shape may be read, its values not."""

    def __init__(self, array: np.ndarray, node: str, saved: int, version: int) -> None:
        self.shape, self.dtype, self.ndim, self.size = array.shape, array.dtype, array.ndim, array.size
        self._text = (
            "one of the variables needed for gradient computation has been modified by an inplace operation:"
            f" [{list(array.shape)}], which {node} needs, is at version {version}; expected version {saved} instead."
            " Hint: clone the tensor before it is changed, or enable anomaly detection to find the operation."
        )

    def __array__(self, *_: Any, **__: Any) -> np.ndarray:
        raise RuntimeError(self._text)

    def refuse(self, construct: str) -> None:
        raise RuntimeError(self._text)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise RuntimeError(self.__dict__.get("_text", name))

    def __getitem__(self, index: Any) -> Any:
        raise RuntimeError(self._text)


class Accumulate(TapeNode):
    """The end of the tape at a leaf: adds to its `.grad`."""

    __slots__ = ("leaf", "post_hooks")

    def __init__(self, leaf: Tensor) -> None:
        TapeNode.__init__(self, (), 1)
        self.seq = 0
        self.leaf = weakref.ref(leaf)
        self.post_hooks: dict[int, Any] = {}

    def name(self) -> str:
        return "AccumulateGrad"

    @property
    def variable(self) -> Tensor | None:
        return self.leaf()


class PythonNode(TapeNode):
    """A node whose gradient is a Python function of tensors."""

    __slots__ = ("_name", "backward", "on_release")

    def __init__(
        self,
        name: str,
        edges: Sequence[Edge],
        n_outputs: int,
        backward: Callable[[list[Tensor | None]], Sequence[Tensor | None]],
    ) -> None:
        TapeNode.__init__(self, edges, n_outputs)
        self._name, self.backward = name, backward
        self.on_release: Callable[[], None] | None = None

    def name(self) -> str:
        return self._name

    def release(self) -> None:
        if self.on_release is not None:
            self.on_release()


def edge_of(tensor: Tensor) -> Edge:
    """Where the gradient of this tensor goes."""
    if tensor._base is not None:
        sync(tensor)
    return None if tensor._node is None else (tensor._node, tensor._index)


# -------------------------------------------------------------------- views and in-place writes


def sync(view: Tensor) -> None:
    """Bring a view's history (and a traced view's value) up to its base's."""
    base = view._base
    if base is None or view._generation == base._generation:
        return
    before, MODE.grad = MODE.grad, True
    try:
        fresh = replay(view._chain, base)
    finally:
        MODE.grad = before
    view._node, view._index, view._generation = fresh._node, fresh._index, base._generation
    if type(view._data) is not ndarray or type(fresh._data) is not ndarray:
        view._data = fresh._data


def replay(chain: Sequence[Any], base: Tensor) -> Tensor:
    """Apply a chain of view operations to another tensor of the base's shape."""
    for call, others, attributes, outputs, index in chain:
        found = run(call, (base, *others), attributes, outputs)
        base = found[index] if outputs > 1 else found
    return base


def region(chain: Sequence[Any], array: np.ndarray) -> np.ndarray:
    """The part of an array that a view shows, as a NumPy view."""
    for call, others, attributes, outputs, index in chain:
        array = call.kernel([array, *others], attributes, outputs)[index]
    return array


IN_PLACE = "Make a new tensor (x = x + 1), or change it inside `with torch.no_grad():`"


def check_write(tensor: Tensor) -> None:
    """RuntimeError where a write would lose a leaf's gradient."""
    if MODE.grad and tensor._node is not None and type(tensor._node) is Accumulate:
        raise RuntimeError(f"a leaf Variable that requires grad is being used in an in-place operation. {IN_PLACE}")
    base = tensor._base
    if MODE.grad and base is not None and type(base._node) is Accumulate:
        raise RuntimeError(
            f"a view of a leaf Variable that requires grad is being used in an in-place operation. {IN_PLACE}"
        )
    if tensor._inference and not MODE.inference and MODE.grad:
        raise RuntimeError("Inplace update to inference tensor outside InferenceMode is not allowed.")


def adopt(tensor: Tensor, result: Tensor) -> Tensor:
    """Write `result` (same shape) into `tensor` in place, and give it the result's history."""
    check_write(tensor)
    data, source = tensor._data, result._data
    if type(data) is not ndarray or type(source) is not ndarray:
        return _adopt_traced(tensor, result)
    if source.shape != data.shape:
        raise RuntimeError(
            f"output with shape {list(data.shape)} doesn't match the broadcast shape {list(source.shape)}"
        )
    np.copyto(data, source, casting="unsafe")
    tensor._storage.version += 1
    if MODE.grad:
        rebase(tensor, result)
    return tensor


def rebase(tensor: Tensor, result: Tensor) -> None:
    """Give a tensor that was written in place the history of its new value."""
    base = tensor._base
    if base is None:
        if tensor._node is not None or result._node is not None:
            tensor._node, tensor._index = result._node, result._index
            tensor._generation += 1
    elif base._node is not None or result._node is not None:
        base._node, base._index = _copy_slices(base, tensor._chain, result), 0
        base._generation += 1


def _copy_slices(base: Tensor, chain: Sequence[Any], value: Tensor) -> PythonNode:
    """The base after a write to the region that the chain shows: its gradient is split between the old base (outside the
    region) and the value written (inside)."""
    outside = np.ones(base._data.shape, np.bool_)
    region(chain, outside)[...] = False

    def backward(grads: list[Tensor | None]) -> list[Tensor | None]:
        (grad,) = grads
        if grad is None:
            return [None, None]
        zero = np.zeros((), grad._data.dtype)
        return [ops.Where(outside, grad, zero), replay(chain, grad)]

    return PythonNode("CopySlices", [edge_of(base), edge_of(value)], 1, backward)


def _adopt_traced(tensor: Tensor, result: Tensor) -> Tensor:
    """A traced program has no memory: the name takes the new value, and so does the base of a view."""
    base = tensor._base
    if base is None:
        tensor._data = result._data
        tensor._generation += 1
        return tensor
    MODE.tracer.write(base, tensor._chain, result)
    base._generation += 1
    sync(tensor)
    return tensor
