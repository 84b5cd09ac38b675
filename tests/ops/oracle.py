"""The ONNX reference evaluator and onnxruntime as oracles of one operator on one sample."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from headrace.runtime import dtypes
from headrace.runtime.graph import Block
from headrace.runtime.ops.base import Operator, Sample

onnx = pytest.importorskip("onnx", reason="onnx is the oracle")

# A tie may fall on the other side, one level apart: onnxruntime folds zero points into its float32 sums, and ours multiply by
# quotients of scales where the standard operators that stand for them in ONNX files divide.
ROUNDED_APART = {
    *(("com.microsoft", name) for name in ("QLinearAdd", "QLinearGlobalAveragePool")),
    *(("headrace", name) for name in ("QAdd", "QConv", "QGemm")),
}
OPSETS = {"": (28, 26, 23, 22, 21, 18), "ai.onnx.ml": (5, 3), "com.microsoft": (1,)}


def oracles(operator: Operator, sample: Sample, count: int) -> list[tuple[str, list[Any]]]:
    """Answers of those oracles that implement the operator: (name, outputs)."""
    if operator.domain not in OPSETS or any(isinstance(value, Block) for value in sample.attributes.values()):
        return []
    answers = []
    for name, run in (("onnx.reference", _evaluate), ("onnxruntime", _onnxruntime)):
        for version in OPSETS[operator.domain]:
            try:
                model = _model(operator, sample, count, version)
                outputs = run(model, _feeds(sample))
            except Exception:
                continue
            answers.append((f"{name} opset {version}", outputs))
            break
    return answers


def levels(found: Any, expected: Any) -> bool:
    return found.shape == expected.shape and found.dtype == expected.dtype and found.dtype.kind in "iu"


def within_a_level(operator: Operator, found: Any, expected: Any) -> Any:
    """`found`, with levels that may be rounded to the other side taken from `expected` where they are one apart."""
    if (operator.domain, operator.name) not in ROUNDED_APART or not levels(found, expected):
        return found
    apart = np.abs(found.astype(np.int64) - expected.astype(np.int64)) == 1
    assert apart.mean() <= 0.2, "too many levels are one apart to be ties"
    return np.where(apart, expected, found).astype(found.dtype)


def _feeds(sample: Sample) -> dict[str, Any]:
    return {f"x{i}": x for i, x in enumerate(sample.inputs) if x is not None}


def _model(operator: Operator, sample: Sample, count: int, version: int) -> Any:
    inputs = ["" if x is None else f"x{i}" for i, x in enumerate(sample.inputs)]
    outputs = [f"y{i}" for i in range(count)]
    attributes = {key: _attribute(value) for key, value in sample.attributes.items() if value is not None}
    node = onnx.helper.make_node(operator.name, inputs, outputs, domain=operator.domain)
    for key, value in attributes.items():
        node.attribute.append(onnx.helper.make_attribute(key, value, attr_type=_kind(operator, key)))
    given = [onnx.helper.make_value_info(f"x{i}", _type(x)) for i, x in enumerate(sample.inputs) if x is not None]
    wanted = [onnx.helper.make_empty_tensor_value_info(name) for name in outputs]
    graph = onnx.helper.make_graph([node], "one", given, wanted)
    imports = [onnx.helper.make_opsetid("", version if not operator.domain else 22)]
    if operator.domain:
        imports.append(onnx.helper.make_opsetid(operator.domain, version))
    return onnx.helper.make_model(graph, opset_imports=imports, ir_version=10)


def _kind(operator: Operator, key: str) -> Any:
    kind = operator.attributes[key].kind.upper()
    return getattr(onnx.AttributeProto, kind, None)


def _attribute(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return onnx.numpy_helper.from_array(value)
    return list(value) if isinstance(value, tuple) else value


def _type(value: Any) -> Any:
    if isinstance(value, list):
        return onnx.helper.make_sequence_type_proto(_type(value[0]))
    return onnx.helper.make_tensor_type_proto(dtypes.of(value).onnx, np.shape(value))


def _evaluate(model: Any, feeds: dict[str, Any]) -> list[Any]:
    from onnx.reference import ReferenceEvaluator

    with np.errstate(all="ignore"):
        return list(ReferenceEvaluator(model).run(None, feeds))


def _onnxruntime(model: Any, feeds: dict[str, Any]) -> list[Any]:
    import onnxruntime

    node = model.graph.node[0]
    for x in feeds.values():
        if isinstance(x, np.ndarray) and (dtypes.of(x).bits < 8 or dtypes.of(x).name in dtypes.FLOAT8 | {"bfloat16"}):
            raise NotImplementedError("these element types cannot be fed")
        if node.op_type in ("Div", "Mod") and isinstance(x, np.ndarray) and x.dtype.kind in "iu" and (x == 0).any():
            raise NotImplementedError("an integer division by zero ends the process")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    model.opset_import[0].version = min(model.opset_import[0].version, 23)
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return list(session.run(None, feeds))
