"""Elementwise functions of the training core that ONNX lacks, one row each."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from headrace.runtime import dtypes
from headrace.runtime.ops.base import Attr
from headrace.runtime.ops.common import scalar
from headrace.runtime.ops.elementwise.erf import erfc
from headrace.runtime.ops.headrace_core.functions import erfinv, lgamma, polygamma
from headrace.runtime.ops.table import Binary, Unary, binary_operators, unary_operators


def _sinc(x: Any) -> Any:
    angle = np.where(x == 0, 1, x) * np.asarray(math.pi, x.dtype)
    return np.where(x == 0, 1, np.sin(angle) / angle).astype(x.dtype)


def _erfc_gradient(F: Any, g: Any, x: Any, y: Any, a: Any) -> Any:
    return F.Mul(g, F.Mul(F.Exp(F.Neg(F.Mul(x, x))), scalar(F, -2 / math.sqrt(math.pi), x)))


def _erfinv_gradient(F: Any, g: Any, x: Any, y: Any, a: Any) -> Any:
    return F.Mul(g, F.Mul(F.Exp(F.Mul(y, y)), scalar(F, math.sqrt(math.pi) / 2, x)))


def _sinc_gradient(F: Any, g: Any, x: Any, y: Any, a: Any) -> Any:
    """(cos(pi x) - sinc(x)) / x; 0 at 0."""
    zero = F.Equal(x, scalar(F, 0, x))
    safe = F.Where(zero, scalar(F, 1, x), x)
    slope = F.Div(F.Sub(F.Cos(F.Mul(safe, scalar(F, math.pi, x))), F.Sinc(safe)), safe)
    return F.Mul(g, F.Where(zero, scalar(F, 0, x), slope))


def _scaled(factor: float) -> Any:
    """The gradient of a logarithm to another base: g / (x * ln base)."""
    return lambda F, g, x, y, a: F.Div(g, F.Mul(x, scalar(F, factor, x)))


def _atan2_gradient(F: Any, g: Any, a: Any, b: Any, y: Any, _: Any) -> Any:
    scaled = F.Div(g, F.Add(F.Mul(a, a), F.Mul(b, b)))
    return F.Mul(scaled, b), F.Neg(F.Mul(scaled, a))


def _hypot_gradient(F: Any, g: Any, a: Any, b: Any, y: Any, _: Any) -> Any:
    """a / y and b / y; 0 at the origin."""
    zero = F.Equal(y, scalar(F, 0, y))
    scaled = F.Div(F.Where(zero, scalar(F, 0, g), g), F.Where(zero, scalar(F, 1, y), y))
    return F.Mul(scaled, a), F.Mul(scaled, b)


def _polygamma_gradient(F: Any, g: Any, x: Any, y: Any, a: Any) -> Any:
    return F.Mul(g, F.Polygamma(x, n=a["n"] + 1))


ROWS = (
    Unary("Digamma", lambda x: polygamma(x, 0), lambda F, g, x, y, a: F.Mul(g, F.Polygamma(x, n=1)), low=0.3, high=5, domain="headrace", ulp=8),
    Unary("Erfc", erfc, _erfc_gradient, domain="headrace", ulp=8),
    Unary("Erfinv", erfinv, _erfinv_gradient, low=-0.9, high=0.9, domain="headrace", ulp=8),
    Unary("Exp2", np.exp2, lambda F, g, x, y, a: F.Mul(g, F.Mul(y, scalar(F, math.log(2), y))), domain="headrace"),
    Unary("Expm1", np.expm1, lambda F, g, x, y, a: F.Mul(g, F.Add(y, scalar(F, 1, y))), domain="headrace"),
    Unary("Lgamma", lgamma, lambda F, g, x, y, a: F.Mul(g, F.Digamma(x)), low=0.3, high=5, domain="headrace", ulp=8),
    Unary("Log10", np.log10, _scaled(math.log(10)), low=0.1, high=9, domain="headrace"),
    Unary("Log1p", np.log1p, lambda F, g, x, y, a: F.Div(g, F.Add(x, scalar(F, 1, x))), low=-0.9, high=9, domain="headrace"),
    Unary("Log2", np.log2, _scaled(math.log(2)), low=0.1, high=9, domain="headrace"),
    Unary("Polygamma", polygamma, _polygamma_gradient, low=0.3, high=5, attributes={"n": Attr("int", 1)}, cases=({}, {"n": 2}), domain="headrace", ulp=8),
    Unary("Rsqrt", lambda x: np.asarray(1, x.dtype) / np.sqrt(x), lambda F, g, x, y, a: F.Mul(g, F.Mul(F.Div(y, x), scalar(F, -0.5, y))),
          low=0.1, high=9, domain="headrace"),
    Unary("Sinc", _sinc, _sinc_gradient, domain="headrace", ulp=8),
    Unary("Trunc", np.trunc, lambda F, g, x, y, a: F.Mul(g, scalar(F, 0, g)), domain="headrace", ulp=0),
)  # fmt: skip
PAIRS = (
    Binary("Atan2", np.arctan2, _atan2_gradient, dtypes.FLOAT, versions=(1,), ulp=4, domain="headrace"),
    Binary("Hypot", np.hypot, _hypot_gradient, dtypes.FLOAT, versions=(1,), ulp=4, domain="headrace"),
)

globals().update(unary_operators(__name__, ROWS) | binary_operators(__name__, PAIRS))
