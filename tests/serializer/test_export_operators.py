"""Every operator's samples as ONNX files at four operator sets: accepted by onnx.checker, equal here after re-import and in
onnxruntime where that implements them, or refused with the node's name."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "ops"))

from cases import assert_close, samples_of, shape_inputs, single_node
from oracle import within_a_level

from headrace.runtime import dtypes
from headrace.runtime.errors import GraphError
from headrace.runtime.executor import run_graph
from headrace.runtime.graph import OPSETS, Block, Graph
from headrace.runtime.ops import registry
from headrace.runtime.ops.base import Operator, Sample
from headrace.serializer.onnx.load import open_program
from headrace.serializer.onnx.save import to_model

OPERATORS = sorted(registry().values(), key=lambda operator: operator.kind)
APART = {"ai.onnx.ml.LabelEncoder": "onnxruntime does not find the key NaN"}
SETS = (13, 17, 21, OPSETS[""])


def some(operator: Operator) -> list[Sample]:
    """Up to three samples that differ in element types or in the attributes given."""
    chosen: dict[str, Sample] = {}
    for sample in samples_of(operator):
        kinds = [getattr(x, "dtype", type(x).__name__) for x in sample.inputs]
        chosen.setdefault(f"{sorted(sample.attributes)} {kinds}", sample)
    return list(chosen.values())[:3]


@pytest.mark.parametrize("operator", OPERATORS, ids=lambda operator: operator.kind)
def test_at_each_operator_set(operator: Operator) -> None:
    onnx = pytest.importorskip("onnx", reason="ONNX files are made with it")
    for sample in some(operator):
        if any(isinstance(value, Block) for value in sample.attributes.values()):
            continue
        graph, feeds = single_node(operator, sample, shape_inputs(sample))
        for opset in SETS:
            try:
                model = to_model(graph, opset=opset)
            except GraphError as error:
                assert graph.nodes[0].label() in str(error), f"{opset}: {error}"
                continue
            accepted(onnx, model)
            if operator.deterministic:
                equal_everywhere(operator, graph, feeds, model, opset)
            if operator.domain == "headrace":  # a call of a function, or written out
                written_out = to_model(graph, opset=opset, functions=False)
                assert [node.domain for node in model.graph.node] == ["headrace"] and not written_out.functions
                accepted(onnx, written_out)
                equal_everywhere(operator, graph, feeds, written_out, opset)


def accepted(onnx: Any, model: Any) -> None:
    """onnx.checker wants a shape for every output; an unknown rank has no notation but that there is none."""
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as error:
        ranked = all(
            not info.type.HasField("tensor_type") or info.type.tensor_type.HasField("shape")
            for info in model.graph.output
        )
        if ranked or "Field 'shape'" not in str(error):
            raise


def equal_everywhere(operator: Operator, graph: Graph, feeds: dict[str, Any], model: Any, opset: int) -> None:
    expected = run_graph(graph, feeds)
    again = open_program(model.SerializeToString()).program.main
    if model.functions:
        assert [node.kind for node in again.nodes] == [operator.kind], "its own operator is not known again"
    answers = {"re-imported": run_graph(again, feeds)}
    if operator.kind not in APART and (found := by_onnxruntime(model, feeds)) is not None:
        answers["onnxruntime"] = found
    for who, found in answers.items():
        for name, value in expected.items():
            given = within_a_level(operator, found[name], value)
            assert_close(given, value, f"{who}, operator set {opset}: {graph.nodes[0].label()}", 100.0)


def by_onnxruntime(model: Any, feeds: dict[str, Any]) -> dict[str, Any] | None:
    """onnxruntime's answer, where it is installed and implements the operators for these types."""
    try:
        import onnxruntime
    except ImportError:
        return None
    arrays = [x for x in feeds.values() if isinstance(x, np.ndarray)]
    if any(dtypes.of(x).bits < 8 or dtypes.of(x).name in dtypes.FLOAT8 | {"bfloat16"} for x in arrays):
        return None
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return dict(zip([output.name for output in session.get_outputs()], session.run(None, feeds)))
    except Exception:
        return None
