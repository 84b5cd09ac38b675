"""Programs for the tests of script: control flow that depends on values, as users write it."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import headrace as torch
from headrace import jit, nn
from headrace.nn import functional as F


def gate(x: Any) -> Any:
    if x.sum() > 0:
        y = x * 2
    elif x.sum() < -1:
        y = x / 2
    else:
        y = -x
    return y


def nested(x: Any, limit: float) -> Any:
    scale = 1
    if x.mean() > limit:
        if x.max() > 2 * limit:
            scale = 3
            x = x - limit
        elif not (x.min() < 0):
            return x
        x = x * scale
    return x + scale


def newton(x: Any) -> Any:
    guess = x / 2
    change = 1.0
    while change > 1e-5:
        better = 0.5 * (guess + x / guess)
        change = (better - guess).abs().max()
        guess = better
    return guess


def collatz(n: int) -> Any:
    steps = 0
    largest = n
    while n != 1:
        n = n // 2 if n % 2 == 0 else 3 * n + 1
        steps += 1
        largest = max(largest, n)
    return steps, largest


def fibonacci(n: int) -> Any:
    state = (0, 1)
    for _ in range(n):
        a, b = state
        state = (b, a + b)
    return state[0]


def rnn(x: Any) -> Any:
    hidden = torch.zeros(x.shape[1])
    seen = []
    for t in range(x.shape[0]):
        hidden = torch.tanh(0.5 * hidden + x[t])
        seen.append(hidden)
    return torch.stack(seen), hidden


def positives(x: Any) -> Any:
    kept = [x[0]]
    for row in x:
        if row.sum() > 0:
            kept.append(row * 2)
    return torch.stack(kept).sum(0), len(kept)


def first_above(x: Any, limit: float) -> Any:
    for i, row in enumerate(x):
        if row.max() > limit:
            return i, row
    return -1, x[0]


def skipping(x: Any) -> Any:
    total = torch.zeros(x.shape[1])
    for i in range(x.shape[0]):
        if i % 2 == 1:
            continue
        if x[i].sum() > 4:
            break
        total += x[i]
    return total


def written(x: Any) -> Any:
    out = torch.zeros_like(x)
    for i in range(x.shape[0]):
        out[i] = x[i] * (i + 1)
        if x[i, 0] > 0:
            out[i].neg_()
    return out


def growing(x: Any) -> Any:
    y = x
    while y.shape[0] < 3 * x.shape[0]:
        y = torch.cat([y, x[:1] * y.sum()])
    return y


def bounded(x: Any, index: int) -> Any:
    if index < x.shape[0] and x[index].sum() > 0:
        return x[index]
    return x.mean(0)


def optional(x: Any) -> Any:
    best = None
    for row in x:
        if best is None or row.sum() > best.sum():
            best = row
    if best is None:
        best = torch.zeros(x.shape[1])
    return best


class Bounds(NamedTuple):
    low: Any
    high: Any


def bisect(x: Any) -> Any:
    interval = Bounds(torch.zeros_like(x), x + 1)
    rounds = 0
    while (interval.high - interval.low).max() > 1e-3 and rounds < 40:
        middle = (interval.low + interval.high) / 2
        over = middle * middle > x
        interval = Bounds(torch.where(over, interval.low, middle), torch.where(over, middle, interval.high))
        rounds += 1
    return interval.low, rounds


def mathematics(x: Any, angle: float) -> Any:
    if angle > math.pi:
        angle = angle - math.pi
    n = math.floor(angle * 10)
    return x * math.sin(angle) + n, abs(-n), min(n, 7), float(n) / 2


def options(x: Any) -> Any:
    table = {"scale": torch.ones(()), "shift": torch.zeros(())}
    if x.sum() > 0:
        table["scale"] = x.max()
    else:
        table["shift"] = x.min()
    return x * table["scale"] + table["shift"]


def helper(x: Any, power: int) -> Any:
    if x.sum() < 0:
        return -x
    result = x
    for _ in range(power - 1):
        result = result * x
    return result


def calling(x: Any) -> Any:
    return helper(x, 2) + helper(-x, power=3)


class Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.small, self.large = nn.Linear(4, 3), nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
        self.gate = nn.Linear(4, 1)

    def forward(self, x: Any) -> Any:
        score = torch.sigmoid(self.gate(x)).mean()
        if score > 0.5:
            y = self.large(x)
            if y.abs().max() > 1.0:
                y = y / y.abs().max()
        else:
            y = self.small(x)
        return y


class EarlyExit(nn.Module):
    """A classifier that answers as soon as it is sure."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.blocks = nn.ModuleList(nn.Linear(6, 6) for _ in range(3))
        self.heads = nn.ModuleList(nn.Linear(6, 4) for _ in range(3))

    def forward(self, x: Any) -> Any:
        logits = torch.zeros(x.shape[0], 4)
        for depth, (block, head) in enumerate(zip(self.blocks, self.heads)):
            x = F.relu(block(x))
            logits = head(x)
            if logits.softmax(-1).max(-1).values.min() > 0.3 + 0.05 * depth:
                return logits, depth
        return logits, len(self.blocks)


class Greedy(nn.Module):
    """Token by token until the end token, at most `limit` of them."""

    def __init__(self, end: int = 3) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.end = end
        self.embed, self.cell, self.out = nn.Embedding(8, 6), nn.GRUCell(6, 6), nn.Linear(6, 8)

    def forward(self, hidden: Any, limit: int) -> Any:
        token = torch.zeros(1, dtype=torch.int64)
        tokens = [token]
        for _ in range(limit):
            hidden = self.cell(self.embed(token), hidden)
            token = self.out(hidden).argmax(-1)
            tokens.append(token)
            if token.item() == self.end:
                break
        return torch.cat(tokens), hidden


