"""csrc/elementwise.cu against the operators' NumPy references."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from headrace.runtime.cuda import kernels
from headrace.runtime.cuda.kernels.elementwise import broadcast
from headrace.runtime.cuda.sources import codes
from headrace.runtime.executor import run_node
from headrace.runtime.ops import find

# Code -> the operator, and its attributes in the order a, b.
UNARY: dict[str, tuple[str, dict[str, Any]]] = {
    "relu": ("Relu", {}), "leaky_relu": ("LeakyRelu", {"alpha": 0.3}), "sigmoid": ("Sigmoid", {}), "tanh": ("Tanh", {}),
    "erf": ("Erf", {}), "gelu": ("Gelu", {}), "gelu_tanh": ("Gelu", {"approximate": "tanh"}), "exp": ("Exp", {}), "log": ("Log", {}),
    "sqrt": ("Sqrt", {}), "reciprocal": ("Reciprocal", {}), "neg": ("Neg", {}), "abs": ("Abs", {}), "floor": ("Floor", {}),
    "ceil": ("Ceil", {}), "round": ("Round", {}), "sign": ("Sign", {}), "hard_sigmoid": ("HardSigmoid", {"alpha": 0.25, "beta": 0.375}),
    "hard_swish": ("HardSwish", {}), "elu": ("Elu", {"alpha": 0.5}), "celu": ("Celu", {"alpha": 2.0}),
    "selu": ("Selu", {"alpha": 1.5, "gamma": 1.25}), "softplus": ("Softplus", {}), "softsign": ("Softsign", {}),
    "swish": ("Swish", {"alpha": 1.7}), "mish": ("Mish", {}), "sin": ("Sin", {}), "cos": ("Cos", {}),
    "thresholded_relu": ("ThresholdedRelu", {"alpha": -0.5}),
}  # fmt: skip
BINARY = {
    "add": "Add",
    "sub": "Sub",
    "mul": "Mul",
    "div": "Div",
    "pow": "Pow",
    "min": "Min",
    "max": "Max",
    "mod": "Mod",
    "prelu": "PRelu",
}
COMPARE = {
    "equal": "Equal",
    "less": "Less",
    "less_equal": "LessOrEqual",
    "greater": "Greater",
    "greater_equal": "GreaterOrEqual",
}
LOGICAL = {"and": "And", "or": "Or", "xor": "Xor"}
PAIRS = [
    ((5,), (5,)), ((), ()), ((300,), ()), ((2, 3, 4), (3, 1)), ((5, 1, 7, 3), (4, 1, 3)), ((0, 3), (3,)), ((2, 1, 3, 1, 2, 1), (1, 5, 1, 4, 1, 3)),
]  # fmt: skip


def reference(operator: str, *inputs: Any, **attributes: Any) -> Any:
    found = find(operator)
    assert found is not None
    return run_node(found, inputs, attributes)[0]


@pytest.mark.parametrize("function", [name for name in codes("Unary") if name not in ("identity", "clip")])
def test_unary(forward, rng, function):
    operator, attributes = UNARY[function]
    x = np.concatenate(
        [rng.uniform(-4, 4, 300), [0.0, -0.0, 1e-30, 0.5, 2.5, 88, -88, 1e9, np.inf, -np.inf, np.nan]]
    ).astype(np.float32)
    a, b = (*(value for value in attributes.values() if isinstance(value, float)), 0.0, 0.0)[:2]
    out = forward.out(x.shape, np.float32)
    kernels.unary(forward.device, function, forward.up(x), out.at, x.size, a, b)
    y = out.read()
    with np.errstate(all="ignore"):
        expected = reference(operator, x, **attributes)
    # float32 arguments of sin and cos beyond 1e9 and products that cancel are held to the scale of the function
    np.testing.assert_allclose(y, expected, rtol=3e-6, atol=2e-6)


def test_clip_keeps_nan(forward):
    x = np.array([-3, 0.5, 9, np.nan], np.float32)
    out = forward.out(4, np.float32)
    kernels.unary(forward.device, "clip", forward.up(x), out.at, 4, -1.0, 6.0)
    y = out.read()
    np.testing.assert_array_equal(y, np.array([-1, 0.5, 6, np.nan], np.float32))


@pytest.mark.parametrize("function", codes("Binary"))
@pytest.mark.parametrize("dtype", ["float32", "int32", "int64"])
def test_binary(forward, rng, function, dtype):
    for x_shape, y_shape in PAIRS:
        if dtype == "float32":
            x, y = rng.uniform(0.2, 3, x_shape).astype(dtype), rng.uniform(0.2, 3, y_shape).astype(dtype)
            x = x - np.float32(1) if function in ("prelu", "mod", "sub") else x
        else:
            x, y = rng.integers(-9, 9, x_shape).astype(dtype), rng.integers(1, 5, y_shape).astype(dtype)
            if function == "prelu":
                return
            y = -y if function in ("mod", "div") else y
        attributes = {"fmod": 1} if function == "mod" and dtype == "float32" else {}
        expected = reference(BINARY[function], x, y, **attributes)
        out = forward.out(expected.shape, dtype)
        kernels.binary(forward.device, function, dtype, forward.up(x), forward.up(y), out.at, x.shape, y.shape)
        got = out.read()
        np.testing.assert_allclose(got, expected, rtol=0 if dtype != "float32" else 2e-6)


@pytest.mark.parametrize("function", codes("Compare"))
@pytest.mark.parametrize("dtype", ["float32", "int32", "int64", "bool"])
def test_compare(forward, rng, function, dtype):
    if dtype == "bool" and function != "equal":
        return
    x, y = (
        rng.integers(0, 2 if dtype == "bool" else 4, (6, 1, 9)).astype(dtype),
        rng.integers(0, 4, (5, 1)).astype(dtype),
    )
    expected = reference(COMPARE[function], x, y)
    out = forward.out(expected.shape, bool)
    kernels.compare(forward.device, function, dtype, forward.up(x), forward.up(y), out.at, x.shape, y.shape)
    got = out.read()
    np.testing.assert_array_equal(got, expected)


def test_logical(forward, rng):
    x, y = rng.integers(0, 2, (7, 1, 3)).astype(bool), rng.integers(0, 2, (4, 3)).astype(bool)
    for function, operator in LOGICAL.items():
        expected = reference(operator, x, y)
        out = forward.out(expected.shape, bool)
        kernels.logical(forward.device, function, forward.up(x), forward.up(y), out.at, x.shape, y.shape)
        got = out.read()
        np.testing.assert_array_equal(got, expected)
    out = forward.out(x.shape, bool)
    kernels.logical(forward.device, "not", forward.up(x), 0, out.at, x.shape, ())
    got = out.read()
    np.testing.assert_array_equal(got, ~x)


@pytest.mark.parametrize("dtype", ["uint8", "float32", "int64"])
def test_where(forward, rng, dtype):
    condition = rng.integers(0, 2, (4, 1, 5)).astype(bool)
    x, y = rng.integers(0, 99, (3, 1)).astype(dtype), rng.integers(0, 99, (5,)).astype(dtype)
    expected = np.where(condition, x, y)
    addresses = [forward.up(value) for value in (condition, x, y)]
    shapes = (condition.shape, x.shape, y.shape)
    out = forward.out(expected.shape, dtype)
    kernels.where(forward.device, x.itemsize, *addresses, out.at, *shapes)
    got = out.read()
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("source", ["float32", "int32", "int64", "uint8", "int8", "bool"])
@pytest.mark.parametrize("target", ["float32", "int32", "int64", "uint8", "int8", "bool"])
def test_cast(forward, source, target):
    large = 16777217 if source in ("int32", "int64") and target not in ("uint8", "int8") else 3
    x = np.array([0, 1, 2.75, 100, 0.5, large]).astype(source)
    out = forward.out(x.shape, target)
    kernels.cast(forward.device, forward.up(x), out.at, x.size, source, target)
    got = out.read()
    np.testing.assert_array_equal(got, x.astype(target))


def test_the_order_of_threads_does_not_matter(bench, rng):
    x, y = rng.standard_normal((3, 5, 70)).astype(np.float32), rng.standard_normal((5, 1)).astype(np.float32)
    out = bench.out(x.shape, np.float32)
    kernels.binary(bench.device, "add", "float32", bench.up(x), bench.up(y), out.at, x.shape, y.shape)
    got = out.read()
    np.testing.assert_array_equal(got, x + y)


def test_neighbouring_dimensions_merge():
    whole = broadcast((2, 3, 4, 5, 6, 7, 8), (2, 3, 4, 5, 6, 7, 8))
    assert whole["rank"] == 1 and whole["shape"][0] == whole["n"] == 40320
    rows = broadcast((8, 1, 3, 4), (3, 4))
    assert rows["rank"] == 2 and list(rows["stride"][1][:2]) == [0, 1]
    with pytest.raises(ValueError, match="need 7 dimensions after merging; allowed: 6"):
        broadcast((2, 1, 2, 1, 2, 1, 2), (1, 2, 1, 2, 1, 2, 1))
