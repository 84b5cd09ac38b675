"""onnxruntime's Attention, QAttention and MultiHeadAttention, in terms of ai.onnx Attention."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from headrace.runtime import dtypes
from headrace.runtime.errors import GraphError
from headrace.runtime.ops.base import Attr, In, Out, Sample
from headrace.runtime.ops.common import draw
from headrace.runtime.ops.microsoft import _heads as heads
from headrace.runtime.ops.microsoft.products import scaled_product
from headrace.runtime.ops.quant.integer import levels, number, scale
from headrace.runtime.ops.spelled import EITHER8, FLOAT32, INT32, Spelled, ints, size, total


class Attention(Spelled):
    """Self-attention of BERT and GPT-2: input [batch, length, hidden] times the stacked weights of queries, keys and values.
    Past and present are [2, batch, heads, length, size]. Source: onnxruntime, com.microsoft.Attention-1."""

    inputs = (
        In("input"), In("weights"), In("bias", optional=True), In("mask_index", INT32, optional=True), In("past", optional=True),
        In("attention_bias", optional=True), In("past_sequence_length", INT32, optional=True),
    )  # fmt: skip
    outputs = (Out("output"), Out("present", optional=True))
    types = {"T": dtypes.FLOAT}
    attributes = {
        **heads.COMMON, "do_rotary": Attr("int", 0, (0,)), "past_present_share_buffer": Attr("int", 0, (0,)), "qkv_hidden_sizes": Attr("ints", ()),
        "rotary_embedding_dim": Attr("int", 0),
    }  # fmt: skip

    def spell(self, F: Any, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int) -> Any:
        x, weights, bias, mask, past, scores, past_length = inputs
        if past_length is not None:
            raise GraphError("past_sequence_length belongs to a shared buffer, which is not supported")
        projected = total(F, [F.MatMul(x, weights), bias])
        return attended(F, projected, mask, past, scores, attributes, n_outputs)

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        x, w, b = draw(rng, (2, 4, 8), "float32"), draw(rng, (8, 24), "float32", -0.5, 0.5), draw(rng, (24,), "float32")
        two = {"num_heads": 2}
        yield Sample([x, w, b], two)
        yield Sample([x, w, b, np.array([[1, 1, 1, 0], [1, 0, 1, 1]], np.int32)], two)
        yield Sample([x, w, b, np.array([3, 4], np.int32)], two)
        yield Sample([x, w, b, np.array([4, 3, 1, 0], np.int32)], two)
        yield Sample([x, w, b, (rng.random((2, 4, 4)) < 0.8).astype(np.int32)], {**two, "scale": 0.3})
        past = draw(rng, (2, 2, 2, 3, 4), "float32")
        yield Sample([x, w, b, None, past], {**two, "unidirectional": 1}, outputs=2)
        yield Sample([x, w, b, np.ones((2, 7), np.int32), past], two, outputs=2)
        yield Sample([x, w, b, None, None, draw(rng, (1, 2, 4, 4), "float32")], two)
        narrow = draw(rng, (8, 20), "float32", -0.5, 0.5)
        yield Sample([x, narrow, b[:20].copy()], {**two, "qkv_hidden_sizes": (8, 8, 4)})


def attended(
    F: Any, projected: Any, mask: Any, past: Any, scores: Any, attributes: Mapping[str, Any], n_outputs: int
) -> Any:
    """Attention of queries, keys and values that lie side by side along the last axis."""
    widths = attributes.get("qkv_hidden_sizes")
    if widths and len(widths) != 3:
        raise GraphError(f"qkv_hidden_sizes has {len(widths)} numbers; allowed: 3")
    cut = (
        F.Split(projected, ints(F, *widths), axis=2, outputs=3)
        if widths
        else F.Split(projected, axis=2, num_outputs=3, outputs=3)
    )
    q, k, v = (heads.split(F, item, attributes["num_heads"]) for item in cut)
    pair = heads.unstacked(F, past)
    bias = heads.key_mask(F, mask, heads.length(F, k, pair), q, attributes["mask_filter_value"])
    y, keys, values = heads.attend(F, q, k, v, heads.together(F, bias, scores), pair, attributes)
    return (y, heads.stacked(F, keys, values)) if n_outputs > 1 else y


class QAttention(Spelled):
    """Attention whose projection multiplies 8-bit levels. Source: onnxruntime, com.microsoft.QAttention-1."""

    inputs = (
        In("input", EITHER8), In("weight", EITHER8), In("bias", FLOAT32), In("input_scale", FLOAT32), In("weight_scale", FLOAT32),
        In("mask_index", INT32, optional=True), In("input_zero_point", EITHER8, optional=True), In("weight_zero_point", EITHER8, optional=True),
        In("past", FLOAT32, optional=True),
    )  # fmt: skip
    outputs = (Out("output", FLOAT32), Out("present", FLOAT32, optional=True))
    types = {}
    attributes = {**heads.COMMON, "do_rotary": Attr("int", 0, (0,)), "past_present_share_buffer": Attr("int", 0, (0,))}

    def spell(self, F: Any, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int) -> Any:
        x, w, bias, x_scale, w_scale, mask, x_zero, w_zero, past = inputs
        projected = scaled_product(F, x, w, x_scale, w_scale, x_zero, w_zero, bias)
        return attended(F, projected, mask, past, None, attributes, n_outputs)

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        x, w, b = levels(rng, (2, 4, 8), "uint8"), levels(rng, (8, 24), "int8"), draw(rng, (24,), "float32")
        scales, two = [scale(0.02), scale(0.01)], {"num_heads": 2}
        yield Sample([x, w, b, *scales, None, number(120, "uint8"), number(0, "int8")], two)
        mask = np.array([[1, 1, 1, 0], [1, 0, 1, 1]], np.int32)
        yield Sample([x, w, b, *scales, mask, number(120, "uint8"), number(3, "int8")], two)
        columns = rng.uniform(0.005, 0.02, 24).astype(np.float32)
        tail = [number(120, "uint8"), np.zeros(24, np.int8), draw(rng, (2, 2, 2, 3, 4), "float32")]
        yield Sample([x, w, b, scales[0], columns, None, *tail], {**two, "unidirectional": 1}, outputs=2)


class MultiHeadAttention(Spelled):
    """Attention of projected queries [batch, length, hidden], keys and values (3-D, or 4-D [batch, heads, length, size], or packed
    into the query 5-D or the key 5-D), with biases of all three. Source: onnxruntime, com.microsoft.MultiHeadAttention-1."""

    inputs = (
        In("query"), In("key", optional=True), In("value", optional=True), In("bias", optional=True), In("key_padding_mask", INT32, optional=True),
        In("attention_bias", optional=True), In("past_key", optional=True), In("past_value", optional=True),
        In("past_sequence_length", INT32, optional=True), In("cache_indirection", INT32, optional=True),
    )  # fmt: skip
    outputs = (Out("output"), Out("present_key", optional=True), Out("present_value", optional=True))
    types = {"T": dtypes.FLOAT}
    attributes = heads.COMMON

    def spell(self, F: Any, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int) -> Any:
        query, key, value, bias, mask, scores, past_key, past_value, *buffer = inputs
        if any(item is not None for item in buffer) or (past_key is None) != (past_value is None):
            raise GraphError("past_key comes with past_value; a shared buffer and beams are not supported")
        q, k, v = self._apart(F, query, key, value, bias, attributes["num_heads"])
        past = None if past_key is None else (past_key, past_value)
        hidden = heads.key_mask(F, mask, heads.length(F, k, past), q, attributes["mask_filter_value"])
        return heads.attend(F, q, k, v, heads.together(F, hidden, scores), past, attributes)[: max(1, n_outputs)]

    @staticmethod
    def _apart(F: Any, query: Any, key: Any, value: Any, bias: Any, count: int) -> list[Any]:
        """Queries, keys and values as [batch, heads, length, size], with their biases added."""

        def unpacked(x: Any, places: int) -> list[Any]:  # [batch, length, heads, places, size]
            return [F.Transpose(F.Squeeze(item, ints(F, 3)), perm=(0, 2, 1, 3)) for item in F.Split(x, axis=3, num_outputs=places, outputs=places)]  # fmt: skip

        if F.rank(query) == 5:
            if bias is not None or key is not None:
                raise GraphError("a packed query has its keys and values in it, and no bias")
            return unpacked(query, 3)
        if key is None or (value is None and F.rank(key) != 5):
            raise GraphError("key and value are missing, and neither query nor key is packed")
        if F.rank(key) == 5:
            if bias is not None:
                raise GraphError("a packed key has no bias")
            return [heads.split(F, query, count), *unpacked(key, 2)]
        flat = [query, key, value]
        if bias is not None:
            own = size(F, query, 2)
            rest = F.Sub(size(F, bias, 0), F.Add(own, own))
            flat = [x if F.rank(x) == 4 else F.Add(x, b) for x, b in zip(flat, heads.parts(F, bias, 0, own, own, rest))]
        return [x if F.rank(x) == 4 else heads.split(F, x, count) for x in flat]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        q, k, v = (draw(rng, (2, n, 8), "float32") for n in (4, 6, 6))
        bias, two = draw(rng, (24,), "float32", -1, 1), {"num_heads": 2}
        yield Sample([q, k, v], two)
        yield Sample([q, k, v, bias, None, draw(rng, (1, 2, 4, 6), "float32")], {**two, "scale": 0.2})
        yield Sample([q, k, v, None, np.array([5, 3], np.int32)], two)
        yield Sample([q, k, v, None, (np.arange(12).reshape(2, 6) % 5 > 0).astype(np.int32)], two)
        past = [draw(rng, (2, 2, 3, 4), "float32") for _ in range(2)]
        yield Sample(
            [q, k[:, :4].copy(), v[:, :4].copy(), None, None, None, *past], {**two, "unidirectional": 1}, outputs=3
        )
        yield Sample([q, draw(rng, (2, 2, 6, 4), "float32"), draw(rng, (2, 2, 6, 4), "float32")], two)
        yield Sample([draw(rng, (2, 4, 2, 3, 4), "float32")], two)
        yield Sample([q, draw(rng, (2, 6, 2, 2, 4), "float32")], two)
