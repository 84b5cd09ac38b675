"""Activation checkpointing: forward is run again at backward in place of keeping what it computed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from headrace.autograd.mode import MODE, enable_grad, no_grad
from headrace.generators import default_generator
from headrace.tensors import Tensor


def checkpoint(
    function: Callable[..., Any],
    *args: Any,
    use_reentrant: bool | None = None,
    preserve_rng_state: bool = True,
    **kwargs: Any,
) -> Any:
    """function(*args) whose inner values are computed again when gradients are needed."""
    from headrace.autograd.engine import backward as run_backward
    from headrace.autograd.tape import PythonNode, edge_of

    state = default_generator.get_state() if preserve_rng_state else None
    with no_grad():
        result = function(*args, **kwargs)
    if not MODE.grad:
        return result
    tensors = [a for a in args if isinstance(a, Tensor)]
    many = isinstance(result, tuple)
    outputs = list(result) if many else [result]

    def backward(grads: list[Tensor | None]) -> list[Tensor | None]:
        after = default_generator.get_state()
        if state is not None:
            default_generator.set_state(state)
        twins = [a.detach().requires_grad_(a.requires_grad) if isinstance(a, Tensor) else a for a in args]
        with enable_grad():
            again = function(*twins, **kwargs)
        if state is not None:
            default_generator.set_state(after)
        pairs = [
            (o, g)
            for o, g in zip(again if isinstance(again, tuple) else [again], grads)
            if g is not None and o.requires_grad
        ]
        run_backward([o for o, _ in pairs], [g for _, g in pairs])
        return [t._grad for t in twins if isinstance(t, Tensor)]

    node = PythonNode("CheckpointBackward", [edge_of(t) for t in tensors], len(outputs), backward)
    found = []
    for index, output in enumerate(outputs):
        twin = output.detach() if isinstance(output, Tensor) else output
        if isinstance(twin, Tensor) and twin.is_floating_point():
            twin._node, twin._index = node, index
        found.append(twin)
    return tuple(found) if many else found[0]
