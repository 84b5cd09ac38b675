"""The meaning of constructs: each program is compared with Python itself, on both executors and from its code again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from script_check import arrays, check

import headrace as torch
from headrace import jit, nn

torch.manual_seed(0)
X = torch.randn(5, 3)


def numbers_in_a_list(x: Any, n: int) -> Any:
    out = []
    k = n
    while k > 0:
        out.append(k % 3)
        k = k - 2
    total = 0
    for v in out:
        total = total + v
    return torch.tensor(out), total, len(out)


def popping(x: Any) -> Any:
    st = [x[0], x[1]]
    for i in range(x.shape[0]):
        st.append(x[i] * 2)
        if x[i].sum() > 0:
            st.pop()
    last = st.pop()
    return last, st[0], st[-1], len(st)


def nested_loops(x: Any) -> Any:
    t = torch.zeros(())
    for i in range(x.shape[0]):
        for j in range(x.shape[1]):
            if x[i, j] < 0:
                continue
            t = t + x[i, j]
            if t > 2:
                return t, i, j
    return t, -1, -1


def sieve(n: int) -> Any:
    flags = torch.ones(50, dtype=torch.bool)
    flags[:2] = False
    i = 2
    while i * i < n:
        if flags[i]:
            j = i * i
            while j < n:
                flags[j] = False
                j += i
        i += 1
    return flags


def views_in_branches(x: Any) -> Any:
    y = x.clone()
    z = y[1:]
    if x.sum() > 0:
        y.mul_(2)
        z += 1
    else:
        z[0] = 0
    return y, z


def while_true(x: Any) -> Any:
    n = 0
    while True:
        x = x / 2
        n += 1
        if x.abs().max() < 0.01:
            return x, n
        if n >= 20:
            break
    return x, -n


def chains(x: Any, k: int) -> Any:
    a = 1 if k < 0 else 2 if k < 5 else 3
    b = 0 < k < 5 or k == 7
    return x * a, b, not b, k in (1, 2, 3)


def more_arguments(x: Any, *more: Any) -> Any:
    for m in more:
        if m.sum() > 0:
            x = x + m
    return x


def dicts(x: Any) -> Any:
    out = {"a": x, "n": 0}
    for i in range(x.shape[0]):
        if x[i].sum() > 0:
            out["a"] = out["a"] + 1
            out["n"] += 1
    return out


def augmented(x: Any) -> Any:
    y = torch.zeros(3)
    for r in x:
        y += r
        y[0] -= 1
        if y.sum() > 1:
            y /= 2
    return y


def range_of_three(x: Any, a: int, b: int, s: int) -> Any:
    t = 0
    for i in range(a, b, s):
        t += i
    return x * t


def enumerate_and_zip(x: Any) -> Any:
    m = x[0]
    outs = []
    for i, (r, s) in enumerate(zip(x, x * 2)):
        m = torch.maximum(m, r)
        outs.append(m + s * i)
    return torch.cat(outs), torch.stack(outs, dim=1)


def arithmetic(x: Any, a: int, b: float) -> Any:
    lo, hi = min(a, b), max(a, b)
    q, r = a // 3, a % 3
    return (
        x.clamp(lo, hi),
        q,
        r,
        -a // 3,
        -a % 3,
        a**2,
        a / 2,
        b // 1,
        int(b),
        float(a),
        round(2.5),
        abs(b - 3),
        abs(-a),
        abs(a > b),
        -b,
        +a,
        ~a,
        b**2,
    )


def flags(x: Any) -> Any:
    found = False
    idx = -1
    for i in range(x.shape[0]):
        if not found and x[i].max() > 0.5:
            found = True
            idx = i
    return found, idx


@jit.script
def inner(x: Any) -> Any:
    if x.sum() > 0:
        return x
    return -x


def scripted_inside(x: Any) -> Any:
    return inner(x) + 1


@torch.no_grad()
def without_gradients(x: Any) -> Any:
    if x.sum() > 0:
        return x * 3
    return x


def empty_loops(x: Any, n: int) -> Any:
    y = x
    for _ in range(n):
        pass
    while n > 100:
        n = n - 1
    return y, n


def indices(x: Any, k: int) -> Any:
    return x[-k], x[k:], x[:k], x[k : k + 2], x[..., 0], x[k, 1]


def nested_tuples(x: Any) -> Any:
    s = ((x[0], 0), [x[1], 1.5])
    for r in x:
        (a, n), (b, f) = s
        s = ((a + r, n + 1), [b * r, f * 2])
    (a, n), (b, f) = s
    return a, b, n, f


CASES: list[tuple[Any, tuple[Any, ...], list[tuple[Any, ...]]]] = [
    (numbers_in_a_list, (X, 9), [(X, 4), (X, 1)]),
    (popping, (X,), [(-X.abs(),), (X.abs(),)]),
    (nested_loops, (X,), [(X * 0,), (X.abs() * 3,)]),
    (sieve, (50,), [(10,)]),
    (views_in_branches, (X.abs(),), [(-X.abs(),)]),
    (while_true, (X,), [(X * 1e9,)]),
    (chains, (X, 3), [(X, -1), (X, 7), (X, 9)]),
    (more_arguments, (X, X * 2, X * -1), []),
    (dicts, (X,), [(X.abs(),)]),
    (augmented, (X,), [(X.abs(),)]),
    (range_of_three, (X, 0, 10, 3), [(X, 5, 5, 1), (X, 9, -3, -2), (X, 3, 1, 1)]),
    (enumerate_and_zip, (X,), [(X[:1],)]),
    (arithmetic, (X, 7, 2.5), [(X, -7, 0.5)]),
    (flags, (X,), [(X * 0,)]),
    (scripted_inside, (X,), [(-X,)]),
    (without_gradients, (X,), [(-X,)]),
    (empty_loops, (X, 3), [(X, 0), (X, 105)]),
    (indices, (X, 1), [(X, 2)]),
    (nested_tuples, (X,), []),
]


@pytest.mark.parametrize(("program", "example", "others"), CASES, ids=lambda c: getattr(c, "__name__", ""))
def test_as_python(program: Any, example: tuple[Any, ...], others: list[Any], tmp_path: Path) -> None:
    check(jit.script(program, example), [arrays(args) for args in (example, *others)], tmp_path)


def euclid(a: int, b: int) -> Any:
    rounds = 0
    while b != 0:
        a, b = b, a % b
        rounds += 1
        if rounds > 50:
            break
    return a, rounds, a // 7, -a // 7, a / 7, (a > 3) + (b == 0), not a or b < 1


@settings(max_examples=40)
@given(st.integers(-10_000, 10_000), st.integers(-10_000, 10_000))
def test_whole_numbers_as_python(a: int, b: int) -> None:
    exported = PROGRAM
    for got, want in zip(exported.run(*arrays((a, b))), exported.eager(*arrays((a, b))), strict=True):
        assert got == want and got.dtype == want.dtype


PROGRAM = jit.script(euclid, (12, 18))


def test_a_scripted_function_runs_for_each_kind_of_arguments() -> None:
    @jit.script
    def double_until(x: Any, limit: float = 10.0) -> Any:
        while x.abs().max() < limit:
            x = x * 2
        return x

    for x in (X, X[0], torch.tensor([3, 1])):
        assert torch.equal(double_until(x), double_until.__headrace_script__(x))
    assert torch.equal(double_until(X, limit=99.0), double_until.__headrace_script__(X, 99.0))


class Method(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((3,), 2.0))

    @jit.script
    def forward(self, x: Any, power: int = 2) -> Any:
        for _ in range(power):
            if x.abs().max() < 100:
                x = x * self.scale
        return x


def test_a_scripted_method_follows_its_weights() -> None:
    model = Method().eval()
    with torch.no_grad():
        assert torch.equal(model(X), X * 4)
        model.scale.fill_(3.0)
        assert torch.allclose(model(X), X * 9)
        assert torch.allclose(model(X[:2], power=1), X[:2] * 3)
    assert model.forward is model.forward
    programs = model.forward._captured
    assert len(programs) == 3
    with torch.no_grad():
        model(X * 2, 1), model(X * 3, 3)
    assert len(programs) == 3, "a number that is an input of the graph needs no other program"
    assert torch.allclose(jit.script(model, (X,)).entry("main")(X), X * 9)


def test_gradients_flow_through_the_original() -> None:
    @jit.script
    def gate(x: Any) -> Any:
        if x.sum() > 0:
            x = x * 3
        return x.sum()

    x = torch.ones(2, requires_grad=True)
    gate(x).backward()
    assert x.grad.tolist() == [3.0, 3.0]


def test_a_trace_keeps_the_control_flow_of_scripted_code(tmp_path: Path) -> None:
    exported = jit.trace(nn.Sequential(nn.Linear(3, 3), Scaled()), (X,))
    assert [node.kind for node in exported.graph.nodes].count("If") == 1
    check(exported, [arrays((X,)), arrays((X * -9,))], tmp_path)


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((3,), 0.5))

    def forward(self, x: Any) -> Any:
        return scaled(x, self.scale)


@jit.script
def scaled(x: Any, scale: Any) -> Any:
    if x.mean() > 0:
        x = x * scale
    return x


class Leaf(nn.Module):
    """Not written in the subset: it is traced."""

    def forward(self, x: Any) -> Any:
        try:
            return x.view(-1, 3) + 1
        except RuntimeError:
            return x


class Mixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.leaf = Leaf()
        self.layers = nn.ModuleList([nn.Linear(3, 3), Scaled(), nn.Sequential(Scaled(), nn.Tanh())])

    @jit.ignore
    def left_alone(self, x: Any) -> Any:
        return (lambda y: y * 2)(x)

    def forward(self, x: Any, skip: bool = False) -> Any:
        for i, layer in enumerate(self.layers):
            if skip and i == 1:
                continue
            x = layer(x)
        return self.left_alone(self.leaf(x)) if self.training or x.dim() == 2 else x


def test_modules_of_all_kinds(tmp_path: Path) -> None:
    model = Mixed()
    exported = jit.script(model, (X,))
    assert {node.path for node in exported.graph.block.walk()} >= {"leaf", "layers.0", "layers.1", "layers.2.0"}
    check(exported, [arrays((X,)), arrays((X * -9,))], tmp_path)
    skipping = jit.script(model, (X, torch.tensor(1.0).item() > 0))
    assert {value.name for value in skipping.graph.inputs} == {"x", "skip"}
    check(skipping, [arrays((X, True)), arrays((X, False))], tmp_path)
    assert model.training
