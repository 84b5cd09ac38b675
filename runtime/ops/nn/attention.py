"""Attention (dense, with masks, caches and grouped heads) and RotaryEmbedding, after the ONNX specification.

Inside, tensors are [batch, heads, length, size]. Each step rounds to the input's dtype, as the function body does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from headrace.runtime import dtypes
from headrace.runtime.errors import GraphError, RunError
from headrace.runtime.ops import work
from headrace.runtime.ops.axes import int64, known_shape
from headrace.runtime.ops.base import MIXED, Accuracy, Attr, Context, In, Operator, Out, Sample
from headrace.runtime.ops.common import draw, name_of, numpy_dtype, widen
from headrace.runtime.shapes import Dim, floordiv
from headrace.runtime.types import TensorType, Type

MASKS = dtypes.NUMERIC | {"bool"}


def matmul(a: Any, b: Any) -> Any:
    """A product that accumulates in float32 and rounds once."""
    return np.matmul(widen(a), widen(b)).astype(a.dtype)


def split_heads(x: Any, heads: int) -> Any:
    """[batch, length, heads * size] -> [batch, heads, length, size]; 4-D stays."""
    if x.ndim == 4:
        return x
    if heads < 1 or x.shape[2] % heads:
        raise RunError(f"{x.shape[2]} numbers cannot be split into {heads} heads")
    return x.reshape(*x.shape[:2], heads, -1).swapaxes(1, 2)


def join_heads(x: Any) -> Any:
    return x.swapaxes(1, 2).reshape(x.shape[0], x.shape[2], -1)


def mask_of(q: Any, total: int, mask: Any, offset: Any, padded: Any, attributes: Mapping[str, Any]) -> tuple[Any, Any]:
    """What is added to the scores (zeros where no mask of numbers is given), and which keys each query may see: what it may not
    see is left out, whatever it holds. `offset` is how many keys precede the queries: a number, or one for each batch entry."""
    bias = np.zeros((q.shape[2], total), q.dtype)
    gap = np.arange(q.shape[2])[:, None] + np.reshape(offset, (-1, 1, 1)) - np.arange(total)  # query place - key place
    seen = np.ones(gap.shape, bool)
    if attributes["is_causal"]:
        seen &= gap >= 0
    if attributes["left_window_size"] >= 0:
        seen &= gap <= attributes["left_window_size"]
    if attributes["right_window_size"] >= 0:
        seen &= -gap <= attributes["right_window_size"]
    seen = seen[0] if np.ndim(offset) == 0 else seen[:, None]
    if padded is not None:
        seen = seen & (np.arange(total) < padded.reshape(-1, 1))[:, None, None]
    if mask is not None:
        fill = False if mask.dtype == np.bool_ else np.asarray(-np.inf, q.dtype)
        mask = np.pad(mask, [(0, 0)] * (mask.ndim - 1) + [(0, total - mask.shape[-1])], constant_values=fill)
        if mask.dtype == np.bool_:
            seen = seen & mask
        else:
            bias = mask.astype(q.dtype)
    return bias, seen


def masked_softmax(scores: Any) -> Any:
    """Softmax over the last axis; a row of -inf alone gives zeros."""
    high = np.max(scores, axis=-1, keepdims=True)
    exponentials = np.exp(scores - np.where(np.isneginf(high), np.zeros((), scores.dtype), high))
    total = np.sum(exponentials, axis=-1, keepdims=True)
    return exponentials / np.where(total == 0, np.ones((), scores.dtype), total)


class Attention(Operator):
    """softmax(Q K' * scale + bias) V, for 3-D [batch, length, heads * size] or 4-D [batch, heads, length, size] inputs;
    keys and values follow those of the cache; fewer key heads serve groups of query heads."""

    versions = (23, 24, 25)
    inputs = (
        In("Q", "T1"), In("K", "T1"), In("V", "T2"), In("attn_mask", MASKS, optional=True), In("past_key", "T1", optional=True),
        In("past_value", "T2", optional=True), In("nonpad_kv_seqlen", frozenset({"int64"}), optional=True),
    )  # fmt: skip
    outputs = (
        Out("Y", "T1"),
        Out("present_key", "T1", optional=True),
        Out("present_value", "T2", optional=True),
        Out("qk_matmul_output", "T1", optional=True),
    )
    types = {"T1": dtypes.FLOAT, "T2": dtypes.FLOAT}
    attributes = {
        "is_causal": Attr("int", 0, (0, 1)), "kv_num_heads": Attr("int"), "q_num_heads": Attr("int"),
        "left_window_size": Attr("int", -1), "right_window_size": Attr("int", -1),
        "qk_matmul_output_mode": Attr("int", 0, (0, 1, 2, 3)), "scale": Attr("float"), "softcap": Attr("float", 0.0),
        "softmax_precision": Attr("int"),
    }  # fmt: skip
    accuracy = Accuracy(64.0)
    differentiable = False
    flops = work.attention()

    def infer(self, context: Context) -> list[Type | None]:
        q, k, v = (known_shape(context, i, (3, 4)) for i in range(3))
        if q is None or k is None or v is None:
            return [TensorType(context.dtype(i)) for i in (0, 1, 2, 0)[: context.n_outputs]]
        flat = len(q) == 3
        heads, shared = (context.attributes[name] for name in ("q_num_heads", "kv_num_heads"))
        if flat and (not heads or not shared):
            raise GraphError("3-D inputs need the attributes q_num_heads and kv_num_heads")
        if not flat:
            heads, shared = q[1], k[1]
        length = k[-2] + (context.shape(4)[2] if context.has(4) and context.shape(4) is not None else 0)  # type: ignore[index]
        if context.has(4) and context.shape(4) is None:
            length = context.fresh("cache")
        k_size: Dim = floordiv(k[2], shared) if flat else k[3]
        v_size: Dim = floordiv(v[2], shared) if flat else v[3]
        y = (q[0], q[1], v_size * heads) if flat else (*q[:3], v_size)
        shapes = [y, (q[0], shared, length, k_size), (q[0], shared, length, v_size), (q[0], heads, q[-2], length)]
        return [TensorType(context.dtype(i), shape) for i, shape in zip((0, 1, 2, 0)[: context.n_outputs], shapes)]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        q, k, v, mask, past_k, past_v, padded = (*inputs, *[None] * 4)[:7]
        if (past_k is None) != (past_v is None) or (padded is not None and past_k is not None):
            raise RunError("past_key comes with past_value and without nonpad_kv_seqlen")
        flat = q.ndim == 3
        q, k, v = (
            split_heads(x, attributes[name] or 0)
            for x, name in ((q, "q_num_heads"), (k, "kv_num_heads"), (v, "kv_num_heads"))
        )
        k = k if past_k is None else np.concatenate([past_k, k], axis=2)
        v = v if past_v is None else np.concatenate([past_v, v], axis=2)
        offset: Any = (
            padded.reshape(-1) - q.shape[2] if padded is not None else past_k.shape[2] if past_k is not None else 0
        )
        bias, seen = mask_of(q, k.shape[2], mask, offset, padded, attributes)
        scores = self._scores(q, k, attributes)
        shown = scores
        biased = np.where(seen, scores + bias, np.asarray(-np.inf, scores.dtype))
        if attributes["qk_matmul_output_mode"] == 2:
            shown = biased
        precision = attributes["softmax_precision"]
        weights = masked_softmax(biased if precision is None else biased.astype(numpy_dtype(name_of(precision))))
        looks = np.any(seen & ~np.isneginf(bias), axis=-1, keepdims=True)
        weights = np.where(looks, weights, np.zeros((), weights.dtype))
        if attributes["qk_matmul_output_mode"] == 3:
            shown = weights
        y = matmul(weights.astype(q.dtype), _repeated(v, q.shape[1]))
        y = join_heads(y) if flat else y
        return [np.ascontiguousarray(item) for item in (y.astype(inputs[0].dtype), k, v, shown.astype(q.dtype))][
            : max(1, n_outputs)
        ]

    @staticmethod
    def _scores(q: Any, k: Any, attributes: Mapping[str, Any]) -> Any:
        """Q K' with the root of the scale on either side, soft-capped."""
        scale = 1 / np.sqrt(q.shape[3]) if attributes["scale"] is None else attributes["scale"]
        root = np.asarray(np.sqrt(scale)).astype(q.dtype)
        scores = matmul(q * root, np.swapaxes(_repeated(k, q.shape[1]) * root, 2, 3))
        cap = attributes["softcap"]
        return np.tanh(scores / np.asarray(cap, q.dtype)) * np.asarray(cap, q.dtype) if cap > 0 else scores

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        q, k, v = (draw(rng, (2, 3, n, 8), "float32") for n in (4, 6, 6))
        yield Sample([q, k, v])
        yield Sample([q, k, v], {"is_causal": 1, "softcap": 2.0, "scale": 0.1})
        yield Sample([q, k, v, rng.random((4, 6)) < 0.7], outputs=4)
        yield Sample(
            [q, k[:, :1], v[:, :1], None, draw(rng, (2, 1, 2, 8), "float32"), draw(rng, (2, 1, 2, 8), "float32")],
            {"is_causal": 1},
            outputs=3,
        )
        yield Sample([q, k, v, None, None, None, int64(6, 5)], {"is_causal": 1, "left_window_size": 2})
        flat = [draw(rng, shape, "float32") for shape in ((2, 4, 24), (2, 6, 8), (2, 6, 8))]
        yield Sample(flat, {"q_num_heads": 3, "kv_num_heads": 1, "qk_matmul_output_mode": 3}, outputs=4)
        yield Sample([x.astype(np.float16) for x in (q, k, v)])

    def rows(self, tags: Sequence[int | None], context: Context) -> list[int | None]:
        """Every input on axis 0; a mask that does not carry the batch must be the same for all of it."""
        if all(tag is None for tag in tags):
            return [None] * context.n_outputs
        mask_free = len(tags) < 4 or not context.has(3) or tags[3] == 0 or (context.type(3).rank or 9) < 4
        carried = [tag for i, tag in enumerate(tags) if context.has(i) and not (i == 3 and tag is None)]
        return [0 if mask_free and all(tag == 0 for tag in carried) else MIXED] * context.n_outputs


def _repeated(x: Any, heads: int) -> Any:
    """Each head of keys or values for its group of query heads."""
    return x if x.shape[1] == heads else np.repeat(x, heads // x.shape[1], axis=1)


class RotaryEmbedding(Operator):
    """Rotates pairs of numbers of each head by the angles of its position."""

    versions = (23,)
    inputs = (In("X"), In("cos_cache"), In("sin_cache"), In("position_ids", frozenset({"int64"}), optional=True))
    types = {"T": dtypes.FLOAT}
    attributes = {
        "interleaved": Attr("int", 0, (0, 1)),
        "num_heads": Attr("int", 0),
        "rotary_embedding_dim": Attr("int", 0),
    }
    accuracy = Accuracy(16.0)
    differentiable = False

    def infer(self, context: Context) -> list[Type | None]:
        return [TensorType(context.dtype(), known_shape(context, 0, (3, 4)))]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        x, cos, sin, places = (*inputs, None)[:4]
        turned = (
            x.swapaxes(1, 2) if x.ndim == 4 else x.reshape(*x.shape[:2], attributes["num_heads"], -1)
        )  # [batch, length, heads, size]
        size = attributes["rotary_embedding_dim"] or turned.shape[3]
        part, rest = turned[..., :size], turned[..., size:]
        cos, sin = (table if places is None else table[places] for table in (cos, sin))
        cos, sin = (table[:, :, None, : size // 2] for table in (cos, sin))
        if attributes["interleaved"]:
            a, b = part[..., 0::2], part[..., 1::2]
        else:
            a, b = part[..., : size // 2], part[..., size // 2 :]
        real, imaginary = a * cos - b * sin, a * sin + b * cos
        mixed = (
            np.stack([real, imaginary], axis=-1).reshape(part.shape)
            if attributes["interleaved"]
            else np.concatenate([real, imaginary], axis=-1)
        )
        y = np.concatenate([mixed, rest], axis=-1)
        return [np.ascontiguousarray(y.swapaxes(1, 2) if x.ndim == 4 else y.reshape(x.shape)).astype(x.dtype)]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        x, cos, sin = (
            draw(rng, (2, 3, 4, 8), "float32"),
            draw(rng, (9, 4), "float32", -1, 1),
            draw(rng, (9, 4), "float32", -1, 1),
        )
        places = rng.integers(0, 9, (2, 4))
        yield Sample([x, cos, sin, places])
        yield Sample([x, cos, sin, places], {"interleaved": 1})
        yield Sample([x, cos[:, :2].copy(), sin[:, :2].copy(), places], {"rotary_embedding_dim": 4})
        yield Sample([draw(rng, (2, 4, 24), "float32"), cos[places], sin[places]], {"num_heads": 3})

    def rows(self, tags: Sequence[int | None], context: Context) -> list[int | None]:
        if context.has(3):  # tables are shared, positions carry the batch
            return [
                0
                if tags[0] == tags[3] == 0 and tags[1] is None and tags[2] is None
                else None
                if all(t is None for t in tags)
                else MIXED
            ]
        return [0 if all(tag == 0 for tag in tags) else None if all(tag is None for tag in tags) else MIXED]
