"""L-BFGS: quasi-Newton steps from a history of gradients, for full-batch problems."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from headrace.autograd.mode import enable_grad
from headrace.optim.optimizer import Optimizer, check_settings, number

Evaluate = Callable[[np.ndarray, float, np.ndarray], tuple[float, np.ndarray]]


class LBFGS(Optimizer):
    """Nocedal and Wright (2006), algorithm 7.5. `step` needs a closure. One parameter group only."""

    def __init__(self, params: Any, lr: Any = 1, max_iter: int = 20, max_eval: int | None = None, tolerance_grad: float = 1e-7,
                 tolerance_change: float = 1e-9, history_size: int = 100, line_search_fn: str | None = None) -> None:  # fmt: skip
        check_settings(lr=number(lr))
        if line_search_fn not in (None, "strong_wolfe"):
            raise RuntimeError("only 'strong_wolfe' is supported")
        defaults = {"lr": lr, "max_iter": max_iter, "max_eval": max_iter * 5 // 4 if max_eval is None else max_eval, "tolerance_grad": tolerance_grad,
                    "tolerance_change": tolerance_change, "history_size": history_size, "line_search_fn": line_search_fn}  # fmt: skip
        super().__init__(params, defaults)
        if len(self.param_groups) != 1:
            raise ValueError("LBFGS doesn't support per-parameter options (parameter groups)")
        self._params = self.param_groups[0]["params"]

    def _gradient(self) -> np.ndarray:
        return np.concatenate(
            [
                (np.zeros(p._data.size, p._data.dtype) if p._grad is None else p._grad._data.reshape(-1))
                for p in self._params
            ]
        )

    def _point(self) -> np.ndarray:
        return np.concatenate([p._data.reshape(-1) for p in self._params])

    def _move(self, point: np.ndarray) -> None:
        start = 0
        for p in self._params:
            p._data[...] = point[start : start + p._data.size].reshape(p._data.shape)
            p._storage.version += 1
            start += p._data.size

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Up to max_iter iterations; answers the loss at the start."""
        if closure is None:
            raise TypeError("LBFGS.step() needs a closure that computes the loss")
        group, state = self.param_groups[0], self.state[self._params[0]]
        lr, change = number(group["lr"]), group["tolerance_change"]

        def measure() -> tuple[float, np.ndarray]:
            with enable_grad():
                value = closure()
            return float(value), self._gradient()

        with enable_grad():
            first = closure()
        loss, gradient, evaluations = float(first), self._gradient(), 1
        state["func_evals"] = state.get("func_evals", 0) + 1
        if np.abs(gradient).max() <= group["tolerance_grad"]:
            return first
        for _ in range(group["max_iter"]):
            state["n_iter"] = state.get("n_iter", 0) + 1
            direction = self._direction(gradient, state, group)
            state["prev_flat_grad"], before = gradient.copy(), loss
            t = min(1.0, 1.0 / np.abs(gradient).sum()) * lr if state["n_iter"] == 1 else lr
            slope = float(gradient @ direction)
            if slope > -change:
                break
            start = self._point()
            if group["line_search_fn"] is None:
                self._move(start + direction * direction.dtype.type(t))
                used = 0
                if state["n_iter"] != group["max_iter"]:
                    loss, gradient = measure()
                    used = 1
            else:

                def evaluate(x: np.ndarray, t: float, d: np.ndarray) -> tuple[float, np.ndarray]:
                    self._move(x + d * d.dtype.type(t))
                    return measure()

                loss, gradient, t, used = strong_wolfe(evaluate, start, t, direction, loss, gradient, slope)
                self._move(start + direction * direction.dtype.type(t))
            state["d"], state["t"] = direction, t
            evaluations += used
            state["func_evals"] += used
            if evaluations >= group["max_eval"] or np.abs(gradient).max() <= group["tolerance_grad"]:
                break
            if np.abs(direction * t).max() <= change or abs(loss - before) < change:
                break
        return first

    def _direction(self, gradient: np.ndarray, state: dict[str, Any], group: dict[str, Any]) -> np.ndarray:
        """-H g by the two-loop recursion."""
        if state["n_iter"] == 1:
            state["old_dirs"], state["old_stps"], state["H_diag"] = [], [], 1.0
            return -gradient
        y, s = gradient - state["prev_flat_grad"], state["d"] * state["d"].dtype.type(state["t"])
        ys = float(y @ s)
        changes, steps = state["old_dirs"], state["old_stps"]
        if ys > 1e-10:
            if len(changes) == group["history_size"]:
                changes.pop(0)
                steps.pop(0)
            changes.append(y)
            steps.append(s)
            state["H_diag"] = ys / float(y @ y)
        q = -gradient
        factors = []
        for y, s in zip(reversed(changes), reversed(steps)):
            factor = float(s @ q) / float(y @ s)
            factors.append(factor)
            q = q - y * q.dtype.type(factor)
        q = q * q.dtype.type(state["H_diag"])
        for y, s, factor in zip(changes, steps, reversed(factors)):
            q = q + s * q.dtype.type(factor - float(y @ q) / float(y @ s))
        return q


