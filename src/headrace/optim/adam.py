"""Adam (Kingma and Ba 2014), AdamW (Loshchilov and Hutter 2017), NAdam, RAdam, Adamax."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from headrace.optim.optimizer import IMPLEMENTATION, Optimizer, buffer, check_settings, next_step, number
from headrace.tensors import Tensor

# Larger parameters are worked on in parts of this many elements, so that the few arrays of a step stay in the cache.
BLOCK = 16384
# Parameters up to this size are worked on together.
SMALL = 2048


class Adam(Optimizer):
    """m and v are running means of g and g²; p -= lr * m' / (sqrt(v') + eps), both corrected for their start at 0."""

    decoupled = False

    def __init__(self, params: Any, lr: Any = 1e-3, betas: tuple[Any, Any] = (0.9, 0.999), eps: float = 1e-8, weight_decay: float = 0, amsgrad: bool = False, *,
                 maximize: bool = False, decoupled_weight_decay: bool = False, **implementation: Any) -> None:  # fmt: skip
        check_settings(lr=number(lr), eps=eps, betas=betas, weight_decay=weight_decay)
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "amsgrad": amsgrad, "maximize": maximize,
                    "decoupled_weight_decay": decoupled_weight_decay or self.decoupled}  # fmt: skip
        super().__init__(params, {**defaults, **IMPLEMENTATION, **implementation})

    def update_group(self, params: list[Tensor], group: dict[str, Any]) -> None:
        small = [p for p in params if p._data.size <= SMALL]
        if len(small) > 1 and not group["amsgrad"] and len({p._data.dtype for p in small}) == 1:
            self._update_joined(small, group)
            params = [p for p in params if p._data.size > SMALL]
        for p in params:
            grad = p._grad._data  # type: ignore[union-attr]
            self.update(p._data, grad, self.state[p], group)
            p._storage.version += 1

    def _update_joined(self, params: list[Tensor], group: dict[str, Any]) -> None:
        """One step of many small parameters as one vector: their running means are parts of joined arrays."""
        states = [self.state[p] for p in params]
        steps = {state.get("step", 0) for state in states}
        if len(steps) > 1:
            for p, state in zip(params, states):
                self.update(p._data, p._grad._data, state, group)  # type: ignore[union-attr]
                p._storage.version += 1
            return
        mean, square = (_joined(states, name, params) for name in ("exp_avg", "exp_avg_sq"))
        for state in states:
            step = next_step(state)
        grad = np.concatenate([p._grad._data.reshape(-1) for p in params])  # type: ignore[union-attr]
        flat = np.concatenate([p._data.reshape(-1) for p in params])
        _adam(step, group, flat, grad, mean, square, None)
        start = 0
        for p in params:
            size = p._data.size
            p._data[...] = flat[start : start + size].reshape(p._data.shape)
            p._storage.version += 1
            start += size

    def update(self, param: np.ndarray, grad: np.ndarray, state: dict[str, Any], group: dict[str, Any]) -> None:
        step = next_step(state)
        mean, square = buffer(state, "exp_avg", param), buffer(state, "exp_avg_sq", param)
        highest = buffer(state, "max_exp_avg_sq", param) if group["amsgrad"] else None
        arrays = [param, np.ascontiguousarray(grad), mean, square, highest]
        if param.size <= BLOCK or not all(a is None or a.flags.c_contiguous for a in arrays):
            _adam(step, group, *arrays)  # type: ignore[arg-type]
            return
        flat = [None if a is None else a.reshape(-1) for a in arrays]
        for start in range(0, param.size, BLOCK):
            _adam(step, group, *(None if a is None else a[start : start + BLOCK] for a in flat))  # type: ignore[arg-type]


def _joined(states: list[dict[str, Any]], name: str, params: list[Tensor]) -> np.ndarray:
    """One array whose parts are the states' arrays; made anew where they are not."""
    first = states[0].get(name)
    whole = None if first is None else first.base
    if (
        whole is not None
        and whole.ndim == 1
        and whole.size == sum(p._data.size for p in params)
        and all(s[name].base is whole for s in states)
    ):
        return whole
    whole = np.concatenate([buffer(s, name, p._data).reshape(-1) for s, p in zip(states, params)])
    start = 0
    for state, p in zip(states, params):
        state[name] = whole[start : start + p._data.size].reshape(p._data.shape)
        start += p._data.size
    return whole


def _adam(
    step: int,
    group: dict[str, Any],
    param: np.ndarray,
    grad: np.ndarray,
    mean: np.ndarray,
    square: np.ndarray,
    highest: np.ndarray | None,
) -> None:
    dtype = param.dtype.type
    lr = number(group["lr"])
    beta1, beta2 = map(number, group["betas"])
    if group["maximize"]:
        grad = -grad
    if group["weight_decay"]:
        if group["decoupled_weight_decay"]:
            param *= dtype(1 - lr * group["weight_decay"])
        else:
            grad = grad + param * dtype(group["weight_decay"])
    mean += (grad - mean) * dtype(1 - beta1)
    square *= dtype(beta2)
    scratch = grad * grad
    scratch *= dtype(1 - beta2)
    square += scratch
    if highest is not None:
        np.maximum(highest, square, out=highest)
        square = highest
    np.sqrt(square, out=scratch)
    scratch /= dtype(math.sqrt(1 - beta2**step))
    scratch += dtype(group["eps"])
    np.divide(mean, scratch, out=scratch)
    scratch *= dtype(lr / (1 - beta1**step))
    param -= scratch


