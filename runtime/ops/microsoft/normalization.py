"""onnxruntime's normalizations with a residual in front, and the embedding of BERT."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from headrace.runtime import dtypes
from headrace.runtime.ops.base import Attr, In, Out, Sample
from headrace.runtime.ops.common import draw
from headrace.runtime.ops.spelled import FLOAT32, INT32, Spelled, ints, size, total


class SkipLayerNormalization(Spelled):
    """LayerNormalization of input + skip [+ bias] over the last axis, and that sum. Source: onnxruntime,
    com.microsoft.SkipLayerNormalization-1."""

    inputs = (In("input"), In("skip"), In("gamma"), In("beta", optional=True), In("bias", optional=True))
    outputs = (
        Out("output"),
        Out("mean", FLOAT32, optional=True),
        Out("inv_std_var", FLOAT32, optional=True),
        Out("input_skip_bias_sum", optional=True),
    )
    types = {"T": dtypes.FLOAT}
    attributes = {"epsilon": Attr("float", 1e-12)}

    def spell(self, F: Any, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int) -> Any:
        x, skip, gamma, beta, bias = inputs
        x = total(F, [x, skip, bias])
        y, mean, inverse = F.LayerNormalization(x, gamma, beta, outputs=3, axis=-1, epsilon=attributes["epsilon"])
        return y, mean, inverse, x

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        x, skip = draw(rng, (2, 3, 8), "float32"), draw(rng, (2, 3, 8), "float32")
        gamma, beta, bias = (draw(rng, (8,), "float32") for _ in range(3))
        yield Sample([x, skip, gamma, beta, bias], {"epsilon": 1e-5})
        yield Sample([x, skip, gamma])
        yield Sample([x, skip[0].copy(), gamma, beta])


class SkipSimplifiedLayerNormalization(Spelled):
    """RMSNormalization of input + skip [+ bias] over the last axis, and that sum. Source: onnxruntime,
    com.microsoft.SkipSimplifiedLayerNormalization-1."""

    inputs = (In("input"), In("skip"), In("gamma"), In("bias", optional=True))
    outputs = SkipLayerNormalization.outputs
    types = {"T": dtypes.FLOAT}
    attributes = {"epsilon": Attr("float", 1e-12)}

    def spell(self, F: Any, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int) -> Any:
        x, skip, gamma, bias = inputs
        x = total(F, [x, skip, bias])
        y = F.RMSNormalization(x, gamma, axis=-1, epsilon=attributes["epsilon"])
        if n_outputs < 2:
            return y
        return y, mean(F, x), inverse_root(F, x, -1, attributes["epsilon"]), x

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        x, skip, gamma, bias = (draw(rng, shape, "float32") for shape in ((2, 3, 8), (2, 3, 8), (8,), (8,)))
        yield Sample([x, skip, gamma, bias], {"epsilon": 1e-5})
        yield Sample([x, skip, gamma])


class SimplifiedLayerNormalization(Spelled):
    """RMSNormalization, and 1 / sqrt(mean(X^2) + epsilon). Files write it in the default domain. Source: onnxruntime,
    SimplifiedLayerNormalization-1."""

    domain = ""
    inputs = (In("X"), In("scale", "V"))
    outputs = (Out("Y", "V"), Out("inv_std_var", FLOAT32, optional=True))
    types = {"T": dtypes.FLOAT, "V": dtypes.FLOAT}
    attributes = {"axis": Attr("int", -1), "epsilon": Attr("float", 1e-5), "stash_type": Attr("int", 1)}

    def spell(self, F: Any, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int) -> Any:
        x, scale = inputs
        y = F.RMSNormalization(x, scale, **attributes)
        return (y, inverse_root(F, x, attributes["axis"], attributes["epsilon"])) if n_outputs > 1 else y

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        yield Sample([draw(rng, (2, 3, 8), "float32"), draw(rng, (8,), "float32")])
        yield Sample([draw(rng, (2, 3, 8), "float32"), draw(rng, (8,), "float32")], {"epsilon": 1e-2}, outputs=2)


def mean(F: Any, x: Any, axis: int = -1) -> Any:
    """The mean over the axes from `axis` on, float32."""
    first = axis % F.rank(x)
    return F.ReduceMean(F.Cast(x, to=1), ints(F, *range(first, F.rank(x))), keepdims=1)


def inverse_root(F: Any, x: Any, axis: int, epsilon: float) -> Any:
    """1 / sqrt(mean(x^2) + epsilon), float32."""
    wide = F.Cast(x, to=1)
    return F.Reciprocal(F.Sqrt(F.Add(mean(F, F.Mul(wide, wide), axis), F.constant(np.float32(epsilon)))))


class EmbedLayerNormalization(Spelled):
    """LayerNormalization of the embeddings of words, positions (0, 1, ... where not given) and segments; the number of ones in
    each row of the mask; the sum of the embeddings. Source: onnxruntime, com.microsoft.EmbedLayerNormalization-1."""

    inputs = (
        In("input_ids", INT32), In("segment_ids", INT32, optional=True), In("word_embedding"), In("position_embedding"),
        In("segment_embedding", optional=True), In("gamma"), In("beta"), In("mask", INT32, optional=True), In("position_ids", INT32, optional=True),
    )  # fmt: skip
    outputs = (Out("output"), Out("mask_index", INT32, optional=True), Out("embedding_sum", optional=True))
    types = {"T": dtypes.FLOAT}
    attributes = {"epsilon": Attr("float", 1e-12), "mask_index_type": Attr("int")}

    def spell(self, F: Any, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int) -> Any:
        ids, segments, words, positions, segment, gamma, beta, mask, places = inputs
        if places is None:
            place = F.Slice(positions, ints(F, 0), size(F, ids, 1), ints(F, 0))
        else:
            place = F.Gather(positions, places)
        x = total(F, [F.Gather(words, ids), place, None if segments is None else F.Gather(segment, segments)])
        y = F.LayerNormalization(x, gamma, beta, axis=-1, epsilon=attributes["epsilon"])
        if n_outputs < 2:
            return y
        if mask is None:
            zero = F.constant(np.zeros(1, np.int32))
            return y, F.Expand(zero, size(F, ids, 0)), x
        ones = F.Cast(F.Equal(mask, F.constant(np.array(1, np.int32))), to=6)
        return y, F.ReduceSum(ones, ints(F, 1), keepdims=0), x

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        ids, segments = rng.integers(0, 9, (2, 4)).astype(np.int32), rng.integers(0, 2, (2, 4)).astype(np.int32)
        words, positions, segment = (draw(rng, (count, 8), "float32") for count in (9, 6, 2))
        gamma, beta = draw(rng, (8,), "float32"), draw(rng, (8,), "float32")
        mask = np.array([[1, 1, 1, 0], [1, 1, 0, 0]], np.int32)
        tables = [words, positions, segment, gamma, beta]
        yield Sample([ids, segments, *tables, mask], {"epsilon": 1e-5}, outputs=2)
        yield Sample([ids, None, words, positions, None, gamma, beta], outputs=2)
        yield Sample([ids, segments, *tables, None, segments + np.int32(2)], outputs=3)
