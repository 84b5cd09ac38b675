"""Activations with attributes, one row each, after the formulas of the ONNX specification."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from headrace.runtime import dtypes
from headrace.runtime.ops.base import Attr
from headrace.runtime.ops.common import scalar
from headrace.runtime.ops.elementwise.erf import erf
from headrace.runtime.ops.elementwise.unary import sigmoid
from headrace.runtime.ops.table import Unary, unary_operators

SELU_ALPHA, SELU_GAMMA = 1.67326319217681884765625, 1.05070102214813232421875


def _f(value: float, x: Any) -> Any:
    """An attribute in the dtype of x, as kernels hold it."""
    return np.asarray(value, x.dtype)


def elu(x: Any, alpha: float) -> Any:
    return np.where(x > 0, x, _f(alpha, x) * np.expm1(np.minimum(x, 0)))


def selu(x: Any, alpha: float, gamma: float) -> Any:
    return _f(gamma, x) * elu(x, alpha)


def celu(x: Any, alpha: float) -> Any:
    return np.maximum(x, 0) + np.minimum(_f(alpha, x) * np.expm1(x / _f(alpha, x)), 0)


def hard_sigmoid(x: Any, alpha: float, beta: float) -> Any:
    return np.clip(x * _f(alpha, x) + _f(beta, x), 0, 1)


def gelu(x: Any, approximate: str) -> Any:
    if approximate == "tanh":
        return _f(0.5, x) * x * (1 + np.tanh(_f(math.sqrt(2 / math.pi), x) * (x + _f(0.044715, x) * x**3)))
    return _f(0.5, x) * x * (1 + erf(x * _f(math.sqrt(0.5), x)))


def shrink(x: Any, bias: float, lambd: float) -> Any:
    wide = x.astype(np.float64) if x.dtype.kind in "iu" else x
    low, high = wide < -lambd, wide > lambd
    return np.where(low, wide + _f(bias, wide), np.where(high, wide - _f(bias, wide), 0)).astype(x.dtype)


def _where_positive(F: Any, x: Any, yes: Any, no: Any) -> Any:
    return F.Where(F.Greater(x, scalar(F, 0, x)), yes, no)


def _leaky_gradient(F: Any, g: Any, x: Any, y: Any, a: Any) -> Any:
    return _where_positive(F, x, g, F.Mul(g, scalar(F, a["alpha"], g)))


def _exponential_slope(F: Any, x: Any, alpha: float, divide: float = 1.0) -> Any:
    """alpha * exp(min(x, 0) / divide): the bound keeps the branch that is not taken finite, also in second derivatives."""
    bounded = F.Min(x, scalar(F, 0, x))
    if divide != 1.0:
        bounded = F.Div(bounded, scalar(F, divide, x))
    return F.Mul(F.Exp(bounded), scalar(F, alpha, x))


def _elu_gradient(F: Any, g: Any, x: Any, y: Any, a: Any) -> Any:
    return _where_positive(F, x, g, F.Mul(g, _exponential_slope(F, x, a["alpha"])))


def _selu_gradient(F: Any, g: Any, x: Any, y: Any, a: Any) -> Any:
    scaled = F.Mul(g, scalar(F, a["gamma"], g))
    return _where_positive(F, x, scaled, F.Mul(scaled, _exponential_slope(F, x, a["alpha"])))


def _celu_gradient(F: Any, g: Any, x: Any, y: Any, a: Any) -> Any:
    return _where_positive(F, x, g, F.Mul(g, _exponential_slope(F, x, 1.0, a["alpha"])))


def _hard_sigmoid_gradient(F: Any, g: Any, x: Any, y: Any, a: Any) -> Any:
    inside = F.And(F.Greater(y, scalar(F, 0, y)), F.Less(y, scalar(F, 1, y)))
    return F.Where(inside, F.Mul(g, scalar(F, a["alpha"], g)), scalar(F, 0, g))


def _thresholded_gradient(F: Any, g: Any, x: Any, y: Any, a: Any) -> Any:
    return F.Where(F.Greater(x, scalar(F, a["alpha"], x)), g, scalar(F, 0, g))


def _shrink_gradient(F: Any, g: Any, x: Any, y: Any, a: Any) -> Any:
    outside = F.Or(F.Less(x, scalar(F, -a["lambd"], x)), F.Greater(x, scalar(F, a["lambd"], x)))
    return F.Where(outside, g, scalar(F, 0, g))


def _swish_gradient(F: Any, g: Any, x: Any, y: Any, a: Any) -> Any:
    scaled = F.Mul(x, scalar(F, a["alpha"], x)) if a["alpha"] != 1.0 else x
    s = F.Sigmoid(scaled)
    return F.Mul(g, F.Mul(s, F.Add(scalar(F, 1, x), F.Mul(scaled, F.Sub(scalar(F, 1, x), s)))))


def _gelu_gradient(F: Any, g: Any, x: Any, y: Any, a: Any) -> Any:
    def k(value: float) -> Any:
        return scalar(F, value, x)

    square = F.Mul(x, x)
    if a["approximate"] == "tanh":
        c = math.sqrt(2 / math.pi)
        t = F.Tanh(F.Mul(x, F.Add(k(c), F.Mul(square, k(c * 0.044715)))))
        slope = F.Add(k(c), F.Mul(square, k(3 * c * 0.044715)))
        inner = F.Mul(F.Mul(F.Mul(x, F.Sub(k(1), F.Mul(t, t))), slope), k(0.5))
        return F.Mul(g, F.Add(F.Mul(F.Add(t, k(1)), k(0.5)), inner))
    below = F.Mul(F.Add(F.Erf(F.Mul(x, k(math.sqrt(0.5)))), k(1)), k(0.5))
    density = F.Mul(F.Exp(F.Mul(square, k(-0.5))), k(1 / math.sqrt(2 * math.pi)))
    return F.Mul(g, F.Add(below, F.Mul(x, density)))


def _a(default: float) -> Attr:
    """ONNX holds attributes as float32: its default 0.2 is the float32 nearest to 0.2, for float64 tensors too."""
    return Attr("float", float(np.float32(default)))


ROWS: tuple[Unary, ...] = (
    Unary("Celu", celu, _celu_gradient, attributes={"alpha": _a(1.0)}, cases=({}, {"alpha": 2.0}), versions=(12, 28)),
    Unary("Elu", elu, _elu_gradient, attributes={"alpha": _a(1.0)}, cases=({}, {"alpha": 0.5}), versions=(1, 6, 22)),
    Unary("Gelu", gelu, _gelu_gradient, attributes={"approximate": Attr("string", "none", ("none", "tanh"))},
          cases=({}, {"approximate": "tanh"}), versions=(20,), scale=0.25),
    Unary("HardSigmoid", hard_sigmoid, _hard_sigmoid_gradient, attributes={"alpha": _a(0.2), "beta": _a(0.5)},
          cases=({}, {"alpha": 0.25, "beta": 0.375}), versions=(1, 6, 22), scale=0.5),
    Unary("LeakyRelu", lambda x, alpha: np.where(x < 0, x * _f(alpha, x), x), _leaky_gradient, attributes={"alpha": _a(0.01)},
          cases=({}, {"alpha": 0.3}), versions=(1, 6, 16), ulp=1),
    Unary("Selu", selu, _selu_gradient, attributes={"alpha": _a(SELU_ALPHA), "gamma": _a(SELU_GAMMA)}, versions=(1, 6, 22)),
    Unary("Shrink", shrink, _shrink_gradient, dtypes.NUMERIC, attributes={"bias": _a(0.0), "lambd": _a(0.5)},
          cases=({}, {"bias": 1.5, "lambd": 1.5}), versions=(9,), ulp=1),
    Unary("Swish", lambda x, alpha: x * sigmoid(x * _f(alpha, x)), _swish_gradient, attributes={"alpha": _a(1.0)},
          cases=({}, {"alpha": 1.7}), versions=(24,)),
    Unary("ThresholdedRelu", lambda x, alpha: np.where(x > _f(alpha, x), x, 0), _thresholded_gradient, attributes={"alpha": _a(1.0)},
          cases=({}, {"alpha": -0.5}), versions=(10, 22), ulp=0),
)  # fmt: skip


def _is_inf(x: Any, detect_negative: int, detect_positive: int) -> Any:
    return (np.isposinf(x) & bool(detect_positive)) | (np.isneginf(x) & bool(detect_negative))


ROWS += (
    Unary("IsInf", _is_inf, types=dtypes.FLOAT | dtypes.FLOAT8 - {"float8_e8m0fnu"}, result="bool", versions=(10, 20), ulp=0,
          attributes={"detect_negative": Attr("int", 1), "detect_positive": Attr("int", 1)},
          cases=({}, {"detect_negative": 0}, {"detect_positive": 0})),
)  # fmt: skip

globals().update(unary_operators(__name__, ROWS))
