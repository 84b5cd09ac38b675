"""One row of a model has the same bits alone and in any batch, at any place, with any number of threads: for every network
whose rows are proven independent, in every precision."""

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import headrace as torch
from headrace import jit, nn
from headrace.runtime import load
from headrace.runtime.builder import Builder
from headrace.runtime.graph import Block, Graph
from headrace.runtime.quant.dynamic import quantize_dynamic
from headrace.runtime.quant.static import quantize_static
from headrace.runtime.quant.weight_only import Blocks, quantize_weights
from headrace.runtime.shapes import symbol
from headrace.runtime.types import TensorType

ROWS, THREADS = 33, (1, 2, 3)


class Pooled(nn.Module):
    """Convolutions of every kind: first layer, 3x3 by Winograd, depthwise, strided, 1x1, residual, transposed."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, padding=1, stride=2)
        self.inner = nn.Conv2d(16, 24, 3, padding=1)
        self.depthwise = nn.Conv2d(24, 24, 3, padding=1, groups=24)
        self.mix = nn.Conv2d(24, 16, 1)
        self.up = nn.ConvTranspose2d(16, 8, 2, stride=2)
        self.norm = nn.BatchNorm2d(8)
        self.last = nn.Linear(8, 5)

    def forward(self, x):
        h = torch.relu(self.first(x))
        h = h + self.mix(nn.functional.silu(self.depthwise(torch.relu(self.inner(h)))))
        h = nn.functional.gelu(self.norm(self.up(nn.functional.max_pool2d(h, 2))))
        return torch.softmax(self.last(h.mean((2, 3))), dim=-1)


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(12, 20, num_layers=2, batch_first=True, bidirectional=True)
        self.gru = nn.GRU(40, 16, batch_first=True)
        self.last = nn.Linear(16, 3)

    def forward(self, x):
        h, _ = self.gru(self.lstm(x)[0])
        return self.last(h)


class Attending(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            [nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, dropout=0.0) for _ in range(2)]
        )
        self.last = nn.Linear(32, 7)

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return self.last(x)


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mlp": (lambda: nn.Sequential(nn.Linear(70, 129), nn.ReLU(), nn.Linear(129, 64), nn.Tanh(), nn.LayerNorm(64), nn.Linear(64, 10)), (70,)),
    "convolutions": (Pooled, (3, 19, 17)),
    "recurrent": (Recurrent, (9, 12)),
    "transformer": (Attending, (11, 32)),
}  # fmt: skip
FORMS = ("float32", "bf16", "static int8", "dynamic int8", "4-bit weights")


@cache
def rows_of(name: str) -> np.ndarray:
    """Rows of very different sizes, so that a shared scale would show."""
    rng = np.random.default_rng(7)
    data = rng.standard_normal((ROWS, *NETWORKS[name][1]))
    return (data * np.exp(rng.uniform(-4, 4, (ROWS, *[1] * (data.ndim - 1))))).astype(np.float32)


@cache
def graph_of(name: str, form: str) -> Graph:
    torch.manual_seed(3)
    make, shape = NETWORKS[name]
    graph = jit.trace(make().eval(), torch.randn(2, *shape)).graph
    if form == "static int8":
        return quantize_static(graph, [{graph.inputs[0].name: rows_of(name)}])
    if form == "dynamic int8":
        return quantize_dynamic(graph)
    return quantize_weights(graph, Blocks(bits=4, group=32)) if form == "4-bit weights" else graph


@cache
def models_of(name: str, form: str):
    """The model once for each number of threads, and what each row gives alone."""
    precision = "bf16" if form == "bf16" else None
    models = [load(graph_of(name, form), threads=threads, precision=precision) for threads in THREADS]
    assert models[0].rows.independent, models[0].rows.reason
    return models, [run(models[0], rows_of(name)[i : i + 1]) for i in range(ROWS)]


def run(model, x: np.ndarray) -> list[bytes]:
    (answer,) = model.run({model.inputs[0].name: x}).values()
    return [row.tobytes() for row in answer]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", NETWORKS)
def test_a_row_is_the_same_in_any_batch(name, form):
    models, alone = models_of(name, form)

    @settings(max_examples=12, database=None)
    @given(st.lists(st.integers(0, ROWS - 1), min_size=1, max_size=ROWS), st.sampled_from(range(len(THREADS))))
    def check(picked, threads):
        assert run(models[threads], rows_of(name)[picked]) == [row for i in picked for row in alone[i]]

    check()
    assert run(models[1], rows_of(name)) == [row for rows in alone for row in rows]  # the largest batch in any case


@pytest.mark.parametrize("unusual", ["LSTM", "GRU", "RNN", "float64"])
def test_a_row_of_a_node_without_a_kernel_of_its_own(unusual):
    """Recurrent layers that clip run by their reference; products of float64 are not fused: rows are as independent there."""
    rng, gates = np.random.default_rng(2), {"LSTM": 4, "GRU": 3, "RNN": 1}.get(unusual)
    graph = Graph(Block([], [], []))
    builder = Builder(graph)

    def draw(*shape):
        return rng.standard_normal(shape).astype("float32" if gates else "float64")

    if gates:
        x = builder.input("x", TensorType("float32", (symbol("N"), 5, 33)))
        weights = [builder.constant(draw(1, gates * 40, size)) for size in (33, 40)]
        (y, _) = builder.node(unusual, [x, *weights], {"hidden_size": 40, "layout": 1, "clip": 1.5}, outputs=2)
        graph.outputs.append(y)
    else:
        x = builder.input("x", TensorType("float64", (symbol("N"), 5, 33)))
        (product,) = builder.node("MatMul", [x, builder.constant(draw(33, 70))])
        (total,) = builder.node("Add", [product, builder.constant(draw(70))])
        graph.outputs.extend(builder.node("Relu", [total]))
    model, rows = load(graph), draw(ROWS, 5, 33)
    assert model.rows.independent
    assert [row["kernel"] == "reference" for row in model.kernels()] == ([True] if gates else [False] * 3)
    assert run(model, rows) == [row for i in range(ROWS) for row in run(model, rows[i : i + 1])]


def test_a_scale_over_the_batch_is_seen():
    """The check can fail: onnxruntime's dynamic scheme has one scale for all rows. It is not proven, and rows differ."""
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    weight = rng.integers(-127, 127, (70, 16)).astype(np.int8)
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"], name="scale_of_all"),
        helper.make_node("MatMulInteger", ["q", "w", "z"], ["i"]),
        helper.make_node("Cast", ["i"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["f", "s"], ["y"]),
    ]
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", width]) for n, width in (("x", 70), ("y", 16)))
    made = helper.make_graph(nodes, "g", [x], [y], [numpy_helper.from_array(weight, "w")])
    model = load(helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=9))
    assert not model.rows.independent and "scale_of_all" in model.rows.reason
    rows = rows_of("mlp")
    assert run(model, rows) != [row for i in range(ROWS) for row in run(model, rows[i : i + 1])]
