"""Jacobians and products with them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from headrace.autograd.engine import grad
from headrace.autograd.mode import enable_grad
from headrace.tensors import Tensor, wrap


def _leaves(inputs: Any, create_graph: bool) -> tuple[tuple[Tensor, ...], bool]:
    many = isinstance(inputs, tuple | list)
    given = tuple(inputs) if many else (inputs,)
    return tuple(t if create_graph and t.requires_grad else t.detach().requires_grad_() for t in given), many


def _as_tuple(value: Any) -> tuple[tuple[Tensor, ...], bool]:
    many = isinstance(value, tuple | list)
    return (tuple(value) if many else (value,)), many


def _or_zeros(gradients: Any, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(wrap(np.zeros_like(t._data)) if g is None else g for g, t in zip(gradients, inputs))


def vjp(
    func: Callable[..., Any], inputs: Any, v: Any = None, create_graph: bool = False, strict: bool = False
) -> tuple[Any, Any]:
    """(func(inputs), vᵀ J)."""
    with enable_grad():
        given, many = _leaves(inputs, create_graph)
        outputs, several = _as_tuple(func(*given))
        seeds = None if v is None else list(_as_tuple(v)[0])
        found = _or_zeros(grad(list(outputs), given, seeds, create_graph=create_graph, allow_unused=True), given)
    shown = outputs if create_graph else tuple(o.detach() for o in outputs)
    return (shown if several else shown[0]), (found if many else found[0])


def jvp(
    func: Callable[..., Any], inputs: Any, v: Any = None, create_graph: bool = False, strict: bool = False
) -> tuple[Any, Any]:
    """(func(inputs), J v), by differentiating vᵀ J with respect to v."""
    with enable_grad():
        given, _ = _leaves(inputs, create_graph)
        outputs, several = _as_tuple(func(*given))
        dummies = [wrap(np.zeros_like(o._data)).requires_grad_() for o in outputs]
        back = _or_zeros(grad(list(outputs), given, dummies, create_graph=True, allow_unused=True), given)
        seeds = [wrap(np.ones_like(t._data)) for t in given] if v is None else list(_as_tuple(v)[0])
        kept = [(b, s) for b, s in zip(back, seeds) if b.requires_grad]
        found = (
            grad([b for b, _ in kept], dummies, [s for _, s in kept], create_graph=create_graph, allow_unused=True)
            if kept
            else [None] * len(dummies)
        )
        found = _or_zeros(found, outputs)
    shown = outputs if create_graph else tuple(o.detach() for o in outputs)
    return (shown if several else shown[0]), (found if several else found[0])


def jacobian(
    func: Callable[..., Any],
    inputs: Any,
    create_graph: bool = False,
    strict: bool = False,
    vectorize: bool = False,
    strategy: str = "reverse-mode",
) -> Any:
    """The Jacobian: for one output and input a tensor [*output, *input], else (nested) tuples of them."""
    from headrace.functional.joins import stack

    with enable_grad():
        given, many = _leaves(inputs, create_graph)
        outputs, several = _as_tuple(func(*given))
        table = []
        for output in outputs:
            rows: list[list[Tensor]] = [[] for _ in given]
            for j in range(output._data.size):
                seed = np.zeros(output._data.shape, output._data.dtype)
                seed.reshape(-1)[j] = 1
                gradients = (
                    grad(output, given, wrap(seed), retain_graph=True, create_graph=create_graph, allow_unused=True)
                    if output.requires_grad
                    else [None] * len(given)
                )
                for row, g in zip(rows, _or_zeros(gradients, given)):
                    row.append(g)
            table.append(tuple(stack(row).reshape(*output.shape, *t.shape) for row, t in zip(rows, given)))
    flat = [row if many else row[0] for row in table]
    return tuple(flat) if several else flat[0]


def hessian(
    func: Callable[..., Any],
    inputs: Any,
    create_graph: bool = False,
    strict: bool = False,
    vectorize: bool = False,
    outer_jacobian_strategy: str = "reverse-mode",
) -> Any:
    """The Hessian of a function with one scalar result."""

    def gradient(*given: Tensor) -> Any:
        found = jacobian(func, given, create_graph=True)
        return tuple(g.reshape(t.shape) for g, t in zip(found, given))

    many = isinstance(inputs, tuple | list)
    table = jacobian(gradient, tuple(inputs) if many else (inputs,), create_graph=create_graph)
    return table if many else table[0][0]


def vhp(
    func: Callable[..., Any], inputs: Any, v: Any = None, create_graph: bool = False, strict: bool = False
) -> tuple[Any, Any]:
    """(func(inputs), vᵀ H)."""
    with enable_grad():
        given, many = _leaves(inputs, create_graph)
        value = func(*given)
        first = grad(value, given, create_graph=True, allow_unused=True)
        seeds = list(_as_tuple(v)[0])
        kept = [(g, s) for g, s in zip(first, seeds) if g is not None and g.requires_grad]
        found = _or_zeros(
            grad([g for g, _ in kept], given, [s for _, s in kept], create_graph=create_graph, allow_unused=True), given
        )
    return (value if create_graph else value.detach()), (found if many else found[0])


hvp = vhp
