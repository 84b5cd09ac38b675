"""Models that show the CUDA device: a MiniLM of any size with random weights, written node by node as exporters write
BERT; and the digits CNN, float and int8."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import headrace


class _Writer:
    """Nodes and initializers of an ONNX graph; each call of `op` answers the name of the result."""

    def __init__(self, seed: int) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self._rng = np.random.default_rng(seed)

    def op(self, kind: str, *inputs: str, **attributes: object) -> str:
        result = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [result], **attributes))
        return result

    def const(self, array: object) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def weight(self, *shape: int, spread: float = 1.0) -> str:
        return self.const((self._rng.standard_normal(shape) * spread).astype(np.float32))

    def linear(self, x: str, width: int, out: int) -> str:
        product = self.op("MatMul", x, self.weight(width, out, spread=width**-0.5))
        return self.op("Add", product, self.weight(out, spread=0.1))

    def norm(self, x: str, width: int) -> str:
        scale = self.const(self._rng.uniform(0.5, 1.5, width).astype(np.float32))
        return self.op("LayerNormalization", x, scale, self.weight(width, spread=0.1), axis=-1, epsilon=1e-12)


def minilm(layers: int = 1, heads: int = 2, size: int = 8, vocabulary: int = 50, seed: int = 0) -> onnx.ModelProto:
    """ids and mask, int64 [batch, length], to a unit vector a row, float32 [batch, heads * size]."""
    w, width = _Writer(seed), heads * size
    op, const = w.op, w.const
    length = op("Gather", op("Shape", "ids"), const(np.int64(1)))
    positions = op("Range", const(np.int64(0)), length, const(np.int64(1)))
    x = op("Add", op("Gather", w.weight(vocabulary, width), "ids"), op("Gather", w.weight(64, width), positions))
    x = w.norm(op("Add", x, w.weight(width)), width)
    floats = op("Cast", "mask", to=TensorProto.FLOAT)
    away = op("Mul", op("Sub", const(np.float32(1)), floats), const(np.float32(-1e4)))
    bias = op("Unsqueeze", away, const(np.array([1, 2])))
    split, joined = const(np.array([0, 0, heads, size])), const(np.array([0, 0, width]))
    for _ in range(layers):
        q, k, v = (op("Reshape", w.linear(x, width, width), split) for _ in range(3))
        scores = op("MatMul", op("Transpose", q, perm=[0, 2, 1, 3]), op("Transpose", k, perm=[0, 2, 3, 1]))
        scores = op("Softmax", op("Add", op("Div", scores, const(np.float32(size**0.5))), bias), axis=-1)
        mixed = op("Transpose", op("MatMul", scores, op("Transpose", v, perm=[0, 2, 1, 3])), perm=[0, 2, 1, 3])
        x = w.norm(op("Add", w.linear(op("Reshape", mixed, joined), width, width), x), width)
        h = w.linear(x, width, 4 * width)
        erf = op("Add", op("Erf", op("Div", h, const(np.float32(2**0.5)))), const(np.float32(1)))
        h = op("Mul", op("Mul", h, const(np.float32(0.5))), erf)
        x = w.norm(op("Add", w.linear(h, 4 * width, width), x), width)
    weights, along = op("Unsqueeze", floats, const(np.array([2]))), const(np.array([1]))
    total = op("ReduceSum", op("Mul", x, weights), along, keepdims=0)
    pooled = op("Div", total, op("ReduceSum", weights, along, keepdims=0))
    w.nodes.append(helper.make_node("LpNormalization", [pooled], ["embedding"], axis=1, p=2))
    graph = helper.make_graph(
        w.nodes,
        "minilm",
        [helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "length"]) for name in ("ids", "mask")],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", width])],
        w.constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def minilm_feeds(batch: int = 2, length: int = 5, vocabulary: int = 50, seed: int = 1) -> dict[str, np.ndarray]:
    """Rows of different lengths; each has at least one token."""
    rng = np.random.default_rng(seed)
    kept = np.arange(length)[None] < rng.integers(1, length + 1, (batch, 1))
    return {"ids": rng.integers(0, vocabulary, (batch, length)) * kept, "mask": kept.astype(np.int64)}


def digits(folder: Path, epochs: int = 1) -> tuple[Path, Path]:
    """The digits CNN of examples/digits, trained a little, as archives: float, and int8 by static quantization."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "examples" / "digits"))
    from model import digits as images
    from model import train

    (x, _), (x_test, y_test) = images()
    net, _ = train(epochs)
    plain, small = folder / "digits.hr", folder / "digits-int8.hr"
    report = headrace.pack(net, x[:4], plain, golden=4)
    (name,) = report.inputs
    headrace.quantize(
        plain, small, method="static", calibration=[{name: x[:64]}], labels=({name: x_test}, y_test), max_drop=5.0
    )
    return plain, small
