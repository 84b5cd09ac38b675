"""Recognizing and fusing float operators: found, equal before and after, and left alone where it would be wrong."""

import numpy as np
import pytest
from graph_cases import count, kinds, make, same

from headrace.runtime.passes import optimize

F = "float32"
rng = np.random.default_rng(7)


def normal(*shape: int, scale: float = 1.0) -> np.ndarray:
    return (rng.standard_normal(shape) * scale).astype(np.float32)


ROOT2 = float(np.sqrt(2.0))


@pytest.mark.parametrize(
    "body",
    [
        lambda o, x: o.Mul(o.Mul(o.const(0.5), x), o.Add(o.const(1.0), o.Erf(o.Div(x, o.const(ROOT2))))),
        lambda o, x: o.Mul(o.Mul(x, o.Add(o.Erf(o.Div(x, o.const(1.41421))), o.const([1.0]))), o.const(0.5)),
        lambda o, x: o.Mul(x, o.Mul(o.const(0.5), o.Add(o.Erf(o.Mul(x, o.const(1 / ROOT2))), o.const(1.0)))),
        lambda o, x: o.Div(o.Mul(o.Add(o.Erf(o.Div(x, o.const(ROOT2))), o.const(1.0)), x), o.const(2.0)),
    ],
)
def test_gelu_by_erf(body) -> None:
    graph = make(body, x=(F, ("n", 5)))
    result = optimize(graph)
    assert kinds(result) == ["Gelu"] and result.nodes[0].attributes["approximate"] == "none"
    same(graph, result, rtol=1e-4)


@pytest.mark.parametrize(
    "cube",
    [lambda o, x: o.Pow(x, o.const(3.0)), lambda o, x: o.Mul(o.Mul(x, x), x), lambda o, x: o.Mul(x, o.Mul(x, x))],
)
def test_gelu_by_tanh(cube) -> None:
    def body(o, x):
        inner = o.Mul(o.Add(x, o.Mul(o.const(0.044715), cube(o, x))), o.const(0.7978845608))
        return o.Mul(o.Mul(o.const(0.5), x), o.Add(o.Tanh(inner), o.const(1.0)))

    graph = make(body, x=(F, (3, 5)))
    result = optimize(graph)
    assert kinds(result) == ["Gelu"] and result.nodes[0].attributes["approximate"] == "tanh"
    same(graph, result)


def test_not_quite_gelu_stays() -> None:
    graph = make(
        lambda o, x, y: o.Mul(o.Mul(o.const(0.5), y), o.Add(o.const(1.0), o.Erf(o.Div(x, o.const(ROOT2))))),
        x=(F, (5,)),
        y=(F, (5,)),
    )
    assert "Gelu" not in kinds(optimize(graph))
    graph = make(
        lambda o, x: o.Mul(o.Mul(o.const(0.5), x), o.Add(o.const(1.0), o.Erf(o.Div(x, o.const(1.5))))), x=(F, (5,))
    )
    assert "Gelu" not in kinds(optimize(graph))


def relu6(o, x):
    return o.Clip(o.Add(x, o.const(3.0)), o.const(0.0), o.const(6.0))


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (lambda o, x: o.Div(o.Mul(x, relu6(o, x)), o.const(6.0)), "HardSwish"),
        (lambda o, x: o.Mul(x, o.Div(relu6(o, x), o.const(6.0))), "HardSwish"),
        (lambda o, x: o.Mul(o.Mul(relu6(o, x), o.const(1 / 6)), x), "HardSwish"),
        (lambda o, x: o.Mul(x, o.HardSigmoid(x, alpha=1 / 6, beta=0.5)), "HardSwish"),
        (lambda o, x: o.Div(relu6(o, x), o.const(6.0)), "HardSigmoid"),
        (lambda o, x: o.Mul(o.Sigmoid(x), x), "Swish"),
        (lambda o, x: o.Mul(x, o.Sigmoid(o.Mul(x, o.const(1.702)))), "Swish"),
        (lambda o, x: o.Mul(x, o.Tanh(o.Softplus(x))), "Mish"),
    ],
)
def test_activations_spelled_out(body, kind: str) -> None:
    graph = make(body, x=(F, ("n", 40)))
    result = optimize(graph)
    assert kinds(result) == [kind]
    same(graph, result)


