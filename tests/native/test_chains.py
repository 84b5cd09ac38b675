"""Elementwise operators in one node, tile by tile: the bits are those of one node after another, on every tier."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from graph_cases import Ops, make
from one_kernel import run

from headrace.runtime import load
from headrace.runtime.graph import Graph, Value
from headrace.runtime.passes.machine.chains import BINARY, KIND, UNARY

F = "float32"
SPECIAL = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-42, -1e-42, 3e38, -3e38, 1.0], np.float32)


def numbers(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Usual and extreme ones."""
    x = (rng.standard_normal(shape) * 3).astype(np.float32)
    return np.where(rng.random(shape) < 0.1, rng.choice(SPECIAL, shape), x)


def chained(graph: Graph) -> list[str]:
    with load(graph, device="cpu", threads=1) as model:
        return [row["operator"] for row in model.kernels()]


def bits(x: np.ndarray) -> bytes:
    """Those of a NaN are not promised: which of two an addition keeps is up to the compiler."""
    return np.where(np.isnan(x), np.float32(np.nan), x).tobytes()


def same_bits(graph: Graph, feeds: dict[str, np.ndarray]) -> None:
    with load(graph, device="cpu", threads=1, without="chains") as plain:
        wanted = plain.run(feeds)
    for threads in (1, 2):
        with load(graph, device="cpu", threads=threads) as model:
            for _ in range(3):  # planned ahead after the first
                for name, y in model.run(feeds).items():
                    assert bits(y) == bits(wanted[name]), name


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("width", [1, 3, 64, 257, 1500])
def test_random_chains(tier: str, seed: int, width: int) -> None:
    """Trees of every operator over operands of each kind, with values that are read twice."""
    rng = np.random.default_rng(seed)

    def body(o: Ops, x: Value, z: Value) -> Value:
        values = [x, z]
        for kind in rng.permutation([*UNARY, *BINARY, "Add", "Mul", "Mul"])[:12]:
            left = values[-1] if rng.random() < 0.7 else values[int(rng.integers(len(values)))]
            if kind in UNARY:
                values.append(getattr(o, str(kind))(left))
                continue
            right = [
                values[int(rng.integers(len(values)))],
                o.const(rng.choice(SPECIAL)),
                o.const(numbers(rng, width)),
                o.const(numbers(rng, 1, 1)),
            ][int(rng.integers(4))]
            pair = (left, o.const(np.float32(rng.choice([2, 3, 0.5, 1.7])))) if kind == "Pow" else (left, right)
            values.append(getattr(o, str(kind))(*(pair if rng.random() < 0.7 or kind == "Pow" else pair[::-1])))
        total = values[-1]
        for value in values[2:-1]:  # every value is read
            total = o.Add(total, value)
        return total

    graph = make(body, x=(F, ("n", width)), z=(F, ("n", width)))
    assert KIND in chained(graph)
    for rows in (1, 7, 0):
        same_bits(graph, {"x": numbers(rng, rows, width), "z": numbers(rng, rows, width)})


CHAIN = {"operators": ("Neg", "Exp"), "places": (0, -1, 1, -1), "kinds": (0,), "alpha": (0.0,) * 2, "beta": (0.0,) * 2, "gamma": (0.0,) * 2}  # fmt: skip


@pytest.mark.parametrize(
    "broken",
    [
        {"places": (0, -1, 1)},
        {"places": (0, -1, 2, -1)},
        {"places": (0, -1, -1, 1)},
        {"places": (0, 0, 1, -1)},
        {"operators": ("Neg", "Nothing")},
        {"operators": ("Neg", "headrace.cpu.Chain")},
        {"operators": ()},
        {"kinds": (1,)},
        {"kinds": (0, 0)},
    ],
)
def test_a_chain_that_no_pass_makes_is_refused(broken: dict[str, object]) -> None:
    x = np.ones(3, np.float32)
    np.testing.assert_allclose(run(KIND, [x], CHAIN), np.exp(-x), rtol=1e-6)
    with pytest.raises(ValueError, match="chain"):
        run(KIND, [x], {**CHAIN, **broken})


def test_a_large_one_on_two_threads() -> None:
    rng = np.random.default_rng(0)
    row = numbers(rng, 1025)
    graph = make(lambda o, x: o.Mul(o.Tanh(o.Add(x, o.const(row))), o.Sigmoid(x)), x=(F, ("n", 1025)))
    same_bits(graph, {"x": numbers(rng, 301, 1025)})


def spelled_gelu(o: Ops, x: Value) -> Value:
    """As JAX writes it: the cube is x * (x * x)."""
    inner = o.Mul(o.Add(x, o.Mul(o.Mul(x, o.Mul(x, x)), o.const(0.05))), o.const(0.8))
    return o.Mul(o.Mul(x, o.const(0.5)), o.Add(o.Tanh(inner), o.const(1.0)))


CASES: dict[str, tuple[Callable[[Ops, Value], Value | tuple[Value, ...]], list[str]]] = {
    "read several times": (spelled_gelu, [KIND]),
    "another node reads between": (
        lambda o, x: o.Mul(o.Exp(h := o.Neg(o.Abs(x))), o.ReduceSum(h, keepdims=1)),
        [KIND, "ReduceSum", KIND],
    ),
    "an answer between": (lambda o, x: ((h := o.Neg(o.Abs(x))), o.Exp(o.Sqrt(h))), [KIND, KIND]),
    "another shape": (lambda o, x: o.Mul(o.Neg(x), o.Exp(o.const(np.ones((8, 1), F)))), ["Neg", "Mul"]),
    "a step alone": (lambda o, x: o.Exp(x), ["Exp"]),
}


@pytest.mark.parametrize("case", CASES)
def test_what_becomes_a_chain(case: str) -> None:
    body, wanted = CASES[case]
    graph = make(body, x=(F, ("n", 8, 5)))
    assert chained(graph) == wanted
    same_bits(graph, {"x": numbers(np.random.default_rng(1), 2, 8, 5)})
