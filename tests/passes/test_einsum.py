"""Einsum as products: every equation gives what the operator's definition gives, and what cannot be rewritten stays."""

from __future__ import annotations

import string
from typing import Any

import numpy as np
import pytest
from graph_cases import kinds, make, same
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.runtime.passes import optimize

F = "float32"
SIZES = {"b": "batch", "s": "length"}  # other letters have a size of their own


def dims(term: str, sizes: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(sizes.get(letter, 2 + string.ascii_letters.index(letter) % 4) for letter in term)


def graph_of(equation: str, sizes: dict[str, Any] | None = None, dtype: str = F) -> Any:
    terms = equation.replace(" ", "").split("->")[0].split(",")
    inputs = {f"x{i}": (dtype, dims(term, SIZES if sizes is None else sizes)) for i, term in enumerate(terms)}
    return make(lambda o, *xs: o.Einsum(*xs, equation=equation), **inputs)


@pytest.mark.parametrize(
    "equation",
    [
        "ij,jk->ik", "bij,bjk->bik", "ij->ji", "ij->", "ij->i", "i,i", "i,j->ij", "ij,kj", "ij->ij", ",->",
        "bshd,bthd->bhst", "bhst,bthd->bshd", "bse,ehd->bshd", "bshd,hde->bse", "bsi,bsj->bs", "bs,bs->bs", "bs,s->bs",
        "ij,jk,kl->il", "bsd,bsd,d->b", "bi,ij,bj->b", "ijk,k->ij", "k,ijk->ij", "ijk,lk->lij", "bsij,bjk->bski", "bi,bj->bij",
    ],
)  # fmt: skip
def test_equations(equation: str) -> None:
    graph = graph_of(equation)
    result = optimize(graph)
    assert "Einsum" not in kinds(result)
    same(graph, result, batch=3, length=5)


def test_a_projection_with_weights_is_one_product() -> None:
    """Several columns and several summed axes are joined, so that the product has two large axes."""
    weights = np.random.default_rng(0).standard_normal((8, 2, 4)).astype(np.float32)
    graph = make(lambda o, x: o.Einsum(x, o.const(weights), equation="bse,ehd->bshd"), x=(F, ("batch", "length", 8)))
    assert kinds(optimize(graph)) == ["MatMul", "Reshape"]
    graph = make(lambda o, x: o.Einsum(x, o.const(weights), equation="bshd,ehd->bse"), x=(F, ("batch", "length", 2, 4)))
    assert kinds(optimize(graph)) == ["Reshape", "MatMul"]


@st.composite
def equations(draw: Any) -> str:
    letters = st.lists(st.sampled_from("abcdij"), max_size=4, unique=True).map("".join)
    terms = draw(st.lists(letters, min_size=1, max_size=3))
    known = sorted(set("".join(terms)))
    output = "".join(draw(st.permutations(known))[: draw(st.integers(0, len(known)))])
    return f"{','.join(terms)}->{output}"


@settings(max_examples=150)
@given(equations(), st.booleans())
def test_random_equations(equation: str, symbolic: bool) -> None:
    graph = graph_of(equation, {"a": "batch", "i": "length"} if symbolic else {})
    same(graph, optimize(graph), 1e-4, 1e-4, batch=3, length=4)


@pytest.mark.parametrize("equation", ["ii->i", "ii", "iij,j->i"])
def test_diagonals_stay(equation: str) -> None:
    graph = graph_of(equation)
    result = optimize(graph)
    assert "Einsum" in kinds(result)
    same(graph, result)


def test_sizes_that_may_be_stretched_stay() -> None:
    graph = graph_of("ij,jk->ik", {"j": "batch"})
    assert "MatMul" in kinds(optimize(graph))
    graph = make(lambda o, x, y: o.Einsum(x, y, equation="ij,jk->ik"), x=(F, (2, "n")), y=(F, ("m", 3)))
    assert kinds(optimize(graph)) == ["Einsum"]  # n or m may be 1
    graph = make(lambda o, x, y: o.Einsum(x, y, equation="bij,bjk->bik"), x=(F, (1, 2, 3)), y=(F, (4, 3, 2)))
    same(graph, optimize(graph))


def test_integers_stay() -> None:
    assert kinds(optimize(graph_of("ij,jk->ik", dtype="int64"))) == ["Einsum"]
