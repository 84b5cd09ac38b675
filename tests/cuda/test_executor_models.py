"""Whole models on the emulated device, and every operator with a kernel on its own samples."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path += [str(Path(__file__).parents[2] / "benchmarks"), str(Path(__file__).parents[1] / "passes")]
from cuda_models import digits, minilm, minilm_feeds
from gpu_check import check_operator, checked_operators
from graph_cases import Ops, make
from real_models import Case

import headrace.runtime as runtime
from headrace.runtime.cuda.emul import EmulDevice
from headrace.runtime.cuda.rules import rules
from headrace.runtime.executor import run_graph
from headrace.runtime.graph import Value
from headrace.runtime.ops.base import Operator

CASES = Path(os.environ.get("HEADRACE_CASES") or "/nonexistent")


@pytest.fixture(scope="module")
def device() -> EmulDevice:
    return EmulDevice()


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return digits(tmp_path_factory.mktemp("digits"))


@pytest.mark.parametrize("operator", checked_operators(), ids=lambda operator: operator.kind)
def test_kernels_give_the_reference_within_the_operator_s_accuracy(operator: Operator, device: EmulDevice) -> None:
    worst, ran, _ = check_operator(operator, device)
    assert ran and worst <= 1


def test_every_rule_is_of_an_operator_or_of_the_machine_pass() -> None:
    from headrace.runtime.passes.machine.cuda import CAPS

    assert set(rules()) - {operator.kind for operator in checked_operators()} == CAPS


def test_the_digits_cnn_runs_whole_on_the_device(archives: tuple[Path, Path], device: EmulDevice) -> None:
    images = np.random.default_rng(0).random((3, 1, 8, 8), np.float32)
    want = runtime.load(archives[0], device="cpu").run({"x": images})
    model = runtime.load(archives[0], device=device)
    found = model.run({"x": images})
    np.testing.assert_allclose(found["output"], want["output"], rtol=1e-4, atol=1e-4)
    assert "fallbacks" not in model.properties
    assert model.verify().ok


def test_int8_has_the_bits_of_the_cpu(archives: tuple[Path, Path], device: EmulDevice) -> None:
    """Every value that both have under one name: the integers of each layer, and the float answer."""
    graph = runtime.source.open_source(archives[1]).program.main
    from headrace.runtime.passes import optimize

    graph = optimize(graph)
    graph.block.outputs = [value for node in graph.nodes for value in node.outputs if value is not None]
    images = np.random.default_rng(1).random((2, 1, 8, 8), np.float32)
    want = runtime.load(graph, device="cpu").run({"x": images})
    model = runtime.load(graph, device=device)
    found = model.run({"x": images})
    assert {str(array.dtype) for array in want.values()} == {"uint8", "float32"}
    assert {name: array.tobytes() for name, array in found.items()} == {
        name: array.tobytes() for name, array in want.items()
    }
    assert "fallbacks" not in model.properties
    assert sum(row["operator"] == "headrace.cuda.QConv" for row in model.kernels()) == 3


@pytest.mark.parametrize("order", ["reverse", "shuffled"])
def test_the_order_of_threads_changes_no_bit(archives: tuple[Path, Path], device: EmulDevice, order: str) -> None:
    images = np.random.default_rng(2).random((2, 1, 8, 8), np.float32)
    for path in archives:
        want = runtime.load(path, device=device).run({"x": images})
        found = runtime.load(path, device=EmulDevice(order=order, seed=1)).run({"x": images})
        assert found["output"].tobytes() == want["output"].tobytes()


def test_a_minilm_runs_whole_on_the_device(device: EmulDevice) -> None:
    model, cpu = runtime.load(minilm(2), device=device), runtime.load(minilm(2), device="cpu")
    for batch, length in ((2, 5), (1, 3), (3, 1)):
        feeds = minilm_feeds(batch, length)
        found = model.run(feeds)["embedding"]
        np.testing.assert_allclose(found, cpu.run(feeds)["embedding"], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-5)
    assert "fallbacks" not in model.properties
    assert [plan["segments"] for plan in model._program.plans()] == [1, 1, 1]


def test_a_dynamically_quantized_minilm_runs_whole_on_the_device(device: EmulDevice) -> None:
    """Rows are quantized while running: the integers of a row are the CPU's where its float32 values are."""
    from headrace.runtime.quant.dynamic import quantize_dynamic

    graph = quantize_dynamic(runtime.source.open_source(minilm(1, 4, 16)).program.main)
    assert any(node.kind == "headrace.DynamicMatMul" for node in graph.nodes)
    model, feeds = runtime.load(graph, device=device), minilm_feeds()
    want = runtime.load(graph, device="cpu").run(feeds)["embedding"]
    np.testing.assert_allclose(model.run(feeds)["embedding"], want, rtol=0.02, atol=0.01)
    assert "fallbacks" not in model.properties


