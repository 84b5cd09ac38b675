"""Q/DQ islands: the integer form differs from the float evaluation of the island by at most one quantum."""

import numpy as np
import pytest
from graph_cases import Ops, count, feeds_of, kinds, make, same

from headrace.runtime.executor import run_graph
from headrace.runtime.graph import Graph, Value
from headrace.runtime.passes import optimize

F = "float32"
rng = np.random.default_rng(11)


def integers(*shape: int, dtype: str = "int8") -> np.ndarray:
    bounds = np.iinfo(dtype)
    return rng.integers(max(bounds.min, -127), bounds.max + 1, shape).astype(dtype)


def normal(*shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float32)


def q(o: Ops, x: Value, scale: float, zero: int, dtype: str = "uint8") -> Value:
    return o.QuantizeLinear(x, o.const(np.float32(scale)), o.const(np.array(zero, dtype)))


def dq(o: Ops, x: Value, scale: float, zero: int, dtype: str = "uint8") -> Value:
    return o.DequantizeLinear(x, o.const(np.float32(scale)), o.const(np.array(zero, dtype)))


def qdq(o: Ops, x: Value, scale: float, zero: int, dtype: str = "uint8") -> Value:
    return dq(o, q(o, x, scale, zero, dtype), scale, zero, dtype)


def weights(o: Ops, array: np.ndarray, axis: int, per_channel: bool = True) -> Value:
    channels = array.shape[axis]
    scale = np.linspace(0.002, 0.01, channels, dtype=np.float32) if per_channel else np.float32(0.004)
    zero = np.zeros(channels if per_channel else (), np.int8)
    return o.DequantizeLinear(o.const(array), o.const(scale), o.const(zero), axis=axis)


def int32_bias(o: Ops, channels: int, x_scale: float, per_channel: bool = True) -> Value:
    w_scale = (
        np.linspace(0.002, 0.01, channels, dtype=np.float32) if per_channel else np.full(channels, 0.004, np.float32)
    )
    return o.DequantizeLinear(
        o.const(rng.integers(-2000, 2000, channels).astype(np.int32)), o.const(np.float32(x_scale) * w_scale), axis=0
    )


