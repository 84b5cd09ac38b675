"""Stochastic gradient descent."""

from __future__ import annotations

from typing import Any

import numpy as np

from headrace.optim.optimizer import IMPLEMENTATION, Optimizer, check_settings, number


class SGD(Optimizer):
    """v = momentum * v + (1 - dampening) * g; p -= lr * v (nesterov: p -= lr * (g + momentum * v))."""

    def __init__(self, params: Any, lr: Any = 1e-3, momentum: float = 0, dampening: float = 0, weight_decay: float = 0, nesterov: bool = False, *,
                 maximize: bool = False, **implementation: Any) -> None:  # fmt: skip
        check_settings(lr=number(lr), momentum=momentum, weight_decay=weight_decay)
        if nesterov and (momentum <= 0 or dampening != 0):
            raise ValueError("Nesterov momentum requires a momentum and zero dampening")
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "dampening": dampening,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
            "maximize": maximize,
        }
        super().__init__(params, {**defaults, **IMPLEMENTATION, **implementation})

    def update(self, param: np.ndarray, grad: np.ndarray, state: dict[str, Any], group: dict[str, Any]) -> None:
        dtype = param.dtype.type
        if group["weight_decay"]:
            grad += param * dtype(group["weight_decay"])
        momentum = group["momentum"]
        if momentum:
            velocity = state.get("momentum_buffer")
            if velocity is None:
                velocity = state["momentum_buffer"] = grad.copy()
            else:
                velocity *= dtype(momentum)
                velocity += grad * dtype(1 - group["dampening"])
            grad = grad + velocity * dtype(momentum) if group["nesterov"] else velocity
        param -= grad * dtype(number(group["lr"]))
