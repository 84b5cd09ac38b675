"""The native executor and the reference give the same bytes for quantized graphs, whatever the batch and the threads, on
every instruction-set tier of this CPU."""

from collections.abc import Iterator

import numpy as np
import pytest
from test_quantize_graphs import cnn, data, mlp

from headrace import quantization
from headrace.runtime.executor import run_graph
from headrace.runtime.passes import optimize
from headrace.runtime.quant.static import quantize_static

model = pytest.importorskip("headrace.runtime.model", reason="the native executor is not built")
native = pytest.importorskip("headrace.runtime._native", reason="the native executor is not built")


@pytest.fixture(autouse=True, params=native.cpu_tiers())
def tier(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("HEADRACE_CPU_TIER", request.param)
    yield request.param


@pytest.mark.parametrize("make_graph", [mlp, cnn])
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("rows", [1, 3, 17])
def test_static(make_graph, threads: int, rows: int) -> None:
    graph = quantize_static(make_graph(), data(make_graph()))
    feeds = data(make_graph(), 1, rows, seed=8)[0]
    found = model.Model(graph, threads=threads).run(feeds)
    reference = run_graph(optimize(graph), feeds)
    for name, array in reference.items():
        # GlobalAveragePool between two islands is float: its sums may be rounded in another order
        tolerance = 0 if make_graph is mlp else 1e-2
        np.testing.assert_allclose(found[name], array, rtol=0, atol=tolerance, err_msg=name)
        assert tolerance or found[name].tobytes() == array.tobytes()


def test_every_integer_inside_a_network_is_the_same() -> None:
    graph = optimize(quantize_static(cnn(), data(cnn())))
    integers = [
        value
        for node in graph.nodes
        for value in node.outputs
        if value is not None and str(value.type).startswith("uint8")
    ]
    before_mean = []
    for value in integers:
        before_mean.append(value)
        if any(node.kind == "DequantizeLinear" and node.inputs[0] is value for node in graph.nodes):
            break
    graph.block.outputs = before_mean
    feeds = data(cnn(), 1, 5, seed=3)[0]
    found, reference = model.Model(graph, optimize=False).run(feeds), run_graph(graph, feeds)
    assert len(reference) >= 8
    for name, array in reference.items():
        assert found[name].dtype == np.uint8 and found[name].tobytes() == array.tobytes(), name


def test_dynamic() -> None:
    graph = quantization.quantize(mlp((64, 128, 96, 40)), method="dynamic").program.main
    feeds = {"x": np.random.default_rng(0).standard_normal((7, 64)).astype(np.float32)}
    found, reference = model.Model(graph).run(feeds), run_graph(optimize(graph), feeds)
    for name, array in reference.items():
        np.testing.assert_allclose(found[name], array, rtol=1e-5, atol=1e-5)
