"""Optimizers on one small problem, under torch or headrace; as a program it records torch's parameters.

python tests/core/optimizer_runs.py tests/core/optimizers.npz        (where torch is installed)
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

STEPS = 20

# name -> (class, settings)
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "sgd": ("SGD", {"lr": 0.05}),
    "sgd-momentum": ("SGD", {"lr": 0.05, "momentum": 0.9, "dampening": 0.1, "weight_decay": 0.01}),
    "sgd-nesterov": ("SGD", {"lr": 0.05, "momentum": 0.9, "nesterov": True}),
    "sgd-maximize": ("SGD", {"lr": 0.01, "maximize": True}),
    "adam": ("Adam", {"lr": 0.05}),
    "adam-amsgrad": ("Adam", {"lr": 0.05, "amsgrad": True, "weight_decay": 0.1}),
    "adam-betas": ("Adam", {"lr": 0.05, "betas": (0.8, 0.95), "eps": 1e-6, "maximize": True}),
    "adamw": ("AdamW", {"lr": 0.05}),
    "rmsprop": ("RMSprop", {"lr": 0.01}),
    "rmsprop-centered": ("RMSprop", {"lr": 0.01, "centered": True, "momentum": 0.5, "weight_decay": 0.01}),
    "adagrad": ("Adagrad", {"lr": 0.1, "lr_decay": 0.01, "initial_accumulator_value": 0.1}),
    "adadelta": ("Adadelta", {"lr": 1.0, "weight_decay": 0.01}),
    "adamax": ("Adamax", {"lr": 0.05}),
    "nadam": ("NAdam", {"lr": 0.05, "weight_decay": 0.01}),
    "radam": ("RAdam", {"lr": 0.05}),
    "rprop": ("Rprop", {"lr": 0.01}),
    "asgd": ("ASGD", {"lr": 0.05}),
    "adafactor": ("Adafactor", {"lr": 0.05}),
    "lbfgs": ("LBFGS", {"lr": 0.5, "max_iter": 3}),
    "lbfgs-wolfe": ("LBFGS", {"max_iter": 3, "line_search_fn": "strong_wolfe"}),
}
SCHEDULES: dict[str, tuple[str, dict[str, Any]]] = {
    "step": ("StepLR", {"step_size": 3, "gamma": 0.5}),
    "multistep": ("MultiStepLR", {"milestones": [2, 5], "gamma": 0.1}),
    "exponential": ("ExponentialLR", {"gamma": 0.9}),
    "cosine": ("CosineAnnealingLR", {"T_max": 10, "eta_min": 0.001}),
    "restarts": ("CosineAnnealingWarmRestarts", {"T_0": 3, "T_mult": 2}),
    "linear": ("LinearLR", {"total_iters": 4}),
    "constant": ("ConstantLR", {"total_iters": 3}),
    "polynomial": ("PolynomialLR", {"total_iters": 6, "power": 2.0}),
    "onecycle": ("OneCycleLR", {"max_lr": 0.1, "total_steps": 13}),
    "onecycle-three": (
        "OneCycleLR",
        {"max_lr": 0.1, "total_steps": 20, "three_phase": True, "anneal_strategy": "linear"},
    ),
    "cyclic": ("CyclicLR", {"base_lr": 0.01, "max_lr": 0.1, "step_size_up": 3, "mode": "triangular2"}),
}


def parameters(torch: Any, name: str) -> list[np.ndarray]:
    """A matrix and a vector after STEPS steps of one optimizer, in two groups.

    L-BFGS runs in float64. Its line search compares losses, and at the minimum two float32 losses differ by rounding
    alone: which of two points it keeps there (they lie sqrt(eps) = 3e-4 apart) depends on the order of the kernel's sums.
    """
    kind, settings = CASES[name]
    rng = np.random.default_rng(0)
    dtype = np.float64 if kind == "LBFGS" else np.float32
    start, mix, goal = (rng.standard_normal(shape).astype(dtype) for shape in ((4, 3), (5, 4), (5, 3)))
    w = torch.nn.Parameter(torch.tensor(start.copy()))
    b = torch.nn.Parameter(torch.tensor(np.zeros(3, dtype)))
    groups = [w, b] if kind == "LBFGS" else [{"params": [w]}, {"params": [b], "lr": settings["lr"] / 2}]
    optimizer = getattr(torch.optim, kind)(groups, **settings)

    def closure() -> Any:
        optimizer.zero_grad()
        gap = torch.tensor(mix) @ w + b - torch.tensor(goal)
        loss = (gap * gap).mean() + 0.1 * (w**4).sum()
        loss.backward()
        return loss

    for _ in range(STEPS):
        if kind == "LBFGS":
            optimizer.step(closure)
        else:
            closure()
            optimizer.step()
    return [w.detach().numpy(), b.detach().numpy()]


def rates(torch: Any, name: str) -> np.ndarray:
    """The learning rate of each of twelve epochs."""
    kind, settings = SCHEDULES[name]
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.05, momentum=0.9)
    schedule = getattr(torch.optim.lr_scheduler, kind)(optimizer, **settings)
    found = []
    for _ in range(12):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return np.array(found)


def main() -> None:
    import torch

    arrays: dict[str, np.ndarray] = {"torch_version": np.array(torch.__version__)}
    for name in CASES:
        arrays |= {f"{name}/{i}": value for i, value in enumerate(parameters(torch, name))}
    arrays |= {f"schedule/{name}": rates(torch, name) for name in SCHEDULES}
    np.savez_compressed(sys.argv[1], **arrays)


if __name__ == "__main__":
    main()
