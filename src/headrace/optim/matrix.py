"""Optimizers that look at parameters as matrices: Adafactor (Shazeer and Stern 2018), Muon (Jordan 2024)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from headrace.optim.optimizer import Optimizer, buffer, check_settings, next_step, number


class Adafactor(Optimizer):
    """Running squares kept as row and column means."""

    def __init__(self, params: Any, lr: Any = 1e-2, beta2_decay: float = -0.8, eps: tuple[float | None, float] = (None, 1e-3), d: float = 1.0, weight_decay: float = 0.0, *,
                 foreach: bool | None = None, maximize: bool = False) -> None:  # fmt: skip
        check_settings(lr=number(lr), weight_decay=weight_decay)
        if beta2_decay > 0:
            raise ValueError(f"beta2_decay should be <= 0 but is: {beta2_decay}")
        if d < 1.0:
            raise ValueError(f"Clipping threshold d should be >= 1 but is: {d}")
        super().__init__(
            params,
            {
                "lr": lr,
                "beta2_decay": beta2_decay,
                "eps": eps,
                "d": d,
                "weight_decay": weight_decay,
                "foreach": foreach,
                "maximize": maximize,
            },
        )

    def update(self, param: np.ndarray, grad: np.ndarray, state: dict[str, Any], group: dict[str, Any]) -> None:
        step, lr = next_step(state), number(group["lr"])
        eps1, eps2 = group["eps"]
        eps1 = float(np.finfo(param.dtype).eps) if eps1 is None else eps1
        blend = step ** group["beta2_decay"]
        rho = min(lr, 1 / math.sqrt(step))
        alpha = max(eps2, float(np.linalg.norm(param)) / math.sqrt(param.size)) * rho
        if group["weight_decay"]:
            param *= 1 - lr * group["weight_decay"]
        if param.ndim > 1:
            row = buffer(state, "row_var", grad[..., :1])
            column = buffer(state, "col_var", grad[..., :1, :])
            row += ((grad * grad).mean(-1, keepdims=True) - row) * blend
            column += ((grad * grad).mean(-2, keepdims=True) - column) * blend
            estimate = row @ column / np.maximum(row.mean(-2, keepdims=True), eps1)
        else:
            square = buffer(state, "variance", grad)
            square += (grad * grad - square) * blend
            estimate = square.copy()
        update = grad / np.sqrt(np.maximum(estimate, eps1 * eps1))
        size = max(1.0, float(np.linalg.norm(update)) / (math.sqrt(update.size) * group["d"]))
        param -= (alpha / size * update).astype(param.dtype)


class Muon(Optimizer):
    """Momentum whose matrix is made orthogonal by Newton-Schulz steps. Two-dimensional parameters only."""

    def __init__(self, params: Any, lr: float = 1e-3, weight_decay: float = 0.1, momentum: float = 0.95, nesterov: bool = True,
                 ns_coefficients: tuple[float, float, float] = (3.4445, -4.775, 2.0315), eps: float = 1e-7, ns_steps: int = 5,
                 adjust_lr_fn: str | None = None) -> None:  # fmt: skip
        check_settings(lr=number(lr), momentum=momentum, weight_decay=weight_decay)
        if adjust_lr_fn not in (None, "original", "match_rms_adamw"):
            raise ValueError(f"Adjust learning rate function {adjust_lr_fn} is not supported")
        defaults = {"lr": lr, "weight_decay": weight_decay, "momentum": momentum, "nesterov": nesterov, "ns_coefficients": ns_coefficients,
                    "eps": eps, "ns_steps": ns_steps, "adjust_lr_fn": adjust_lr_fn}  # fmt: skip
        super().__init__(params, defaults)
        for group in self.param_groups:
            for p in group["params"]:
                if p._data.ndim != 2:
                    raise ValueError(
                        f"Muon only supports 2D parameters whereas we found a parameter with size: {p.shape}"
                    )

    def update(self, param: np.ndarray, grad: np.ndarray, state: dict[str, Any], group: dict[str, Any]) -> None:
        velocity, momentum, lr = buffer(state, "momentum_buffer", param), group["momentum"], number(group["lr"])
        velocity += (grad - velocity) * (1 - momentum)
        update = grad + (velocity - grad) * momentum if group["nesterov"] else velocity
        update = orthogonal(update, group["ns_coefficients"], group["ns_steps"], group["eps"])
        rows, columns = param.shape
        ratio = (
            math.sqrt(max(1, rows / columns))
            if group["adjust_lr_fn"] in (None, "original")
            else 0.2 * math.sqrt(max(rows, columns))
        )
        param *= 1 - lr * group["weight_decay"]
        param -= (lr * ratio * update).astype(param.dtype)


def orthogonal(matrix: np.ndarray, coefficients: tuple[float, float, float], steps: int, eps: float) -> np.ndarray:
    """The orthogonal factor, roughly, by Newton-Schulz steps in bfloat16, as the method is defined."""
    from headrace.scalar_types import bfloat16

    narrow = bfloat16.numpy

    def rounded(x: np.ndarray) -> np.ndarray:
        return x.astype(narrow).astype(np.float32)

    a, b, c = coefficients
    x = rounded(matrix)
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    x = rounded(x / max(float(rounded(np.asarray(np.linalg.norm(x)))), eps))
    for _ in range(steps):
        gram = rounded(x @ x.T)
        poly = rounded(b * gram + c * (gram @ gram))
        x = rounded(a * x + poly @ x)
    return x.T if tall else x
