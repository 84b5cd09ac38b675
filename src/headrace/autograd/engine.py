"""Backward: walk the tape from results to leaves.

Without create_graph, gradients are plain arrays, computed by the operators' rules over `ArrayNamespace`. With
create_graph they are tensors, computed over the tape itself, so that they can be differentiated again. Where only some
inputs of an operator need a gradient, its rule runs over a namespace that delays every call, and only what is asked for
is computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from headrace.autograd.lazy import ARRAYS, LAZY_ARRAYS, LAZY_TENSORS, force
from headrace.autograd.mode import MODE
from headrace.autograd.tape import Accumulate, Node, PythonNode, Stale, TapeNode, edge_of, ops
from headrace.tensors import Tensor, wrap

Target = tuple[TapeNode, int]

# Operators whose gradient is the same for complex numbers: sums with real factors, and what only moves elements.
_LINEAR = frozenset(
    [
        "Add",
        "Sub",
        "Neg",
        "ReduceSum",
        "ReduceMean",
        "Sum",
        "Reshape",
        "Transpose",
        "Slice",
        "Gather",
        "GatherElements",
        "GatherND",
        "Concat",
        "Expand",
        "Squeeze",
        "Unsqueeze",
        "Flatten",
        "Pad",
        "Where",
        "Identity",
        "ScatterElements",
        "ScatterND",
        "Split",
        "headrace.SumTo",
        "headrace.GatherGrad",
    ]
)


def backward(
    tensors: Any,
    grad_tensors: Any = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    inputs: Any = None,
) -> None:
    """Add the gradients of `tensors` (each weighted by its grad_tensor; None: one, for scalars only) to `.grad` of every
    leaf they came from, or only of `inputs`.

    retain_graph: keep what a second backward needs (default: create_graph). create_graph: record the gradients.
    RuntimeError where a tensor needs no gradient, where the graph was freed, or a saved tensor was changed in place.
    """
    roots = _roots(_sequence(tensors), _sequence(grad_tensors), create_graph)
    targets: dict[Target, Any] | None = None
    if inputs is not None:
        targets = {_target(t): None for t in _sequence(inputs)}
        if not targets:
            raise RuntimeError("`inputs` argument to `backward()` cannot be empty")
    retain = create_graph if retain_graph is None else retain_graph
    _walk(roots, targets, retain, create_graph, accumulate=True)
    for tensor in _sequence(inputs):
        value = targets[_target(tensor)]  # type: ignore[index]
        if not tensor.is_leaf and not tensor.retains_grad and value is not None:
            _accumulate(tensor, value, create_graph, set())


def grad(
    outputs: Any,
    inputs: Any,
    grad_outputs: Any = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    only_inputs: bool = True,
    allow_unused: bool | None = None,
    is_grads_batched: bool = False,
    materialize_grads: bool = False,
) -> tuple[Any, ...]:
    """The gradients of `outputs` with respect to `inputs`, one each, without touching any `.grad`.

    An input that the outputs do not depend on gives None with allow_unused=True, zeros with materialize_grads=True, and is
    a RuntimeError otherwise.
    """
    wanted = _sequence(inputs)
    roots = _roots(_sequence(outputs), _sequence(grad_outputs), create_graph)
    targets: dict[Target, Any] = {_target(t): None for t in wanted}
    retain = create_graph if retain_graph is None else retain_graph
    _walk(roots, targets, retain, create_graph, accumulate=False)
    found = []
    for tensor in wanted:
        value = targets[_target(tensor)]
        if value is None:
            if materialize_grads:
                value = wrap(np.zeros_like(tensor._data))
            elif not allow_unused:
                raise RuntimeError(
                    "One of the differentiated Tensors appears to not have been used in the graph. Set"
                    " allow_unused=True if this is the desired behavior."
                )
        found.append(value if value is None or isinstance(value, Tensor) else wrap(value))
    return tuple(found)


def _sequence(value: Any) -> list[Any]:
    if value is None:
        return []
    return [value] if isinstance(value, Tensor) else list(value)


def _target(tensor: Tensor) -> Target:
    edge = edge_of(tensor)
    if edge is None:
        raise RuntimeError("One of the differentiated Tensors does not require grad")
    return edge


def _roots(outputs: list[Tensor], gradients: list[Any], create_graph: bool) -> list[tuple[Target, Any]]:
    if gradients and len(gradients) != len(outputs):
        raise RuntimeError(f"got {len(outputs)} tensors and {len(gradients)} gradients")
    roots = []
    for i, output in enumerate(outputs):
        edge = edge_of(output)
        if edge is None:
            raise RuntimeError(f"element {i} of tensors does not require grad and does not have a grad_fn")
        given = gradients[i] if gradients else None
        if given is None:
            if output._data.size != 1:
                raise RuntimeError(
                    f"grad can be implicitly created only for scalar outputs; this one has shape {list(output.shape)}: "
                    "reduce it (loss.mean().backward()), or give backward(gradient=...)"
                )
            given = np.ones(output._data.shape, output._data.dtype)
        else:
            given = given if isinstance(given, Tensor) else wrap(np.asarray(given))
            if given._data.shape != output._data.shape:
                raise RuntimeError(
                    f"Mismatch in shape: grad_output[{i}] has a shape of {given.shape} and output[{i}] has a shape of {output.shape}."
                )
            given = given if create_graph else given._data
        if create_graph and not isinstance(given, Tensor):
            given = wrap(given)
        roots.append((edge, given))
    return roots


def _walk(
    roots: list[tuple[Target, Any]],
    targets: dict[Target, Any] | None,
    retain: bool,
    create_graph: bool,
    accumulate: bool,
) -> None:
    order = _order([edge[0] for edge, _ in roots])
    needed = None if targets is None else _needed(order, {node for node, _ in targets})
    owned: set[int] = {id(_owner(g)) for _, g in roots} if not create_graph else set()
    slots: dict[TapeNode, list[Any]] = {}
    for (node, index), gradient in roots:
        _add(slots, node, index, gradient)
    before = MODE.grad, MODE.quiet
    MODE.grad, MODE.quiet = create_graph, True
    try:
        with np.errstate(all="ignore"):
            for node in order:
                grads = slots.pop(node, None)
                if grads is None or (needed is not None and node not in needed):
                    continue
                _visit(node, grads, slots, targets, needed, retain, create_graph, accumulate, owned)
    finally:
        MODE.grad, MODE.quiet = before


def _order(nodes: Sequence[TapeNode]) -> list[TapeNode]:
    """Every node that can be reached, later ones first."""
    seen: set[TapeNode] = set()
    stack = list(nodes)
    while stack:
        node = stack.pop()
        if node in seen:
            continue
        seen.add(node)
        for edge in node.edges:
            if edge is not None and edge[0] not in seen:
                stack.append(edge[0])
    return sorted(seen, key=_seq, reverse=True)


def _seq(node: TapeNode) -> int:
    return node.seq


def _needed(order: list[TapeNode], ends: set[TapeNode]) -> set[TapeNode]:
    """The nodes on a way to one of the ends."""
    found: set[TapeNode] = set()
    for node in reversed(order):
        if node in ends or any(edge is not None and edge[0] in found for edge in node.edges):
            found.add(node)
    return found


def _visit(
    node: TapeNode, grads: list[Any], slots: dict[TapeNode, list[Any]], targets: dict[Target, Any] | None,
    needed: set[TapeNode] | None, retain: bool, create_graph: bool, accumulate: bool, owned: set[int],
) -> None:  # fmt: skip
    if node._hooks is not None:
        _run_hooks(node, grads, create_graph)
    if node._retained:
        for index, reference in node._retained.items():
            tensor = reference()
            if tensor is not None and grads[index] is not None and accumulate:
                _accumulate(tensor, grads[index], create_graph, owned)
    if targets is not None:
        for index, gradient in enumerate(grads):
            if (node, index) in targets:
                targets[node, index] = gradient
    if type(node) is Accumulate:
        leaf = node.leaf()
        if leaf is None or not accumulate:
            return
        if targets is None or (node, 0) in targets:
            _accumulate(leaf, grads[0], create_graph, owned)
            for hook in list(node.post_hooks.values()):
                hook(leaf)
        return
    if targets is not None and not any(e is not None and e[0] in needed for e in node.edges):  # type: ignore[operator]
        return
    results = _gradients(node, grads, create_graph, needed)
    if not retain:
        node.release()
    if node.trace:
        _check_anomaly(node, results)
    if node._hooks is not None and node._hooks.get(-1):
        results = _run_node_hooks(node, grads, results, create_graph)
    if len(results) < len(node.edges):
        raise RuntimeError(f"{node.name()} gave {len(results)} gradients for {len(node.edges)} inputs")
    for edge, gradient in zip(node.edges, results):
        if edge is not None and gradient is not None:
            _add(slots, edge[0], edge[1], gradient)


def _add(slots: dict[TapeNode, list[Any]], node: TapeNode, index: int, gradient: Any) -> None:
    row = slots.get(node)
    if row is None:
        row = slots[node] = [None] * node.n_outputs
    if row[index] is None:
        row[index] = gradient
    elif isinstance(gradient, Tensor):
        row[index] = ops.Add(row[index], gradient)
    else:
        row[index] = np.asarray(row[index] + gradient)


def _gradients(node: TapeNode, grads: list[Any], create_graph: bool, needed: set[TapeNode] | None) -> Sequence[Any]:
    if isinstance(node, Node):
        return _operator_gradients(node, grads, create_graph, needed)
    assert isinstance(node, PythonNode)
    given = grads if create_graph else [None if g is None else wrap(g) for g in grads]
    results = node.backward(given)
    return results if create_graph else [None if r is None else r._data for r in results]


def _operator_gradients(node: Node, grads: list[Any], create_graph: bool, needed: set[TapeNode] | None) -> list[Any]:
    inputs, outputs = node.saved()
    operator = node.call.operator
    wanted = (
        [e is not None for e in node.edges]
        if needed is None
        else [e is not None and e[0] in needed for e in node.edges]
    )
    if node.call.rule is not None and not create_graph:
        direct = node.call.rule(inputs, outputs, grads, node.attributes, wanted)
        if direct is not None:
            return [g if g is None or type(g) is np.ndarray else np.asarray(g) for g in direct]
    partial = False
    for w, array in zip(wanted, inputs):
        if not w and array is not None and array.dtype.kind in "fcV":
            partial = True
            break
    F: Any
    if create_graph:
        if not operator.twice_differentiable:
            raise RuntimeError(f"the gradient of {operator.kind} cannot be differentiated again (create_graph=True)")
        inputs, outputs = _tensors(node, inputs, outputs)
        F = LAZY_TENSORS if partial else ops
    else:
        F = LAZY_ARRAYS if partial else ARRAYS
    if operator.kind not in _LINEAR and any(a is not None and a.dtype.kind == "c" for a in node.inputs or ()):
        raise RuntimeError(f"{operator.kind} has no gradient for complex numbers (functional.complexes and fft have)")
    results = operator.gradient(F, inputs, outputs, grads, node.attributes)
    found: list[Any] = []
    for i, w in enumerate(wanted):
        result = results[i] if w and i < len(results) else None
        if result is None:
            found.append(None)
            continue
        result = force(result)
        array = result._data if create_graph else result
        if array.shape != inputs[i].shape:
            raise RuntimeError(
                f"{node.name()} returned a gradient of shape {list(array.shape)} for input {i} of shape {list(inputs[i].shape)}"
            )
        found.append(result)
    return found


def _tensors(node: Node, inputs: list[Any], outputs: list[Any]) -> tuple[list[Any], list[Any]]:
    """The saved arrays as tensors with their history, for a gradient that is recorded."""

    def tensor(array: Any, edge: Any, store: Any) -> Tensor | None:
        if array is None:
            return None
        found = wrap(array)
        found._storage = store
        if edge is not None:
            found._node, found._index = edge
        return found

    count = len(inputs)
    given = [tensor(a, e, s) for a, e, s in zip(inputs, node.edges, node.stores)]
    made = [
        tensor(a, (node, i) if isinstance(a, Stale) or a.dtype.kind in "fcV" else None, s)
        for i, (a, s) in enumerate(zip(outputs, node.stores[count:]))
    ]
    return given, made


def _owner(array: np.ndarray) -> Any:
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


def _accumulate(leaf: Tensor, gradient: Any, create_graph: bool, owned: set[int]) -> None:
    """Add to `.grad`. A first gradient is taken as it is unless something else may hold the same memory."""
    if create_graph:
        leaf._grad = gradient if leaf._grad is None else ops.Add(leaf._grad, gradient)
        return
    if gradient.dtype != leaf._data.dtype:
        gradient = gradient.astype(leaf._data.dtype)
    if leaf._grad is not None:
        held = leaf._grad
        if held._node is not None:
            leaf._grad = wrap(held._data + gradient)
        else:
            np.add(held._data, gradient, out=held._data)
            held._storage.version += 1
        return
    key = id(_owner(gradient))
    if key in owned or not gradient.flags.writeable or not gradient.flags.c_contiguous:
        gradient = gradient.copy()
        key = id(gradient)
    owned.add(key)
    leaf._grad = wrap(gradient)


def _run_hooks(node: TapeNode, grads: list[Any], create_graph: bool) -> None:
    assert node._hooks is not None
    for hook in list(node._hooks.get(-2, {}).values()):
        answer = hook(tuple(_as_tensor(g) for g in grads))
        if answer is not None:
            grads[:] = [
                a if create_graph or a is None else a._data
                for a in (answer if isinstance(answer, tuple) else (answer,))
            ]
    for index in range(len(grads)):
        for hook in list(node._hooks.get(index, {}).values()):
            if grads[index] is None:
                break
            answer = hook(_as_tensor(grads[index]))
            if answer is not None:
                if answer._data.shape != grads[index].shape:
                    raise RuntimeError(
                        f"a hook changed the gradient's size from {list(grads[index].shape)} to {list(answer.shape)}"
                    )
                grads[index] = answer if create_graph else answer._data


def _run_node_hooks(node: TapeNode, grads: list[Any], results: Sequence[Any], create_graph: bool) -> Sequence[Any]:
    assert node._hooks is not None
    for hook in list(node._hooks[-1].values()):
        answer = hook(tuple(map(_as_tensor, results)), tuple(map(_as_tensor, grads)))
        if answer is not None:
            answer = answer if isinstance(answer, tuple) else (answer,)
            results = [a if create_graph or a is None else a._data for a in answer]
    return results


def _as_tensor(value: Any) -> Any:
    return value if value is None or isinstance(value, Tensor) else wrap(value)


def _check_anomaly(node: TapeNode, results: Sequence[Any]) -> None:
    for index, result in enumerate(results):
        array = result._data if isinstance(result, Tensor) else result
        if array is not None and array.dtype.kind in "fcV" and np.isnan(array).any():
            raise RuntimeError(
                f"Function {node.name()!r} returned nan values in its {index}th output. It was recorded here:\n{node.trace}"
            )