def layer_norm(o, x, axes=(-1,), second=None, w=None, b=None):
    mean = o.ReduceMean(x, o.const(np.array(axes, np.int64)), keepdims=1)
    d = o.Sub(x, mean)
    variance = o.ReduceMean(o.Pow(d, o.const(2.0)), o.const(np.array(second or axes, np.int64)), keepdims=1)
    y = o.Div(d, o.Sqrt(o.Add(variance, o.const(1e-5))))
    y = y if w is None else o.Mul(y, o.const(w))
    return y if b is None else o.Add(o.const(b), y)


@pytest.mark.parametrize(
    ("axes", "w", "b"),
    [
        ((-1,), normal(6), normal(6)),
        ((2,), normal(6), None),
        ((1, 2), None, None),
        ((-2, -1), normal(4, 6), normal(1, 4, 6)),
    ],
)
def test_layer_norm(axes, w, b) -> None:
    graph = make(lambda o, x: layer_norm(o, x, axes, None, w, b), x=(F, ("n", 4, 6)))
    result = optimize(graph)
    assert kinds(result) == ["LayerNormalization"]
    same(graph, result)


def rms_norm(o, x, form: str, w=None, dtype: str = F):
    def const(value):
        return o.builder.constant(np.asarray(value, dtype))

    axes = o.const(np.array([-1], np.int64))
    square = o.Mul(x, x) if form == "reciprocal" else o.Pow(x, const(2.0))
    root = o.Sqrt(o.Add(o.ReduceMean(square, axes, keepdims=1), const(1e-6)))
    if form == "divided":
        y = o.Div(x, root)
    else:
        y = o.Mul(x, o.Reciprocal(root) if form == "reciprocal" else o.Div(const(1.0), root))
    return y if w is None else o.Mul(const(w), y)


@pytest.mark.parametrize("form", ["divided", "reciprocal", "by one"])
@pytest.mark.parametrize("w", [None, normal(6)])
def test_rms_norm(form, w) -> None:
    graph = make(lambda o, x: rms_norm(o, x, form, w), x=(F, ("n", 4, 6)))
    result = optimize(graph)
    assert kinds(result) == ["RMSNormalization"]
    same(graph, result, n=3)
    wide = make(lambda o, x: rms_norm(o, x, form, w, "float64"), x=("float64", ("n", 4, 6)))
    assert "RMSNormalization" not in kinds(optimize(wide)), "it has no kernel of float64; its parts do"


def test_layer_norm_over_other_axes_stays() -> None:
    graph = make(lambda o, x: layer_norm(o, x, (1,)), x=(F, (2, 4, 6)))
    assert "LayerNormalization" not in kinds(optimize(graph))
    graph = make(lambda o, x: layer_norm(o, x, (-1,), (-2,)), x=(F, (2, 4, 4)))
    assert "LayerNormalization" not in kinds(optimize(graph))


def test_a_bias_along_another_axis_stays_outside_layer_norm() -> None:
    graph = make(lambda o, x: layer_norm(o, x, (-1,), None, normal(6), normal(6, 1)), x=(F, (2, 6, 6)))
    assert kinds(optimize(graph)) == ["LayerNormalization", "Add"]
    same(graph, optimize(graph))


@pytest.mark.parametrize("keep", [0, 1])
def test_mean_over_space_is_a_pool(keep: int) -> None:
    graph = make(
        lambda o, x: o.ReduceMean(x, o.const(np.array([-1, 2], np.int64)), keepdims=keep), x=(F, ("n", 3, 4, 5))
    )
    result = optimize(graph)
    assert kinds(result) == ["GlobalAveragePool"] + ["Flatten"] * (1 - keep)
    same(graph, result)
    graph = make(lambda o, x: o.ReduceMean(x, o.const(np.array([1, 2], np.int64)), keepdims=keep), x=(F, (2, 3, 4, 5)))
    assert kinds(optimize(graph)) == ["ReduceMean"]