def within_one_quantum(before: Graph, after: Graph, quantum: float, **sizes: int) -> float:
    """Run both; answers the share of values that differ at all."""
    feeds = feeds_of(before, np.random.default_rng(5), **sizes)
    left, right = run_graph(before, feeds), run_graph(after, feeds)
    differing = total = 0
    for name in left:
        steps = np.abs(left[name].astype(np.float64) - right[name]) / quantum
        assert steps.max() < 1.01, f"{name} differs by {steps.max()} quanta"
        differing, total = differing + int((steps > 0.5).sum()), total + steps.size
    return differing / total


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("bias", ["none", "int32", "float"])
@pytest.mark.parametrize("group", [1, 2, 4])
def test_conv(per_channel: bool, bias: str, group: int) -> None:
    def body(o, x):
        w = weights(o, integers(4, 4 // group, 3, 3), 0, per_channel)
        extra = {
            "none": [],
            "int32": [int32_bias(o, 4, 0.02, per_channel)] if bias == "int32" else [],
            "float": [o.const(normal(4))],
        }[bias]
        return qdq(
            o, o.Conv(qdq(o, x, 0.02, 120), w, *extra, pads=(1, 1, 1, 1), group=group, strides=(2, 1)), 0.05, 100
        )

    graph = make(body, x=(F, ("n", 4, 7, 6)))
    result = optimize(graph)
    assert kinds(result) == ["QuantizeLinear", "headrace.QConv", "DequantizeLinear"], str(result)
    assert within_one_quantum(graph, result, 0.05) < 0.01


@pytest.mark.parametrize("activation", ["Relu", "Clip"])
@pytest.mark.parametrize("zero", [0, 30])
def test_conv_residual_and_activation(activation: str, zero: int) -> None:
    def body(o, x, r):
        y = o.Conv(qdq(o, x, 0.02, 120), weights(o, integers(4, 4, 1, 1), 0), o.const(normal(4)))
        y = o.Add(y, qdq(o, r, 0.03, 90))
        y = o.Relu(y) if activation == "Relu" else o.Clip(y, o.const(-0.2), o.const(1.5))
        return qdq(o, y, 0.02, zero)

    graph = make(body, x=(F, ("n", 4, 5, 5)), r=(F, ("n", 4, 5, 5)))
    result = optimize(graph)
    assert count(result) == {"QuantizeLinear": 2, "headrace.QConv": 1, "DequantizeLinear": 1}, str(result)
    assert within_one_quantum(graph, result, 0.02) < 0.01


def test_a_relu_that_saturation_does_is_gone() -> None:
    def body(o, x):
        return qdq(o, o.Relu(o.Conv(qdq(o, x, 0.02, 120), weights(o, integers(4, 4, 1, 1), 0))), 0.05, 0)

    result = optimize(make(body, x=(F, (2, 4, 5, 5))))
    (conv,) = (node for node in result.nodes if node.kind == "headrace.QConv")
    assert not conv.attributes.get("activation")


@pytest.mark.parametrize(
    "low_zero", [(0.0, 6.0, 0, True), (0.0, 3.0, 0, False), (-1.0, 6.0, 0, True), (0.0, 6.0, 10, False)]
)
def test_clip_before_quantize(low_zero) -> None:
    low, high, zero, gone = low_zero
    graph = make(lambda o, x: qdq(o, o.Clip(x, o.const(low), o.const(high)), 6 / 255, zero), x=(F, (200,)))
    result = optimize(graph)
    assert ("Clip" not in kinds(result)) == gone
    same(graph, result, rtol=0, atol=0, feeds={"x": np.linspace(-10, 10, 200, dtype=np.float32)})


@pytest.mark.parametrize("transposed", [0, 1])
@pytest.mark.parametrize("closed", [True, False])
@pytest.mark.parametrize("per_channel", [True, False])
def test_gemm(transposed: int, closed: bool, per_channel: bool) -> None:
    def body(o, x):
        w = weights(o, integers(5, 9) if transposed else integers(9, 5), 0 if transposed else 1, per_channel)
        y = o.Relu(o.Gemm(qdq(o, x, 0.02, 120), w, int32_bias(o, 5, 0.02, per_channel), transB=transposed))
        return qdq(o, y, 0.04, 0) if closed else y

    graph = make(body, x=(F, ("n", 9)))
    result = optimize(graph)
    assert kinds(result) == ["QuantizeLinear", "headrace.QGemm"] + ["DequantizeLinear"] * closed, str(result)
    if closed:
        assert within_one_quantum(graph, result, 0.04) < 0.05
    else:
        same(graph, result, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rank", [2, 3])
def test_matmul_with_a_bias(rank: int) -> None:
    def body(o, x):
        return qdq(
            o, o.Add(o.MatMul(qdq(o, x, 0.02, 120), weights(o, integers(9, 5), 1)), o.const(normal(5))), 0.04, 128
        )

    graph = make(body, x=(F, ("n", 3, 9)[3 - rank :] if rank == 2 else ("n", 3, 9)))
    result = optimize(graph)
    assert kinds(result) == ["QuantizeLinear", "headrace.QGemm", "DequantizeLinear"]
    assert within_one_quantum(graph, result, 0.04) < 0.05


def test_add() -> None:
    graph = make(
        lambda o, x, y: qdq(o, o.Relu(o.Add(qdq(o, x, 0.02, 120), qdq(o, y, 0.03, 100))), 0.03, 10),
        x=(F, ("n", 3)),
        y=(F, ("n", 3)),
    )
    result = optimize(graph)
    assert count(result) == {"QuantizeLinear": 2, "headrace.QAdd": 1, "DequantizeLinear": 1}
    within_one_quantum(graph, result, 0.03, n=500)
    graph = make(
        lambda o, x, y: qdq(o, o.Add(qdq(o, x, 0.02, 120), qdq(o, y, 0.03, 100)), 0.03, 10),
        x=(F, ("n", 3)),
        y=(F, (1, 3)),
    )
    assert "headrace.QAdd" not in kinds(optimize(graph))


@pytest.mark.parametrize("case", ["wrong axis", "weights vary", "no quantizer", "read twice", "16 bit", "float x"])
def test_islands_that_stay_float(case: str) -> None:
    def body(o, x, w):
        axis = 1 if case == "wrong axis" else 0
        kernel = w if case == "weights vary" else weights(o, integers(4, 4, 1, 1), axis)
        dtype, zero = ("uint16", 30000) if case == "16 bit" else ("uint8", 120)
        y = o.Conv(x if case == "float x" else qdq(o, x, 0.02, zero, dtype), kernel)
        if case == "no quantizer":
            return y
        return [qdq(o, y, 0.05, 100), y] if case == "read twice" else qdq(o, y, 0.05, 100)

    graph = make(body, x=(F, (2, 4, 5, 5)), w=(F, (4, 4, 1, 1)))
    result = optimize(graph)
    assert "headrace.QConv" not in kinds(result)
    same(graph, result, rtol=1e-4, atol=0.051)


# ---- integers stay integers


@pytest.mark.parametrize(
    ("move", "kind"),
    [
        (lambda o, x: o.MaxPool(x, kernel_shape=(2, 2), pads=(1, 1, 1, 1)), "MaxPool"),
        (lambda o, x: o.Reshape(x, o.const(np.array([0, -1], np.int64))), "Reshape"),
        (lambda o, x: o.Transpose(x, perm=(0, 2, 3, 1)), "Transpose"),
        (lambda o, x: o.Flatten(x), "Flatten"),
        (
            lambda o, x: o.Slice(
                x, o.const(np.array([1], np.int64)), o.const(np.array([3], np.int64)), o.const(np.array([2], np.int64))
            ),
            "Slice",
        ),
        (
            lambda o, x: o.Transpose(
                o.Squeeze(o.Unsqueeze(x, o.const(np.array([1], np.int64))), o.const(np.array([1], np.int64))),
                perm=(1, 0, 2, 3),
            ),
            "Transpose",
        ),
    ],
)
def test_what_moves_elements_moves_integers(move, kind: str) -> None:
    graph = make(lambda o, x: qdq(o, move(o, qdq(o, x, 0.02, 120)), 0.02, 120), x=(F, ("n", 3, 4, 5)))
    result = optimize(graph)
    assert kinds(result) == ["QuantizeLinear", kind, "DequantizeLinear"], str(result)
    same(graph, result, rtol=0, atol=0)


def test_a_product_behind_a_move_reads_integers() -> None:
    def body(o, x):
        pooled = o.MaxPool(qdq(o, x, 0.02, 120), kernel_shape=(2, 2))
        a, b = (o.Conv(pooled, weights(o, integers(4, 3, 1, 1), 0)) for _ in range(2))
        return o.Add(qdq(o, a, 0.05, 128), qdq(o, o.Relu(b), 0.04, 3))

    graph = make(body, x=(F, ("n", 3, 5, 6)))
    result = optimize(graph)
    assert count(result) == {"QuantizeLinear": 1, "MaxPool": 1, "headrace.QConv": 2, "DequantizeLinear": 2, "Add": 1}
    within_one_quantum(graph, result, 0.05)


def test_integers_are_not_moved_to_where_nothing_wants_them() -> None:
    """Heads that are split for an attention in float32: a Dequantize between Reshape and Transpose would hide them from its pass."""
    heads = np.array([0, 2, 2, 3], np.int64)
    graph = make(
        lambda o, x: o.Relu(o.Transpose(o.Reshape(qdq(o, x, 0.02, 120), o.const(heads)), perm=(0, 2, 1, 3))),
        x=(F, ("n", 2, 6)),
    )
    assert kinds(optimize(graph)) == ["QuantizeLinear", "DequantizeLinear", "Reshape", "Transpose", "Relu"]


def test_another_scale_behind_a_move_is_requantized() -> None:
    graph = make(lambda o, x: qdq(o, o.Flatten(qdq(o, x, 0.02, 120)), 0.05, 100), x=(F, ("n", 3, 4)))
    assert count(optimize(graph))["QuantizeLinear"] == 2
    same(graph, optimize(graph), rtol=0, atol=0)


@pytest.mark.parametrize("scales", [(0.02, 0.02), (0.02, 0.03)])
def test_concat(scales) -> None:
    graph = make(
        lambda o, x, y: qdq(o, o.Concat(qdq(o, x, scales[0], 120), qdq(o, y, scales[1], 120), axis=1), 0.02, 120),
        x=(F, ("n", 3)),
        y=(F, ("n", 4)),
    )
    result = optimize(graph)
    (concat,) = (node for node in result.nodes if node.kind == "Concat")
    assert concat.outputs[0].type.dtype == "uint8"
    same(graph, result, rtol=0, atol=0)


def test_quantized_tables_are_gathered_as_integers() -> None:
    graph = make(
        lambda o, i: (
            dq(o, o.const(integers(9, 4, dtype="uint8")), 0.1, 127)
            and o.Gather(dq(o, o.const(integers(9, 4, dtype="uint8")), 0.1, 127), i)
        ),
        i=("int64", (3,)),
    )
    result = optimize(graph)
    assert kinds(result) == ["Gather", "DequantizeLinear"]
    same(graph, result, rtol=0, atol=0)


def test_transposed_weights_stay_integers() -> None:
    def body(o, x):
        return o.MatMul(qdq(o, x, 0.02, 120), o.Transpose(weights(o, integers(5, 9), 0), perm=(1, 0)))

    graph = make(body, x=(F, ("n", 9)))
    result = optimize(graph)
    assert kinds(result) == ["QuantizeLinear", "headrace.QGemm"]
    same(graph, result, rtol=1e-4, atol=1e-4)


def test_a_network_is_one_island() -> None:
    def body(o, x):
        a = qdq(o, o.Relu(o.Conv(qdq(o, x, 0.02, 120), weights(o, integers(8, 3, 3, 3), 0))), 0.05, 0)
        p = qdq(o, o.MaxPool(a, kernel_shape=(2, 2), strides=(2, 2)), 0.05, 0)
        b = qdq(o, o.Conv(p, weights(o, integers(8, 8, 1, 1), 0)), 0.08, 128)
        s = qdq(o, o.Add(b, p), 0.08, 100)
        return o.Gemm(o.Flatten(o.GlobalAveragePool(s)), weights(o, integers(5, 8), 0), transB=1)

    graph = make(body, x=(F, ("n", 3, 10, 10)))
    result = optimize(graph)
    found = count(result)
    assert found["headrace.QConv"] == 2 and found["headrace.QAdd"] == 1 and found["MaxPool"] == 1
    assert found["QuantizeLinear"] == 1 and found["DequantizeLinear"] == 1
    same(graph, result, rtol=1e-3, atol=0.2)


# ---- imported forms


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("zero", [0, 3])
@pytest.mark.parametrize("activation", ["", "Gelu", "Tanh"])
def test_dynamic_products_keep_their_integers(bias: bool, zero: int, activation: str) -> None:
    def body(o, x):
        quantized, scale, point = o.builder.node("DynamicQuantizeLinear", [x], outputs=3)
        w, w_scale = o.const(integers(6, 5)), o.const(np.linspace(0.01, 0.02, 5, dtype=np.float32))
        product = o.Cast(o.MatMulInteger(quantized, w, point, o.const(np.full(5, zero, np.int8))), to=1)
        y = o.Mul(product, o.Mul(scale, w_scale))
        y = o.Add(o.const(normal(5)), y) if bias else y
        return getattr(o, activation)(y) if activation else y

    graph = make(body, x=(F, ("n", 3, 6)))
    result = optimize(graph)
    assert kinds(result) == ["DynamicQuantizeLinear", "headrace.MatMulIntegerToFloat"]
    same(graph, result, rtol=0, atol=0)


def test_qlinear_operators() -> None:
    def body(o, x):
        u8 = lambda v: o.const(np.array(v, np.uint8))  # noqa: E731
        f = lambda v: o.const(np.float32(v))  # noqa: E731
        x = q(o, x, 0.02, 120)
        y = o.QLinearConv(
            x, f(0.02), u8(120), o.const(integers(4, 4, 1, 1)), f(0.01), o.const(np.array(0, np.int8)), f(0.05), u8(100)
        )
        y = o.Reshape(y, o.const(np.array([0, -1], np.int64)))
        return o.QLinearMatMul(
            y, f(0.05), u8(100), o.const(integers(36, 5)), f(0.01), o.const(np.array(0, np.int8)), f(0.3), u8(128)
        )

    graph = make(body, x=(F, ("n", 4, 3, 3)))
    result = optimize(graph)
    assert kinds(result) == ["QuantizeLinear", "headrace.QConv", "Reshape", "headrace.QGemm"]
    same(graph, result, rtol=0, atol=1)


def test_weights_outside_islands_are_dequantized_once() -> None:
    graph = make(lambda o, x: o.Conv(x, weights(o, integers(4, 4, 1, 1), 0)), x=(F, (2, 4, 5, 5)))
    result = optimize(graph)
    assert kinds(result) == ["Conv"]
    same(graph, result)
