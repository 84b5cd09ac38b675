"""TfIdfVectorizer: how often each n-gram of a pool occurs, weighed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from headrace.runtime.errors import GraphError
from headrace.runtime.ops.axes import known_shape
from headrace.runtime.ops.base import MIXED, REQUIRED, Accuracy, Attr, Context, In, Operator, Out, Sample
from headrace.runtime.types import TensorType, Type


class TfIdfVectorizer(Operator):
    """[C] or [N, C] -> counts of the pool's n-grams, with up to max_skip_count items left out between neighbours.
    mode TF: counts; IDF: weights of those that occur; TFIDF: counts times weights."""

    versions = (9,)
    inputs = (In("X", frozenset({"string", "int32", "int64"})),)
    outputs = (Out("Y", frozenset({"float32"})),)
    attributes = {
        "max_gram_length": Attr("int", REQUIRED), "max_skip_count": Attr("int", REQUIRED), "min_gram_length": Attr("int", REQUIRED),
        "mode": Attr("string", REQUIRED, ("TF", "IDF", "TFIDF")), "ngram_counts": Attr("ints", REQUIRED), "ngram_indexes": Attr("ints", REQUIRED),
        "pool_int64s": Attr("ints"), "pool_strings": Attr("strings"), "weights": Attr("floats"),
    }  # fmt: skip
    accuracy = Accuracy(1.0)
    differentiable = False

    def infer(self, context: Context) -> list[Type | None]:
        shape, attributes = known_shape(context, ranks=(0, 1, 2)), context.attributes
        if not attributes["ngram_indexes"] or min(attributes["ngram_indexes"]) < 0:
            raise GraphError("ngram_indexes must hold one index, at least 0, for each n-gram")
        if attributes["weights"] and len(attributes["weights"]) != len(attributes["ngram_indexes"]):
            raise GraphError(
                f"there are {len(attributes['weights'])} weights; allowed: {len(attributes['ngram_indexes'])}"
            )
        size = max(attributes["ngram_indexes"]) + 1
        return [TensorType("float32", None if shape is None else (shape[0], size) if len(shape) == 2 else (size,))]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        x, pool, columns = inputs[0], grams(attributes), attributes["ngram_indexes"]
        rows = [row.tolist() for row in (x if x.ndim == 2 else x.reshape(1, -1))]
        counts = np.zeros((len(rows), max(columns) + 1), np.float32)
        for place, row in enumerate(rows):
            for gram in windows(row, attributes):
                if gram in pool:
                    counts[place, columns[pool[gram]]] += 1
        weights = np.ones(counts.shape[1], np.float32)
        if attributes["weights"]:
            weights[list(columns)] = attributes["weights"]
        match attributes["mode"]:
            case "IDF":
                counts = np.where(counts > 0, weights, 0).astype(np.float32)
            case "TFIDF":
                counts = counts * weights
        return [counts if x.ndim == 2 else counts[0]]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        pool: dict[str, Any] = {
            "ngram_counts": (0, 4),
            "ngram_indexes": (0, 1, 2, 3, 4, 5, 6),
            "pool_int64s": (2, 3, 5, 4, 5, 6, 7, 8, 6, 7),
        }
        x = np.array([[1, 1, 3, 3, 3, 7], [8, 6, 7, 5, 6, 8]], np.int32)
        for mode in ("TF", "IDF", "TFIDF"):
            for least, most, skip in ((2, 2, 0), (1, 2, 5)):
                yield Sample(
                    [x],
                    {
                        **pool,
                        "mode": mode,
                        "min_gram_length": least,
                        "max_gram_length": most,
                        "max_skip_count": skip,
                        "weights": (0.5, 1.0, 2.0, 0.25, 3.0, 1.5, 0.75),
                    },
                )
        texts = {"ngram_counts": (0, 2), "ngram_indexes": (0, 1, 2), "pool_strings": ("a", "b", "a", "b")}
        yield Sample(
            [np.array(["a", "b", "a", "b"], object)],
            {**texts, "mode": "TF", "min_gram_length": 1, "max_gram_length": 2, "max_skip_count": 0},
        )

    def rows(self, tags: Sequence[int | None], context: Context) -> list[int | None]:
        return [None if tags[0] is None else 0 if tags[0] == 0 and context.type(0).rank == 2 else MIXED]


def grams(attributes: Mapping[str, Any]) -> dict[tuple[Any, ...], int]:
    """n-gram -> its number, for the lengths that are asked for."""
    pool, starts = attributes["pool_int64s"] or attributes["pool_strings"] or (), attributes["ngram_counts"]
    found: dict[tuple[Any, ...], int] = {}
    number = 0
    for length, start in enumerate(starts, 1):
        end = starts[length] if length < len(starts) else len(pool)
        if not 0 <= start <= end <= len(pool) or (end - start) % length:
            raise GraphError(f"ngram_counts are {list(starts)}; they do not cut a pool of {len(pool)} into n-grams")
        for place in range(start, end, length):
            if attributes["min_gram_length"] <= length <= attributes["max_gram_length"]:
                found[tuple(pool[place : place + length])] = number
            number += 1
    if number > len(attributes["ngram_indexes"]):
        raise GraphError(f"there are {number} n-grams and {len(attributes['ngram_indexes'])} ngram_indexes")
    return found


def windows(row: Sequence[Any], attributes: Mapping[str, Any]) -> Iterator[tuple[Any, ...]]:
    """All n-grams of a row: every length and every distance between neighbours; single items once."""
    for distance in range(1, attributes["max_skip_count"] + 2):
        for length in range(attributes["min_gram_length"], attributes["max_gram_length"] + 1):
            if (length == 1 and distance > 1) or length < 1:
                continue
            span = distance * (length - 1) + 1
            for start in range(len(row) - span + 1):
                yield tuple(row[start : start + span : distance])
