"""Unary operators without attributes, one row each. Gradients: g is the output's gradient, x the input, y the output."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from headrace.runtime import dtypes
from headrace.runtime.ops.common import scalar
from headrace.runtime.ops.elementwise.erf import erf
from headrace.runtime.ops.table import Unary, unary_operators


def sigmoid(x: Any) -> Any:
    """1 / (1 + exp(-x)) without overflow: exp only of values <= 0."""
    e = np.exp(-np.abs(x))
    return np.where(np.asarray(x) >= 0, 1 / (1 + e), e / (1 + e))


def softplus(x: Any) -> Any:
    """log(1 + exp(x)) without overflow."""
    return np.logaddexp(x, np.zeros_like(x))


def _hard_swish(x: Any) -> Any:
    sixth, half = np.asarray(1 / 6, x.dtype), np.asarray(0.5, x.dtype)
    return x * np.clip(x * sixth + half, 0, 1)


def _square(F: Any, x: Any) -> Any:
    return F.Mul(x, x)


def _one_minus(F: Any, x: Any) -> Any:
    return F.Sub(scalar(F, 1, x), x)


def _one_plus(F: Any, x: Any) -> Any:
    return F.Add(scalar(F, 1, x), x)


def _erf_gradient(F: Any, g: Any, x: Any, y: Any, a: Any) -> Any:
    bell = F.Mul(F.Exp(F.Neg(_square(F, x))), scalar(F, 2 / math.sqrt(math.pi), x))
    return F.Mul(g, bell)


def _relu_gradient(F: Any, g: Any, x: Any, y: Any, a: Any) -> Any:
    return F.Where(F.Greater(x, scalar(F, 0, x)), g, scalar(F, 0, g))


def _hard_swish_gradient(F: Any, g: Any, x: Any, y: Any, a: Any) -> Any:
    middle = F.Add(F.Div(x, scalar(F, 3, x)), scalar(F, 0.5, x))
    slope = F.Where(F.Less(x, scalar(F, 3, x)), middle, scalar(F, 1, x))
    return F.Mul(g, F.Where(F.Greater(x, scalar(F, -3, x)), slope, scalar(F, 0, x)))


def _mish_gradient(F: Any, g: Any, x: Any, y: Any, a: Any) -> Any:
    t = F.Tanh(F.Softplus(x))
    return F.Mul(g, F.Add(t, F.Mul(F.Mul(x, F.Sigmoid(x)), _one_minus(F, _square(F, t)))))


def _flat(F: Any, g: Any, x: Any, y: Any, a: Any) -> Any:
    """The gradient of a step function: zero almost everywhere."""
    return F.Mul(g, scalar(F, 0, x))


SIGNED = dtypes.FLOAT | dtypes.SIGNED
V22, V13 = (7, 22), (1, 6, 13)

ROWS = (
    Unary("Abs", np.abs, lambda F, g, x, y, a: F.Mul(g, F.Sign(x)), dtypes.NUMERIC, versions=V13, ulp=0),
    Unary("Acos", np.arccos, lambda F, g, x, y, a: F.Neg(F.Div(g, F.Sqrt(_one_minus(F, _square(F, x))))), low=-0.9, high=0.9, versions=V22),
    Unary("Acosh", np.arccosh, lambda F, g, x, y, a: F.Div(g, F.Sqrt(F.Sub(_square(F, x), scalar(F, 1, x)))), low=1.1, high=9, versions=(9, 22)),
    Unary("Asin", np.arcsin, lambda F, g, x, y, a: F.Div(g, F.Sqrt(_one_minus(F, _square(F, x)))), low=-0.9, high=0.9, versions=V22),
    Unary("Asinh", np.arcsinh, lambda F, g, x, y, a: F.Div(g, F.Sqrt(_one_plus(F, _square(F, x)))), versions=(9, 22)),
    Unary("Atan", np.arctan, lambda F, g, x, y, a: F.Div(g, _one_plus(F, _square(F, x))), versions=V22),
    Unary("Atanh", np.arctanh, lambda F, g, x, y, a: F.Div(g, _one_minus(F, _square(F, x))), low=-0.9, high=0.9, versions=(9, 22)),
    Unary("BitwiseNot", np.invert, types=dtypes.INTEGER, versions=(18,), ulp=0),
    Unary("Ceil", np.ceil, _flat, versions=V13, ulp=0),
    Unary("Cos", np.cos, lambda F, g, x, y, a: F.Neg(F.Mul(g, F.Sin(x))), versions=V22),
    Unary("Cosh", np.cosh, lambda F, g, x, y, a: F.Mul(g, F.Sinh(x)), versions=(9, 22)),
    Unary("Erf", erf, _erf_gradient, versions=(9, 13)),
    Unary("Exp", np.exp, lambda F, g, x, y, a: F.Mul(g, y), versions=V13),
    Unary("Floor", np.floor, _flat, versions=V13, ulp=0),
    Unary("HardSwish", _hard_swish, _hard_swish_gradient, low=-5, high=5, versions=(14, 22), scale=1.0),
    Unary("IsNaN", np.isnan, types=dtypes.FLOAT | dtypes.FLOAT8 - {"float8_e8m0fnu"}, versions=(9, 13, 20), ulp=0, result="bool"),
    Unary("Log", np.log, lambda F, g, x, y, a: F.Div(g, x), low=0.1, high=9, versions=V13),
    Unary("Mish", lambda x: x * np.tanh(softplus(x)), _mish_gradient, versions=(18, 22)),
    Unary("Neg", np.negative, lambda F, g, x, y, a: F.Neg(g), SIGNED, versions=V13, ulp=0, symbolic=lambda x: -x),
    Unary("Not", np.logical_not, types=frozenset({"bool"}), ulp=0),
    Unary("Reciprocal", lambda x: np.asarray(1, x.dtype) / x, lambda F, g, x, y, a: F.Neg(F.Mul(g, _square(F, y))), low=0.5, high=4, versions=V13, ulp=1),
    Unary("Relu", lambda x: np.maximum(x, 0), _relu_gradient, SIGNED, versions=(1, 6, 13, 14), ulp=0),
    Unary("Round", np.rint, _flat, versions=(11, 22), ulp=0, doc="Round to the nearest integer, halves to even."),
    Unary("Sigmoid", sigmoid, lambda F, g, x, y, a: F.Mul(g, F.Mul(y, _one_minus(F, y))), versions=V13),
    Unary("Sign", np.sign, _flat, dtypes.NUMERIC, versions=(9, 13), ulp=0),
    Unary("Sin", np.sin, lambda F, g, x, y, a: F.Mul(g, F.Cos(x)), versions=V22),
    Unary("Sinh", np.sinh, lambda F, g, x, y, a: F.Mul(g, F.Cosh(x)), versions=(9, 22)),
    Unary("Softplus", softplus, lambda F, g, x, y, a: F.Mul(g, F.Sigmoid(x)), versions=(1, 22)),
    Unary("Softsign", lambda x: x / (1 + np.abs(x)), lambda F, g, x, y, a: F.Div(g, _square(F, _one_plus(F, F.Abs(x)))), versions=(1, 22)),
    Unary("Sqrt", np.sqrt, lambda F, g, x, y, a: F.Div(g, F.Add(y, y)), low=0.1, high=9, versions=V13, ulp=1),
    Unary("Tan", np.tan, lambda F, g, x, y, a: F.Mul(g, _one_plus(F, _square(F, y))), low=-1.2, high=1.2, versions=V22),
    Unary("Tanh", np.tanh, lambda F, g, x, y, a: F.Mul(g, _one_minus(F, _square(F, y))), versions=V13),
)  # fmt: skip

globals().update(unary_operators(__name__, ROWS))
