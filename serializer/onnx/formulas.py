"""Formulas in standard operators of set 13: functions of the domain "headrace", and operators that are newer than the set that
is written. Accurate forms where the plain one cancels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from headrace.runtime.errors import GraphError
from headrace.runtime.ops.common import code_of, scalar
from headrace.runtime.shapes import equal

Rule = Callable[[Any, list[Any], Mapping[str, Any]], Any]


def _times(function: str, factor: float) -> Rule:
    """function(x) * factor."""
    return lambda F, inputs, _: F.Mul(getattr(F, function)(inputs[0]), scalar(F, factor, inputs[0]))


def _log1p(F: Any, inputs: list[Any], _: Mapping[str, Any]) -> Any:
    """log(u) * x / (u - 1) with u = 1 + x: the rounding of u cancels (Higham 2002, 1.14.1)."""
    (x,) = inputs
    one = scalar(F, 1, x)
    u = F.Add(one, x)
    exact = F.Or(F.Equal(u, one), F.IsInf(F.Cast(u, to=1), detect_negative=0))
    ratio = F.Div(F.Mul(F.Log(u), x), F.Where(exact, one, F.Sub(u, one)))
    return F.Where(exact, F.Where(F.Equal(u, one), x, u), ratio)


def _expm1(F: Any, inputs: list[Any], _: Mapping[str, Any]) -> Any:
    """tanh(x / 2) * (exp(x) + 1)."""
    (x,) = inputs
    return F.Mul(F.Tanh(F.Mul(x, scalar(F, 0.5, x))), F.Add(F.Exp(x), scalar(F, 1, x)))


def _trunc(F: Any, inputs: list[Any], _: Mapping[str, Any]) -> Any:
    (x,) = inputs
    return F.Where(F.Less(x, scalar(F, 0, x)), F.Ceil(x), F.Floor(x))


def _lookup(F: Any, inputs: list[Any], _: Mapping[str, Any]) -> Any:
    x, table = inputs
    place = F.Cast(x, to=6)
    if F.dtype(x) == "int8":  # its bits as an unsigned byte
        place = F.Mod(F.Add(place, F.constant(np.array(256, np.int32))), F.constant(np.array(256, np.int32)))
    return F.Gather(table, place)


# Functions of the domain "headrace", by name.
FUNCTIONS: dict[str, Rule] = {
    "Exp2": lambda F, inputs, _: F.Exp(F.Mul(inputs[0], scalar(F, np.log(2), inputs[0]))),
    "Log2": _times("Log", 1 / np.log(2)),
    "Log10": _times("Log", 1 / np.log(10)),
    "Rsqrt": lambda F, inputs, _: F.Reciprocal(F.Sqrt(inputs[0])),
    "Log1p": _log1p,
    "Expm1": _expm1,
    "Trunc": _trunc,
    "QLookup": _lookup,
}


def _gelu(F: Any, inputs: list[Any], attributes: Mapping[str, Any]) -> Any:
    (x,) = inputs
    if attributes["approximate"] == "tanh":
        cube = F.Mul(F.Mul(x, x), F.Mul(x, scalar(F, 0.044715, x)))
        inner = F.Tanh(F.Mul(F.Add(x, cube), scalar(F, np.sqrt(2 / np.pi), x)))
    else:
        inner = F.Erf(F.Mul(x, scalar(F, np.sqrt(0.5), x)))
    return F.Mul(F.Mul(x, scalar(F, 0.5, x)), F.Add(inner, scalar(F, 1, x)))


def _swish(F: Any, inputs: list[Any], attributes: Mapping[str, Any]) -> Any:
    (x,) = inputs
    return F.Mul(x, F.Sigmoid(F.Mul(x, scalar(F, attributes["alpha"], x))))


def _mean(F: Any, x: Any, axis: int) -> Any:
    rank = F.rank(x)
    axes = F.constant(np.arange(axis % rank, rank, dtype=np.int64))
    return F.ReduceMean(x, axes, keepdims=1)


def _layer_norm(F: Any, inputs: list[Any], attributes: Mapping[str, Any]) -> Any:
    x, weight, bias = (*inputs, None)[:3]
    kind = F.dtype(x)
    wide = x if kind == "float64" else F.Cast(x, to=1)
    centred = F.Sub(wide, mean := _mean(F, wide, attributes["axis"]))
    variance = _mean(F, F.Mul(centred, centred), attributes["axis"])
    inverse = F.Reciprocal(F.Sqrt(F.Add(variance, scalar(F, attributes["epsilon"], wide))))
    y = F.Mul(F.Cast(F.Mul(centred, inverse), to=code_of(kind)), weight)
    return (y if bias is None else F.Add(y, bias)), mean, inverse


def _rms_norm(F: Any, inputs: list[Any], attributes: Mapping[str, Any]) -> Any:
    x, weight = inputs
    wide = x if F.dtype(x) == "float64" else F.Cast(x, to=1)
    square = _mean(F, F.Mul(wide, wide), attributes["axis"])
    y = F.Div(wide, F.Sqrt(F.Add(square, scalar(F, attributes["epsilon"], wide))))
    return F.Mul(F.Cast(y, to=code_of(F.dtype(weight))), weight)


def _sized(F: Any, x: Any, axis: int) -> Any:
    """The size of one axis, an int64 scalar."""
    return F.Gather(F.Shape(x), F.constant(np.array(axis, np.int64)))


def _count(F: Any, length: Any) -> Any:
    return F.Range(F.constant(np.array(0, np.int64)), length, F.constant(np.array(1, np.int64)))


def _attention(F: Any, inputs: list[Any], attributes: Mapping[str, Any]) -> Any:
    q, k, v, mask, past_k, past_v, padded = (*inputs, *[None] * 7)[:7]
    shown = attributes["qk_matmul_output_mode"], attributes["softmax_precision"]
    if padded is not None or max(attributes["left_window_size"], attributes["right_window_size"]) >= 0 or shown[0]:
        raise GraphError("lengths of rows, windows and scores as an output need operator set 24")
    flat, heads, shared = F.rank(q) == 3, attributes["q_num_heads"], attributes["kv_num_heads"]
    if flat:
        q, k, v = (_split(F, x, n) for x, n in ((q, heads), (k, shared), (v, shared)))
    else:
        heads, shared = F.type(q).shape[1], F.type(k).shape[1]
    start = F.constant(np.array(0, np.int64)) if past_k is None else _sized(F, past_k, 2)
    k, v = (x if past is None else F.Concat(past, x, axis=2) for x, past in ((k, past_k), (v, past_v)))
    keys, values = k, v
    if equal(heads, shared) is not True:
        if not isinstance(heads, int) or not isinstance(shared, int):
            raise GraphError("the numbers of heads are not known")
        group = F.constant(np.arange(heads, dtype=np.int64) // (heads // shared))
        keys, values = (F.Gather(x, group, axis=1) for x in (k, v))
    size = F.type(q).shape[3]
    if attributes["scale"] is None and not isinstance(size, int):
        raise GraphError("the size of a head is not known")
    scale = float(size) ** -0.5 if attributes["scale"] is None else attributes["scale"]
    scores = F.MatMul(F.Mul(q, scalar(F, scale, q)), F.Transpose(keys, perm=(0, 1, 3, 2)))
    if attributes["softcap"] > 0:
        cap = scalar(F, attributes["softcap"], q)
        scores = F.Mul(F.Tanh(F.Div(scores, cap)), cap)
    low, zero = scalar(F, -np.inf, q), scalar(F, 0, q)
    if mask is not None:
        if equal(F.type(mask).shape[-1], F.type(keys).shape[2]) is False:
            raise GraphError("the mask is shorter than the keys")
        scores = F.Add(
            scores, F.Where(mask, zero, low) if F.dtype(mask) == "bool" else F.Cast(mask, to=code_of(F.dtype(q)))
        )
    if attributes["is_causal"]:
        places = F.Add(_count(F, _sized(F, q, 2)), start)
        own = F.Unsqueeze(places, F.constant(np.array([1], np.int64)))
        scores = F.Where(F.LessOrEqual(_count(F, _sized(F, keys, 2)), own), scores, low)
    weights = F.Softmax(scores, axis=-1)
    if mask is not None:  # a row that sees nothing
        weights = F.Where(F.IsNaN(weights), zero, weights)
    y = F.MatMul(weights, values)
    y = F.Reshape(F.Transpose(y, perm=(0, 2, 1, 3)), F.constant(np.array([0, 0, -1], np.int64))) if flat else y
    return y, k, v


def _split(F: Any, x: Any, heads: int) -> Any:
    return F.Transpose(F.Reshape(x, F.constant(np.array([0, 0, heads, -1], np.int64))), perm=(0, 2, 1, 3))


# Standard operators that older sets do not have.
NEWER: dict[str, Rule] = {
    "Attention": _attention,
    "CastLike": lambda F, inputs, _: F.Cast(inputs[0], to=code_of(F.dtype(inputs[1]))),
    "Gelu": _gelu,
    "HardSwish": lambda F, inputs, _: F.Mul(inputs[0], F.HardSigmoid(inputs[0], alpha=1 / 6, beta=0.5)),
    "LayerNormalization": _layer_norm,
    "Mish": lambda F, inputs, _: F.Mul(inputs[0], F.Tanh(F.Softplus(inputs[0]))),
    "RMSNormalization": _rms_norm,
    "Swish": _swish,
}
