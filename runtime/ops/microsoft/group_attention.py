"""onnxruntime's GroupQueryAttention and RotaryEmbedding: attention of language models with a cache."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from headrace.runtime import dtypes
from headrace.runtime.errors import GraphError
from headrace.runtime.ops.base import REQUIRED, Attr, In, Out, Sample
from headrace.runtime.ops.common import draw, scalar
from headrace.runtime.ops.microsoft import _heads as heads
from headrace.runtime.ops.spelled import INT32, Spelled, Unspelled, count_up, ints, known, size

INT64 = frozenset({"int64"})


class RotaryEmbedding(Spelled):
    """ai.onnx RotaryEmbedding; position_ids is [batch, length], or one number: where each row begins.
    Source: onnxruntime, com.microsoft.RotaryEmbedding-1."""

    inputs = (In("input"), In("position_ids", INT64), In("cos_cache"), In("sin_cache"))
    outputs = (Out("output"),)
    types = {"T": dtypes.FLOAT}
    attributes = {
        "interleaved": Attr("int", 0, (0, 1)), "is_packed_batching": Attr("int", 0, (0,)), "num_heads": Attr("int", 0),
        "rotary_embedding_dim": Attr("int", 0), "scale": Attr("float", 1.0, (1.0,)),
    }  # fmt: skip

    def spell(self, F: Any, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int) -> Any:
        x, places, cos, sin = inputs
        rank, part, count = F.rank(x), attributes["rotary_embedding_dim"], attributes["num_heads"]
        if rank == 3 and not count:
            if part:
                raise GraphError("rotary_embedding_dim needs num_heads")
            count = known(F, x, 2) // max(1, 2 * known(F, cos, 1))
        if F.rank(places) == 1:
            row = F.Add(places, count_up(F, size(F, x, rank - 2 if rank == 4 else 1)))
            places = F.Expand(F.Unsqueeze(row, ints(F, 0)), F.Concat(size(F, x, 0), ints(F, 1), axis=0))
        given = {"rotary_embedding_dim": part, "interleaved": attributes["interleaved"]}
        return F.RotaryEmbedding(x, cos, sin, places, num_heads=count if rank == 3 else 0, **given)

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        cos, sin = (draw(rng, (9, 4), "float32", -1, 1) for _ in range(2))
        places = rng.integers(0, 9, (2, 4))
        for x in (draw(rng, (2, 4, 24), "float32"), draw(rng, (2, 3, 4, 8), "float32")):
            yield Sample([x, places, cos, sin])
            yield Sample([x, places, cos, sin], {"interleaved": 1})
            yield Sample([x, np.array([3], np.int64), cos, sin])
        half = [table[:, :2].copy() for table in (cos, sin)]
        yield Sample([draw(rng, (2, 4, 24), "float32"), places, *half], {"num_heads": 3, "rotary_embedding_dim": 4})


class GroupQueryAttention(Spelled):
    """Causal attention whose key heads serve groups of query heads. Rows of a batch have their own lengths (`seqlens_k`, less
    one); new keys follow what each row has in the cache, which grows to `total_sequence_length`. Queries and keys may be normalized
    and rotated here; query alone may hold all three. Source: onnxruntime, com.microsoft.GroupQueryAttention-1 (float caches)."""

    inputs = (
        In("query"), In("key", optional=True), In("value", optional=True), In("past_key", optional=True), In("past_value", optional=True),
        In("seqlens_k", INT32), In("total_sequence_length", INT32), In("cos_cache", optional=True), In("sin_cache", optional=True),
        In("position_ids", INT64, optional=True), In("attention_bias", optional=True), In("head_sink", optional=True),
        In("k_scale", optional=True), In("v_scale", optional=True), In("q_norm_weight", optional=True), In("k_norm_weight", optional=True),
    )  # fmt: skip
    outputs = (Out("output"), Out("present_key", optional=True), Out("present_value", optional=True))
    types = {"T": dtypes.FLOAT}
    attributes = {
        "num_heads": Attr("int", REQUIRED), "kv_num_heads": Attr("int", REQUIRED), "do_rotary": Attr("int", 0, (0, 1)),
        "rotary_interleaved": Attr("int", 0, (0, 1)), "scale": Attr("float"), "softcap": Attr("float", 0.0), "local_window_size": Attr("int", -1),
        "smooth_softmax": Attr("int", 0, (-1, 0, 1)), "causal": Attr("int", 1, (0, 1)), "qk_output": Attr("int", 0, (0,)),
        "kv_cache_bit_width": Attr("int", 0, (0,)), "k_quant_type": Attr("string", "NONE", ("NONE",)), "v_quant_type": Attr("string", "NONE", ("NONE",)),
        "qk_norm_epsilon": Attr("float", 1e-6), "q_norm_epsilon": Attr("float"), "k_norm_epsilon": Attr("float"),
        "sliding_window_cache": Attr("int", 0, (0,)),
    }  # fmt: skip

    def spell(self, F: Any, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int) -> Any:
        q, k, v = self._apart(F, inputs[:3], attributes)
        past_k, past_v, ends, whole, cos, sin, places, bias, sink, k_scale, v_scale, q_norm, k_norm = inputs[3:16]
        if k_scale is not None or v_scale is not None or (past_k is None) != (past_v is None):
            raise GraphError("past_key comes with past_value, and no cache of integers is supported")
        epsilon = attributes["qk_norm_epsilon"]
        q, k = (
            x if weight is None else F.RMSNormalization(x, weight, axis=-1, epsilon=epsilon)
            for x, weight in ((q, q_norm), (k, k_norm))
        )
        new, whole = size(F, q, 2), F.Reshape(F.Cast(whole, to=heads.INT64), ints(F, 1))
        ends = F.Add(F.Cast(F.Reshape(ends, ints(F, -1)), to=heads.INT64), ints(F, 1))
        before = F.Where(F.Equal(new, whole), ints(F, 0), F.Sub(ends, new))  # [batch]: keys in front of the new ones
        row = F.Unsqueeze(before, ints(F, 1))
        if attributes["do_rotary"]:
            if cos is None or sin is None:
                raise GraphError("do_rotary needs cos_cache and sin_cache")
            places = F.Add(row, count_up(F, new)) if places is None else places
            q, k = (self._turned(F, x, cos, sin, places, attributes) for x in (q, k))
        keys, values = (self._cache(F, *pair, before, whole) for pair in ((past_k, k), (past_v, v)))
        seen = self._seen(F, row, new, size(F, keys, 2), attributes)
        if bias is not None:
            seen = F.Where(seen, bias, scalar(F, -np.inf, q))
        if sink is not None or attributes["smooth_softmax"] == 1:
            y = self._with_sink(F, q, keys, values, seen, sink, attributes)
        else:
            y = F.Attention(q, keys, values, seen, scale=attributes["scale"], softcap=attributes["softcap"])
        return (heads.join(F, y), keys, values)[: max(1, n_outputs)]

    @staticmethod
    def _apart(F: Any, given: list[Any], attributes: Mapping[str, Any]) -> list[Any]:
        """Queries, keys and values as [batch, heads, length, size]."""
        query, key, value = given
        count, shared = attributes["num_heads"], attributes["kv_num_heads"]
        if shared < 1 or count % shared:
            raise GraphError(f"{count} heads and {shared} key heads; allowed: a multiple")
        if key is not None and value is not None:
            return [heads.split(F, x, n) for x, n in ((query, count), (key, shared), (value, shared))]
        packed = heads.split(F, query, count + 2 * shared)
        return list(F.Split(packed, ints(F, count, shared, shared), axis=1, outputs=3))

    @staticmethod
    def _turned(F: Any, x: Any, cos: Any, sin: Any, places: Any, attributes: Mapping[str, Any]) -> Any:
        half, width = F.type(cos).shape[1], F.type(x).shape[3]
        part = 2 * half if isinstance(half, int) and isinstance(width, int) and 2 * half < width else 0
        return F.RotaryEmbedding(
            x, cos, sin, places, interleaved=attributes["rotary_interleaved"], rotary_embedding_dim=part
        )

    @staticmethod
    def _cache(F: Any, past: Any, x: Any, before: Any, whole: Any) -> Any:
        """The cache [batch, heads, length, size], at least `whole` long, with new entries written behind each row's own."""
        if past is None:
            return x
        missing = F.Max(F.Sub(whole, size(F, past, 2)), ints(F, 0))
        pads = F.Concat(ints(F, 0, 0, 0, 0, 0, 0), missing, ints(F, 0), axis=0)
        batch = F.Expand(before, size(F, x, 0))
        return F.TensorScatter(F.Pad(past, pads), x, batch, axis=-2)

    @staticmethod
    def _seen(F: Any, row: Any, new: Any, length: Any, attributes: Mapping[str, Any]) -> Any:
        """Which keys a query may see: bool [batch, 1, new, length]."""
        own = F.Unsqueeze(F.Add(row, count_up(F, new)), ints(F, 2))  # the place of each query
        key = count_up(F, length)
        last = own if attributes["causal"] else F.Unsqueeze(F.Add(row, F.Sub(new, ints(F, 1))), ints(F, 2))
        seen = F.LessOrEqual(key, last)
        window = attributes["local_window_size"]
        if window > 0:
            seen = F.And(seen, F.Greater(key, F.Sub(own, ints(F, window))))
        return F.Unsqueeze(seen, ints(F, 1))

    @staticmethod
    def _with_sink(F: Any, q: Any, k: Any, v: Any, seen: Any, sink: Any, attributes: Mapping[str, Any]) -> Any:
        """Attention with one more score a head (0 where no sink is given) that takes weight and has no value."""
        count, shared = attributes["num_heads"], attributes["kv_num_heads"]
        factor = attributes["scale"]
        if not factor:
            width = F.type(q).shape[3]
            if not isinstance(width, int):
                raise Unspelled("the size of a head is not known")
            factor = float(width) ** -0.5
        group = F.constant(np.arange(count, dtype=np.int64) // (count // shared))
        k, v = (F.Gather(x, group, axis=1) for x in (k, v))
        scores = F.Mul(F.MatMul(q, F.Transpose(k, perm=(0, 1, 3, 2))), scalar(F, factor, q))
        if attributes["softcap"] > 0:
            cap = scalar(F, attributes["softcap"], q)
            scores = F.Mul(F.Tanh(F.Div(scores, cap)), cap)
        if F.dtype(seen) == "bool":
            scores = F.Where(seen, scores, scalar(F, -np.inf, q))
        else:
            scores = F.Add(scores, seen)
        more = F.Reshape(F.constant(np.zeros(count, np.float32)) if sink is None else sink, ints(F, 1, count, 1, 1))
        more = F.Expand(heads.to_kind(F, more, q), F.Concat(F.Shape(scores, start=0, end=3), ints(F, 1), axis=0))
        weights = F.Softmax(F.Concat(scores, more, axis=3), axis=-1)
        return F.MatMul(F.Slice(weights, ints(F, 0), size(F, k, 2), ints(F, 3)), v)

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        def case(new: int, past: int, *, width: int = 16) -> list[Any]:
            q, k, v = (draw(rng, (2, new, n * width), "float32", -1, 1) for n in (4, 2, 2))
            cache = [draw(rng, (2, 2, past, width), "float32", -1, 1) for _ in range(2)] if past else [None, None]
            whole = new + past
            return [q, k, v, *cache, np.full(2, whole - 1, np.int32), np.array([whole], np.int32)]

        given = {"num_heads": 4, "kv_num_heads": 2}
        cos, sin = (draw(rng, (16, 8), "float32", -1, 1) for _ in range(2))
        yield Sample(case(5, 0), given, outputs=3)
        yield Sample(case(1, 5), given, outputs=3)
        yield Sample([*case(1, 5), cos, sin], {**given, "do_rotary": 1}, outputs=3)
        turned = {"do_rotary": 1, "rotary_interleaved": 1, "scale": 0.2}
        yield Sample([*case(5, 0), cos, sin], {**given, **turned}, outputs=3)
        yield Sample(case(1, 7), {**given, "local_window_size": 3, "softcap": 5.0}, outputs=3)
        packed = case(4, 0)
        packed[0] = draw(rng, (2, 4, 128), "float32", -1, 1)
        yield Sample([packed[0], None, None, *packed[3:]], given, outputs=3)
        yield Sample([*case(1, 5), None, None, None, draw(rng, (1, 1, 1, 6), "float32")], given, outputs=3)
        yield Sample(case(5, 0), {**given, "smooth_softmax": 1}, outputs=3)
        yield Sample([*case(5, 0), None, None, None, None, draw(rng, (4,), "float32")], given, outputs=3)
