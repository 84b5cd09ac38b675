"""Optimizers that scale by running squares: RMSprop, Adagrad, Adadelta, Rprop, ASGD."""

from __future__ import annotations

from typing import Any

import numpy as np

from headrace.optim.optimizer import Optimizer, buffer, check_settings, next_step, number


class RMSprop(Optimizer):
    """p -= lr * g / (sqrt(running mean of g²) + eps), with optional momentum and centring."""

    def __init__(self, params: Any, lr: Any = 1e-2, alpha: float = 0.99, eps: float = 1e-8, weight_decay: float = 0, momentum: float = 0, centered: bool = False,
                 capturable: bool = False, foreach: bool | None = None, maximize: bool = False, differentiable: bool = False) -> None:  # fmt: skip
        check_settings(lr=number(lr), eps=eps, momentum=momentum, weight_decay=weight_decay, alpha=alpha)
        defaults = {"lr": lr, "momentum": momentum, "alpha": alpha, "eps": eps, "centered": centered, "weight_decay": weight_decay,
                    "capturable": capturable, "foreach": foreach, "maximize": maximize, "differentiable": differentiable}  # fmt: skip
        super().__init__(params, defaults)

    def update(self, param: np.ndarray, grad: np.ndarray, state: dict[str, Any], group: dict[str, Any]) -> None:
        next_step(state)
        square = buffer(state, "square_avg", param)
        alpha = group["alpha"]
        if group["weight_decay"]:
            grad += group["weight_decay"] * param
        square *= alpha
        square += (1 - alpha) * grad * grad
        if group["centered"]:
            mean = buffer(state, "grad_avg", param)
            mean += (grad - mean) * (1 - alpha)
            root = np.sqrt(square - mean * mean)
        else:
            root = np.sqrt(square)
        root += group["eps"]
        if group["momentum"] > 0:
            velocity = buffer(state, "momentum_buffer", param)
            velocity *= group["momentum"]
            velocity += grad / root
            param -= number(group["lr"]) * velocity
        else:
            param -= number(group["lr"]) * grad / root


class Adagrad(Optimizer):
    """p -= lr * g / (sqrt(sum of g²) + eps)."""

    def __init__(self, params: Any, lr: Any = 1e-2, lr_decay: float = 0, weight_decay: float = 0, initial_accumulator_value: float = 0, eps: float = 1e-10,
                 foreach: bool | None = None, *, maximize: bool = False, differentiable: bool = False, fused: bool | None = None) -> None:  # fmt: skip
        check_settings(
            lr=number(lr),
            lr_decay=lr_decay,
            weight_decay=weight_decay,
            initial_accumulator_value=initial_accumulator_value,
            eps=eps,
        )
        defaults = {"lr": lr, "lr_decay": lr_decay, "eps": eps, "weight_decay": weight_decay, "initial_accumulator_value": initial_accumulator_value,
                    "foreach": foreach, "maximize": maximize, "differentiable": differentiable, "fused": fused}  # fmt: skip
        super().__init__(params, defaults)

    def update(self, param: np.ndarray, grad: np.ndarray, state: dict[str, Any], group: dict[str, Any]) -> None:
        step = next_step(state)
        total = buffer(state, "sum", param, group["initial_accumulator_value"])
        if group["weight_decay"]:
            grad += group["weight_decay"] * param
        total += grad * grad
        param -= number(group["lr"]) / (1 + (step - 1) * group["lr_decay"]) * grad / (np.sqrt(total) + group["eps"])