def _cubic(
    x1: float, f1: float, g1: float, x2: float, f2: float, g2: float, bounds: tuple[float, float] | None = None
) -> float:
    """The minimum of the cubic through two points with slopes, inside the bounds."""
    low, high = bounds or (min(x1, x2), max(x1, x2))
    d1 = g1 + g2 - 3 * (f1 - f2) / (x1 - x2)
    square = d1 * d1 - g1 * g2
    if square < 0:
        return (low + high) / 2
    d2 = square**0.5
    if x1 <= x2:
        place = x2 - (x2 - x1) * ((g2 + d2 - d1) / (g2 - g1 + 2 * d2))
    else:
        place = x1 - (x1 - x2) * ((g1 + d2 - d1) / (g1 - g2 + 2 * d2))
    return min(max(place, low), high)


def strong_wolfe(evaluate: Evaluate, x: np.ndarray, t: float, d: np.ndarray, f: float, g: np.ndarray, slope: float,
                 c1: float = 1e-4, c2: float = 0.9, tolerance: float = 1e-9, most: int = 25) -> tuple[float, np.ndarray, float, int]:  # fmt: skip
    """A step length that satisfies the strong Wolfe conditions: (loss, gradient, t, evaluations)."""
    width = float(np.abs(d).max())
    f_new, g_new = evaluate(x, t, d)
    count, s_new = 1, float(g_new @ d)
    t_old, f_old, g_old, s_old = 0.0, f, g, slope
    done, steps = False, 0
    bracket: list[tuple[float, float, np.ndarray, float]] = []
    while steps < most:
        if f_new > f + c1 * t * slope or (steps > 1 and f_new >= f_old):
            bracket = [(t_old, f_old, g_old, s_old), (t, f_new, g_new.copy(), s_new)]
            break
        if abs(s_new) <= -c2 * slope:
            bracket, done = [(t, f_new, g_new, s_new)], True
            break
        if s_new >= 0:
            bracket = [(t_old, f_old, g_old, s_old), (t, f_new, g_new.copy(), s_new)]
            break
        least, largest = t + 0.01 * (t - t_old), t * 10
        previous = t
        t = _cubic(t_old, f_old, s_old, t, f_new, s_new, (least, largest))
        t_old, f_old, g_old, s_old = previous, f_new, g_new.copy(), s_new
        f_new, g_new = evaluate(x, t, d)
        count, s_new, steps = count + 1, float(g_new @ d), steps + 1
    if not bracket:
        bracket = [(0.0, f, g, slope), (t, f_new, g_new, s_new)]
    stuck = False
    low, high = (0, 1) if bracket[0][1] <= bracket[-1][1] else (1, 0)
    while not done and steps < most and abs(bracket[1][0] - bracket[0][0]) * width >= tolerance:
        (ta, fa, _, sa), (tb, fb, _, sb) = bracket
        t = _cubic(ta, fa, sa, tb, fb, sb)
        left, right = min(ta, tb), max(ta, tb)
        margin = 0.1 * (right - left)
        if min(right - t, t - left) < margin:
            if stuck or t >= right or t <= left:
                t = right - margin if abs(t - right) < abs(t - left) else left + margin
                stuck = False
            else:
                stuck = True
        else:
            stuck = False
        f_new, g_new = evaluate(x, t, d)
        count, s_new, steps = count + 1, float(g_new @ d), steps + 1
        if f_new > f + c1 * t * slope or f_new >= bracket[low][1]:
            bracket[high] = (t, f_new, g_new.copy(), s_new)
            low, high = (0, 1) if bracket[0][1] <= bracket[1][1] else (1, 0)
        else:
            if abs(s_new) <= -c2 * slope:
                done = True
            elif s_new * (bracket[high][0] - bracket[low][0]) >= 0:
                bracket[high] = bracket[low]
            bracket[low] = (t, f_new, g_new.copy(), s_new)
    t, f_new, g_new, _ = bracket[low if len(bracket) > 1 else 0]
    return f_new, g_new, t, count