# ---- weights


def bn(o, x, channels: int):
    return o.BatchNormalization(
        x,
        o.const(normal(channels)),
        o.const(normal(channels)),
        o.const(normal(channels)),
        o.const(np.abs(normal(channels)) + 0.5),
    )


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("group", [1, 2])
def test_batch_norm_goes_into_conv(bias: bool, group: int) -> None:
    def body(o, x):
        extra = [o.const(normal(6))] if bias else []
        return bn(o, o.Conv(x, o.const(normal(6, 4 // group, 3, 3)), *extra, group=group, pads=(1, 1, 1, 1)), 6)

    graph = make(body, x=(F, ("n", 4, 5, 5)))
    result = optimize(graph)
    assert kinds(result) == ["Conv"]
    same(graph, result, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("group", [1, 2])
def test_batch_norm_goes_into_conv_transpose(group: int) -> None:
    graph = make(
        lambda o, x: bn(o, o.ConvTranspose(x, o.const(normal(4, 3, 2, 2)), group=group, strides=(2, 2)), 3 * group),
        x=(F, (2, 4, 5, 5)),
    )
    result = optimize(graph)
    assert kinds(result) == ["ConvTranspose"]
    same(graph, result, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("transposed", [0, 1])
def test_batch_norm_goes_into_gemm(transposed: int) -> None:
    shape = (6, 4) if transposed else (4, 6)
    graph = make(
        lambda o, x: bn(
            o, o.Gemm(x, o.const(normal(*shape)), o.const(normal(6)), alpha=0.5, beta=2.0, transB=transposed), 6
        ),
        x=(F, ("n", 4)),
    )
    result = optimize(graph, skip=["fuse_matmul"])
    assert kinds(result) == ["Gemm"]
    same(graph, result, rtol=1e-4, atol=1e-4)


def test_batch_norm_alone_is_a_scale_and_a_shift() -> None:
    graph = make(lambda o, x: bn(o, o.Relu(x), 4), x=(F, ("n", 4, 5)))
    result = optimize(graph)
    assert kinds(result) == ["Relu", "Mul", "Add"]
    same(graph, result, rtol=1e-4, atol=1e-4)


def test_batch_norm_behind_a_value_that_others_read_is_not_folded() -> None:
    graph = make(lambda o, x: [bn(o, c := o.Conv(x, o.const(normal(3, 4, 1, 1))), 3), c], x=(F, (2, 4, 5, 5)))
    result = optimize(graph)
    assert kinds(result) == ["Conv", "Mul", "Add"]
    same(graph, result, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("constant", [np.float32(0.5), normal(6, 1, 1), normal(1, 6, 1, 1)])
@pytest.mark.parametrize("operator", ["Mul", "Add", "Sub", "Div"])
def test_constants_after_conv_go_into_it(operator: str, constant: np.ndarray) -> None:
    graph = make(
        lambda o, x: getattr(o, operator)(
            o.Conv(x, o.const(normal(6, 4, 3, 3)), o.const(normal(6))), o.const(constant)
        ),
        x=(F, ("n", 4, 5, 5)),
    )
    result = optimize(graph)
    assert kinds(result) == ["Conv"]
    same(graph, result, rtol=1e-4, atol=1e-4)


def test_constants_that_differ_over_space_stay() -> None:
    graph = make(lambda o, x: o.Mul(o.Conv(x, o.const(normal(6, 4, 3, 3))), o.const(normal(3))), x=(F, (2, 4, 5, 5)))
    assert kinds(optimize(graph)) == ["Conv", "Mul"]


def test_scales_before_conv_go_into_it_and_shifts_where_nothing_is_padded() -> None:
    def body(pads):
        return lambda o, x: o.Conv(
            o.Add(o.Mul(o.Tanh(x), o.const(normal(4, 1, 1))), o.const(0.3)),
            o.const(normal(6, 2, 3, 3)),
            group=2,
            pads=pads,
        )

    graph = make(body((0, 0, 0, 0)), x=(F, (2, 4, 5, 5)))
    assert kinds(optimize(graph)) == ["Tanh", "Conv"]
    same(graph, optimize(graph), rtol=1e-4, atol=1e-4)
    graph = make(body((1, 1, 1, 1)), x=(F, (2, 4, 5, 5)))
    assert kinds(optimize(graph)) == ["Tanh", "Add", "Conv"]
    same(graph, optimize(graph), rtol=1e-4, atol=1e-4)
    graph = make(
        lambda o, x: o.Conv(o.Add(o.Tanh(x), o.const(0.3)), o.const(normal(6, 4, 3, 3)), pads=(1, 1, 1, 1)),
        x=(F, (2, 4, 5, 5)),
    )
    assert kinds(optimize(graph)) == ["Tanh", "Add", "Conv"]


def test_scales_beside_matmul_go_into_its_weights() -> None:
    graph = make(
        lambda o, x: o.Div(o.MatMul(o.Mul(o.Tanh(x), o.const(normal(8))), o.const(normal(8, 5))), o.const(3.0)),
        x=(F, ("n", 2, 8)),
    )
    result = optimize(graph)
    assert kinds(result) == ["Tanh", "MatMul"]
    same(graph, result, rtol=1e-4, atol=1e-4)


# ---- fused operators

ACTIVATIONS = {
    "Relu": lambda o, x: o.Relu(x),
    "Clip": lambda o, x: o.Clip(x, o.const(-0.5), o.const(0.25)),
    "HardSwish": lambda o, x: o.Div(o.Mul(x, relu6(o, x)), o.const(6.0)),
    "Silu": lambda o, x: o.Mul(x, o.Sigmoid(x)),
    "Sigmoid": lambda o, x: o.Sigmoid(x),
    "Tanh": lambda o, x: o.Tanh(x),
    "LeakyRelu": lambda o, x: o.LeakyRelu(x, alpha=0.2),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("residual", [False, True])
def test_conv_takes_what_follows(name: str, residual: bool) -> None:
    def body(o, x):
        y = o.Conv(x, o.const(normal(4, 4, 3, 3)), o.const(normal(4)), pads=(1, 1, 1, 1))
        return ACTIVATIONS[name](o, o.Add(o.Exp(x), y) if residual else y)

    graph = make(body, x=(F, ("n", 4, 5, 5)))
    result = optimize(graph)
    assert count(result)["headrace.FusedConv"] == 1 and kinds(result) == ["Exp"] * residual + ["headrace.FusedConv"], (
        str(result)
    )
    assert result.nodes[-1].attributes["activation"] == name
    same(graph, result, rtol=1e-4, atol=1e-4)


def test_conv_does_not_take_what_broadcasts_or_is_read_twice() -> None:
    graph = make(
        lambda o, x, r: o.Add(o.Conv(x, o.const(normal(4, 4, 1, 1))), r), x=(F, ("n", 4, 5, 5)), r=(F, ("n", 4, 1, 1))
    )
    assert kinds(optimize(graph)) == ["Conv", "Add"]
    graph = make(lambda o, x: [o.Relu(c := o.Conv(x, o.const(normal(4, 4, 1, 1)))), o.Tanh(c)], x=(F, ("n", 4, 5, 5)))
    assert kinds(optimize(graph)) == ["Conv", "Relu", "Tanh"]
    graph = make(
        lambda o, x: o.Clip(o.Conv(x, o.const(normal(4, 4, 1, 1))), o.ReduceMin(x, keepdims=0)), x=(F, (2, 4, 5, 5))
    )
    assert kinds(optimize(graph)) == ["Conv", "ReduceMin", "Clip"] or kinds(optimize(graph)) == [
        "ReduceMin",
        "Conv",
        "Clip",
    ]


def test_a_conv_added_to_itself() -> None:
    graph = make(lambda o, x: o.Add(c := o.Conv(x, o.const(normal(4, 4, 1, 1))), c), x=(F, (2, 4, 5, 5)))
    same(graph, optimize(graph))


def test_two_convs_added() -> None:
    w = lambda o: o.const(normal(4, 4, 1, 1))  # noqa: E731
    graph = make(lambda o, x: o.Relu(o.Add(o.Conv(x, w(o)), o.Conv(x, w(o)))), x=(F, (2, 4, 5, 5)))
    result = optimize(graph)
    assert sorted(kinds(result)) == ["Conv", "headrace.FusedConv"]
    same(graph, result, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("bias", [None, normal(6), normal(1, 6), normal(1)])
@pytest.mark.parametrize("transposed", [0, 1])
def test_gemm_becomes_a_fused_product(bias, transposed: int) -> None:
    def body(o, x):
        extra = [] if bias is None else [o.const(bias)]
        return o.Relu(
            o.Gemm(
                x, o.const(normal(6, 4) if transposed else normal(4, 6)), *extra, transB=transposed, alpha=0.5, beta=2.0
            )
        )

    graph = make(body, x=(F, ("n", 4)))
    result = optimize(graph)
    assert kinds(result) == ["headrace.FusedMatMul"]
    same(graph, result, rtol=1e-4, atol=1e-4)


def test_gemm_with_a_column_of_biases_stays() -> None:
    graph = make(lambda o, x: o.Gemm(x, o.const(normal(4, 6)), o.const(normal(3, 1))), x=(F, (3, 4)))
    assert kinds(optimize(graph)) == ["Gemm"]


def test_matmul_takes_bias_residual_and_activation() -> None:
    def body(o, x):
        return o.Relu(o.Add(o.Add(o.const(normal(4)), o.MatMul(x, o.const(normal(4, 4)))), o.Tanh(x)))

    graph = make(body, x=(F, ("n", 3, 4)))
    result = optimize(graph)
    assert kinds(result) == ["Tanh", "headrace.FusedMatMul"]
    same(graph, result, rtol=1e-4, atol=1e-4)


def test_attention_scores_take_the_transpose_and_the_scale() -> None:
    graph = make(
        lambda o, q, k: o.Div(o.MatMul(q, o.Transpose(k, perm=(0, 1, 3, 2))), o.const(8.0)),
        q=(F, ("n", 2, 3, 4)),
        k=(F, ("n", 2, 5, 4)),
    )
    result = optimize(graph)
    assert kinds(result) == ["headrace.FusedMatMul"] and result.nodes[0].attributes == {"transB": 1, "alpha": 0.125}
    same(graph, result)


def test_attention_operands_may_be_scaled_before() -> None:
    graph = make(
        lambda o, q, k: [o.MatMul(o.Mul(q, o.const(0.5)), s := o.Mul(o.const(0.25), k)), s],
        q=(F, ("n", 3, 4)),
        k=(F, ("n", 4, 5)),
    )
    result = optimize(graph)
    assert count(result) == {"Mul": 1, "headrace.FusedMatMul": 1}
    same(graph, result)


def test_a_transpose_of_other_axes_stays() -> None:
    graph = make(
        lambda o, q, k: o.MatMul(q, o.Transpose(k, perm=(0, 2, 3, 1))), q=(F, (2, 3, 3, 4)), k=(F, (2, 5, 3, 4))
    )
    assert kinds(optimize(graph)) == ["Transpose", "MatMul"]
    graph = make(lambda o, q, k: [o.MatMul(q, t := o.Transpose(k, perm=(1, 0))), t], q=(F, (3, 4)), k=(F, (5, 4)))
    same(graph, optimize(graph))
