"""Laws over random graphs: passes keep every answer, do not touch what they are given, and settle."""

import numpy as np
from graph_cases import Ops, feeds_of, make
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headrace.runtime.executor import run_graph
from headrace.runtime.graph import Value
from headrace.runtime.passes import optimize, portable

F = "float32"
UNARY = ("Relu", "Sigmoid", "Tanh", "Neg", "Abs", "Identity", "HardSwish", "Erf")
BINARY = ("Add", "Mul", "Sub", "Max")
NUMBERS = (0.0, 1.0, 0.5, 3.0, 6.0, -1.0)


@st.composite
def programs(draw):
    """A list of steps (kind, choice, choice) that `build` makes a graph of; every value is [n, 4]."""
    kinds = st.sampled_from(
        (
            "unary",
            "binary",
            "number",
            "row",
            "product",
            "gemm",
            "transpose",
            "reshape",
            "gate",
            "relu6",
            "norm",
            "quantize",
        )
    )
    return draw(st.lists(st.tuples(kinds, st.integers(0, 99), st.integers(0, 99)), min_size=1, max_size=12))


def build(steps):
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(np.float32)

    def step(o: Ops, kind: str, a: int, x: Value, other: Value) -> Value:
        match kind:
            case "unary":
                return getattr(o, UNARY[a % len(UNARY)])(x)
            case "binary":
                return getattr(o, BINARY[a % len(BINARY)])(x, other)
            case "number":
                number = o.const(NUMBERS[a % len(NUMBERS)])
                return o.Mul(number, x) if a % 3 == 0 else o.Add(x, number) if a % 3 == 1 else o.Sub(number, x)
            case "row":
                return o.Add(x, o.const(normal(1, 4))) if a % 2 else o.Mul(x, o.const(normal(4)))
            case "product":
                return o.MatMul(x, o.const(normal(4, 4) / 2))
            case "gemm":
                return o.Gemm(x, o.const(normal(4, 4) / 2), o.const(normal(4)), transB=a % 2)
            case "transpose":
                return o.Transpose(o.Tanh(o.Transpose(x, perm=(1, 0))), perm=(1, 0))
            case "reshape":
                return o.Reshape(
                    o.Reshape(x, o.const(np.array([-1, 2, 2], np.int64))), o.const(np.array([-1, 4], np.int64))
                )
            case "gate":
                return o.Mul(x, o.Sigmoid(x))
            case "relu6":
                return o.Div(o.Mul(x, o.Clip(o.Add(x, o.const(3.0)), o.const(0.0), o.const(6.0))), o.const(6.0))
            case "norm":
                centred = o.Sub(x, o.ReduceMean(x, o.const(np.array([-1], np.int64)), keepdims=1))
                variance = o.ReduceMean(o.Mul(centred, centred), o.const(np.array([-1], np.int64)), keepdims=1)
                return o.Div(centred, o.Sqrt(o.Add(variance, o.const(0.1))))
        scale, zero = o.const(np.float32(0.05)), o.const(np.array(128, np.uint8))
        return o.DequantizeLinear(o.QuantizeLinear(x, scale, zero), scale, zero)

    def body(o: Ops, x: Value) -> list[Value]:
        values = [x]
        for kind, a, b in steps:
            values.append(step(o, kind, a, values[b % len(values)], values[a % len(values)]))
        return [values[-1], values[len(values) // 2]] if len(values) > 3 else [values[-1]]

    return make(body, x=(F, ("n", 4)))


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(programs())
def test_answers_stay(steps) -> None:
    graph = build(steps)
    text = str(graph)
    result = optimize(graph)
    assert str(graph) == text
    assert [value.name for value in result.outputs] == [value.name for value in graph.outputs]
    feeds = feeds_of(graph, np.random.default_rng(1), n=3)
    quantized = any(kind == "quantize" for kind, _, _ in steps)
    for before, after in zip(run_graph(graph, feeds).values(), run_graph(result, feeds).values()):
        assert before.shape == after.shape and before.dtype == after.dtype
        scale = max(1.0, float(np.abs(before).max()))
        if quantized:  # a rounding that goes the other way is a whole quantum, and products behind it enlarge it
            assert np.median(np.abs(after - before)) <= 0.2 * scale
        else:
            np.testing.assert_allclose(after, before, rtol=1e-3, atol=1e-4 * scale)


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(programs(), st.sets(st.sampled_from([name for name, _ in portable()]), max_size=6))
def test_optimizing_twice_changes_nothing(steps, skip) -> None:
    once = optimize(build(steps), skip=skip)
    assert len(optimize(once, skip=skip).nodes) == len(once.nodes)
