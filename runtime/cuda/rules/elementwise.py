"""Elementwise operators: a function of one, two or three operands that broadcast."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from headrace.runtime.cuda.kernels import elementwise as kernels
from headrace.runtime.cuda.rules.base import Bound, Rule, Site, Work

# Operator -> (function of csrc/functions.cuh, its attributes that become a and b).
UNARY: dict[str, tuple[str, tuple[str, ...]]] = {
    "Abs": ("abs", ()), "Celu": ("celu", ("alpha",)), "Ceil": ("ceil", ()), "Cos": ("cos", ()), "Elu": ("elu", ("alpha",)),
    "Erf": ("erf", ()), "Exp": ("exp", ()), "Floor": ("floor", ()), "HardSigmoid": ("hard_sigmoid", ("alpha", "beta")),
    "HardSwish": ("hard_swish", ()), "LeakyRelu": ("leaky_relu", ("alpha",)), "Log": ("log", ()), "Mish": ("mish", ()),
    "Neg": ("neg", ()), "Reciprocal": ("reciprocal", ()), "Relu": ("relu", ()), "Round": ("round", ()),
    "Selu": ("selu", ("alpha", "gamma")), "Sigmoid": ("sigmoid", ()), "Sign": ("sign", ()), "Sin": ("sin", ()),
    "Softplus": ("softplus", ()), "Softsign": ("softsign", ()), "Sqrt": ("sqrt", ()), "Swish": ("swish", ("alpha",)),
    "Tanh": ("tanh", ()), "ThresholdedRelu": ("thresholded_relu", ("alpha",)),
}  # fmt: skip
BINARY = {
    "Add": "add", "Sub": "sub", "Mul": "mul", "Div": "div", "Pow": "pow", "Min": "min", "Max": "max", "PRelu": "prelu",
}  # fmt: skip
COMPARE = {
    "Equal": "equal", "Less": "less", "LessOrEqual": "less_equal", "Greater": "greater", "GreaterOrEqual": "greater_equal",
}  # fmt: skip
LOGICAL = {"And": "and", "Or": "or", "Xor": "xor"}
F32, NUMBERS = ("float32",), ("float32", "int32", "int64")
# The `activation` of fused operators -> (function, a and b where fixed).
FUSED = {
    "": ("identity", (0.0, 0.0)), "Relu": ("relu", (0.0, 0.0)), "HardSwish": ("hard_swish", (0.0, 0.0)),
    "Sigmoid": ("sigmoid", (0.0, 0.0)), "Tanh": ("tanh", (0.0, 0.0)), "Silu": ("swish", (1.0, 0.0)),
    "Gelu": ("gelu", (0.0, 0.0)), "GeluTanh": ("gelu_tanh", (0.0, 0.0)),
}  # fmt: skip


def activation(attributes: Mapping[str, Any]) -> tuple[str, float, float]:
    """The function of a fused operator's activation, with its a and b. Absent bounds are infinite; absent alpha and beta are
    the operator's defaults."""

    def number(key: str, default: float) -> float:
        value = attributes.get(key)
        return float(np.float32(default if value is None else value))

    name = attributes["activation"]
    match name:
        case "Clip":
            return "clip", number("clip_min", -np.inf), number("clip_max", np.inf)
        case "LeakyRelu":
            return "leaky_relu", number("alpha", 0.01), 0.0
        case "HardSigmoid":
            return "hard_sigmoid", number("alpha", 0.2), number("beta", 0.5)
    function, (a, b) = FUSED[name]
    return function, a, b


def _unary(site: Site) -> Work:
    site.need_dtypes(F32, 0)
    function, keys = UNARY[site.kind]
    a, b = (*(float(np.float32(site.attributes[key])) for key in keys), 0.0, 0.0)[:2]
    return apply(site, function, a, b)


def apply(site: Site, function: str, a: float = 0.0, b: float = 0.0) -> Work:
    """One function over input 0."""
    n = site.size()

    def emit(at: Bound) -> None:
        kernels.unary(at.device, function, at.inputs[0], at.outputs[0], n, a, b)

    return Work(f"unary_f32 {function}", emit, in_place=(0,))


