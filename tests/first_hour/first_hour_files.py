"""What is loaded."""

from pathlib import Path

import numpy as np
import onnx
from book import Chapter, terminal
from onnx import TensorProto, helper

import headrace as torch
from headrace import runtime

CHAPTER = Chapter("Model files")


def write_onnx(path, node, weights=(), **options):
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", None]) for name in "xy")
    domains = [helper.make_opsetid("", 20), helper.make_opsetid("com.acme", 1)]
    graph = helper.make_graph([node], "g", [x], [y], list(weights))
    onnx.save(helper.make_model(graph, opset_imports=domains, ir_version=10), path, **options)


@CHAPTER.mistake("A PyTorch checkpoint")
def _():
    return terminal("headrace pack model.pth -o net.hr")


@CHAPTER.mistake("A PyTorch checkpoint, loaded as weights")
def _():
    torch.load("model.pth")


@CHAPTER.mistake("A pickled estimator")
def _():
    runtime.load("forest.pkl")


@CHAPTER.mistake("A Keras file")
def _():
    runtime.load("net.h5")


@CHAPTER.mistake("A TensorFlow SavedModel folder")
def _():
    runtime.load("saved")


@CHAPTER.mistake("Weights without a model")
def _():
    runtime.load("weights.safetensors")


@CHAPTER.mistake("A name with a slip")
def _():
    runtime.load("nett.hr")


@CHAPTER.mistake("A download that broke off")
def _():
    data = Path("net.hr").read_bytes()
    Path("cut.hr").write_bytes(data[: len(data) // 2])
    runtime.load("cut.hr")


@CHAPTER.mistake("A file in which one bit has changed")
def _():
    data = bytearray(Path("net.hr").read_bytes())
    data[data.index(b"ops")] ^= 1
    Path("bad.hr").write_bytes(data)
    runtime.load("bad.hr")


@CHAPTER.mistake("A web page, saved as a model")
def _():
    Path("page.hr").write_text("<!DOCTYPE html><title>404</title>")
    return terminal("headrace inspect page.hr")


@CHAPTER.mistake("An ONNX file with an operator of somebody's own")
def _():
    write_onnx("fancy.onnx", helper.make_node("FancyNorm", ["x"], ["y"], name="norm_1", domain="com.acme"))
    runtime.load("fancy.onnx")


@CHAPTER.mistake("An ONNX file whose weights were left behind")
def _():
    weight = onnx.numpy_helper.from_array(np.ones((4, 2), np.float32), "w")
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    write_onnx("big.onnx", node, [weight], save_as_external_data=True, location="big.onnx.data", size_threshold=0)
    Path("big.onnx.data").unlink()
    runtime.load("big.onnx")


@CHAPTER.mistake("An ONNX file that broke off")
def _():
    write_onnx("net.onnx", helper.make_node("Relu", ["x"], ["y"]))
    Path("net.onnx").write_bytes(Path("net.onnx").read_bytes()[:40])
    runtime.load("net.onnx")
