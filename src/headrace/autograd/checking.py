"""Gradients compared with finite differences."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from headrace.autograd.engine import grad
from headrace.autograd.mode import no_grad
from headrace.tensors import Tensor, wrap


class GradcheckError(RuntimeError):
    """An analytical gradient differs from the numerical one."""


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    return [t for v in value for t in _tensors(v)] if isinstance(value, tuple | list) else []


def _outputs(func: Callable[..., Any], inputs: tuple[Any, ...]) -> list[Tensor]:
    return [t for t in _tensors(func(*inputs)) if t.is_floating_point()]


def gradcheck(
    func: Callable[..., Any], inputs: Any, *, eps: float = 1e-6, atol: float = 1e-5, rtol: float = 1e-3, raise_exception: bool = True,
    nondet_tol: float = 0.0, **_: Any,
) -> bool:  # fmt: skip
    """Whether the gradients of func(*inputs) agree with central differences, for all float64 inputs that require one.

    Raises GradcheckError naming input and output (or answers False).
    """
    inputs = (inputs,) if isinstance(inputs, Tensor) else tuple(inputs)
    checked = [(i, t) for i, t in enumerate(inputs) if isinstance(t, Tensor) and t.requires_grad]
    if not checked:
        raise ValueError("gradcheck expects at least one input tensor to require gradient")
    try:
        outputs = _outputs(func, inputs)
        for o, output in enumerate(outputs):
            if not output.requires_grad:
                continue
            rows = _analytical(output, [t for _, t in checked])
            for (i, tensor), row in zip(checked, rows):
                numerical = _numerical(func, inputs, tensor, o, eps)
                if not np.allclose(row, numerical, rtol, atol, equal_nan=True):
                    worst = float(np.nanmax(np.abs(row - numerical)))
                    raise GradcheckError(
                        f"Jacobian mismatch for output {o} with respect to input {i}: largest difference {worst:.3g}\nnumerical:\n{numerical}\nanalytical:\n{row}"
                    )
    except GradcheckError:
        if raise_exception:
            raise
        return False
    return True


def _analytical(output: Tensor, inputs: list[Tensor]) -> list[np.ndarray]:
    """d output[j] / d input, as matrices [outputs, inputs]."""
    size = output._data.size
    rows = [np.zeros((size, t._data.size)) for t in inputs]
    for j in range(size):
        seed = np.zeros(output._data.shape, output._data.dtype)
        seed.reshape(-1)[j] = 1
        found = grad(output, inputs, wrap(seed), retain_graph=True, allow_unused=True)
        for row, g in zip(rows, found):
            if g is not None:
                row[j] = g._data.reshape(-1)
    return rows


def _numerical(
    func: Callable[..., Any], inputs: tuple[Any, ...], tensor: Tensor, output: int, eps: float
) -> np.ndarray:
    columns = []
    data = tensor._data
    with no_grad():
        for index in np.ndindex(data.shape):
            before = data[index]
            values = []
            for step in (eps, -eps):
                data[index] = before + step
                values.append(_outputs(func, inputs)[output]._data.astype(np.float64).reshape(-1).copy())
            data[index] = before
            columns.append((values[0] - values[1]) / (2 * eps))
    return np.stack(columns, 1) if columns else np.zeros((0, 0))


def gradgradcheck(
    func: Callable[..., Any], inputs: Any, grad_outputs: Any = None, *, eps: float = 1e-6, atol: float = 1e-5, rtol: float = 1e-3,
    gen_non_contig_grad_outputs: bool = False, raise_exception: bool = True, **_: Any,
) -> bool:  # fmt: skip
    """gradcheck of the gradients of func themselves."""
    inputs = (inputs,) if isinstance(inputs, Tensor) else tuple(inputs)
    outputs = [o for o in _outputs(func, inputs) if o.requires_grad]
    rng = np.random.default_rng(0)
    if grad_outputs is None:
        seeds = [wrap(rng.standard_normal(o._data.shape).astype(o._data.dtype)).requires_grad_() for o in outputs]
    else:
        seeds = _tensors(grad_outputs)
    count = len(seeds)

    def gradients(*given: Any) -> tuple[Tensor, ...]:
        values = tuple(t.detach().requires_grad_() if isinstance(t, Tensor) and not t.requires_grad and t.is_floating_point() and s.requires_grad else t
                       for t, s in zip(given[:-count], inputs))  # fmt: skip
        results = [o for o in _outputs(func, values) if o.requires_grad]
        wanted = [t for t in values if isinstance(t, Tensor) and t.requires_grad]
        from headrace.autograd.mode import enable_grad

        with enable_grad():
            if not results:
                results = [o for o in _outputs(func, values) if o.requires_grad]
            found = grad(results, wanted, list(given[-count:]), create_graph=True, allow_unused=True)
        return tuple(g for g in found if g is not None)

    return gradcheck(gradients, (*inputs, *seeds), eps=eps, atol=atol, rtol=rtol, raise_exception=raise_exception)
