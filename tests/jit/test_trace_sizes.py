"""Symbolic sizes: arithmetic that is traced, comparisons that are decided or refused, dimensions declared by the user."""

from __future__ import annotations

import builtins
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jit_models import check, rows

import headrace as torch
from headrace import jit
from headrace.jit.sizes import SymInt, size_of
from headrace.runtime.shapes import substitute, symbol

ARITHMETIC: dict[str, Any] = {
    "shape": lambda x: x.view(x.shape[0], -1),
    "size()": lambda x: x.view(x.size(0), -1),
    "len()": lambda x: x.sum(0) / len(x),
    "factor": lambda x: x.reshape(x.shape[0] * 2, -1),
    "quotient": lambda x: x.reshape(-1)[: x.numel() // 3],
    "remainder": lambda x: x + x.shape[0] % 3,
    "difference": lambda x: x + (x.shape[0] - 7) // 2,
    "power": lambda x: x * x.shape[0] ** 2,
    "float": lambda x: x * (1 / x.shape[0]) + x.shape[0] / 2 + x.shape[0] * 0.5,
    "zeros": lambda x: torch.zeros(x.shape[0], 4) + x,
    "twice as many": lambda x: torch.cat([x, torch.ones(x.shape[0] * 2, 4)]),
    "new_full": lambda x: x.new_full((x.size(0), 1), 3.0) * x,
    "arange": lambda x: x + torch.arange(x.shape[0]).unsqueeze(1),
    "expand": lambda x: torch.ones(1, 4).expand(x.shape[0], -1) + x,
    "slice": lambda x: x[: x.shape[0] // 2],
    "answer": lambda x: (x.shape[0], x.shape[0] * 2 + 1, x.shape[1]),
    "like": lambda x: torch.zeros_like(x) + torch.ones_like(x[:, :1]),
    "variance": lambda x: x.var(0, unbiased=False),
    "symbol beside symbol": lambda x: (x @ x.t()).reshape(x.shape[0] * x.shape[0]),
    "unpacked": lambda x: x.reshape(*x.shape[:-1], 2, 2),
}


@pytest.mark.parametrize("name", ARITHMETIC)
def test_arithmetic(name: str) -> None:
    torch.manual_seed(0)
    example = torch.randn(3, 4)
    check(jit.trace(ARITHMETIC[name], example), [rows(example.numpy(), 1)], [rows(example.numpy(), 8)])


def test_equal_sizes_are_known_to_be_equal() -> None:
    def function(x: Any, y: Any) -> Any:
        assert (
            x.shape == y.shape and x.shape[0] == len(y) and x.shape[0] >= 0 and x.shape[0] + 1 > 0 and x.shape[0] != -1
        )
        return x + y

    check(jit.trace(function, (torch.randn(3, 4), torch.randn(3, 4))))


def test_a_static_dimension_is_a_number() -> None:
    def function(x: Any) -> Any:
        return x if x.shape[1] == 4 and x.shape[0] > 0 else -x

    for dynamic in ({}, {"x": {0: None}}, {"x": ()}, {0: {0: None}}):
        exported = jit.trace(function, torch.randn(3, 4), dynamic=dynamic)
        assert str(exported.graph.inputs[0]) == "%x: float32[3, 4]"


def test_dimensions_by_name_index_and_list() -> None:
    def shapes(dynamic: Any) -> list[str]:
        inputs = jit.trace(
            lambda x, mask: x.sum() + mask.sum(), (torch.zeros(3, 4, 5), torch.zeros(3, 4)), dynamic=dynamic
        ).graph.inputs
        return [str(value.type) for value in inputs]

    assert shapes(None) == ["float32[batch, 4, 5]", "float32[batch, 4]"]
    assert shapes({}) == ["float32[3, 4, 5]", "float32[3, 4]"]
    assert shapes({"x": {1: "length"}, "mask": {1: "length"}}) == [
        "float32[batch, length, 5]",
        "float32[batch, length]",
    ]
    assert shapes({0: [1, -1]}) == ["float32[batch, x_1, x_2]", "float32[batch, 4]"]
    assert shapes({"x": {0: "n"}, "mask": {0: None}}) == ["float32[n, 4, 5]", "float32[3, 4]"]


def test_another_size_than_the_first_input_has_is_another_symbol() -> None:
    exported = jit.trace(lambda a, b: a @ b.t(), (torch.randn(3, 4), torch.randn(5, 4)))
    assert [str(value.type) for value in exported.graph.inputs] == ["float32[batch, 4]", "float32[b_0, 4]"]
    check(exported, [rows(np.ones((1, 4), np.float32), 2), rows(np.ones((1, 4), np.float32), 9)])


@pytest.mark.parametrize(
    ("dynamic", "message"),
    [
        ({"y": [1]}, "there is no input 'y'; the inputs: x"),
        ({1: [1]}, "there is no input 1"),
        ({"x": [2]}, "'x' has no dimension 2; its rank is 2"),
        ({"x": {0: "n", 1: "n"}}, "the size 'n' is 3 as dimension 0 of 'x' but 4 as dimension 1 of 'x'"),
    ],
)
def test_dimensions_that_do_not_exist(dynamic: Any, message: str) -> None:
    with pytest.raises(jit.TraceError, match=message):
        jit.trace(lambda x: x, torch.zeros(3, 4), dynamic=dynamic)


def test_len_is_pythons_own_outside_of_a_trace() -> None:
    before = builtins.len
    seen = []
    jit.trace(lambda x: seen.append((len([1, 2]), type(len(x)), len(x[0]))) or x, torch.zeros(3, 4))
    assert builtins.len is before and seen[1] == (2, SymInt, 4) and seen[0] == (2, int, 4)


@given(st.lists(st.tuples(st.sampled_from("+-*/%"), st.integers(1, 9)), max_size=6), st.integers(0, 50))
def test_arithmetic_of_sizes_is_that_of_whole_numbers(steps: list[tuple[str, int]], n: int) -> None:
    apply: dict[str, Any] = {
        "+": lambda a, b: a + b,
        "-": lambda a, b: b - a,
        "*": lambda a, b: a * b,
        "/": lambda a, b: a // b,
        "%": lambda a, b: a % b,
    }
    size: Any = size_of(symbol("n"))
    number = n
    for sign, other in steps:
        size, number = apply[sign](size, other), apply[sign](number, other)
    assert (substitute(size.expr, {"n": n}) if isinstance(size, SymInt) else size) == number


@given(st.integers(-5, 5), st.integers(-20, 20), st.sampled_from(["<", "<=", ">", ">=", "==", "!="]))
def test_a_decided_comparison_holds_for_all_sizes(factor: int, offset: int, sign: str) -> None:
    compare: dict[str, Any] = {
        "<": lambda a, b: a < b,
        "<=": lambda a, b: a <= b,
        ">": lambda a, b: a > b,
        ">=": lambda a, b: a >= b,
        "==": lambda a, b: a == b,
        "!=": lambda a, b: a != b,
    }
    size = size_of(symbol("n") * factor + offset)
    values = {compare[sign](n * factor + offset, 3) for n in range(40)}
    try:
        decided = compare[sign](size, 3)
    except jit.TraceError:
        assert factor  # a number is always decided
    else:
        assert values == {decided}
