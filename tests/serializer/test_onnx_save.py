"""ONNX export: accepted by the checker, equal in onnxruntime, at several operator sets, and back again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from serializer_graphs import every_array, feeds_of, graphs, inner_block, make_graph, same

from headrace.runtime.builder import Builder
from headrace.runtime.errors import GraphError, HeadraceError
from headrace.runtime.executor import run_graph
from headrace.runtime.graph import Block, Graph, Program, Value
from headrace.runtime.ops import find
from headrace.runtime.shapes import symbol
from headrace.runtime.types import TensorType
from headrace.serializer.onnx.load import open_program
from headrace.serializer.onnx.save import save, to_model

onnxruntime = pytest.importorskip("onnxruntime", reason="exported files are run in onnxruntime")
NEWEST_IN_PEER = 24  # operator sets that onnxruntime accepts without complaint


def peer(source: Any, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(
        source if isinstance(source, str) else source.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return dict(zip([output.name for output in session.get_outputs()], session.run(None, feeds)))


def check(graph: Graph, feeds: dict[str, np.ndarray], opset: int | None = None, atol: float = 1e-5) -> Any:
    """Export, check, compare with onnxruntime, import again, compare again."""
    proto = to_model(graph, opset=opset)
    onnx.checker.check_model(proto, full_check=True)
    ours, theirs = run_graph(graph, feeds), peer(proto, feeds)
    again = run_graph(open_program(proto).program.main, feeds)
    assert list(ours) == list(theirs) == list(again)
    for name, wanted in ours.items():
        for found in (theirs[name], again[name]):
            assert found.dtype == wanted.dtype
            np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=atol)
    return proto


def build(*inputs: tuple[str, str, tuple[Any, ...]]) -> tuple[Graph, Builder, list[Value]]:
    graph = Graph(Block([Value(name, TensorType(dtype, shape)) for name, dtype, shape in inputs], [], []))
    return graph, Builder(graph), graph.inputs


def needs(*names: str, domain: str = "") -> None:
    missing = [name for name in names if find(name, domain) is None]
    if missing:
        pytest.skip(f"operators that do not exist yet: {', '.join(missing)}")


N = symbol("n")


@settings(max_examples=25)
@given(graphs())
def test_random_graphs(graph: Graph) -> None:
    check(graph, feeds_of(graph))


@pytest.mark.parametrize("opset", [13, 17, 18, 21, 24])
def test_operator_sets(opset: int) -> None:
    graph = make_graph()
    proto = check(graph, feeds_of(graph), opset)
    assert proto.opset_import[0].version == opset
    assert proto.ir_version == max(8, onnx.helper.find_min_ir_version_for(proto.opset_import))


@pytest.mark.parametrize("opset", [12, 29, 0, -1])
def test_operator_sets_that_cannot_be_written(opset: int) -> None:
    with pytest.raises(HeadraceError, match="allowed: 13 to 28"):
        to_model(make_graph(), opset=opset)


def test_the_default_is_20_or_the_first_that_fits() -> None:
    assert to_model(make_graph()).opset_import[0].version == 20
    needs("RMSNormalization")
    graph, builder, (x,) = build(("x", "float32", (N, 4)))
    graph.outputs.extend(builder.node("RMSNormalization", [x, builder.constant(np.ones(4, np.float32))]))
    assert to_model(graph).opset_import[0].version == 23
    kinds = {node.op_type for node in to_model(graph, opset=17).graph.node}
    assert "RMSNormalization" not in kinds and "Sqrt" in kinds  # older sets get its formula
    graph.outputs[:] = builder.node(
        "TensorScatter", [builder.node("Unsqueeze", [x, builder.constant(np.array([1]))])[0]] * 2
    )
    with pytest.raises(GraphError, match="TensorScatter"):
        to_model(graph, opset=20)


@pytest.mark.parametrize("opset", [13, 17, 18, 20])
@pytest.mark.parametrize("operator", ["ReduceMean", "ReduceMax", "ReduceL2", "ReduceSum", "ReduceLogSumExp"])
def test_reductions_and_their_axes(operator: str, opset: int) -> None:
    graph, builder, (x,) = build(("x", "float32", (N, 3, 4)))
    axes = builder.constant(np.array([-1], np.int64), "axes")
    graph.outputs.extend(builder.node(operator, [x, axes], {"keepdims": 0}) + builder.node(operator, [x]))
    check(graph, feeds_of(graph), opset)


@pytest.mark.parametrize("opset", [13, 18])
def test_split_pad_and_others_with_rules(opset: int) -> None:
    needs("Split", "Pad")
    graph, builder, (x,) = build(("x", "float32", (N, 5)))
    parts = builder.node("Split", [x], {"axis": 1, "num_outputs": 2}, outputs=2)
    pads, value, axes = (
        builder.constant(np.array(data, kind))
        for data, kind in (([1, 2], np.int64), (0.5, np.float32), ([1], np.int64))
    )
    graph.outputs.extend([*parts, *builder.node("Pad", [x, pads, value, axes])])
    check(graph, feeds_of(graph), opset)


def test_if_blocks() -> None:
    needs("If")
    graph, builder, (x, c) = build(("x", "float32", (N, 3)), ("c", "bool", ()))
    w = builder.constant(np.arange(3, dtype=np.float32), "w")
    graph.outputs.extend(
        builder.node(
            "If",
            [c],
            {"then_branch": inner_block(builder, "Add", [x, w]), "else_branch": inner_block(builder, "Mul", [x, w])},
        )
    )
    for flag in (True, False):
        check(graph, {"x": np.ones((2, 3), np.float32), "c": np.array(flag)})


def test_outputs_that_are_constants_or_inputs_keep_their_names() -> None:
    graph, builder, (x,) = build(("x", "float32", (N,)))
    w = builder.constant(np.arange(3, dtype=np.float32), "w")
    (y,) = builder.node("Relu", [x], outputs=["y"])
    graph.outputs.extend([y, w])
    (z,) = builder.node("Add", [w, w], outputs=["z"])
    graph.outputs.append(z)
    check(graph, feeds_of(graph))


def test_symbolic_dimensions_and_metadata() -> None:
    graph, builder, (x,) = build(("x", "float32", (N, symbol("w"))))
    graph.outputs.extend(builder.node("Concat", [x, x], {"axis": 1})) if find("Concat") else graph.outputs.extend(
        builder.node("Relu", [x])
    )
    proto = to_model(Program({"main": graph}, {"author": "me"}))
    opened = open_program(proto)
    assert str(opened.program.main.inputs[0].type) == "float32[n, w]"
    assert opened.properties == {"author": "me"}


def test_paths_come_back() -> None:
    proto = to_model(make_graph(), opset=21)
    assert open_program(proto).program.main.nodes[0].path == "net.scale"


def test_constants_of_every_type_come_back() -> None:
    graph, builder, (x,) = build(("x", "float32", (2,)))
    arrays = every_array()
    for name, array in arrays.items():
        builder.constant(array, f"c_{name}")
        graph.outputs.append(graph.values[f"c_{name}"])
    graph.outputs.extend(builder.node("Relu", [x], outputs=["y"]))
    found = run_graph(open_program(to_model(graph)).program.main, {"x": np.zeros(2, np.float32)})
    for name, array in arrays.items():
        assert same(found[f"c_{name}"], array), name


def test_external_data(tmp_path: Path) -> None:
    graph = make_graph(wide=4096)
    save(graph, tmp_path / "m.onnx", external_data=True)
    assert (tmp_path / "m.onnx").stat().st_size < 4096 * 4 and (tmp_path / "m.onnx.data").stat().st_size >= 3 * 4096 * 4
    feeds = feeds_of(graph)
    wanted = run_graph(graph, feeds)["out"]
    np.testing.assert_allclose(
        run_graph(open_program(tmp_path / "m.onnx").program.main, feeds)["out"], wanted, rtol=1e-6
    )
    np.testing.assert_allclose(peer(str(tmp_path / "m.onnx"), feeds)["out"], wanted, rtol=1e-5)
    onnx.checker.check_model(str(tmp_path / "m.onnx"), full_check=True)


def test_more_than_one_file_can_hold() -> None:
    graph, builder, (x,) = build(("x", "float32", (N, 1)))
    weights = np.broadcast_to(np.float32(1), (1, 600_000_000))  # 2.4 GB that take no memory
    graph.outputs.extend(builder.node("MatMul", [x, builder.constant(weights)]))
    with pytest.raises(HeadraceError, match=r"2400000000 bytes; one ONNX file holds 2147483647: use .*external_data"):
        to_model(graph)


def test_same_graph_gives_same_bytes(tmp_path: Path) -> None:
    for name in "ab":
        save(make_graph(), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


# Operators of headrace


def quantized(rng: np.random.Generator, shape: tuple[int, ...], dtype: str = "int8") -> np.ndarray:
    low = -127 if dtype == "int8" else 0
    return rng.integers(low, low + 255, shape).astype(dtype)


ACTIVATIONS = [
    {},
    {"activation": "Relu"},
    {"activation": "Clip", "clip_min": -0.5, "clip_max": 1.0},
    {"activation": "LeakyRelu", "alpha": 0.2},
    {"activation": "Silu"},
]


@pytest.mark.parametrize("attributes", ACTIVATIONS)
def test_fused_conv(attributes: dict[str, Any]) -> None:
    needs("FusedConv", domain="headrace")
    rng = np.random.default_rng(0)
    graph, builder, (x, r) = build(("x", "float32", (N, 4, 6, 6)), ("r", "float32", (N, 2, 6, 6)))
    w, b = (
        builder.constant(rng.standard_normal((2, 4, 3, 3)).astype(np.float32)),
        builder.constant(np.array([0.5, -1], np.float32)),
    )
    graph.outputs.extend(
        builder.node("FusedConv", [x, w, b, r], {"pads": (1, 1, 1, 1), **attributes}, domain="headrace", outputs=["y"])
    )
    proto = check(graph, feeds_of(graph))
    assert [item.domain for item in proto.opset_import] == ["", "headrace"]


@pytest.mark.parametrize("attributes", [{}, {"transA": 1, "activation": "Relu"}, {"transB": 1, "alpha": 0.5}])
def test_fused_matmul(attributes: dict[str, Any]) -> None:
    needs("FusedMatMul", domain="headrace")
    graph, builder, (a, b, bias) = build(
        ("a", "float32", (N, 4, 4)), ("b", "float32", (N, 4, 4)), ("bias", "float32", (4,))
    )
    graph.outputs.extend(builder.node("FusedMatMul", [a, b, bias], attributes, domain="headrace", outputs=["y"]))
    check(graph, feeds_of(graph))


def scale(builder: Builder, value: float, zero: int, dtype: str) -> list[Value]:
    return [builder.constant(np.float32(value)), builder.constant(np.array(zero, dtype))]


@pytest.mark.parametrize(
    "attributes", [{}, {"activation": "Relu"}, {"activation": "Clip", "clip_min": 0.0, "clip_max": 2.0}]
)
def test_q_conv(attributes: dict[str, Any]) -> None:
    needs("QConv", domain="headrace")
    rng = np.random.default_rng(0)
    graph, builder, (x, r) = build(("x", "uint8", (N, 4, 6, 6)), ("r", "uint8", (N, 2, 6, 6)))
    w, w_scale = builder.constant(quantized(rng, (2, 4, 3, 3))), builder.constant(np.array([0.01, 0.02], np.float32))
    w_zero, bias = builder.constant(np.zeros(2, np.int8)), builder.constant(np.array([50, -90], np.int32))
    inputs = [
        x,
        *scale(builder, 0.03, 120, "uint8"),
        w,
        w_scale,
        w_zero,
        *scale(builder, 0.05, 100, "uint8"),
        bias,
        r,
        *scale(builder, 0.04, 3, "uint8"),
    ]
    graph.outputs.extend(
        builder.node("QConv", inputs, {"pads": (1, 1, 1, 1), **attributes}, domain="headrace", outputs=["y"])
    )
    feeds = {"x": quantized(rng, (2, 4, 6, 6), "uint8"), "r": quantized(rng, (2, 2, 6, 6), "uint8")}
    check(graph, feeds, atol=1)  # one step: the float form rounds elsewhere


@pytest.mark.parametrize("to_float", [True, False])
def test_q_gemm_and_q_add(to_float: bool) -> None:
    needs("QGemm", "QAdd", domain="headrace")
    rng = np.random.default_rng(0)
    graph, builder, (x,) = build(("x", "int8", (N, 8)))
    w, w_scale = builder.constant(quantized(rng, (8, 4))), builder.constant(np.full(4, 0.01, np.float32))
    inputs = [x, *scale(builder, 0.03, 5, "int8"), w, w_scale, builder.constant(np.zeros(4, np.int8))]
    inputs += [None, None] if to_float else scale(builder, 0.02, -3, "int8")
    (y,) = builder.node(
        "QGemm",
        [*inputs, builder.constant(np.arange(4, dtype=np.int32))],
        {"activation": "Relu"},
        domain="headrace",
        outputs=["y"],
    )
    if not to_float:
        (y,) = builder.node(
            "QAdd",
            [
                y,
                *scale(builder, 0.02, -3, "int8"),
                y,
                *scale(builder, 0.02, -3, "int8"),
                *scale(builder, 0.05, 0, "int8"),
            ],
            domain="headrace",
            outputs=["z"],
        )
    graph.outputs.append(y)
    check(graph, {"x": quantized(rng, (3, 8))}, atol=1e-5 if to_float else 1)


def test_dynamic_quantization() -> None:
    needs("DynamicMatMul", "DynamicQuantizeRows", "MatMulIntegerToFloat", domain="headrace")
    rng = np.random.default_rng(0)
    graph, builder, (x,) = build(("x", "float32", (N, 8)))
    w, w_scale = builder.constant(quantized(rng, (8, 4))), builder.constant(np.full(4, 0.01, np.float32))
    graph.outputs.extend(
        builder.node(
            "DynamicMatMul", [x, w, w_scale, builder.constant(np.ones(4, np.float32))], domain="headrace", outputs=["y"]
        )
    )
    q, s, z = builder.node("DynamicQuantizeRows", [x], domain="headrace", outputs=["q", "s", "z"])
    graph.outputs.extend([q, s, z])
    feeds = feeds_of(graph)
    feeds["x"][1] = 0  # a row of zeros has the scale 0 before it is replaced
    check(graph, feeds, atol=1e-4)


def test_what_has_no_form_is_named() -> None:
    needs("SumTo", domain="headrace")
    graph, builder, (x, y) = build(("x", "float32", (N, 3)), ("y", "float32", (symbol("m"), 3)))
    graph.outputs.extend(builder.node("SumTo", [x, y], domain="headrace", outputs=["s"]))
    with pytest.raises(GraphError, match=r"headrace\.SumTo -> s.*symbolic"):
        to_model(graph)


def test_sum_to_of_known_ranks() -> None:
    needs("SumTo", domain="headrace")
    graph, builder, (x, y) = build(("x", "float32", (5, N, 3)), ("y", "float32", (N, 1)))
    graph.outputs.extend(builder.node("SumTo", [x, y], domain="headrace", outputs=["s"]))
    check(graph, feeds_of(graph))
