"""Tokenizer of onnxruntime's operator set, which text pipelines of skl2onnx are written with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from headrace.runtime.errors import GraphError
from headrace.runtime.ops.axes import known_shape
from headrace.runtime.ops.base import MIXED, REQUIRED, Accuracy, Attr, Context, In, Operator, Out, Sample
from headrace.runtime.ops.text._regex import Regex, compile_regex
from headrace.runtime.ops.text.strings import STRING, strings
from headrace.runtime.types import TensorType, Type

BEGIN, END = "\x02", "\x03"  # what `mark` puts around the tokens of a string


class Tokenizer(Operator):
    """Each string of [C] or [N, C] as its tokens, rows filled with pad_value: [C, D] or [N, C, D].

    Tokens are the matches of `tokenexp`, or what is left between matches of `separators`, one separator after another; one
    empty separator makes every character a token. Tokens of less than mincharnum characters are dropped. Matches are the
    leftmost longest, in RE2 syntax. Where there is no token at all, D is 0. Source: onnxruntime, com.microsoft Tokenizer-1.
    """

    domain = "com.microsoft"
    inputs = (In("X", STRING),)
    outputs = (Out("Y", STRING),)
    attributes = {
        "mark": Attr("int", REQUIRED, (0, 1)), "mincharnum": Attr("int", REQUIRED), "pad_value": Attr("string", REQUIRED),
        "separators": Attr("strings"), "tokenexp": Attr("string"),
    }  # fmt: skip
    accuracy = Accuracy.exact()
    differentiable = False

    def infer(self, context: Context) -> list[Type | None]:
        attributes = context.attributes
        separators = attributes["separators"] or ()
        if bool(separators) == bool(attributes["tokenexp"]):
            raise GraphError("exactly one of separators and tokenexp must be given")
        if attributes["mincharnum"] < 1 or ("" in separators and (len(separators) > 1 or attributes["mincharnum"] > 1)):
            raise GraphError("mincharnum must be positive; an empty separator stands alone, with mincharnum 1")
        for pattern in filter(None, (*separators, attributes["tokenexp"])):
            try:
                compile_regex(pattern)
            except ValueError as error:
                raise GraphError(f"pattern {pattern!r}: {error}") from None
        shape = known_shape(context, ranks=(1, 2))
        return [TensorType("string", None if shape is None else (*shape, context.fresh("tokens")))]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        texts = [str(text) for text in inputs[0].ravel()]
        separators, least = attributes["separators"] or (), attributes["mincharnum"]
        if not separators:
            regex = compile_regex(attributes["tokenexp"])
            found = [[text[a:b] for a, b in matches(regex, text)] for text in texts]
        elif separators[0] == "":
            found = [list(text) for text in texts]
        else:
            found = [split(text, [compile_regex(pattern) for pattern in separators]) for text in texts]
        found = [[token for token in tokens if len(token) >= least] for tokens in found]
        if not any(found):
            return [strings([], (*inputs[0].shape, 0))]
        if attributes["mark"]:
            found = [[BEGIN, *tokens, END] for tokens in found]
        width = max(map(len, found))
        filled = [token for tokens in found for token in (*tokens, *[attributes["pad_value"]] * (width - len(tokens)))]
        return [strings(filled, (*inputs[0].shape, width))]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        base = {"mark": 0, "mincharnum": 1, "pad_value": "#"}
        texts = np.array(["ab, abc;;x é", "", "one", "ЖЖ a"], object)
        for mark in (0, 1):
            yield Sample([texts], {**base, "mark": mark, "tokenexp": r"[a-z]+|\w"})
            yield Sample([texts], {**base, "mark": mark, "separators": (",|;", r"\s")})
        yield Sample([texts[None]], {**base, "mincharnum": 2, "tokenexp": "a|ab"})
        yield Sample([texts[:, None]], {**base, "separators": ("",), "mark": 1})
        yield Sample([np.array(["", ""], object)], {**base, "tokenexp": "a", "mark": 1})

    def rows(self, tags: Sequence[int | None], context: Context) -> list[int | None]:
        return [None if tags[0] is None else MIXED]  # the row with most tokens decides the width


def matches(regex: Regex, text: str) -> Iterator[tuple[int, int]]:
    """Where the matches of a pattern begin and end, from left to right; empty ones are passed over."""
    place = 0
    while place < len(text):
        found = regex.search(text, place)
        if found is None:
            return
        begin, end = found
        if end > begin:
            yield begin, end
        place = max(end, begin + 1)


def split(text: str, separators: Sequence[Regex]) -> list[str]:
    """What is left of a text between the matches of one separator after another."""
    parts = [text]
    for regex in separators:
        cut: list[str] = []
        for part in parts:
            place = 0
            for begin, end in matches(regex, part):
                cut.append(part[place:begin])
                place = end
            cut.append(part[place:])
        parts = cut
    return [part for part in parts if part]
