"""Einsum: sums of products named by letters."""

from __future__ import annotations

import string
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from headrace.runtime import dtypes
from headrace.runtime.errors import GraphError
from headrace.runtime.ops.base import MIXED, REQUIRED, Accuracy, Attr, Context, In, Operator, Out, Sample
from headrace.runtime.ops.common import compute, draw, is_float, ordered, unbroadcast
from headrace.runtime.shapes import Dim, equal
from headrace.runtime.types import TensorType, Type

MAX_OPERANDS = 32


def explicit(equation: str, ranks: Sequence[int]) -> tuple[list[str], str]:
    """Terms and output of an equation with every ellipsis spelled out in unused letters. GraphError for a malformed one."""
    text = equation.replace(" ", "")
    left, arrow, right = text.partition("->")
    terms = left.split(",")
    if len(terms) != len(ranks) or len(terms) > MAX_OPERANDS:
        raise GraphError(f"the equation {equation!r} has {len(terms)} terms; there are {len(ranks)} inputs")
    unused = [letter for letter in string.ascii_letters if letter not in text]
    longest = 0
    spelled = []
    for term, rank in zip(terms, ranks):
        named = term.replace("...", "", 1)
        if not all(letter in string.ascii_letters for letter in named):
            raise GraphError(f"the term {term!r} of {equation!r} may hold letters and one ellipsis only")
        hidden = rank - len(named)
        if hidden < 0 or (hidden and "..." not in term) or hidden > len(unused):
            raise GraphError(f"the term {term!r} of {equation!r} does not fit an input of rank {rank}")
        longest = max(longest, hidden)
        spelled.append((term, hidden))
    dots = "".join(unused[:longest])
    done = [term.replace("...", dots[longest - hidden :], 1) for term, hidden in spelled]
    if arrow:
        output = right.replace("...", dots, 1)
    else:
        letters = left.replace("...", "").replace(",", "")
        output = dots + "".join(sorted(letter for letter in set(letters) if letters.count(letter) == 1))
    if len(set(output)) != len(output) or not set(output) <= set("".join(done)):
        raise GraphError(f"the output {right!r} of {equation!r} repeats a letter, or has one that no term has")
    return done, output


class Einsum(Operator):
    versions = (12, 28)
    inputs = (In("Inputs", variadic=True),)
    outputs = (Out("Output"),)
    types = {"T": dtypes.NUMERIC}
    attributes = {"equation": Attr("string", REQUIRED)}
    accuracy = Accuracy(16.0)

    def infer(self, context: Context) -> list[Type | None]:
        shapes = [context.shape(i) for i in range(len(context.inputs))]
        if any(shape is None for shape in shapes):
            return [TensorType(context.dtype(), None)]
        terms, output = explicit(context.attributes["equation"], [len(shape) for shape in shapes if shape is not None])
        sizes: dict[str, Dim] = {}
        for term, shape in zip(terms, shapes):
            for letter, dim in zip(term, shape or ()):
                known = sizes.get(letter, 1)
                if known != 1 and dim != 1 and equal(known, dim) is False:
                    raise GraphError(f"the letter {letter!r} stands for {known} and for {dim}")
                sizes[letter] = dim if known == 1 or (isinstance(dim, int) and dim != 1) else known
        return [TensorType(context.dtype(), tuple(sizes[letter] for letter in output))]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        terms, output = explicit(attributes["equation"], [x.ndim for x in inputs])
        equation = f"{','.join(terms)}->{output}"
        return [
            compute(lambda *arrays: np.einsum(equation, *arrays, optimize=len(arrays) > 1), inputs, inputs[0].dtype)
        ]

    def gradient(
        self, F: Any, inputs: list[Any], outputs: list[Any], grads: list[Any], attributes: Mapping[str, Any]
    ) -> list[Any]:
        if not is_float(F, inputs[0]):
            return [None] * len(inputs)
        terms, output = explicit(attributes["equation"], [F.rank(x) for x in inputs])
        return [self._gradient_of(F, i, inputs, terms, output, grads[0]) for i in range(len(inputs))]

    @staticmethod
    def _gradient_of(F: Any, index: int, inputs: list[Any], terms: list[str], output: str, g: Any) -> Any:
        """The einsum of the output's gradient and the other operands; letters that only this operand has are stretched."""
        x, term = inputs[index], terms[index]
        names, values = [output], [g]
        for other in range(len(inputs)):
            if other != index:
                names.append(terms[other])
                values.append(inputs[other])
        target = ""
        for place, letter in enumerate(term):
            if letter in target:  # a diagonal: its other elements get no gradient
                size = (F.type(x).shape or ())[place]
                if not isinstance(size, int):
                    raise GraphError("the gradient of an Einsum with a diagonal needs known sizes")
                twin = next(c for c in string.ascii_letters if c not in "".join([*names, *terms, target]))
                names.append(letter + twin)
                values.append(F.constant(np.eye(size, dtype=dtypes.of(F.dtype(x)).numpy)))
                letter = twin
            target += letter
        available = set("".join(names))
        kept = "".join(letter for letter in target if letter in available)
        result = F.Einsum(*values, equation=f"{','.join(names)}->{kept}")
        missing = [place for place, letter in enumerate(target) if letter not in available]
        if missing:
            result = F.Expand(F.Unsqueeze(result, F.constant(np.array(missing, np.int64))), F.Shape(x))
        return unbroadcast(F, result, x)

    def rows(self, tags: Sequence[int | None], context: Context) -> list[int | None]:
        if all(tag is None for tag in tags):
            return [None]
        shapes = [context.shape(i) for i in range(len(context.inputs))]
        if MIXED in tags or any(shape is None for shape in shapes):
            return [MIXED]
        terms, output = explicit(context.attributes["equation"], [len(shape) for shape in shapes if shape is not None])
        letters = {term[tag] for term, tag in zip(terms, tags) if tag is not None}
        if len(letters) != 1:
            return [MIXED]
        (letter,) = letters
        for term, tag, shape in zip(terms, tags, shapes):
            place = term.find(letter)
            if term.count(letter) > 1 or (tag is None and place >= 0 and shape is not None and shape[place] != 1):
                return [MIXED]
        return [output.index(letter) if letter in output else MIXED]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        cases: tuple[tuple[str, tuple[tuple[int, ...], ...]], ...] = (
            ("ij,jk->ik", ((2, 3), (3, 4))), ("bij,bjk->bik", ((2, 3, 4), (2, 4, 5))), ("ij->ji", ((2, 3),)), ("ij->", ((2, 3),)),
            ("ii->i", ((3, 3),)), ("ii", ((3, 3),)), ("i,i", ((4,), (4,))), ("i,j->ij", ((3,), (4,))), ("...ij,...jk->...ik", ((2, 3, 4), (4, 5))),
            ("bhqd,bhkd->bhqk", ((1, 2, 3, 4), (1, 2, 5, 4))), ("ij,jk,kl->il", ((2, 3), (3, 4), (4, 2))), ("...->...", ((2, 3),)),
            ("ij,kj", ((2, 3), (4, 3))), (",", ((), ())), ("ij,jk->ik", ((0, 3), (3, 2))), ("b n h d -> b h n d", ((1, 3, 2, 4),)),
        )  # fmt: skip
        for equation, shapes in cases:
            yield Sample([draw(rng, shape, "float32") for shape in shapes], {"equation": equation})
        for dtype in ordered(dtypes.NUMERIC):
            yield Sample([draw(rng, (3, 5), dtype), draw(rng, (5, 2), dtype)], {"equation": "ij,jk->ik"})