class Beam(nn.Module):
    """Beam search over a table of next-token scores; a beam that has ended keeps its score."""

    def __init__(self, width: int = 3, end: int = 0) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.width, self.end = width, end
        self.scores = nn.Parameter(torch.randn(6, 6))

    def forward(self, start: Any, steps: int) -> Any:
        tokens = start.expand(self.width).unsqueeze(1)
        scores = torch.cat([torch.zeros(1), torch.full((self.width - 1,), -1e9)])
        for _ in range(steps):
            last = tokens[:, -1]
            step = F.log_softmax(self.scores[last], -1)
            done = (last == self.end).unsqueeze(1)
            stay = torch.full((1, 6), -1e9)
            stay[0, self.end] = 0.0
            step = torch.where(done, stay, step)
            total = (scores.unsqueeze(1) + step).flatten()
            scores, index = total.topk(self.width)
            tokens = torch.cat([tokens[index // 6], (index % 6).unsqueeze(1)], 1)
            if (tokens[:, -1] == self.end).all():
                break
        return tokens, scores


class Counter(nn.Module):
    """A mean of everything seen so far: two buffers that forward writes."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("total", torch.zeros(3))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Any) -> Any:
        if x.abs().max() < 100:
            self.total += x.sum(0)
            self.count = self.count + x.shape[0]
        return self.total / self.count.float().clamp(min=1)


class StatefulRNN(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.cell = nn.RNNCell(3, 5)
        self.register_buffer("hidden", torch.zeros(1, 5))

    def forward(self, x: Any) -> Any:
        self.hidden = self.cell(x, self.hidden)
        return self.hidden * 2


class Cache(nn.Module):
    """Attention over everything seen so far: a cache that grows by what each call brings."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.query, self.key, self.value = (nn.Linear(4, 4) for _ in range(3))
        self.register_buffer("keys", torch.zeros(0, 4))
        self.register_buffer("values", torch.zeros(0, 4))

    def forward(self, x: Any) -> Any:
        self.keys = torch.cat([self.keys, self.key(x)])
        self.values = torch.cat([self.values, self.value(x)])
        weights = (self.query(x) @ self.keys.T / 2.0).softmax(-1)
        return weights @ self.values


class Autoencoder(nn.Module):
    """Two entry points over shared weights."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(6)
        self.weight = nn.Parameter(torch.randn(8, 16))

    @jit.export
    def encode(self, x: Any) -> Any:
        z = torch.tanh(x @ self.weight.T)
        while z.abs().max() > 0.9:
            z = z * 0.9
        return z

    @jit.export
    def decode(self, z: Any) -> Any:
        return z @ self.weight

    def forward(self, x: Any) -> Any:
        return self.decode(self.encode(x))


def programs() -> list[tuple[str, Any, tuple[Any, ...], list[tuple[Any, ...]]]]:
    """(name, program, example, other inputs that take other ways)."""
    torch.manual_seed(7)
    x, y = torch.randn(5, 3), torch.rand(5, 3) + 0.5
    return [
        ("gate", gate, (y,), [(-y,), (-y * 0.01,)]),
        ("nested", nested, (x, 0.1), [(y, 0.1), (y, 5.0), (y * 0 + 0.15, 0.1)]),
        ("newton", newton, (y,), [(y * 100,)]),
        ("collatz", collatz, (27,), [(1,), (2,), (97,)]),
        ("fibonacci", fibonacci, (10,), [(0,), (1,), (30,)]),
        ("rnn", rnn, (x,), [(x[:1],), (torch.randn(9, 3),)]),
        ("positives", positives, (x,), [(-y,), (y,)]),
        ("first_above", first_above, (x, 0.9), [(x, 100.0), (x, -5.0)]),
        ("skipping", skipping, (x,), [(y * 4,), (torch.randn(1, 3),)]),
        ("written", written, (x,), [(y,), (-y,)]),
        ("growing", growing, (y,), [(y[:1],)]),
        ("bounded", bounded, (y, 1), [(y, 7), (-y, 2)]),
        ("optional", optional, (x,), [(y,), (y[:1],)]),
        ("bisect", bisect, (y,), [(y * 50,)]),
        ("mathematics", mathematics, (y, 4.0), [(y, 1.0)]),
        ("options", options, (y,), [(-y,)]),
        ("calling", calling, (y,), [(-y,)]),
        ("gated", Gated(), (torch.randn(2, 4),), [(torch.randn(5, 4) * 9,), (torch.randn(3, 4) * -9,)]),
        ("early_exit", EarlyExit(), (torch.randn(2, 6),), [(torch.randn(4, 6) * 9,), (torch.zeros(3, 6),)]),
        ("greedy", Greedy(), (torch.randn(1, 6), 12), [(torch.randn(1, 6) * 3, 20), (torch.randn(1, 6), 0)]),
        ("beam", Beam(), (torch.tensor([2]), 9), [(torch.tensor([5]), 2), (torch.tensor([0]), 4)]),
    ]


def stateful() -> list[tuple[str, nn.Module, tuple[Any, ...]]]:
    torch.manual_seed(8)
    return [
        ("counter", Counter(), (torch.randn(2, 3),)),
        ("rnn", StatefulRNN(), (torch.randn(1, 3),)),
        ("cache", Cache(), (torch.randn(2, 4),)),
    ]
