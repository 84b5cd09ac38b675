"""Tokens: texts to the numbers that a language model reads, by a tokenizer that is data of the package."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from headrace.runtime.errors import GraphError, InputError, RunError
from headrace.runtime.ops.axes import known_shape
from headrace.runtime.ops.base import MIXED, Accuracy, Attr, Context, In, Operator, Out, Sample
from headrace.runtime.types import TensorType, Type

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "b", "##c", "d"]  # of the samples


class Tokens(Operator):
    """ids and mask, int64 [rows, length], of texts [rows], with special tokens. `tokenizer` is a tokenizer.json, as bytes.

    `length` 0: as many as the longest of the rows; else exactly so many. Longer texts are cut to `max_length` (or `length`)
    tokens, shorter ones filled with `pad` and a mask of 0. A text of more than `max_bytes` bytes is refused.
    """

    domain = "headrace"
    inputs = (In("X", frozenset({"string"})), In("tokenizer", frozenset({"uint8"})))
    outputs = (Out("ids", frozenset({"int64"})), Out("mask", frozenset({"int64"})))
    attributes = {
        "length": Attr("int", 0),
        "max_length": Attr("int", 512),
        "pad": Attr("int", 0),
        "max_bytes": Attr("int", 1 << 20),
    }
    accuracy = Accuracy.exact()
    differentiable = False

    def infer(self, context: Context) -> list[Type | None]:
        shape, given = known_shape(context, ranks=(1,)), context.attributes
        if given["length"] < 0 or given["max_length"] < 1:
            raise GraphError("length is 0 (the longest of the rows) or more, max_length 1 or more")
        rows = context.fresh("rows") if shape is None else shape[0]
        size = given["length"] or context.fresh("length")
        return [TensorType("int64", (rows, size))] * 2

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        length = attributes["length"]
        tokenizer = _tokenizer(np.ascontiguousarray(inputs[1]).tobytes(), length or attributes["max_length"])
        texts = [
            _text(element, row, attributes["max_bytes"]) for row, element in enumerate(inputs[0].reshape(-1).tolist())
        ]
        found = [one.ids for one in tokenizer.encode_batch(texts)] if texts else []
        size = length or max(map(len, found), default=0)
        ids = np.full((len(texts), size), attributes["pad"], np.int64)
        mask = np.zeros_like(ids)
        for row, one in enumerate(found):
            ids[row, : len(one)] = one
            mask[row, : len(one)] = 1
        return [ids, mask][:n_outputs]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        tokenizer = np.frombuffer(_sample(), np.uint8)
        texts = np.array(["a b", "", "A bc  d\u00e9", "a " * 40], object)
        yield Sample([texts, tokenizer])
        yield Sample([texts, tokenizer], {"length": 6, "pad": 3})
        yield Sample([texts, tokenizer], {"max_length": 4})
        yield Sample([texts[:0], tokenizer], {"length": 3})

    def rows(self, tags: Sequence[int | None], context: Context) -> list[int | None]:
        """Filled to the longest of the rows, one row changes the length of all."""
        keeps = tags[0] in (0, None) and tags[1] is None and context.attributes["length"]
        return [tags[0] if keeps else MIXED] * 2


@functools.lru_cache(maxsize=16)
def _tokenizer(data: bytes, most: int) -> Any:
    try:
        import tokenizers
    except ImportError:
        raise RunError("Tokens needs the package tokenizers: pip install headrace[text]") from None
    try:
        tokenizer = tokenizers.Tokenizer.from_str(data.decode("utf-8"))
    except Exception as error:  # the library has no class of its own
        raise RunError(f"the tokenizer of the package cannot be read: {error}") from None
    tokenizer.no_padding()
    tokenizer.enable_truncation(most)
    return tokenizer


def _text(element: Any, row: int, most: int) -> str:
    data = element.encode("utf-8") if isinstance(element, str) else bytes(element)
    if len(data) > most:
        raise InputError(f"text {row} has {len(data)} bytes; allowed are {most}")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise InputError(f"text {row} is not UTF-8") from None


def _sample() -> bytes:
    """A tokenizer.json of a few words."""
    special = {token: {"id": token, "ids": [WORDS.index(token)], "tokens": [token]} for token in ("[CLS]", "[SEP]")}
    single: list[Any] = [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    single.append({"SpecialToken": {"id": "[SEP]", "type_id": 0}})
    pair = [*single, {"Sequence": {"id": "B", "type_id": 1}}]
    return json.dumps(
        {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [],
            "normalizer": {"type": "Lowercase"},
            "pre_tokenizer": {"type": "Whitespace"},
            "post_processor": {
                "type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": special,
            },
            "decoder": None,
            "model": {
                "type": "WordPiece",
                "unk_token": "[UNK]",
                "continuing_subword_prefix": "##",
                "max_input_chars_per_word": 100,
                "vocab": {word: number for number, word in enumerate(WORDS)},
            },
        }
    ).encode()  # fmt: skip
