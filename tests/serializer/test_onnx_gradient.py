"""Gradient of ai.onnx.preview.training: differentiated at import."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from headrace.runtime import load
from headrace.runtime.errors import LoadError

TRAINING = "ai.onnx.preview.training"


def gradient(inputs: list[str], outputs: list[str], **names: Any) -> Any:
    return helper.make_node("Gradient", inputs, outputs, domain=TRAINING, **names)


def model(nodes: list[Any], inputs: dict[str, list[int]], outputs: list[str]) -> Any:
    given = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()]
    wanted = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid(TRAINING, 1)]
    return helper.make_model(helper.make_graph(nodes, "g", given, wanted), opset_imports=opsets, ir_version=10)


def test_of_a_product_summed() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Tanh", ["h"], ["y"]),
        gradient(["w", "x"], ["dw"], xs=["w"], zs=["x"], y="y"),
    ]
    x, w = np.float32([[1, 2], [3, -1]]), np.float32([[0.5], [0.25]])
    found = load(model(nodes, {"x": [2, 2], "w": [2, 1]}, ["y", "dw"]), device="cpu").run({"x": x, "w": w})
    np.testing.assert_allclose(found["dw"], x.T @ (1 - np.tanh(x @ w) ** 2), rtol=1e-5)


def test_at_another_point_and_of_a_gradient() -> None:
    nodes = [
        helper.make_node("Mul", ["x", "x"], ["s"]),
        helper.make_node("Mul", ["s", "x"], ["y"]),
        gradient(["x"], ["first"], xs=["x"], y="y"),
        gradient(["at"], ["second"], xs=["x"], y="first"),
        gradient(["s"], ["by_s"], xs=["s"], y="y"),
    ]
    x, at = np.float32([2, 3]), np.float32([5, 7])
    outputs = ["first", "second", "by_s"]
    found = load(model(nodes, {"x": [2], "at": [2]}, outputs), device="cpu").run({"x": x, "at": at})
    np.testing.assert_allclose(found["first"], 3 * x * x)
    np.testing.assert_allclose(found["second"], 6 * at)
    np.testing.assert_allclose(found["by_s"], x)


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ([gradient(["x"], ["dx"], xs=["x"], y="at")], "does not depend"),
        ([gradient(["x"], ["dx"], xs=["x"], y="nothing")], "not defined"),
        ([gradient(["x", "at"], ["dx"], xs=["x"], y="x")], "one for each"),
        ([helper.make_node("ArgMax", ["x"], ["i"]), gradient(["x"], ["dx"], xs=["x"], y="i")], "only floats"),
    ],
)
def test_what_it_refuses(nodes: list[Any], message: str) -> None:
    with pytest.raises(LoadError, match=message):
        load(model(nodes, {"x": [2], "at": [2]}, ["dx"]), device="cpu")