class Adadelta(Optimizer):
    """Steps scaled by the ratio of running squares of steps and gradients (Zeiler 2012)."""

    def __init__(self, params: Any, lr: Any = 1.0, rho: float = 0.9, eps: float = 1e-6, weight_decay: float = 0, foreach: bool | None = None, *,
                 capturable: bool = False, maximize: bool = False, differentiable: bool = False) -> None:  # fmt: skip
        check_settings(lr=number(lr), rho=rho, eps=eps, weight_decay=weight_decay)
        if rho > 1:
            raise ValueError(f"Invalid rho value: {rho}")
        defaults = {"lr": lr, "rho": rho, "eps": eps, "weight_decay": weight_decay, "maximize": maximize, "capturable": capturable,
                    "foreach": foreach, "differentiable": differentiable}  # fmt: skip
        super().__init__(params, defaults)

    def update(self, param: np.ndarray, grad: np.ndarray, state: dict[str, Any], group: dict[str, Any]) -> None:
        next_step(state)
        square, delta = buffer(state, "square_avg", param), buffer(state, "acc_delta", param)
        rho, eps = group["rho"], group["eps"]
        if group["weight_decay"]:
            grad += group["weight_decay"] * param
        square *= rho
        square += (1 - rho) * grad * grad
        change = np.sqrt(delta + eps) / np.sqrt(square + eps) * grad
        delta *= rho
        delta += (1 - rho) * change * change
        param -= number(group["lr"]) * change


class Rprop(Optimizer):
    """Steps of their own size for each element, by the sign of the gradient alone."""

    def __init__(self, params: Any, lr: Any = 1e-2, etas: tuple[float, float] = (0.5, 1.2), step_sizes: tuple[float, float] = (1e-6, 50), *,
                 capturable: bool = False, foreach: bool | None = None, maximize: bool = False, differentiable: bool = False) -> None:  # fmt: skip
        check_settings(lr=number(lr))
        if not 0.0 < etas[0] < 1.0 < etas[1]:
            raise ValueError(f"Invalid eta values: {etas[0]}, {etas[1]}")
        defaults = {"lr": lr, "etas": etas, "step_sizes": step_sizes, "foreach": foreach, "maximize": maximize, "differentiable": differentiable,
                    "capturable": capturable}  # fmt: skip
        super().__init__(params, defaults)

    def update(self, param: np.ndarray, grad: np.ndarray, state: dict[str, Any], group: dict[str, Any]) -> None:
        next_step(state)
        before, size = buffer(state, "prev", param), buffer(state, "step_size", param, number(group["lr"]))
        sign = np.sign(grad * before)
        shrink, grow = group["etas"]
        size *= np.where(sign > 0, grow, np.where(sign < 0, shrink, 1)).astype(param.dtype)
        np.clip(size, *group["step_sizes"], out=size)
        grad[sign < 0] = 0
        param -= np.sign(grad) * size
        before[...] = grad


class ASGD(Optimizer):
    """Averaged SGD (Polyak and Juditsky 1992)."""

    def __init__(self, params: Any, lr: Any = 1e-2, lambd: float = 1e-4, alpha: float = 0.75, t0: float = 1e6, weight_decay: float = 0, foreach: bool | None = None,
                 maximize: bool = False, differentiable: bool = False, capturable: bool = False) -> None:  # fmt: skip
        check_settings(lr=number(lr), weight_decay=weight_decay)
        defaults = {"lr": lr, "lambd": lambd, "alpha": alpha, "t0": t0, "weight_decay": weight_decay, "foreach": foreach, "maximize": maximize,
                    "differentiable": differentiable, "capturable": capturable}  # fmt: skip
        super().__init__(params, defaults)

    def update(self, param: np.ndarray, grad: np.ndarray, state: dict[str, Any], group: dict[str, Any]) -> None:
        step, lr = next_step(state), number(group["lr"])
        eta, mu = float(state.get("eta", lr)), float(state.get("mu", 1.0))
        average = buffer(state, "ax", param)
        if group["weight_decay"]:
            grad += group["weight_decay"] * param
        param *= 1 - group["lambd"] * eta
        param -= eta * grad
        average[...] = param if mu == 1 else average + (param - average) * mu
        state["eta"] = lr / (1 + group["lambd"] * lr * step) ** group["alpha"]
        state["mu"] = 1 / max(1, step - group["t0"])
