"""StringNormalizer, StringConcat, StringSplit, RegexFullMatch: operators on tensors of strings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from headrace.runtime.errors import GraphError
from headrace.runtime.ops.axes import kept_rows, known_shape
from headrace.runtime.ops.base import MIXED, REQUIRED, Accuracy, Attr, Context, In, Operator, Out, Sample
from headrace.runtime.ops.common import broadcast_rows, broadcast_shapes
from headrace.runtime.ops.text._regex import compile_regex
from headrace.runtime.types import TensorType, Type

STRING = frozenset({"string"})


def strings(values: Sequence[Any], shape: Sequence[int]) -> Any:
    """An object array, even of nothing."""
    array = np.empty(len(values), object)
    array[:] = values
    return array.reshape(tuple(shape))


class _Text(Operator):
    accuracy = Accuracy.exact()
    differentiable = False


class StringNormalizer(_Text):
    """Removes stop words from [C] or [1, C] and changes case; where nothing is left, one empty string."""

    versions = (10,)
    inputs = (In("X", STRING),)
    outputs = (Out("Y", STRING),)
    attributes = {
        "case_change_action": Attr("string", "NONE", ("NONE", "LOWER", "UPPER")),
        "is_case_sensitive": Attr("int", 0, (0, 1)),
        "locale": Attr("string"),
        "stopwords": Attr("strings"),
    }

    def infer(self, context: Context) -> list[Type | None]:
        shape = known_shape(context, ranks=(1, 2))
        if shape is None:
            return [TensorType("string")]
        if not context.attributes["stopwords"]:
            return [TensorType("string", shape)]
        return [TensorType("string", (*shape[:-1], context.fresh("words")))]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        stops = set(attributes["stopwords"] or ())
        folded = {stop.lower() for stop in stops}
        words = [str(word) for word in inputs[0].ravel()]
        if stops:
            words = [
                word
                for word in words
                if not (word in stops if attributes["is_case_sensitive"] else word.lower() in folded)
            ]
        match attributes["case_change_action"]:
            case "LOWER":
                words = [word.lower() for word in words]
            case "UPPER":
                words = [word.upper() for word in words]
        words = words or [""]
        return [strings(words, (1, len(words)) if inputs[0].ndim == 2 else (len(words),))]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        days = np.array(["Monday", "tuesday", "Wednesday", "thursday"], object)
        yield Sample([days], {"case_change_action": "UPPER", "stopwords": ("monday",)})
        yield Sample([days], {"case_change_action": "LOWER", "is_case_sensitive": 1, "stopwords": ("Monday", "x")})
        yield Sample([days[None]], {"is_case_sensitive": 1, "stopwords": tuple(days)})
        yield Sample([days])

    def rows(self, tags: Sequence[int | None], context: Context) -> list[int | None]:
        return [MIXED if tags[0] is not None and context.attributes["stopwords"] else tags[0]]


class StringConcat(_Text):
    """Each string of X followed by that of Y."""

    versions = (20,)
    inputs = (In("X", STRING), In("Y", STRING))
    outputs = (Out("Z", STRING),)

    def infer(self, context: Context) -> list[Type | None]:
        return [TensorType("string", broadcast_shapes(context))]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        left, right = np.broadcast_arrays(*inputs)
        return [strings([str(a) + str(b) for a, b in zip(left.ravel(), right.ravel())], left.shape)]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        yield Sample([np.array(["abc", "ß", ""], object), np.array(["def", "x", ""], object)])
        yield Sample([np.array([["a"], ["b"]], object), np.array(["1", "2", "3"], object)])

    def rows(self, tags: Sequence[int | None], context: Context) -> list[int | None]:
        return [broadcast_rows(tags, [context.shape(0), context.shape(1)])]


class StringSplit(_Text):
    """Each string split at a delimiter (without one: at runs of spaces); rows are filled with empty strings. Output 1
    holds how many parts there were."""

    versions = (20,)
    inputs = (In("X", STRING),)
    outputs = (Out("Y", STRING), Out("Z", frozenset({"int64"})))
    attributes = {"delimiter": Attr("string"), "maxsplit": Attr("int")}

    def infer(self, context: Context) -> list[Type | None]:
        shape = context.shape()
        parts = None if shape is None else (*shape, context.fresh("parts"))
        found: list[Type | None] = [TensorType("string", parts), TensorType("int64", shape)]
        return found[: max(1, context.n_outputs)]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        x, most = inputs[0], attributes["maxsplit"]
        parts = [str(text).split(attributes["delimiter"] or None, -1 if most is None else most) for text in x.ravel()]
        width = max(map(len, parts), default=0)
        filled = [part for row in parts for part in (*row, *[""] * (width - len(row)))]
        counts = np.array([len(row) for row in parts], np.int64).reshape(x.shape)
        return [strings(filled, (*x.shape, width)), counts][: max(1, n_outputs)]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        yield Sample([np.array(["a.b", "c.d.e", ""], object)], {"delimiter": "."})
        yield Sample([np.array([[" hello  world "], ["x"]], object)], {})
        yield Sample([np.array(["a,b,c"], object)], {"delimiter": ",", "maxsplit": 1})

    def rows(self, tags: Sequence[int | None], context: Context) -> list[int | None]:
        return [None if tags[0] is None else MIXED, tags[0]][: context.n_outputs]  # the widest row decides the width


class RegexFullMatch(_Text):
    """Whether each whole string matches the pattern (RE2 syntax: no backward references, no looking around)."""

    versions = (20,)
    inputs = (In("X", STRING),)
    outputs = (Out("Y", frozenset({"bool"})),)
    attributes = {"pattern": Attr("string", REQUIRED)}

    def infer(self, context: Context) -> list[Type | None]:
        try:
            compile_regex(context.attributes["pattern"])
        except ValueError as error:
            raise GraphError(f"pattern: {error}") from None
        return [TensorType("bool", context.shape())]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        regex = compile_regex(attributes["pattern"])
        return [np.array([regex.fullmatch(str(text)) for text in inputs[0].ravel()], np.bool_).reshape(inputs[0].shape)]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        texts = np.array(["www.google.com", "www.facebook.com", "www.bbc.co.uk", ""], object)
        yield Sample([texts], {"pattern": r"www\.[\w.-]+\.\bcom\b"})
        yield Sample([texts], {"pattern": r"(?:w{3}|x+)\..*[^m]"})

    def rows(self, tags: Sequence[int | None], context: Context) -> list[int | None]:
        return kept_rows(tags)
