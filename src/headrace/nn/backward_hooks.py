"""Where a module's backward hooks see its gradients."""

from __future__ import annotations

from typing import Any

from headrace.autograd.mode import MODE
from headrace.autograd.tape import PythonNode, edge_of
from headrace.tensors import Tensor


class BackwardMarker:
    """Puts a node behind the inputs and one before the outputs of a module, so that its gradients can be seen."""

    def __init__(self, module: Any) -> None:
        self.module = module
        self.grad_output: tuple[Any, ...] = ()

    def inputs(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        tensors = [a for a in args if isinstance(a, Tensor) and a._node is not None]
        if not tensors or not MODE.grad:
            return args

        def backward(grads: list[Tensor | None]) -> list[Tensor | None]:
            given = tuple(grads)
            for hook in list(self.module._backward_hooks.values()):
                answer = hook(self.module, given, self.grad_output)
                if answer is not None:
                    given = answer if isinstance(answer, tuple) else (answer,)
            return list(given)

        marked = iter(_pass_through("BackwardHook", tensors, backward))
        return tuple(next(marked) if isinstance(a, Tensor) and a._node is not None else a for a in args)

    def outputs(self, result: Any) -> Any:
        many = isinstance(result, tuple)
        values = list(result) if many else [result]
        tensors = [v for v in values if isinstance(v, Tensor) and v._node is not None]
        if not tensors or not MODE.grad:
            return result

        def backward(grads: list[Tensor | None]) -> list[Tensor | None]:
            given = tuple(grads)
            for hook in list(self.module._backward_pre_hooks.values()):
                answer = hook(self.module, given)
                if answer is not None:
                    given = answer if isinstance(answer, tuple) else (answer,)
            self.grad_output = given
            return list(given)

        marked = iter(_pass_through("BackwardPreHook", tensors, backward))
        values = [next(marked) if isinstance(v, Tensor) and v._node is not None else v for v in values]
        return tuple(values) if many else values[0]


def _pass_through(name: str, tensors: list[Tensor], backward: Any) -> list[Tensor]:
    node = PythonNode(name, [edge_of(t) for t in tensors], len(tensors), backward)
    found = []
    for index, tensor in enumerate(tensors):
        twin = tensor.detach()
        twin._node, twin._index = node, index
        found.append(twin)
    return found
