"""The base of optimizers: parameter groups, state, closures.

A subclass has `defaults` and `update(param, grad, state, group)`, which changes the arrays `param` and `state[...]` in
place; `grad` is its own to change.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable
from copy import deepcopy
from typing import Any

import numpy as np

from headrace.autograd.hooks import Handle
from headrace.autograd.mode import enable_grad
from headrace.tensors import Tensor, wrap

# Settings of torch that choose among implementations of the same arithmetic; taken and kept in the groups.
IMPLEMENTATION = {"foreach": None, "capturable": False, "differentiable": False, "fused": None}


class Optimizer:
    """Changes parameters by their gradients. `params`: tensors, (name, tensor) pairs, or dicts with "params" and settings."""

    def __init__(self, params: Iterable[Any], defaults: dict[str, Any]) -> None:
        if isinstance(params, Tensor):
            raise TypeError(
                "params argument given to the optimizer should be an iterable of Tensors or dicts, but got a Tensor"
            )
        self.defaults = defaults
        self.state: dict[Any, dict[str, Any]] = defaultdict(dict)
        self.param_groups: list[dict[str, Any]] = []
        self._pre_hooks: dict[int, Any] = OrderedDict()
        self._post_hooks: dict[int, Any] = OrderedDict()
        groups = list(params)
        if not groups:
            raise ValueError(
                "optimizer got an empty parameter list: give model.parameters(); layers in a plain list or dict are not "
                "found, put them into nn.ModuleList or nn.ModuleDict"
            )
        for group in groups if isinstance(groups[0], dict) else [{"params": groups}]:
            self.add_param_group(dict(group))

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters with settings of their own. ValueError for a parameter that is in a group already."""
        if not isinstance(param_group, dict):
            raise TypeError(f"param_group must be a dict, but got {type(param_group)}")
        given = param_group["params"]
        params = [given] if isinstance(given, Tensor) else list(given)
        if params and isinstance(params[0], tuple):
            param_group["param_names"] = [name for name, _ in params]
            params = [p for _, p in params]
        for p in params:
            if not isinstance(p, Tensor):
                raise TypeError(f"optimizer can only optimize Tensors, but one of the params is {type(p).__name__}")
            if not p.is_leaf:
                raise ValueError("can't optimize a non-leaf Tensor")
        for key, default in self.defaults.items():
            param_group.setdefault(key, default)
        seen = {id(p) for group in self.param_groups for p in group["params"]}
        if len({id(p) for p in params}) != len(params) or any(id(p) in seen for p in params):
            raise ValueError("some parameters appear in more than one parameter group")
        param_group["params"] = params
        self.param_groups.append(param_group)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget (or zero) all gradients."""
        for group in self.param_groups:
            for p in group["params"]:
                if set_to_none:
                    p._grad = None
                elif p._grad is not None:
                    p._grad = wrap(np.zeros_like(p._grad._data))

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step. `closure` computes the loss again, with gradients; its value is answered."""
        for hook in list(self._pre_hooks.values()):
            hook(self, (closure,), {})
        loss = None
        if closure is not None:
            with enable_grad():
                loss = closure()
        with np.errstate(all="ignore"):
            for group in self.param_groups:
                self.update_group([p for p in group["params"] if p._grad is not None], group)
        for hook in list(self._post_hooks.values()):
            hook(self, (closure,), {})
        return loss

    def update_group(self, params: list[Tensor], group: dict[str, Any]) -> None:
        """One step of the parameters that have a gradient."""
        for p in params:
            grad = p._grad._data  # type: ignore[union-attr]
            grad = -grad if group.get("maximize") else grad.copy()
            self.update(p._data, grad, self.state[p], group)
            p._storage.version += 1

    def update(self, param: np.ndarray, grad: np.ndarray, state: dict[str, Any], group: dict[str, Any]) -> None:
        raise NotImplementedError

    def register_step_pre_hook(self, hook: Callable[..., Any]) -> Handle:
        """Call `hook(optimizer, args, kwargs)` before each step."""
        return Handle.add(self._pre_hooks, hook)

    def register_step_post_hook(self, hook: Callable[..., Any]) -> Handle:
        """Call `hook(optimizer, args, kwargs)` after each step."""
        return Handle.add(self._post_hooks, hook)

    def state_dict(self) -> dict[str, Any]:
        """{"state": {number: {name: tensor or number}}, "param_groups": [...]}; parameters are numbers."""
        numbers: dict[int, int] = {}
        groups = []
        for group in self.param_groups:
            for p in group["params"]:
                numbers.setdefault(id(p), len(numbers))
            groups.append(
                {
                    **{k: v for k, v in group.items() if k != "params"},
                    "params": [numbers[id(p)] for p in group["params"]],
                }
            )
        state = {
            (numbers[id(p)] if isinstance(p, Tensor) else p): {k: _as_tensor(v) for k, v in values.items()}
            for p, values in self.state.items()
        }
        return {"state": state, "param_groups": groups}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take a state that `state_dict` gave. ValueError where the groups do not fit."""
        groups, saved = self.param_groups, deepcopy(state_dict["param_groups"])
        if len(groups) != len(saved):
            raise ValueError("loaded state dict has a different number of parameter groups")
        if any(len(a["params"]) != len(b["params"]) for a, b in zip(groups, saved)):
            raise ValueError(
                "loaded state dict contains a parameter group that doesn't match the size of optimizer's group"
            )
        places = {n: p for a, b in zip(groups, saved) for p, n in zip(a["params"], b["params"])}
        self.state = defaultdict(dict)
        for key, values in state_dict["state"].items():
            self.state[places.get(key, key)] = {k: _as_array(v) for k, v in values.items()}
        for group, new in zip(groups, saved):
            params = group["params"]
            group.clear()
            group.update(new)
            group["params"] = params

    def __repr__(self) -> str:
        lines = []
        for i, group in enumerate(self.param_groups):
            lines.append(f"Parameter Group {i}")
            lines += [f"    {key}: {group[key]}" for key in sorted(group) if key != "params"]
        return f"{type(self).__name__} (\n" + "\n".join(lines) + "\n)"


def _as_tensor(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return wrap(value)
    return wrap(np.asarray(value, np.float32)) if isinstance(value, _Step) else value


def _as_array(value: Any) -> Any:
    if isinstance(value, Tensor):
        return _Step(value.item()) if value._data.ndim == 0 else value._data.copy()
    return value


class _Step(int):
    """The number of steps so far; a 0-d tensor in the state_dict."""


def next_step(state: dict[str, Any]) -> int:
    """Count one more step, and answer the count."""
    state["step"] = _Step(state.get("step", 0) + 1)
    return state["step"]


def buffer(state: dict[str, Any], name: str, like: np.ndarray, fill: float = 0.0) -> np.ndarray:
    """A state array, made on first use."""
    found = state.get(name)
    if found is None:
        found = state[name] = np.full(like.shape, fill, like.dtype)
    return found


def check_settings(**settings: Any) -> None:
    """ValueError for negative numbers and for betas outside [0, 1)."""
    for name, value in settings.items():
        if name == "betas":
            for i, beta in enumerate(value):
                if not 0.0 <= float(beta) < 1.0:
                    raise ValueError(f"Invalid beta parameter at index {i}: {beta}")
        elif not float(value) >= 0.0:
            raise ValueError(f"Invalid {name} value: {value}")


def number(value: Any) -> float:
    """A setting as a Python number: a 0-d tensor's item."""
    return float(value.item()) if isinstance(value, Tensor) else float(value)
