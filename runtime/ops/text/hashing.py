"""MurmurHash3 of onnxruntime's operator set, which skl2onnx writes FeatureHasher with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from headrace.runtime.ops.axes import kept_rows
from headrace.runtime.ops.base import Accuracy, Attr, Context, In, Operator, Out, Sample
from headrace.runtime.types import TensorType, Type

HASHED = frozenset({"int32", "uint32", "int64", "uint64", "float32", "float64", "string"})


class MurmurHash3(Operator):
    """The 32-bit hash (MurmurHash3_x86_32, Appleby 2011) of each element's little-endian bytes, a string's UTF-8: uint32
    where `positive`, else the same bits as int32. Source: onnxruntime, com.microsoft MurmurHash3-1."""

    domain = "com.microsoft"
    inputs = (In("X", HASHED),)
    outputs = (Out("Y", frozenset({"int32", "uint32"})),)
    attributes = {"positive": Attr("int", 1, (0, 1)), "seed": Attr("int", 0)}
    accuracy = Accuracy.exact()
    differentiable = False

    def infer(self, context: Context) -> list[Type | None]:
        return [TensorType("uint32" if context.attributes["positive"] else "int32", context.shape())]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        seed, x = attributes["seed"] & 0xFFFFFFFF, inputs[0]
        parts = (
            (str(text).encode() for text in x.ravel()) if x.dtype == object else (item.tobytes() for item in x.ravel())
        )
        hashes = np.array([murmur3(data, seed) for data in parts], np.uint32).reshape(x.shape)
        return [hashes if attributes["positive"] else hashes.view(np.int32)]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        texts = np.array([["", "a", "ab"], ["abc", "abcd", "a longer text, é"]], object)
        for positive in (0, 1):
            yield Sample([texts], {"positive": positive})
        yield Sample([np.array([1, -2, 3], np.int32)], {"seed": 42})
        yield Sample([np.array([1, -2, 1 << 40], np.int64)], {"positive": 0})
        yield Sample([rng.normal(size=(2, 2)).astype(np.float32)])
        yield Sample([rng.normal(size=3)], {"seed": 7})

    def rows(self, tags: Sequence[int | None], context: Context) -> list[int | None]:
        return kept_rows(tags)


def murmur3(data: bytes, seed: int) -> int:
    """MurmurHash3_x86_32."""
    mask, state = 0xFFFFFFFF, seed
    whole = len(data) & ~3
    for place in range(0, whole, 4):
        state ^= _mixed(int.from_bytes(data[place : place + 4], "little"))
        state = ((state << 13 | state >> 19) * 5 + 0xE6546B64) & mask
    state ^= _mixed(int.from_bytes(data[whole:], "little")) ^ len(data)
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        state = (state ^ state >> shift) * factor & mask
    return state ^ state >> 16


def _mixed(block: int) -> int:
    block = block * 0xCC9E2D51 & 0xFFFFFFFF
    return (block << 15 | block >> 17) * 0x1B873593 & 0xFFFFFFFF