class AdamW(Adam):
    """Adam whose weight decay is apart from the gradient."""

    decoupled = True

    def __init__(self, params: Any, lr: Any = 1e-3, betas: tuple[Any, Any] = (0.9, 0.999), eps: float = 1e-8, weight_decay: float = 1e-2, amsgrad: bool = False, *,
                 maximize: bool = False, **implementation: Any) -> None:  # fmt: skip
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad, maximize=maximize, **implementation)


class Adamax(Optimizer):
    """Adam with the infinity norm in place of the running square."""

    def __init__(self, params: Any, lr: Any = 2e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8, weight_decay: float = 0, *,
                 maximize: bool = False, **implementation: Any) -> None:  # fmt: skip
        check_settings(lr=number(lr), eps=eps, betas=betas, weight_decay=weight_decay)
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "maximize": maximize}
        super().__init__(params, {**defaults, **IMPLEMENTATION, **implementation})

    def update(self, param: np.ndarray, grad: np.ndarray, state: dict[str, Any], group: dict[str, Any]) -> None:
        step = next_step(state)
        beta1, beta2 = group["betas"]
        mean, norm = buffer(state, "exp_avg", param), buffer(state, "exp_inf", param)
        if group["weight_decay"]:
            grad += group["weight_decay"] * param
        mean += (grad - mean) * (1 - beta1)
        np.maximum(norm * beta2, np.abs(grad) + group["eps"], out=norm)
        param -= number(group["lr"]) / (1 - beta1**step) * mean / norm


class NAdam(Optimizer):
    """Adam with Nesterov momentum (Dozat 2016)."""

    def __init__(self, params: Any, lr: Any = 2e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8, weight_decay: float = 0, momentum_decay: float = 4e-3,
                 decoupled_weight_decay: bool = False, *, maximize: bool = False, **implementation: Any) -> None:  # fmt: skip
        check_settings(lr=number(lr), eps=eps, betas=betas, weight_decay=weight_decay, momentum_decay=momentum_decay)
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "momentum_decay": momentum_decay,
                    "decoupled_weight_decay": decoupled_weight_decay, "maximize": maximize}  # fmt: skip
        super().__init__(params, {**defaults, **IMPLEMENTATION, **implementation})

    def update(self, param: np.ndarray, grad: np.ndarray, state: dict[str, Any], group: dict[str, Any]) -> None:
        step, lr = next_step(state), number(group["lr"])
        beta1, beta2 = group["betas"]
        if group["weight_decay"]:
            if group["decoupled_weight_decay"]:
                param *= 1 - lr * group["weight_decay"]
            else:
                grad += group["weight_decay"] * param
        mean, square = buffer(state, "exp_avg", param), buffer(state, "exp_avg_sq", param)
        mu, mu_next = (beta1 * (1 - 0.5 * 0.96 ** (t * group["momentum_decay"])) for t in (step, step + 1))
        product = state["mu_product"] = float(state.get("mu_product", 1.0)) * mu
        mean += (grad - mean) * (1 - beta1)
        square *= beta2
        square += (1 - beta2) * grad * grad
        root = np.sqrt(square / (1 - beta2**step)) + group["eps"]
        param -= grad * (lr * (1 - mu) / (1 - product)) / root
        param -= mean * (lr * mu_next / (1 - product * mu_next)) / root


class RAdam(Optimizer):
    """Adam with its early variance rectified (Liu et al. 2019)."""

    def __init__(self, params: Any, lr: Any = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8, weight_decay: float = 0, decoupled_weight_decay: bool = False, *,
                 maximize: bool = False, **implementation: Any) -> None:  # fmt: skip
        check_settings(lr=number(lr), eps=eps, betas=betas, weight_decay=weight_decay)
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "decoupled_weight_decay": decoupled_weight_decay,
            "maximize": maximize,
        }
        super().__init__(params, {**defaults, **IMPLEMENTATION, **implementation})

    def update(self, param: np.ndarray, grad: np.ndarray, state: dict[str, Any], group: dict[str, Any]) -> None:
        step, lr = next_step(state), number(group["lr"])
        beta1, beta2 = group["betas"]
        if group["weight_decay"]:
            if group["decoupled_weight_decay"]:
                param *= 1 - lr * group["weight_decay"]
            else:
                grad += group["weight_decay"] * param
        mean, square = buffer(state, "exp_avg", param), buffer(state, "exp_avg_sq", param)
        mean += (grad - mean) * (1 - beta1)
        square *= beta2
        square += (1 - beta2) * grad * grad
        correction2 = 1 - beta2**step
        limit = 2 / (1 - beta2) - 1
        length = limit - 2 * step * beta2**step / correction2
        update = mean / (1 - beta1**step)
        if length > 5.0:
            rect = math.sqrt((length - 4) * (length - 2) * limit / ((limit - 4) * (limit - 2) * length))
            update = update * rect * (math.sqrt(correction2) / (np.sqrt(square) + group["eps"]))
        param -= (lr * update).astype(param.dtype)
