"""The channels-last pass: the same answers as without it, and transposes only where the layout changes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from headrace.runtime.builder import Builder
from headrace.runtime.executor import run_graph
from headrace.runtime.graph import Block, Graph, Value
from headrace.runtime.infer import infer_graph
from headrace.runtime.lower import capabilities, lower
from headrace.runtime.passes import machine
from headrace.runtime.shapes import symbol
from headrace.runtime.types import TensorType

RNG = np.random.default_rng(5)


class Net:
    """A graph with one input x [N, 3, 12, 10]; methods add nodes."""

    def __init__(self, *, dynamic: bool = False, channels: int = 3) -> None:
        self.graph = Graph(Block([], [], []))
        self.builder = Builder(self.graph)
        sizes = (symbol("n"), channels, symbol("h"), symbol("w")) if dynamic else (2, channels, 12, 10)
        self.x = self.builder.input("x", TensorType("float32", sizes))

    def __call__(
        self, op: str, *inputs: Value | np.ndarray | None, domain: str = "", outputs: int = 1, **attributes: object
    ) -> Value:
        values = [self.builder.constant(v) if isinstance(v, np.ndarray) else v for v in inputs]
        return self.builder.node(op, values, attributes, domain=domain, outputs=outputs)[0]

    def conv(self, x: Value, features: int, kernel: int = 3, **attributes: object) -> Value:
        channels = x.type.shape[1] // attributes.get("group", 1)  # type: ignore[union-attr, index, operator]
        weight = RNG.standard_normal((features, channels, kernel, kernel)).astype(np.float32) * 0.3
        return self(
            "Conv", x, weight, RNG.standard_normal(features).astype(np.float32), pads=(kernel // 2,) * 4, **attributes
        )

    def check(self, *outputs: Value, transposes: int | None = None) -> None:
        self.graph.outputs.extend(outputs)
        infer_graph(self.graph)
        before = str(self.graph)
        passed = machine.run(self.graph, capabilities())
        assert str(self.graph) == before, "a pass does not change what it is given"
        if transposes is not None:
            assert sum(node.operator == "Transpose" for node in passed.nodes) == transposes, str(passed)
        feeds = {"x": RNG.standard_normal((2, self.x.type.shape[1], 12, 10)).astype(np.float32)}  # type: ignore[union-attr, index]
        want = run_graph(self.graph, feeds)
        for made in (lower(self.graph, 1), lower(self.graph, 2), lower(self.graph, 1, machine=False)):
            got = made.run(feeds)
            assert list(got) == list(want)
            for name, array in want.items():
                assert got[name].shape == array.shape and got[name].dtype == array.dtype
                np.testing.assert_allclose(got[name].astype(float), array.astype(float), rtol=1e-4, atol=1e-4)


def scalar(value: float) -> np.ndarray:
    return np.array(value, np.float32)


def channel(n: int) -> np.ndarray:
    return RNG.standard_normal((n, 1, 1)).astype(np.float32)


def residual(n: Net) -> tuple[Value, int]:
    a = n.conv(n.x, 8)
    return n.conv(n("Relu", n("Add", n.conv(n("Relu", a), 8), a)), 4), 2


def squeeze_excite(n: Net) -> tuple[Value, int]:
    a = n("HardSwish", n.conv(n.x, 16))
    gate = n("HardSigmoid", n.conv(n("Relu", n.conv(n("GlobalAveragePool", a), 4, 1)), 16, 1))
    return n.conv(n("Mul", a, gate), 6, 1), 2


def constants_a_channel(n: Net) -> tuple[Value, int]:
    a = n("Mul", n.conv(n.x, 7), channel(7))
    a = n("Add", a, channel(7)[None])
    a = n("Clip", n("Add", a, scalar(3)), scalar(0), scalar(6))
    return n("PRelu", a, channel(7)), 2


def concat_split(n: Net) -> tuple[Value, int]:
    a, b = n.conv(n.x, 6), n.conv(n.x, 10, 1)
    joined = n("Concat", a, b, axis=1)
    part = n("Slice", joined, np.array([2]), np.array([12]), np.array([1]))
    return n.conv(part, 5), 2


def pools(n: Net) -> tuple[Value, int]:
    a = n("MaxPool", n.conv(n.x, 8), kernel_shape=(3, 3), strides=(2, 2), pads=(1, 1, 1, 1))
    return n("AveragePool", a, kernel_shape=(2, 2), count_include_pad=1, pads=(1, 0, 0, 1)), 2


def resize(n: Net) -> tuple[Value, int]:
    a = n("Resize", n.conv(n.x, 8), None, np.array([1, 1, 2, 2], np.float32), mode="nearest")
    b = n("Resize", n.conv(a, 4), None, np.array([1, 1, 0.5, 1.5], np.float32), mode="linear")
    return n("Pad", b, np.array([0, 0, 1, 2, 0, 1, 0, 3]), scalar(7)), 2


def upsampled(n: Net) -> tuple[Value, int]:
    weight = RNG.standard_normal((8, 5, 2, 2)).astype(np.float32)
    return n("Sigmoid", n("ConvTranspose", n.conv(n.x, 8), weight, strides=(2, 2))), 2


def grouped(n: Net) -> tuple[Value, int]:
    a = n.conv(n.conv(n.x, 12), 12, group=12)
    return n.conv(n("Relu", a), 6, group=3), 2


def pooled_head(n: Net) -> tuple[Value, int]:
    a = n("ReduceMean", n.conv(n.x, 8), np.array([2, 3]), keepdims=0)
    return n("MatMul", a, RNG.standard_normal((8, 3)).astype(np.float32)), 1


def softmax_of_channels(n: Net) -> tuple[Value, int]:
    return n("Softmax", n.conv(n.x, 5), axis=1), 2


def undone_transposes(n: Net) -> tuple[Value, int]:
    a = n("Transpose", n.conv(n.x, 6), perm=(0, 2, 3, 1))
    return n("Add", a, RNG.standard_normal(6).astype(np.float32)), 1


def already_last(n: Net) -> tuple[Value, int]:
    a = n("Transpose", n.conv(n.x, 4), perm=(0, 2, 3, 1))
    b = n("Relu", a)
    return n("Transpose", n.conv(n("Transpose", b, perm=(0, 3, 1, 2)), 3), perm=(0, 2, 3, 1)), 1


def leaves_and_returns(n: Net) -> tuple[Value, int]:
    a = n("Softmax", n("Reshape", n.conv(n.x, 6), np.array([0, 6, -1])), axis=2)
    return n.conv(n("Reshape", a, np.array([2, 6, 12, 10])), 4), 4


def broadcast_from_input(n: Net) -> tuple[Value, int]:
    return n("Add", n.conv(n.x, 3), n.x), 2


CASES = [residual, squeeze_excite, constants_a_channel, concat_split, pools, resize, upsampled, grouped, pooled_head, softmax_of_channels,
         undone_transposes, already_last, leaves_and_returns, broadcast_from_input]  # fmt: skip


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("body", CASES)
def test_same_answers_and_few_transposes(body: Callable[[Net], tuple[Value, int]], dynamic: bool) -> None:
    net = Net(dynamic=dynamic)
    output, transposes = body(net)
    net.check(output, transposes=transposes)


def test_two_answers_of_one_value() -> None:
    net = Net()
    a = net.conv(net.x, 4)
    net.check(a, net("Relu", a), net.conv(a, 2))


def test_quantized_chain_keeps_its_integers() -> None:
    net = Net(channels=4)
    f32 = lambda v: np.asarray(v, np.float32)  # noqa: E731
    u8 = np.array(3, np.uint8)
    q = net("QuantizeLinear", net.x, f32(0.05), u8)

    def qconv(x: Value, r: Value | None = None) -> Value:
        w = RNG.integers(-127, 128, (4, 4, 3, 3)).astype(np.int8)
        scale = RNG.uniform(0.001, 0.01, 4).astype(np.float32)
        added = [] if r is None else [r, f32(0.04), u8]
        return net("QConv", x, f32(0.05), u8, w, scale, np.zeros(4, np.int8), f32(0.06), u8, RNG.integers(-99, 99, 4).astype(np.int32), *added,
                   domain="headrace", pads=(1, 1, 1, 1), activation="Relu")  # fmt: skip

    a = qconv(q)
    b = qconv(net("MaxPool", a, kernel_shape=(3, 3), pads=(1, 1, 1, 1)), a)
    c = net("QAdd", a, f32(0.06), u8, b, f32(0.06), u8, f32(0.1), u8, domain="headrace")
    d = net("DequantizeLinear", c, RNG.uniform(0.01, 0.1, 4).astype(np.float32), np.zeros(4, np.uint8), axis=1)
    net.check(c, d, transposes=3)
