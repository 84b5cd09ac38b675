"""A recurrent layer's steps over a whole sequence in one tape node, on plain arrays.

The input's part of the gates is one product over all steps, made before; here only what depends on the step before is done
step by step, and backward keeps the products with the recurrent weights for one product at the end. Shapes: gates
[T, N, gates * hidden], states [N, hidden], weights [gates * hidden, hidden]. Sequences that have ended (`live` is false)
keep their states and answer zeros. Source: Hochreiter and Schmidhuber 1997; Cho et al. 2014; gates in torch's order.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from headrace.autograd.mode import MODE
from headrace.autograd.tape import FREED, PythonNode, Stale, edge_of
from headrace.tensors import Tensor, wrap

Array = np.ndarray
States = list[Array]


def sigmoid_(a: Array) -> None:
    """In place, by tanh, which never overflows."""
    a *= 0.5
    np.tanh(a, out=a)
    a *= 0.5
    a += 0.5


class LSTM:
    """Gates i, f, g, o: c' = f c + i g, h' = o tanh(c')."""

    def __init__(self, gates: Array, states: States, w: Array, b: Array | None) -> None:
        self.gates = gates + (0 if b is None else b)
        self.w, self.size = w, w.shape[1]
        self.cells = np.empty((len(gates) + 1, *states[0].shape), gates.dtype)
        self.squashed = np.empty_like(self.cells[1:])
        self.product = np.empty(gates.shape[1:], gates.dtype)
        self.cells[0] = states[1]

    def step(self, t: int, states: States) -> States:
        a, n = self.gates[t], self.size
        np.matmul(states[0], self.w.T, out=self.product)
        a += self.product
        sigmoid_(a[:, : 2 * n])
        np.tanh(a[:, 2 * n : 3 * n], out=a[:, 2 * n : 3 * n])
        sigmoid_(a[:, 3 * n :])
        c = np.multiply(a[:, n : 2 * n], states[1], out=self.cells[t + 1])
        c += a[:, :n] * a[:, 2 * n : 3 * n]
        return [a[:, 3 * n :] * np.tanh(c, out=self.squashed[t]), c]

    def prepare(self) -> None:
        """What backward multiplies the state's gradients with, for all steps at once."""
        i, f, g, o = np.split(self.gates, 4, axis=2)
        tc = self.squashed
        self.forget, self.into_cell = f, o * (1 - tc * tc)
        self.slopes = np.empty_like(self.gates)
        for part, value in zip(
            np.split(self.slopes, 4, axis=2),
            (g * i * (1 - i), self.cells[:-1] * f * (1 - f), i * (1 - g * g), tc * o * (1 - o)),
        ):
            part[...] = value

    def back(self, t: int, grads: States, d: Array) -> tuple[Array, States]:
        """Writes the gradient of the gates into d; answers that of the recurrent product, and what reaches the states
        before past the product."""
        dh, dc = grads
        dc = dc + dh * self.into_cell[t]
        slopes, n = self.slopes[t], self.size
        for k in range(4):
            part = slice(k * n, (k + 1) * n)
            np.multiply(slopes[:, part], dh if k == 3 else dc, out=d[:, part])
        return d, [np.zeros((), d.dtype), dc * self.forget[t]]


class GRU:
    """Gates r, z, n: h' = (1 - z) n + z h with n = tanh(x_n + r (W h + b))."""

    def __init__(self, gates: Array, states: States, w: Array, b: Array | None) -> None:
        self.gates, self.w, self.size = gates.copy(), w, w.shape[1]
        self.b = np.zeros((), gates.dtype) if b is None else b
        self.inner = np.empty((len(gates), *states[0].shape), gates.dtype)
        self.before = np.empty_like(self.inner)

    def step(self, t: int, states: States) -> States:
        a, n, h = self.gates[t], self.size, states[0]
        self.before[t] = h
        product = np.matmul(h, self.w.T)
        product += self.b
        a[:, : 2 * n] += product[:, : 2 * n]
        sigmoid_(a[:, : 2 * n])
        self.inner[t] = product[:, 2 * n :]
        new = a[:, 2 * n :]
        new += a[:, :n] * self.inner[t]
        np.tanh(new, out=new)
        return [new + a[:, n : 2 * n] * (h - new)]

    def prepare(self) -> None:
        r, z, n = np.split(self.gates, 3, axis=2)
        self.keep, self.reset = z, r
        self.to_new = (1 - z) * (1 - n * n)
        self.to_update = (self.before - n) * z * (1 - z)
        self.to_reset = self.inner * r * (1 - r)

    def back(self, t: int, grads: States, d: Array) -> tuple[Array, States]:
        (dh,), n = grads, self.size
        new = np.multiply(dh, self.to_new[t], out=d[:, 2 * n :])
        np.multiply(dh, self.to_update[t], out=d[:, n : 2 * n])
        np.multiply(new, self.to_reset[t], out=d[:, :n])
        recurrent = d.copy()
        recurrent[:, 2 * n :] *= self.reset[t]
        return recurrent, [dh * self.keep[t]]


class RNN:
    """h' = tanh(x + W h + b), or relu."""

    def __init__(self, gates: Array, states: States, w: Array, b: Array | None, relu: bool = False) -> None:
        self.gates, self.w, self.relu = gates + (0 if b is None else b), w, relu

    def step(self, t: int, states: States) -> States:
        a = self.gates[t]
        a += states[0] @ self.w.T
        np.maximum(a, 0, out=a) if self.relu else np.tanh(a, out=a)
        return [a.copy()]

    def prepare(self) -> None:
        self.slopes = (self.gates > 0).astype(self.gates.dtype) if self.relu else 1 - self.gates * self.gates

    def back(self, t: int, grads: States, d: Array) -> tuple[Array, States]:
        np.multiply(self.slopes[t], grads[0], out=d)
        return d, [np.zeros((), d.dtype)]


CELLS: dict[str, Callable[..., Any]] = {
    "LSTM": LSTM,
    "GRU": GRU,
    "RNN_TANH": RNN,
    "RNN_RELU": functools.partial(RNN, relu=True),
}


def scan(
    mode: str, gates: Tensor, states: Sequence[Tensor], w: Tensor, b: Tensor | None, live: Array | None,
    again: Callable[[], tuple[Tensor, ...]],
) -> tuple[Tensor, ...]:  # fmt: skip
    """(y [T, N, hidden], the last states). live: truth values [T, N, 1], or None for all. `again` answers the same by
    operators, for gradients that are themselves differentiated."""
    given = [gates, *states, w] + ([] if b is None else [b])
    cell = CELLS[mode](gates._data, [s._data for s in states], w._data, None if b is None else b._data)
    now = [s._data for s in states]
    y = np.empty((*gates._data.shape[:2], w._data.shape[1]), gates._data.dtype)
    starts = np.empty_like(y)
    with np.errstate(all="ignore"):
        for t in range(len(y)):
            starts[t] = now[0]
            new = cell.step(t, now)
            y[t] = new[0] if live is None else np.where(live[t], new[0], 0)
            now = new if live is None else [np.where(live[t], n, o) for n, o in zip(new, now)]
            if live is not None and mode == "LSTM":
                cell.cells[t + 1] = now[1]
    outputs = tuple(wrap(a) for a in (y, *(np.array(s) for s in now)))
    held, version = [cell], w._storage.version

    def backward(grads: list[Tensor | None]) -> Sequence[Tensor | None]:
        if not held:
            raise RuntimeError(FREED)
        if w._storage.version != version:
            Stale(w._data, f"{mode}Backward", version, w._storage.version).refuse("the recurrent weights")
        if MODE.grad:  # to be differentiated again
            from headrace.autograd.engine import grad

            pairs = [(o, g) for o, g in zip(again(), grads) if g is not None]
            wanted = [t for t in given if t.requires_grad]
            found = iter(
                grad([o for o, _ in pairs], wanted, [g for _, g in pairs], create_graph=True, allow_unused=True)
            )
            return [next(found) if t.requires_grad else None for t in given]
        return [
            wrap(a)
            for a in _backward(held[0], starts, [None if g is None else g._data for g in grads], live, b is not None)
        ]

    node = PythonNode(f"{mode}Backward", [edge_of(t) for t in given], len(outputs), backward)
    node.on_release = held.clear
    for index, output in enumerate(outputs):
        output._node, output._index = node, index
    return outputs


def _backward(cell: Any, starts: Array, grads: list[Any], live: Array | None, bias: bool) -> list[Array]:
    """Gradients of gates, states, weights and bias."""
    cell.prepare()
    dy, *last = grads
    width = cell.w.shape[0]
    now = [np.zeros(starts.shape[1:], starts.dtype) if g is None else g for g in last]
    for_gates = np.empty((*starts.shape[:2], width), starts.dtype)
    recurrent = for_gates if not isinstance(cell, GRU) else np.empty_like(for_gates)
    for t in reversed(range(len(starts))):
        total = [now[0] if dy is None else now[0] + (dy[t] if live is None else dy[t] * live[t]), *now[1:]]
        inner, direct = cell.back(t, total, for_gates[t])
        if live is not None:
            for_gates[t] *= live[t]
            inner = inner * live[t]
        if recurrent is not for_gates:
            recurrent[t] = inner
        new = [direct[0] + inner @ cell.w, *direct[1:]]
        now = new if live is None else [np.where(live[t], n, o) for n, o in zip(new, now)]
    rows = recurrent.reshape(-1, width)
    found = [for_gates, *now, rows.T @ starts.reshape(len(rows), -1)]
    return [*found, rows.sum(0)] if bias else found
