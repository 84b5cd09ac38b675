"""Weights in blocks of 4 and 8 bits: the levels, the graph, what it costs, and that onnxruntime reads the same file."""

from pathlib import Path

import numpy as np
import pytest
from graph_cases import count, make
from hypothesis import given
from hypothesis import strategies as st

from headrace import quantization, runtime
from headrace.quantization import Blocks
from headrace.runtime.errors import HeadraceError
from headrace.runtime.executor import run_graph
from headrace.runtime.graph import Graph

SCHEMES = [Blocks(bits, group, symmetric) for bits in (4, 8) for group in (16, 128) for symmetric in (False, True)]


def perceptron(depth: int = 100) -> Graph:
    rng = np.random.default_rng(1)

    def body(o, x):
        def weights(*shape):
            return o.const((rng.standard_normal(shape) / 8).astype(np.float32))

        h = o.Relu(o.Gemm(x, weights(64, depth), weights(64), transB=1))
        return o.Add(o.MatMul(h, weights(64, 48)), weights(48))

    return make(body, x=("float32", ("n", depth)))


@given(st.sampled_from(SCHEMES), st.integers(1, 300), st.integers(0, 99))
def test_weights_are_off_by_half_a_step_at_most(scheme: Blocks, depth: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    weights = (rng.standard_normal((3, depth)) * 10.0 ** rng.integers(-3, 3, (3, 1))).astype(np.float32)
    weights[rng.random(weights.shape) < 0.2] = 0
    found = scheme.quantize(weights)
    steps = np.repeat(np.abs(found.scale), scheme.group, 1)[:, :depth]
    most = (
        1.01 * steps
    )  # half a step, and half of one for the zero point; one where the largest weight has a twin of the other sign
    assert (np.abs(found.dequantize() - weights) <= most).all()
    np.testing.assert_array_equal(found.dequantize()[weights == 0], 0)


def test_a_block_of_zeros_stays_so() -> None:
    for scheme in SCHEMES:
        found = scheme.quantize(np.zeros((2, 130), np.float32))
        assert (found.scale == 1).all() and not found.dequantize().any()


@pytest.mark.parametrize("rows", ["int8", "float32"])
@pytest.mark.parametrize("bits", [4, 8])
def test_products_become_blocks(bits: int, rows: str) -> None:
    graph = perceptron()
    scheme = Blocks(bits, 32, symmetric=bits == 8, rows=rows)
    result = quantization.quantize(graph, method="weight-only", blocks=scheme)
    assert count(result.program.main) == {"com.microsoft.MatMulNBits": 2, "Relu": 1} and result.calibration is None
    assert result.report["outputs"][0]["sqnr_db"] > (15 if bits == 4 else 35)
    assert result.report["bytes"]["quantized"] < (0.25 if bits == 4 else 0.4) * result.report["bytes"]["float"]
    assert result.report["scheme"] == f"weight-only {scheme}" and all(
        row["quantized"] for row in result.report["layers"]
    )
    x = np.random.default_rng(0).standard_normal((9, 100)).astype(np.float32)
    (whole,) = run_graph(result.program.main, {"x": x}).values()
    (alone,) = run_graph(result.program.main, {"x": x[4:5]}).values()
    np.testing.assert_allclose(whole[4:5], alone, rtol=1e-5, atol=1e-6)


def test_the_archive_keeps_its_own_answers_and_the_kernel(tmp_path: Path) -> None:
    quantization.quantize(perceptron(), tmp_path / "net.hr", method="weight-only")
    model = runtime.load(tmp_path / "net.hr")
    x = np.random.default_rng(0).standard_normal((300, 100)).astype(np.float32)
    (whole,) = model.run({"x": x}).values()
    for row in (0, 7, 299):
        np.testing.assert_array_equal(next(iter(model.run({"x": x[row : row + 1]}).values())), whole[row : row + 1])


@pytest.mark.peer
@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_onnxruntime_reads_the_export(scheme: Blocks, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    from headrace.serializer.onnx import save

    exact = Blocks(scheme.bits, scheme.group, scheme.symmetric, "float32")
    program = quantization.quantize(perceptron(), method="weight-only", blocks=exact).program
    save.save(program, tmp_path / "net.onnx")
    x = np.random.default_rng(0).standard_normal((5, 100)).astype(np.float32)
    session = onnxruntime.InferenceSession(str(tmp_path / "net.onnx"), providers=["CPUExecutionProvider"])
    (theirs,) = session.run(None, {"x": x})
    (ours,) = runtime.load(tmp_path / "net.onnx").run({"x": x}).values()
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("wrong", [{"bits": 3}, {"group": 48}, {"rows": "int4"}])
def test_what_a_scheme_allows(wrong: dict[str, object]) -> None:
    with pytest.raises(HeadraceError, match="allowed: "):
        Blocks(**wrong)  # type: ignore[arg-type]


def test_blocks_are_for_weights_alone() -> None:
    with pytest.raises(HeadraceError, match="method='weight-only'"):
        quantization.quantize(perceptron(), method="dynamic", blocks=Blocks())
