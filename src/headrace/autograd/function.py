"""Operations of one's own: a Function has a forward and a backward written in Python."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from headrace.autograd.mode import MODE, no_grad
from headrace.autograd.tape import PythonNode, edge_of
from headrace.tensors import Tensor


class Context:
    """What forward leaves for backward."""

    def __init__(self) -> None:
        self.needs_input_grad: tuple[bool, ...] = ()
        self._saved: list[tuple[Tensor | None, Any, int]] | None = []
        self._dirty: tuple[Tensor, ...] = ()
        self._fixed: tuple[Tensor, ...] = ()
        self._materialize = True
        self._outputs: list[Any] = []
        self._node: PythonNode | None = None

    def save_for_backward(self, *tensors: Tensor | None) -> None:
        """Keep tensors; a change in place before backward is an error then."""
        self._saved = [(t, None if t is None else t._storage, 0 if t is None else t._storage.version) for t in tensors]

    @property
    def saved_tensors(self) -> tuple[Tensor | None, ...]:
        """What save_for_backward kept. RuntimeError where it was freed or changed in place."""
        if self._saved is None:
            raise RuntimeError(
                "Trying to backward through the graph a second time (or directly access saved tensors after they have"
                " already been freed). Specify retain_graph=True if you need to backward through the graph a second time."
            )
        found = []
        for tensor, store, version in self._saved:
            if store is not None and store.version != version:
                raise RuntimeError(
                    "one of the variables needed for gradient computation has been modified by an inplace operation:"
                    f" {list(tensor.shape)} is at version {store.version}; expected version {version} instead."  # type: ignore[union-attr]
                )
            found.append(tensor)
        return tuple(found)

    saved_variables = saved_tensors

    def mark_dirty(self, *tensors: Tensor) -> None:
        """Say which inputs forward changed in place."""
        self._dirty = tensors

    def mark_non_differentiable(self, *tensors: Tensor) -> None:
        """Say through which outputs no gradient flows."""
        self._fixed = tensors

    def set_materialize_grads(self, value: bool) -> None:
        """Whether missing gradients are given as zeros (the default) or None."""
        self._materialize = value

    @property
    def next_functions(self) -> Any:
        return self._node.next_functions if self._node is not None else ()


class Function:
    """Subclasses have static methods `forward(ctx, *args)` and `backward(ctx, *grads)`; call them through `apply`.

    Instead of ctx in forward, `setup_context(ctx, inputs, output)` may be defined.
    """

    @staticmethod
    def forward(*args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError("You must implement the forward function for custom autograd.Function.")

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        raise NotImplementedError("You must implement the backward function for custom autograd.Function.")

    @classmethod
    def apply(cls, *args: Any, **kwargs: Any) -> Any:
        """Run forward, and record backward where an input requires a gradient."""
        ctx = Context()
        ctx.needs_input_grad = tuple(isinstance(a, Tensor) and a._node is not None for a in args)
        edges = [edge_of(a) if isinstance(a, Tensor) else None for a in args]
        with no_grad():
            if "setup_context" in {name for c in cls.__mro__[:-1] for name in vars(c)}:
                output = cls.forward(*args, **kwargs)
                cls.setup_context(ctx, args, output)  # type: ignore[attr-defined]
            else:
                output = cls.forward(ctx, *args, **kwargs)
        if not MODE.grad or not any(ctx.needs_input_grad):
            return output
        many = isinstance(output, tuple)
        outputs = list(output) if many else [output]
        node = PythonNode(f"{cls.__name__}Backward", edges, len(outputs), functools.partial(_backward, cls, ctx))
        ctx._node = node
        found = []
        for index, value in enumerate(outputs):
            if not isinstance(value, Tensor) or any(value is t for t in ctx._fixed) or value.dtype.category < 2:
                found.append(value)
                continue
            dirty = any(value is t for t in ctx._dirty)
            if not dirty and (value._node is not None or any(value is a for a in args)):
                value = value.detach()
            value._node, value._index = node, index
            found.append(value)
        ctx._outputs = [(v._data.shape, v._data.dtype) if isinstance(v, Tensor) else None for v in outputs]
        node.on_release = lambda: setattr(ctx, "_saved", None)
        return tuple(found) if many else found[0]


def _backward(cls: type[Function], ctx: Context, grads: list[Tensor | None]) -> list[Tensor | None]:
    import numpy as np

    from headrace.tensors import wrap

    given = [
        wrap(np.zeros(*spec)) if g is None and spec is not None and ctx._materialize else g
        for g, spec in zip(grads, ctx._outputs)
    ]
    answer = cls.backward(ctx, *given)
    found = list(answer) if isinstance(answer, tuple) else [answer]
    if len(found) < len(ctx.needs_input_grad):
        raise RuntimeError(
            f"function {cls.__name__}Backward returned an incorrect number of gradients (expected {len(ctx.needs_input_grad)}, got {len(found)})"
        )
    return found


def once_differentiable(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Mark a backward that must not be differentiated again."""

    @functools.wraps(fn)
    def once(ctx: Any, *grads: Any) -> Any:
        recorded = MODE.grad
        with no_grad():
            answer = fn(ctx, *grads)
        if not recorded or not any(
            isinstance(g, Tensor) and g._node is not None for g in (*grads, *(t for t, *_ in ctx._saved or ()))
        ):
            return answer
        found = list(answer) if isinstance(answer, tuple) else [answer]

        def refuse(_: Any) -> Any:
            raise RuntimeError("trying to differentiate twice a function that was marked with @once_differentiable")

        edges = [edge_of(g) for g in grads if isinstance(g, Tensor)] or [edge_of(t) for t, *_ in ctx._saved]
        for i, value in enumerate(found):
            if isinstance(value, Tensor):
                twin = value.detach()
                twin._node = PythonNode("OnceDifferentiable", edges, 1, refuse)
                found[i] = twin
        return tuple(found)

    return once
