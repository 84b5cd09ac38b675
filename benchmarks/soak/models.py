"""Packages that the runs serve: what they answer is known without them."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from headrace import runtime
from headrace.runtime.interface import Golden
from headrace.serializer import archive
from headrace.serializer.onnx.load import open_program

WIDTH = 16
FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64
TABLE = np.arange(40, dtype=np.float32).reshape(10, 4)


def _save(path, nodes, inputs, outputs, constants, golden):
    """Pack a graph with the answers of one run as golden data."""
    graph = helper.make_graph(
        nodes,
        "soak",
        [helper.make_tensor_value_info(name, kind, shape) for name, kind, shape in inputs],
        [helper.make_tensor_value_info(name, kind, shape) for name, kind, shape in outputs],
        [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    opened = open_program(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9))
    with runtime.load(opened.program.main) as model:
        answers = model.run(golden)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    archive.save(opened.program, path, golden=Golden([golden], [answers], rtol=0.0, atol=1e-6))


def line(path, factor, offset):
    """y = factor * x + offset for x FP32 [batch, WIDTH]: rows are independent, factors and offsets exact in float32."""
    node = helper.make_node
    nodes = [node("Mul", ["x", "factor"], ["h"]), node("Add", ["h", "offset"], ["y"])]
    port = [("x", FLOAT, ["batch", WIDTH])], [("y", FLOAT, ["batch", WIDTH])]
    constants = {"factor": np.float32(factor), "offset": np.float32(offset)}
    _save(path, nodes, *port, constants, {"x": np.ones((1, WIDTH), np.float32)})


def lookup(path):
    """y = TABLE[i] for i INT64 [batch]: an index outside raises inside the model, in whatever batch it is."""
    nodes = [helper.make_node("Gather", ["table", "i"], ["y"], axis=0)]
    port = [("i", INT64, ["batch"])], [("y", FLOAT, ["batch", 4])]
    _save(path, nodes, *port, {"table": TABLE}, {"i": np.array([1], np.int64)})


def work(path):
    """y = x after n trips of a loop, for n INT64 [1]: runs as long as it is asked to, and is never merged."""
    node, value = helper.make_node, helper.make_tensor_value_info
    body = helper.make_graph(
        [
            node("Identity", ["go"], ["go_on"]),
            node("Add", ["state", "one"], ["added"]),
            node("Sub", ["added", "one"], ["next"]),
        ],
        "body",
        [
            value("trip", INT64, []),
            value("go", TensorProto.BOOL, []),
            value("state", FLOAT, [1, 1024]),
        ],
        [value("go_on", TensorProto.BOOL, []), value("next", FLOAT, [1, 1024])],
    )
    nodes = [
        node("Squeeze", ["n"], ["trips"]),
        node("Loop", ["trips", "true", "x"], ["y"], body=body),
    ]
    constants = {"true": np.array(True), "one": np.float32(1)}
    ports = [("n", INT64, [1]), ("x", FLOAT, [1, 1024])], [("y", FLOAT, [1, 1024])]
    _save(path, nodes, *ports, constants, {"n": np.array([2], np.int64), "x": np.ones((1, 1024), np.float32)})


HEAVY = 2048


def heavy(path):
    """y = x @ w, 16 MiB of weights: what must be given back."""
    weights = np.random.default_rng(1).standard_normal((HEAVY, HEAVY)).astype(np.float32)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    ports = [("x", FLOAT, ["batch", HEAVY])], [("y", FLOAT, ["batch", HEAVY])]
    _save(path, nodes, *ports, {"w": weights}, {"x": np.ones((1, HEAVY), np.float32)})