def _gelu(site: Site) -> Work:
    site.need_dtypes(F32, 0)
    return apply(site, "gelu_tanh" if site.attributes["approximate"] == "tanh" else "gelu")


def _clip(site: Site) -> Work:
    site.need_dtypes(F32, 0)
    low, high = (float(site.fixed(i)) if site.has(i) else limit for i, limit in ((1, -np.inf), (2, np.inf)))
    return apply(site, "clip", low, high)


def _binary(site: Site) -> Work:
    site.need(len(site.node.inputs) == 2, "more than two operands")
    return two(site, BINARY[site.kind])


def two(site: Site, function: str) -> Work:
    """A function of inputs 0 and 1 with a result of their type."""
    site.need_dtypes(NUMBERS, 0, 1)
    site.need(site.dtype(0) == site.dtype(1), "operands of two types")
    site.need(function != "prelu" or site.dtype() == "float32", "PRelu of integers")
    dtype, x, y = site.dtype(), site.shape(0), site.shape(1)

    def emit(at: Bound) -> None:
        kernels.binary(at.device, function, dtype, at.inputs[0], at.inputs[1], at.outputs[0], x, y)

    return Work(f"binary {function} {dtype}", emit, in_place=(0, 1))


def _mod(site: Site) -> Work:
    site.need(bool(site.attributes["fmod"]) == (site.dtype() == "float32"), "fmod of integers, or mod of floats")
    return two(site, "mod")


def _compare(site: Site) -> Work:
    site.need_dtypes((*NUMBERS, "uint8", "bool"), 0, 1)
    function, dtype, x, y = COMPARE[site.kind], site.dtype(), site.shape(0), site.shape(1)

    def emit(at: Bound) -> None:
        kernels.compare(at.device, function, dtype, at.inputs[0], at.inputs[1], at.outputs[0], x, y)

    return Work(f"compare {function} {dtype}", emit)


def _logical(site: Site) -> Work:
    function, x, y = LOGICAL[site.kind], site.shape(0), site.shape(1)

    def emit(at: Bound) -> None:
        kernels.logical(at.device, function, at.inputs[0], at.inputs[1], at.outputs[0], x, y)

    return Work(f"logical {function}", emit)


def _not(site: Site) -> Work:
    shape = site.shape()

    def emit(at: Bound) -> None:
        kernels.logical(at.device, "not", at.inputs[0], 0, at.outputs[0], shape, ())

    return Work("logical not", emit)


SIZES = {"float32": 4, "int32": 4, "int64": 8, "uint8": 1, "int8": 1, "bool": 1}


def _where(site: Site) -> Work:
    site.need_dtypes(tuple(SIZES), 1)
    size, shapes = SIZES[site.dtype(1)], (site.shape(0), site.shape(1), site.shape(2))

    def emit(at: Bound) -> None:
        condition, x, y = at.inputs
        kernels.where(at.device, size, condition, x, y, at.outputs[0], *shapes)

    return Work(f"where_{size}", emit)


def _cast(site: Site) -> Work:
    source, target, n = site.dtype(), site.out_dtype(), site.size()
    site.need_dtypes(tuple(SIZES), 0)
    site.need(target in SIZES, f"a cast to {target}")
    # What NumPy does with a float that the integer type cannot hold is the processor's choice.
    site.need(source != "float32" or target in ("float32", "bool"), "a cast from float to integer")

    def emit(at: Bound) -> None:
        kernels.cast(at.device, at.inputs[0], at.outputs[0], n, source, target)

    return Work(f"cast {source} {target}", emit)


RULES: dict[str, Rule] = {
    **dict.fromkeys(UNARY, _unary), **dict.fromkeys(BINARY, _binary), **dict.fromkeys(COMPARE, _compare),
    **dict.fromkeys(LOGICAL, _logical),
    "Gelu": _gelu, "Clip": _clip, "Mod": _mod, "Not": _not, "Where": _where, "Cast": _cast,
}  # fmt: skip
