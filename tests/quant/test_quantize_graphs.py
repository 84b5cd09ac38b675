"""Static and dynamic quantization of small networks: structure, accuracy, contract, files."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from graph_cases import count, make

from headrace import quantization
from headrace.runtime.errors import HeadraceError
from headrace.runtime.executor import run_graph
from headrace.runtime.graph import Graph
from headrace.runtime.passes import optimize
from headrace.runtime.quant import contract, report
from headrace.runtime.quant.calibrate import Statistics
from headrace.runtime.quant.static import insert, layers_of, measure, plan, prepare, quantize_static

F = "float32"


def normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return (rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)


def mlp(widths=(16, 64, 48, 5)) -> Graph:
    rng = np.random.default_rng(1)

    def body(o, x):
        for index, (a, b) in enumerate(itertools.pairwise(widths)):
            x = o.Gemm(x, o.const(normal(rng, b, a)), o.const(normal(rng, b)), transB=1)
            x = x if index == len(widths) - 2 else o.Relu(x)
        return x

    return make(body, x=(F, ("n", widths[0])))


def cnn() -> Graph:
    """Conv, BatchNormalization, Relu, pool, a residual block, a second path, global mean, Gemm."""
    rng = np.random.default_rng(2)

    def body(o, x):
        def conv(x, a, b, k, pads=0, **rest):
            return o.Conv(x, o.const(normal(rng, b, a, k, k)), o.const(normal(rng, b)), pads=(pads,) * 4, **rest)

        stats = [o.const(v) for v in (np.ones(8), np.zeros(8), normal(rng, 8), np.ones(8))]
        x = o.Relu(o.BatchNormalization(conv(x, 3, 8, 3, 1), *stats))
        x = o.MaxPool(x, kernel_shape=(2, 2), strides=(2, 2))
        x = o.Relu(o.Add(conv(o.Relu(conv(x, 8, 8, 3, 1)), 8, 8, 3, 1), x))
        x = o.Concat(conv(x, 8, 4, 1), o.Clip(conv(x, 8, 4, 1), o.const(0.0), o.const(6.0)), axis=1)
        x = o.ReduceMean(o.Relu(conv(x, 8, 12, 1)), o.const(np.array([2, 3], np.int64)), keepdims=0)
        return o.Gemm(x, o.const(normal(rng, 12, 6)), o.const(normal(rng, 6)))

    return make(body, x=(F, ("n", 3, 12, 12)))


def data(graph: Graph, batches: int = 6, rows: int = 8, seed: int = 0) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    (x,) = graph.inputs
    return [{x.name: rng.standard_normal([rows, *x.type.shape[1:]]).astype(np.float32)} for _ in range(batches)]


@pytest.mark.parametrize("make_graph", [mlp, cnn])
@pytest.mark.parametrize("observer", ["minmax", "moving-average", "percentile", "entropy", "mse"])
def test_static_keeps_answers(make_graph, observer: str) -> None:
    graph = make_graph()
    result = quantization.quantize(graph, method="static", calibration=data(graph), observer=observer)
    (row,) = result.report["outputs"]
    assert row["cosine"] > 0.99 and row["sqnr_db"] > 15, row
    assert result.report["bytes"]["quantized"] < result.report["bytes"]["float"]
    assert result.calibration["observer"] == observer and result.calibration["batches"] == 6


def test_the_result_is_plain_onnx_and_becomes_one_island() -> None:
    graph = cnn()
    result = quantize_static(graph, data(graph))
    assert all(node.domain == "" for node in result.block.walk())
    after = optimize(result)
    found = count(after)
    assert found["headrace.QConv"] == 6 and found["headrace.QGemm"] == 1 and found["Conv"] == 0
    assert found["QuantizeLinear"] == 2 and found["DequantizeLinear"] == 1, str(
        after
    )  # the input; around the global mean
    residual = [node for node in after.nodes if node.kind == "headrace.QConv" and len(node.inputs) > 9]
    assert len(residual) == 1
    feeds = data(graph, 1, seed=5)[0]
    (a,), (b,) = run_graph(result, feeds).values(), run_graph(after, feeds).values()
    assert report.error(a, b)["sqnr_db"] > 30


def test_pools_and_concat_share_their_scale() -> None:
    prepared = prepare(cnn())
    chosen = plan(prepared)
    groups = {}
    for value in chosen.values:
        groups.setdefault(chosen.root(value), []).append(value.name)
    assert sorted(map(len, groups.values()))[-1] == 3  # Concat and its two sources


def test_layers_can_stay_float() -> None:
    graph = mlp()
    names = [layer.name for layer in layers_of(prepare(graph))]
    assert len(names) == 3
    result = quantize_static(graph, data(graph), kept=[names[1]])
    assert count(optimize(result))["headrace.QGemm"] == 2
    assert count(optimize(result))["headrace.FusedMatMul"] == 1


def test_quantizing_a_fused_graph_gives_the_same_bytes() -> None:
    graph = cnn()
    batches = data(graph)
    a, b = quantize_static(graph, batches), quantize_static(optimize(graph), batches)
    feeds = data(graph, 1, seed=9)[0]
    for x, y in zip(run_graph(a, feeds).values(), run_graph(b, feeds).values()):
        np.testing.assert_allclose(x, y, atol=0.05)


def test_dynamic_rows_do_not_touch_each_other() -> None:
    rng = np.random.default_rng(3)

    def body(o, x):
        h = o.LayerNormalization(x, o.const(np.ones(64)), o.const(np.zeros(64)))
        h = o.Gelu(o.Add(o.MatMul(h, o.const(normal(rng, 64, 128))), o.const(normal(rng, 128))))
        return o.Add(x, o.Add(o.MatMul(h, o.const(normal(rng, 128, 64))), o.const(normal(rng, 64))))

    graph = make(body, x=(F, ("n", 5, 64)))
    result = quantization.quantize(graph, method="dynamic")
    found = count(optimize(result.program.main))
    assert found["headrace.DynamicMatMul"] == 2 and result.calibration is None
    assert result.report["outputs"][0]["sqnr_db"] > 30
    x = rng.standard_normal((4, 5, 64)).astype(np.float32)
    (all_rows,) = run_graph(result.program.main, {"x": x}).values()
    (one_row,) = run_graph(result.program.main, {"x": x[2:3]}).values()
    np.testing.assert_array_equal(all_rows[2:3], one_row)


def test_small_products_stay_float_in_dynamic() -> None:
    graph = mlp((16, 64, 48, 5))
    result = quantization.quantize(graph, method="dynamic")
    assert count(result.program.main)["headrace.DynamicMatMul"] == 1


def labelled(graph: Graph, rows: int = 200) -> tuple[dict[str, np.ndarray], np.ndarray]:
    (feeds,) = data(graph, 1, rows, seed=4)
    return feeds, next(iter(run_graph(graph, feeds).values())).argmax(-1)


def test_accuracy_is_reported_and_limits_hold() -> None:
    graph = mlp()
    labels = labelled(graph)
    result = quantization.quantize(graph, calibration=data(graph), labels=labels, max_drop=5.0)
    found = result.report["accuracy"]
    assert found["float"] == 1.0 and found["samples"] == 200
    assert found["drop_points"] == pytest.approx(100 * (1 - found["quantized"])) and found["drop_points"] <= 5.0


def test_sensitive_layers_go_back_first() -> None:
    scores = {(): 90.0, ("b",): 96.0, ("b", "c"): 99.5}
    signals = {"a": 40.0, "b": 10.0, "c": 20.0}
    graphs = {}

    def quantize(kept):
        graph = mlp((2, 2))
        graphs[id(graph)] = (graph, tuple(kept))
        return graph

    def signal(graph):
        (alone,) = set("abc") - set(graphs[id(graph)][1])
        return signals[alone]

    score = lambda graph: scores[graphs[id(graph)][1]]  # noqa: E731
    outcome = contract.within("abc", quantize, score, 100.0, 1.0, signal)
    assert outcome.kept == ["b", "c"] and outcome.score == 99.5 and outcome.sensitivity == signals
    with pytest.raises(HeadraceError, match=r"drops by 0.50 points at best .* the limit is 0.1"):
        contract.within("abc", quantize, score, 100.0, 0.1, signal)


def test_a_limit_that_cannot_hold_writes_nothing(tmp_path: Path) -> None:
    graph = mlp((16, 8))  # one layer: it cannot go back
    feeds, classes = labelled(graph)
    wild = [{"x": np.full((1, 16), 1e4, np.float32)}]  # ranges without any relation to the data
    with pytest.raises(HeadraceError, match="Nothing was written"):
        quantization.quantize(graph, tmp_path / "q.hr", calibration=wild, labels=(feeds, classes), max_drop=0.5)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"method": "best"}, "allowed: static, dynamic"),
        ({"observer": "max"}, "allowed: minmax"),
        ({}, "needs calibration"),
        ({"calibration": [], "max_drop": 1.0}, "needs labels"),
        ({"calibration": []}, "needs data"),
        ({"calibration": [{"y": np.zeros(1)}]}, "no array 'x'"),
        ({"calibration": [np.zeros(1)]}, "allowed is a dict"),
        ({"calibration": [{"x": np.full((1, 16), np.nan, np.float32)}]}, "NaN"),
    ],
)
def test_errors_say_what_is_allowed(arguments, says: str) -> None:
    with pytest.raises(HeadraceError, match=says):
        quantization.quantize(mlp(), **arguments)


def test_nothing_to_quantize() -> None:
    graph = make(lambda o, x: o.Relu(x), x=(F, (2,)))
    for arguments in ({"method": "dynamic"}, {"calibration": data(graph)}):
        with pytest.raises(HeadraceError, match="nothing to quantize"):
            quantization.quantize(graph, **arguments)


def test_calibration_from_files(tmp_path: Path) -> None:
    graph = mlp()
    batches = data(graph, 3)
    wanted = quantization.quantize(graph, calibration=batches).calibration
    (tmp_path / "npz").mkdir()
    (tmp_path / "npy").mkdir()
    for index, batch in enumerate(batches):
        np.savez(tmp_path / "npz" / f"{index}.npz", **batch)
        np.save(tmp_path / "npy" / f"{index}.npy", batch["x"])
    np.savez(tmp_path / "one.npz", x=np.concatenate([batch["x"] for batch in batches]).astype(np.float64))
    assert quantization.quantize(graph, calibration=tmp_path / "npz").calibration == wanted
    assert quantization.quantize(graph, calibration=tmp_path / "npy").calibration == wanted
    one = quantization.quantize(graph, calibration=str(tmp_path / "one.npz")).calibration
    assert one["batches"] == 1 and one["ranges"] == wanted["ranges"]
    np.savez(tmp_path / "objects.npz", x=np.array([{}], object))
    with pytest.raises((HeadraceError, ValueError)):
        quantization.quantize(graph, calibration=tmp_path / "objects.npz")


def test_progress_is_reported() -> None:
    graph, seen = mlp(), []
    quantization.quantize(graph, calibration=data(graph, 3), progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_the_archive_has_evidence_and_the_same_bytes(tmp_path: Path) -> None:
    archive = pytest.importorskip("headrace.serializer.archive", reason="the archive is another part")
    graph = cnn()
    for name in ("a.hr", "b.hr"):
        quantization.quantize(graph, tmp_path / name, calibration=data(graph, rows=20), labels=labelled(graph, 20))
    assert (tmp_path / "a.hr").read_bytes() == (tmp_path / "b.hr").read_bytes()
    opened = archive.open_program(tmp_path / "a.hr")
    assert opened.golden is not None and [case["x"].shape[0] for case in opened.golden.inputs] == [8] * 4
    assert opened.properties["quantization"] == "static int8"
    import zipfile

    with zipfile.ZipFile(tmp_path / "a.hr") as file:
        found = json.loads(file.read("quant_report.json"))
        assert found["accuracy"]["samples"] == 20 and json.loads(file.read("calibration.json"))["ranges"]


def test_report_values() -> None:
    reference, actual = np.array([3.0, 4.0]), np.array([3.0, 4.5])
    found = report.error(reference, actual)
    assert found["max_abs"] == 0.5 and found["relative"] == pytest.approx(0.1)
    assert found["sqnr_db"] == pytest.approx(20.0) and found["cosine"] == pytest.approx(
        (9 + 18) / (5 * np.hypot(3, 4.5))
    )
    assert report.error(reference, reference)["sqnr_db"] == 999.0
    assert report.error(np.zeros(2), np.zeros(2))["cosine"] == 1.0
    assert report.accuracy({"scores": np.eye(3)}, np.array([0, 1, 0])) == pytest.approx(2 / 3)
    assert report.accuracy({"label": np.array([1, 2])}, np.array([1, 0])) == 0.5
    with pytest.raises(HeadraceError, match="no output can be compared"):
        report.accuracy({"y": np.zeros((2, 3))}, np.zeros(5))


@pytest.mark.parametrize("kind", ["conv", "grouped", "gemm", "transposed gemm"])
def test_biases_take_up_the_mean_error_of_weights(kind: str) -> None:
    """Where nothing is padded, the mean of each output channel is that of the float layer, but for rounding of inputs."""
    rng = np.random.default_rng(6)

    def body(o, x):
        if kind == "conv":
            return o.Conv(x, o.const(normal(rng, 8, 16, 1, 1)))
        if kind == "grouped":
            return o.Conv(x, o.const(normal(rng, 8, 4, 1, 1)), group=4)
        if kind == "gemm":
            return o.Gemm(x, o.const(normal(rng, 16, 8)))
        return o.Gemm(x, o.const(normal(rng, 8, 16)), transB=1)

    graph = make(body, x=(F, ("n", 16, 3, 3)) if "gemm" not in kind else (F, ("n", 16)))
    batches = [{"x": np.abs(batch["x"]) * 2 + 1} for batch in data(graph, 4, 64)]
    chosen = plan(prepared := prepare(graph))
    statistics = measure(prepared, chosen, batches, observer="minmax")
    plain = Statistics(statistics.ranges)
    drift = []
    for found in (statistics, plain):
        quantized = insert(prepared, chosen, found)
        errors = [
            next(iter(run_graph(quantized, b).values())) - next(iter(run_graph(graph, b).values())) for b in batches
        ]
        mean = np.mean([error.mean(axis=tuple(a for a in range(error.ndim) if a != 1)) for error in errors], axis=0)
        drift.append(np.abs(mean).max())
    assert drift[0] < 0.4 * drift[1], drift


def test_two_layers_may_sum_over_different_axes_of_one_value() -> None:
    rng = np.random.default_rng(8)

    def body(o, x):
        return o.Conv(x, o.const(normal(rng, 8, 3, 1))), o.MatMul(x, o.const(normal(rng, 5, 4)))

    graph = make(body, x=(F, ("n", 3, 5)))
    prepared, batches = prepare(graph), data(graph, 2)
    means = measure(prepared, plan(prepared), batches, observer="minmax").means
    together = np.concatenate([batch["x"] for batch in batches])
    np.testing.assert_allclose(means["x", 1], together.mean(axis=(0, 2)), rtol=1e-5)
    np.testing.assert_allclose(means["x", -1], together.mean(axis=(0, 1)), rtol=1e-5)
    wanted, found = (run_graph(one, batches[0]) for one in (graph, quantize_static(graph, batches)))
    for name, y in wanted.items():
        np.testing.assert_allclose(found[name], y, rtol=0, atol=0.05)


def test_large_batches_are_cut() -> None:
    graph = mlp()
    (large,) = data(graph, 1, 150)
    cut = [{"x": large["x"][start : start + 64]} for start in (0, 64, 128)]
    a, b = (
        quantization.quantize(graph, calibration=batches, labels=labelled(graph, 130)) for batches in ([large], cut)
    )
    assert a.calibration == b.calibration and a.calibration["batches"] == 3
    assert a.report == b.report and a.report["accuracy"]["samples"] == 130


def test_quantize_is_a_verb() -> None:
    import headrace

    assert headrace.quantize is quantization.quantize


def test_large_tables_become_rows_of_integers() -> None:
    rng = np.random.default_rng(7)
    table = normal(rng, 1100, 64) * np.linspace(0.01, 10, 1100, dtype=np.float32)[:, None]
    graph = make(
        lambda o, i: o.MatMul(o.Gather(o.const(table), i), o.const(normal(rng, 64, 32))), i=("int64", ("n", 5))
    )
    result = quantization.quantize(graph, method="dynamic", calibration=[{"i": rng.integers(0, 1100, (3, 5))}])
    assert count(result.program.main) == {"Gather": 2, "Cast": 1, "Mul": 1, "headrace.DynamicMatMul": 1}
    assert result.report["bytes"]["quantized"] < 0.3 * result.report["bytes"]["float"]
    assert [row["operator"] for row in result.report["layers"]] == ["MatMul", "Gather"]
    assert result.report["outputs"][0]["sqnr_db"] > 35
