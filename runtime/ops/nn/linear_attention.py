"""LinearAttention and CausalConvWithState: layers with a state that the caller carries; FlexAttention."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from headrace.runtime import dtypes
from headrace.runtime.errors import GraphError, RunError
from headrace.runtime.ops.axes import known_shape
from headrace.runtime.ops.base import MIXED, REQUIRED, Accuracy, Attr, Context, In, Operator, Out, Sample
from headrace.runtime.ops.common import draw, name_of, numpy_dtype, widen
from headrace.runtime.ops.nn._convolve import convolve
from headrace.runtime.ops.nn.attention import _repeated, join_heads, split_heads
from headrace.runtime.ops.nn.conv import add_bias
from headrace.runtime.ops.window import Window
from headrace.runtime.types import TensorType, Type


def _all_first(tags: Sequence[int | None], count: int, weights: Sequence[int] = ()) -> list[int | None]:
    """Rows where every input but the weights carries the batch on axis 0."""
    if all(tag is None for tag in tags):
        return [None] * count
    good = all(tag is None if place in weights else tag == 0 for place, tag in enumerate(tags))
    return [0 if good else MIXED] * count


class LinearAttention(Operator):
    """A recurrence over time: the state of each head [key size, value size] decays, takes in k v', and is read by q."""

    versions = (27,)
    inputs = (
        In("query"), In("key"), In("value"), In("past_state", "S", optional=True), In("decay", optional=True), In("beta", optional=True),
    )  # fmt: skip
    outputs = (Out("output"), Out("present_state", "S"))
    types = {"T": dtypes.FLOAT, "S": dtypes.FLOAT}
    attributes = {
        "chunk_size": Attr("int", 64), "kv_num_heads": Attr("int", REQUIRED), "q_num_heads": Attr("int", REQUIRED), "scale": Attr("float", 0.0),
        "update_rule": Attr("string", "gated_delta", ("linear", "gated", "delta", "gated_delta")),
    }  # fmt: skip
    accuracy = Accuracy(64.0)
    differentiable = False

    def infer(self, context: Context) -> list[Type | None]:
        q, v = known_shape(context, 0, (3,)), known_shape(context, 2, (3,))
        heads, shared = context.attributes["q_num_heads"], context.attributes["kv_num_heads"]
        if heads < 1 or shared < 1 or heads % shared:
            raise GraphError(f"q_num_heads is {heads}; allowed: a multiple of kv_num_heads {shared}")
        rule = context.attributes["update_rule"]
        if context.has(4) != ("gated" in rule) or context.has(5) != ("delta" in rule):
            raise GraphError(f"update_rule {rule!r}: decay goes with gated rules alone, beta with delta rules alone")
        state = context.dtype(3) if context.has(3) else context.dtype()
        if q is None or v is None:
            return [TensorType(context.dtype()), TensorType(state)]
        size = v[2] // shared
        return [
            TensorType(context.dtype(), (q[0], q[1], size * heads)),
            TensorType(state, (q[0], shared, q[2] // heads, size)),
        ]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        query, key, value, past, decay, beta = (*inputs, None, None, None)[:6]
        heads, shared = attributes["q_num_heads"], attributes["kv_num_heads"]
        q, k, v = (
            split_heads(x.astype(np.float32), count) for x, count in ((query, heads), (key, shared), (value, shared))
        )
        kept = None if decay is None else np.exp(split_heads(decay.astype(np.float32), shared))[..., None]
        rate = None if beta is None else beta.astype(np.float32).swapaxes(1, 2)[..., None]
        state = (
            np.zeros((q.shape[0], shared, q.shape[3], v.shape[3]), np.float32)
            if past is None
            else past.astype(np.float32)
        )
        scale = np.float32(attributes["scale"] or 1 / np.sqrt(q.shape[3]))
        y = np.empty((*q.shape[:3], v.shape[3]), np.float32)
        for time in range(q.shape[2]):
            k_t, v_t = k[:, :, time], v[:, :, time]
            state = state if kept is None else state * kept[:, :, time]
            if rate is not None:
                v_t = rate[:, :, time] * (v_t - np.einsum("bhdm,bhd->bhm", state, k_t))
            state = state + k_t[..., None] * v_t[..., None, :]
            y[:, :, time] = scale * np.einsum("bhd,bhdm->bhm", q[:, :, time], _repeated(state, heads))
        return [join_heads(y).astype(query.dtype), state.astype(query.dtype if past is None else past.dtype)][
            : max(1, n_outputs)
        ]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        q, k, v = (draw(rng, (2, 5, n), "float32", -1, 1) for n in (8, 4, 6))
        decay, beta = draw(rng, (2, 5, 2), "float32", -1, 0), draw(rng, (2, 5, 2), "float32", 0, 1)
        heads = {"q_num_heads": 4, "kv_num_heads": 2}
        yield Sample([q, k, v, draw(rng, (2, 2, 2, 3), "float32"), decay, beta], heads)
        yield Sample([q, k, v], {**heads, "update_rule": "linear"})
        yield Sample([q, k, v, None, decay], {**heads, "update_rule": "gated"})
        yield Sample([q, k, v, None, None, beta], {**heads, "update_rule": "delta", "scale": 0.5})

    def rows(self, tags: Sequence[int | None], context: Context) -> list[int | None]:
        return _all_first([tag for i, tag in enumerate(tags) if context.has(i)], context.n_outputs)


class CausalConvWithState(Operator):
    """A depthwise 1-D convolution over past positions; the state is the last kernel - 1 of them."""

    versions = (27,)
    inputs = (In("input"), In("weight"), In("bias", optional=True), In("past_state", optional=True))
    outputs = (Out("output"), Out("present_state"))
    types = {"T": dtypes.FLOAT}
    attributes = {"activation": Attr("string", "none", ("none", "silu", "swish"))}
    accuracy = Accuracy(64.0)
    differentiable = False

    def infer(self, context: Context) -> list[Type | None]:
        x, w = known_shape(context, 0, (3,)), known_shape(context, 1, (3,))
        state = None if x is None or w is None else (x[0], x[1], w[2] - 1)
        return [TensorType(context.dtype(), x), TensorType(context.dtype(), state)]

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        x, w, bias, past = (*inputs, None, None)[:4]
        reach = w.shape[2] - 1
        past = np.zeros((*x.shape[:2], reach), x.dtype) if past is None else past
        longer = np.concatenate([past, x], axis=2)
        y = convolve(widen(longer), widen(w), Window.of({}, w.shape[2:]), x.shape[1])
        y = add_bias(y, None if bias is None else widen(bias)).astype(x.dtype)
        if attributes["activation"] != "none":
            wide = y.astype(np.float32)
            y = (wide / (1 + np.exp(-wide))).astype(x.dtype)
        return [y, np.ascontiguousarray(longer[:, :, longer.shape[2] - reach :])][: max(1, n_outputs)]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        x, w = draw(rng, (2, 3, 6), "float32"), draw(rng, (3, 1, 4), "float32")
        yield Sample([x, w])
        yield Sample(
            [x[:, :, :1].copy(), w, draw(rng, (3,), "float32"), draw(rng, (2, 3, 3), "float32")], {"activation": "silu"}
        )

    def rows(self, tags: Sequence[int | None], context: Context) -> list[int | None]:
        present = [i for i in range(len(tags)) if context.has(i)]
        return _all_first(
            [tags[i] for i in present], context.n_outputs, [present.index(i) for i in (1, 2) if i in present]
        )


class FlexAttention(Operator):
    """Attention whose scores and probabilities pass through blocks: prob_mod(softmax(score_mod(Q K' * scale))) V."""

    domain = "ai.onnx.preview"
    inputs = (In("Q", "T1"), In("K", "T1"), In("V", "T2"))
    outputs = (Out("Y", "T2"),)
    types = {"T1": dtypes.FLOAT, "T2": dtypes.FLOAT}
    attributes = {
        "prob_mod": Attr("block"),
        "scale": Attr("float"),
        "score_mod": Attr("block"),
        "softmax_precision": Attr("int"),
    }
    accuracy = Accuracy(64.0)
    differentiable = False

    def infer(self, context: Context) -> list[Type | None]:
        q, k, v = (known_shape(context, i, (4,)) for i in range(3))
        scores = None if q is None or k is None else (*q[:3], k[2])
        for name in ("score_mod", "prob_mod"):
            if context.attributes[name] is not None and context.infer_block is not None:
                context.infer_block(
                    context.attributes[name], [TensorType(self._precision(context.dtype(), context.attributes), scores)]
                )
        return [TensorType(context.dtype(2), None if q is None or v is None else (*q[:3], v[3]))]

    @staticmethod
    def _precision(dtype: str, attributes: Mapping[str, Any]) -> str:
        code = attributes["softmax_precision"]
        return name_of(code) if code is not None else "float32" if dtype in ("float16", "bfloat16") else dtype

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        q, k, v = inputs
        if q.shape[1] % k.shape[1] or k.shape[1] != v.shape[1]:
            raise RunError(f"there are {q.shape[1]} query heads; allowed: a multiple of the {k.shape[1]} key heads")
        dtype = numpy_dtype(self._precision(dtypes.of(q).name, attributes))
        root = np.asarray(np.sqrt(np.float32(attributes["scale"] or 1 / np.sqrt(q.shape[3])))).astype(q.dtype)
        scores = (
            np.matmul(widen(q * root), np.swapaxes(widen(_repeated(k, q.shape[1]) * root), 2, 3))
            .astype(q.dtype)
            .astype(dtype)
        )
        if attributes["score_mod"] is not None:
            scores = run_block(attributes["score_mod"], [scores])[0]
        exponentials = np.exp(scores - np.max(scores, axis=-1, keepdims=True))
        weights = exponentials / np.sum(exponentials, axis=-1, keepdims=True)
        if attributes["prob_mod"] is not None:
            weights = run_block(attributes["prob_mod"], [weights])[0]
        return [np.matmul(weights, _repeated(v, q.shape[1]).astype(dtype)).astype(v.dtype)]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        yield Sample(
            [draw(rng, (2, 4, 3, 8), "float32"), draw(rng, (2, 2, 5, 8), "float32"), draw(rng, (2, 2, 5, 6), "float32")]
        )
