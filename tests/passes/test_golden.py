"""The text of graphs after all passes: what a reader of a package sees."""

import numpy as np
import pytest
from graph_cases import kinds, make, same

from headrace.runtime.graph import Block, Graph, Node, Value
from headrace.runtime.passes import optimize
from headrace.runtime.types import TensorType

F = "float32"


def ramp(*shape: int) -> np.ndarray:
    return (np.arange(np.prod(shape), dtype=np.float32) / 16).reshape(shape)


def test_convolution_batch_norm_residual_relu() -> None:
    def body(o, x):
        stats = [o.const(v) for v in (np.ones(2), np.zeros(2), np.zeros(2), np.ones(2) - 1e-5)]
        return o.Relu(o.Add(o.BatchNormalization(o.Conv(x, o.const(ramp(2, 2, 1, 1))), *stats), x))

    assert str(optimize(make(body, x=(F, ("n", 2, 3, 3))))) == (
        "graph main(%x: float32[n, 2, 3, 3]) {\n"
        "  const %c_5_2: float32[2, 2, 1, 1] = [[[[0. ]], [[0.0625]]], [[[0.125 ]], [[0.1875]]]]\n"
        "  %relu: float32[n, 2, 3, 3] = headrace.FusedConv(%x, %c_5_2, _, %x) {activation='Relu'}\n"
        "  return %relu\n"
        "}\n"
    )


def test_attention_scores() -> None:
    def body(o, q, k):
        return o.Softmax(o.Div(o.MatMul(q, o.Transpose(k, perm=(0, 2, 1))), o.const(4.0)))

    assert str(optimize(make(body, q=(F, ("n", 3, 16)), k=(F, ("n", 5, 16))))) == (
        "graph main(%q: float32[n, 3, 16], %k: float32[n, 5, 16]) {\n"
        "  %div: float32[n, 3, 5] = headrace.FusedMatMul(%q, %k) {alpha=0.25, transB=1}\n"
        "  %softmax: float32[n, 3, 5] = Softmax(%div)\n"
        "  return %softmax\n"
        "}\n"
    )


def test_quantized_product() -> None:
    def body(o, x):
        scale, zero = o.const(np.float32(0.5)), o.const(np.array(3, np.uint8))
        x = o.DequantizeLinear(o.QuantizeLinear(x, scale, zero), scale, zero)
        w = o.DequantizeLinear(
            o.const(np.array([[1], [2]], np.int8)), o.const(np.float32(0.25)), o.const(np.array(0, np.int8))
        )
        y = o.Relu(o.MatMul(x, w))
        return o.DequantizeLinear(o.QuantizeLinear(y, o.const(np.float32(2.0)), zero), o.const(np.float32(2.0)), zero)

    assert str(optimize(make(body, x=(F, ("n", 2))))) == (
        "graph main(%x: float32[n, 2]) {\n"
        "  const %c: float32[] = 0.5\n"
        "  const %c_2: uint8[] = 3\n"
        "  const %c_3: int8[2, 1] = [[1], [2]]\n"
        "  const %c_4: float32[] = 0.25\n"
        "  const %c_5: int8[] = 0\n"
        "  const %c_6: float32[] = 2.\n"
        "  %quantizelinear: uint8[n, 2] = QuantizeLinear(%x, %c, %c_2)\n"
        "  %quantizelinear_2: uint8[n, 1] = headrace.QGemm(%quantizelinear, %c, %c_2, %c_3, %c_4, %c_5, %c_6, %c_2) {activation='Relu'}\n"
        "  %dequantizelinear_3: float32[n, 1] = DequantizeLinear(%quantizelinear_2, %c_6, %c_2)\n"
        "  return %dequantizelinear_3\n"
        "}\n"
    )


def conditional(condition: np.ndarray, answered: bool) -> Graph:
    """if condition: relu(x) else x + 1; the else branch answers a value made inside, the then branch as well."""
    x = Value("x", TensorType(F, (2,)))
    graph = Graph(Block([x], [], []))
    a, b, result = (Value(name, TensorType(F, (2,))) for name in ("a", "b", "result"))
    one = graph.constant("one", np.ones(1, np.float32))
    blocks = {
        "then_branch": Block([], [Node("Relu", [x], [a])], [a]),
        "else_branch": Block([], [Node("Add", [x, one], [b])], [b]),
    }
    graph.nodes.append(Node("If", [graph.constant("condition", condition)], [result], blocks))
    last = Value("last", TensorType(F, (2,)))
    graph.nodes.append(Node("Neg", [result], [last]))
    graph.block.outputs = [result] if answered else [last]
    return graph


@pytest.mark.parametrize("answered", [True, False])
@pytest.mark.parametrize(("condition", "kind"), [(True, "Relu"), (False, "Add")])
def test_a_known_condition_leaves_one_branch(condition: bool, kind: str, answered: bool) -> None:
    from headrace.runtime.passes.constant_if import run

    after = run(conditional(np.array(condition), answered))
    assert kinds(after) == [kind] + ["Neg"] * (not answered)
    assert after.outputs[0].name == ("result" if answered else "last")
    same(make_equal(condition, answered), after)


def make_equal(condition: bool, answered: bool) -> Graph:
    def body(o, x):
        y = o.Relu(x) if condition else o.Add(x, o.const([1.0]))
        return y if answered else o.Neg(y)

    graph = make(body, x=(F, (2,)))
    graph.outputs[0].name = "result" if answered else "last"
    return graph
