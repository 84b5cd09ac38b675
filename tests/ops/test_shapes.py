"""Laws of symbolic dimensions: whatever is simplified stays true for all values of the symbols."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.runtime import shapes
from headrace.runtime.shapes import (
    Dim,
    broadcast,
    compare,
    dim_text,
    equal,
    floordiv,
    maximum,
    minimum,
    modulo,
    parse,
    product,
    substitute,
    symbol,
    symbols,
)

NAMES = ("a", "b", "n")


def _combine(children: st.SearchStrategy[Dim]) -> st.SearchStrategy[Dim]:
    pairs = st.tuples(children, children)
    return st.one_of(
        pairs.map(lambda p: p[0] + p[1]),
        pairs.map(lambda p: p[0] - p[1]),
        pairs.map(lambda p: p[0] * p[1]),
        pairs.map(lambda p: minimum(*p)),
        pairs.map(lambda p: maximum(*p)),
        st.tuples(children, st.integers(1, 7)).map(lambda p: floordiv(*p)),
        st.tuples(children, st.integers(1, 7)).map(lambda p: modulo(*p)),
    )


dims = st.recursive(st.one_of(st.integers(-8, 8), st.sampled_from(NAMES).map(symbol)), _combine, max_leaves=6)
assignments = st.fixed_dictionaries({name: st.integers(0, 20) for name in NAMES})
PLAIN = {"+": lambda a, b: a + b, "-": lambda a, b: a - b, "*": lambda a, b: a * b, "min": min, "max": max}
SYMBOLIC = {"+": lambda a, b: a + b, "-": lambda a, b: a - b, "*": lambda a, b: a * b, "min": minimum, "max": maximum}


@given(dims, dims, assignments, st.sampled_from(sorted(PLAIN)))
def test_arithmetic_commutes_with_substitution(a: Dim, b: Dim, values: dict[str, int], operator: str) -> None:
    both = substitute(SYMBOLIC[operator](a, b), values)
    assert both == PLAIN[operator](substitute(a, values), substitute(b, values))


@given(dims, st.integers(1, 9), assignments)
def test_division(a: Dim, divisor: int, values: dict[str, int]) -> None:
    plain = substitute(a, values)
    assert isinstance(plain, int)
    assert substitute(floordiv(a, divisor), values) == plain // divisor
    assert substitute(modulo(a, divisor), values) == plain % divisor


@given(dims, st.sampled_from(NAMES), assignments)
def test_division_by_a_symbol(a: Dim, name: str, values: dict[str, int]) -> None:
    values = {**values, name: values[name] + 1}
    plain = substitute(a, values)
    assert isinstance(plain, int)
    assert substitute(floordiv(a, symbol(name)), values) == plain // values[name]
    assert substitute(modulo(a, symbol(name)), values) == plain % values[name]


@given(dims, dims, assignments)
def test_what_is_certain_is_true(a: Dim, b: Dim, values: dict[str, int]) -> None:
    x, y = substitute(a, values), substitute(b, values)
    sign = compare(a, b)
    assert sign is None or sign == (x > y) - (x < y)  # type: ignore[operator]
    answer = equal(a, b)
    assert answer is None or answer == (x == y)


@given(dims)
def test_text_is_read_back(a: Dim) -> None:
    assert parse(dim_text(a)) == a


@given(dims, dims, dims)
def test_canonical_form(a: Dim, b: Dim, c: Dim) -> None:
    assert a + b == b + a and (a + b) + c == a + (b + c)
    assert a * b == b * a and a * (b + c) == a * b + a * c
    assert a - a == 0 and hash(a + b) == hash(b + a)


def test_terms_that_differ_in_powers_only_have_one_order() -> None:
    a, b = symbol("a"), symbol("b")
    assert a * a * b + a * b * b == a * b * b + a * a * b


@given(st.lists(st.integers(0, 4), max_size=4), st.lists(st.integers(0, 4), max_size=4))
def test_broadcast_of_integers_is_that_of_numpy(a: list[int], b: list[int]) -> None:
    try:
        expected = np.broadcast_shapes(tuple(a), tuple(b))
    except ValueError:
        with pytest.raises(ValueError, match="cannot be broadcast"):
            broadcast(tuple(a), tuple(b))
        return
    assert broadcast(tuple(a), tuple(b)) == expected


@given(st.lists(dims, max_size=4), assignments)
def test_product(sizes: list[Dim], values: dict[str, int]) -> None:
    assert substitute(product(sizes), values) == int(
        np.prod([substitute(size, values) for size in sizes], dtype=object)
    )


def test_examples() -> None:
    n = symbol("n")
    assert (n + 2) * 2 - 4 == 2 * n
    assert str((n + 1) // 2) == "(n + 1)//2" or parse(str((n + 1) // 2)) == (n + 1) // 2
    assert (4 * n) // 2 == 2 * n and (4 * n) % 2 == 0 and (4 * n + 3) // 2 == 2 * n + 1
    assert (n * 6) // n == 6
    assert broadcast((n, 1), (3,)) == (n, 3) and broadcast((n,), (n,)) == (n,)
    assert symbols(maximum(n, symbol("k")) + 1) == {"n", "k"}


@pytest.mark.parametrize(
    "text",
    [
        "n.x",
        "f(n)",
        "n ** 99",
        "1.5",
        "'a'",
        "n if n else 1",
        "[n]",
        "-" * 200 + "n",
        "",
        "n" * 5000,
        "max(1,2,3)",
        "True",
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="dimension"):
        parse(text)


def test_division_by_zero() -> None:
    with pytest.raises(ZeroDivisionError):
        shapes.floordiv(symbol("n"), 0)
