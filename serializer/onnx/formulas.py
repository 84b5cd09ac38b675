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


def _infinite(F: Any, x: Any) -> Any:
    """Whether x is +inf. Older sets ask that of float32 and float64 alone."""
    return F.IsInf(x if F.dtype(x) in ("float32", "float64") else F.Cast(x, to=1), detect_negative=0)


def _log1p(F: Any, inputs: list[Any], _: Mapping[str, Any]) -> Any:
    """log(u) * x / (u - 1) with u = 1 + x: the rounding of u cancels (Higham 2002, 1.14.1)."""
    (x,) = inputs
    one = scalar(F, 1, x)
    u = F.Add(one, x)
    exact = F.Or(F.Equal(u, one), _infinite(F, u))
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


def _wide(rule: Rule) -> Rule:
    """The rule over float32 where its inputs are narrower, rounded once."""

    def widened(F: Any, inputs: list[Any], attributes: Mapping[str, Any]) -> Any:
        kind = F.dtype(inputs[0])
        if kind in ("float32", "float64"):
            return rule(F, inputs, attributes)
        return F.Cast(rule(F, [F.Cast(x, to=1) for x in inputs], attributes), to=code_of(kind))

    return widened


def _negative(F: Any, x: Any) -> Any:
    """Whether the sign is minus, of -0 too."""
    zero = scalar(F, 0, x)
    return F.Or(F.Less(x, zero), F.Less(F.Reciprocal(x), zero))


def _atan2(F: Any, inputs: list[Any], _: Mapping[str, Any]) -> Any:
    """The angle in the first quadrant, mirrored by the signs."""
    y, x = inputs
    high, wide = F.Abs(y), F.Abs(x)
    zero, one = scalar(F, 0, x), scalar(F, 1, x)
    same = F.Where(F.Equal(high, zero), zero, one)  # also of two infinities
    angle = F.Atan(F.Where(F.Equal(high, wide), same, F.Div(high, wide)))
    angle = F.Where(_negative(F, x), F.Sub(scalar(F, np.pi, x), angle), angle)
    return F.Where(_negative(F, y), F.Neg(angle), angle)


def _hypot(F: Any, inputs: list[Any], _: Mapping[str, Any]) -> Any:
    """high * sqrt(1 + (low / high)^2), which neither overflows nor vanishes on the way."""
    a, b = (F.Abs(x) for x in inputs)
    zero, one = scalar(F, 0, a), scalar(F, 1, a)
    high, low = F.Max(a, b), F.Min(a, b)
    ratio = F.Div(low, F.Where(F.Equal(high, zero), one, high))
    length = F.Mul(high, F.Sqrt(F.Add(F.Mul(ratio, ratio), one)))
    return F.Where(F.Or(_infinite(F, a), _infinite(F, b)), scalar(F, np.inf, a), length)


def _sinc(F: Any, inputs: list[Any], _: Mapping[str, Any]) -> Any:
    (x,) = inputs
    zero, one = F.Equal(x, scalar(F, 0, x)), scalar(F, 1, x)
    angle = F.Mul(F.Where(zero, one, x), scalar(F, np.pi, x))
    return F.Where(zero, one, F.Div(F.Sin(angle), angle))


def _cross_entropy(F: Any, inputs: list[Any], attributes: Mapping[str, Any]) -> Any:
    p, y = inputs
    floor = scalar(F, -100, p)
    right, wrong = F.Max(F.Log(p), floor), F.Max(_log1p(F, [F.Neg(p)], attributes), floor)
    return F.Sub(F.Mul(F.Sub(y, scalar(F, 1, p)), wrong), F.Mul(y, right))


def _polynomial(F: Any, x: Any, coefficients: tuple[float, ...]) -> Any:
    """Horner's scheme, the highest power first."""
    if F.dtype(x) == "float64":
        raise GraphError("its formula has the digits of float32")
    y = scalar(F, coefficients[0], x)
    for coefficient in coefficients[1:]:
        y = F.Add(F.Mul(y, x), scalar(F, coefficient, x))
    return y


def _erfc(F: Any, inputs: list[Any], _: Mapping[str, Any]) -> Any:
    """Chebyshev fit with a relative error of 1.2e-7 everywhere (Press et al., Numerical Recipes in C, 1992, section 6.2)."""
    (x,) = inputs
    z, one = F.Abs(x), scalar(F, 1, x)
    t = F.Reciprocal(F.Add(F.Mul(z, scalar(F, 0.5, x)), one))
    power = _polynomial(F, t, (0.17087277, -0.82215223, 1.48851587, -1.13520398, 0.27886807, -0.18628806, 0.09678418, 0.37409196, 1.00002368, -1.26551223))  # fmt: skip
    tail = F.Mul(t, F.Exp(F.Sub(power, F.Mul(z, z))))
    return F.Where(F.Less(x, scalar(F, 0, x)), F.Sub(scalar(F, 2, x), tail), tail)


def _erfinv(F: Any, inputs: list[Any], _: Mapping[str, Any]) -> Any:
    """M. Giles, "Approximating the erfinv function" (2010), single precision."""
    (x,) = inputs
    one = scalar(F, 1, x)
    w = F.Neg(F.Log(F.Mul(F.Sub(one, x), F.Add(one, x))))
    central = _polynomial(F, F.Sub(w, scalar(F, 2.5, x)), (2.81022636e-08, 3.43273939e-07, -3.5233877e-06, -4.39150654e-06, 0.00021858087, -0.00125372503, -0.00417768164, 0.246640727, 1.50140941))  # fmt: skip
    outer = _polynomial(F, F.Sub(F.Sqrt(w), scalar(F, 3, x)), (-0.000200214257, 0.000100950558, 0.00134934322, -0.00367342844, 0.00573950773, -0.0076224613, 0.00943887047, 1.00167406, 2.83297682))  # fmt: skip
    y = F.Mul(F.Where(F.Less(w, scalar(F, 5, x)), central, outer), x)
    return F.Where(F.Equal(F.Abs(x), one), F.Mul(x, scalar(F, np.inf, x)), y)


# Functions of the domain "headrace", by name.
FUNCTIONS: dict[str, Rule] = {
    "Atan2": _wide(_atan2),
    "BinaryCrossEntropy": _wide(_cross_entropy),
    "Erfc": _wide(_erfc),
    "Erfinv": _wide(_erfinv),
    "Hypot": _wide(_hypot),
    "Sinc": _wide(_sinc),
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