@pytest.mark.skipif(
    not (CASES / "sentence_embedding").is_dir(), reason="HEADRACE_CASES names no folder with sentence_embedding"
)
def test_the_real_sentence_embedding_gives_its_recorded_answers(device: EmulDevice) -> None:
    facts: list[dict[str, Any]] = json.loads((CASES / "index.json").read_text())
    case = Case(CASES, next(one for one in facts if one["name"] == "sentence_embedding"))
    model = runtime.load(case.model, device=device)
    assert case.error(model.run) <= 1  # in units of what the case allows
    assert "fallbacks" not in model.properties


def test_serving_from_the_device(archives: tuple[Path, Path]) -> None:
    from headrace.serve import Client, Server

    images = np.random.default_rng(3).random((2, 1, 8, 8), np.float32)
    want = runtime.load(archives[1], device="cpu").run({"x": images})["output"]
    from headrace.serve.config import settings_from

    settings = settings_from({"grpc_port": 0, "http_port": 0, "metrics_port": 0, "device": "emulated"})
    with (
        Server([f"digits={archives[1]}"], settings=settings) as server,
        Client(f"127.0.0.1:{server.grpc_port}") as client,
    ):
        assert client.infer("digits", x=images)["output"].tobytes() == want.tobytes()


def test_integer_convolutions_go_channels_last_and_keep_every_bit(device: EmulDevice) -> None:
    """Groups, depthwise, one spatial axis, a residual, unsigned weights, a pool and an addition between them."""
    rng = np.random.default_rng(5)

    def conv(
        o: Ops, x: Value, shape: tuple[int, ...], r: Value | None = None, kind: str = "int8", **extra: Any
    ) -> Value:
        info = np.iinfo(kind)
        w = rng.integers(info.min, info.max + 1, shape).astype(kind)
        scales = rng.uniform(0.001, 0.01, shape[0]).astype(np.float32)
        w_zero = o.const(np.asarray(128 if kind == "uint8" else 0, kind))
        bias = o.const(rng.integers(-500, 500, shape[0]).astype(np.int32))
        rest = [] if r is None else [r, o.const(np.float32(0.03)), o.const(np.uint8(7))]
        scale, zero, out = o.const(np.float32(0.05)), o.const(np.uint8(9)), o.const(np.float32(0.4))
        return o.domain(
            "headrace", "QConv", x, scale, zero, o.const(w), o.const(scales), w_zero, out, o.const(np.uint8(100)), bias,
            *rest, **extra,
        )  # fmt: skip

    def image(o: Ops, x: Value) -> list[Value]:
        a = conv(o, x, (32, 16, 3, 3), pads=(1, 1, 1, 1), strides=(2, 2), activation="Relu")
        b = conv(o, a, (32, 1, 3, 3), pads=(1, 1, 1, 1), group=32)
        c = conv(o, b, (32, 8, 3, 3), a, pads=(1, 1, 1, 1), group=4, kind="uint8")
        scale, zero = o.const(np.float32(0.02)), o.const(np.uint8(3))
        d = o.domain("headrace", "QAdd", a, scale, zero, c, scale, zero, o.const(np.float32(0.05)), zero)
        return [b, c, conv(o, o.MaxPool(d, kernel_shape=(2, 2), strides=(1, 2)), (5, 32, 1, 1))]

    def line(o: Ops, x: Value) -> list[Value]:
        return [conv(o, conv(o, x, (8, 16, 5), pads=(2, 2)), (3, 8, 2), dilations=(2,))]

    for body, shape in ((image, ("n", 16, 9, 7)), (line, ("n", 16, 11))):
        graph = make(body, x=("uint8", shape))
        feeds = {"x": rng.integers(0, 256, (2, *shape[1:])).astype(np.uint8)}
        model = runtime.load(graph, device=device)
        for name, array in model.run(feeds).items():
            assert array.tobytes() == run_graph(graph, feeds)[name].tobytes()
        assert "fallbacks" not in model.properties
        kinds = [row["operator"] for row in model.kernels()]
        assert "headrace.cuda.QConv" in kinds and "headrace.QConv" not in kinds
