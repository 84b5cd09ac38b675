"""Hostile ONNX bytes: every file loads or is a LoadError, quickly, and in bounded memory."""

from __future__ import annotations

import contextlib
import itertools
import resource
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from serializer_graphs import make_graph

from headrace.runtime import check
from headrace.runtime.errors import LoadError
from headrace.runtime.passes import fold
from headrace.serializer.onnx.load import open_program
from headrace.serializer.onnx.save import to_model


def seed() -> bytes:
    """A valid model with initializers, a function, metadata and value_info."""
    function = helper.make_function(
        "f", "F", ["a"], ["b"], [helper.make_node("Neg", ["a"], ["b"])], [helper.make_opsetid("", 20)]
    )
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 3]) for name in "xmy"]
    nodes = [
        helper.make_node("Add", ["x", "w"], ["m"]),
        helper.make_node("F", ["m"], ["q"], domain="f"),
        helper.make_node("LeakyRelu", ["q"], ["y"], alpha=0.5),
    ]
    graph = helper.make_graph(
        nodes, "g", info[:1], info[2:], [numpy_helper.from_array(np.ones(3, np.float32), "w")], value_info=info[1:2]
    )
    model = helper.make_model(
        graph,
        functions=[function],
        opset_imports=[helper.make_opsetid("", 20), helper.make_opsetid("f", 1)],
        ir_version=10,
    )
    model.metadata_props.add(key="k", value="v")
    return model.SerializeToString()


@pytest.mark.parametrize("data", [seed(), to_model(make_graph()).SerializeToString()], ids=["functions", "exported"])
def test_mutated_bytes(data: bytes) -> None:
    rng = np.random.default_rng(0)
    for _ in range(1500):
        mutated = bytearray(data)
        for _ in range(int(rng.integers(1, 5))):
            action, place = rng.integers(3), int(rng.integers(len(mutated)))
            if action == 0:
                mutated[place] = int(rng.integers(256))
            elif action == 1:
                del mutated[place : place + int(rng.integers(1, 9))]
            else:
                mutated[place:place] = bytes(rng.integers(0, 256, int(rng.integers(1, 9)), dtype=np.uint8))
        start = time.process_time()
        with contextlib.suppress(LoadError):
            open_program(bytes(mutated))
        assert time.process_time() - start < 5


def _field(number: int, data: bytes) -> bytes:
    size, out = len(data), b""
    while size >= 128:
        out, size = out + bytes([size & 127 | 128]), size >> 7
    return bytes([number << 3 | 2]) + out + bytes([size]) + data


@pytest.mark.parametrize("number", [1, 5, 11, 13], ids=["nodes", "initializers", "inputs", "value_info"])
def test_very_many_empty_messages(number: int) -> None:
    """20 MB of two-byte messages would be some gigabytes of objects."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    data = b"\x08\x0a" + _field(7, bytes([number << 3 | 2, 0]) * 10_000_000)
    start = time.process_time()
    with pytest.raises(LoadError, match="too many"):
        open_program(data)
    assert time.process_time() - start < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 256 << 10


@pytest.mark.parametrize("depth", [30, 200])
def test_deep_nesting(depth: int) -> None:
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [], []).SerializeToString()
    for _ in range(depth):
        attribute = _field(1, b"g") + _field(6, graph)  # AttributeProto.g
        graph = _field(1, _field(4, b"If") + _field(5, attribute) + _field(1, b"x") + _field(2, b"y"))  # NodeProto
    with pytest.raises(LoadError):
        open_program(b"\x08\x0a" + _field(7, graph))


def test_wide_graphs_take_linear_time() -> None:
    nodes = [helper.make_node("Relu", [f"v{i}"], [f"v{i + 1}"]) for i in range(5000)]
    ends = [helper.make_tensor_value_info(name, 1, ["n"]) for name in ("v0", "v5000")]
    weights = [numpy_helper.from_array(np.float32(i), f"w{i}") for i in range(5000)]
    model = helper.make_model(
        helper.make_graph(nodes, "g", ends[:1], ends[1:], weights),
        opset_imports=[helper.make_opsetid("", 20)],
        ir_version=10,
    )
    start = time.process_time()
    assert len(open_program(model).program.main.nodes) == 5000
    assert time.process_time() - start < 20


def test_errors_name_the_file_but_no_other_path(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(b"garbage")
    with pytest.raises(LoadError) as caught:
        open_program(path)
    assert str(caught.value).startswith(str(path))


def small_model(nodes: list[Any], weights: Any = (), functions: Any = ()) -> bytes:
    ends = [helper.make_tensor_value_info(name, 1, None) for name in ("x", "y")]
    flag = helper.make_tensor_value_info("flag", TensorProto.BOOL, [])
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("d", 1)]
    graph = helper.make_graph(nodes, "g", [ends[0], flag], ends[1:], list(weights))
    return bytes(
        helper.make_model(graph, functions=list(functions), opset_imports=opsets, ir_version=10).SerializeToString()
    )


def test_a_long_function_called_often_is_refused_before_it_is_written_out() -> None:
    """1 MB of a constant, a hundred times, would be 400 MB of int32."""
    value = helper.make_tensor("t", TensorProto.INT32, [1_000_000], [1] * 1_000_000)
    body = [
        helper.make_node("Constant", [], ["k"], value=value),
        helper.make_node("ReduceMax", ["k"], ["m"], keepdims=0),
        helper.make_node("Cast", ["m"], ["f"], to=1),
        helper.make_node("Add", ["a", "f"], ["o"]),
    ]
    function = helper.make_function("d", "F", ["a"], ["o"], body, [helper.make_opsetid("", 20)])
    names = ["x", *(f"v{i}" for i in range(99)), "y"]
    calls = [helper.make_node("F", [a], [b], domain="d") for a, b in itertools.pairwise(names)]
    with pytest.raises(LoadError, match="written out for each call"):
        open_program(small_model(calls, functions=[function]))


def test_many_blocks_behind_many_values_take_linear_time() -> None:
    """Each block sees all values in front of it: looking at them anew for each block took minutes."""
    nodes = [helper.make_node("Identity", ["x"], [f"a{i}"]) for i in range(10_000)]
    branches = {
        f"{key}_branch": helper.make_graph(
            [helper.make_node(kind, ["x"], [key])], key, [], [helper.make_tensor_value_info(key, 1, None)]
        )
        for key, kind in (("then", "Neg"), ("else", "Abs"))
    }
    nodes += [helper.make_node("If", ["flag"], [f"b{i}"], **branches) for i in range(500)]
    nodes.append(helper.make_node("Sum", [f"b{i}" for i in range(500)], ["y"]))
    graph = open_program(small_model(nodes)).program.main

    class Unwalked(dict):  # type: ignore[type-arg]
        def refuse(self) -> Any:
            raise AssertionError("all names are looked at")

        __iter__ = keys = items = values = refuse  # type: ignore[assignment]

    assert check._check_nodes(graph.block, Unwalked({value.name: value for value in graph.inputs}), 1, 0) > 1000


def test_many_large_constants_are_not_folded() -> None:
    """A node of 30 bytes asks for 1 MB: a thousand of them must not become 1 GB while the file is loaded."""
    nodes = []
    for i in range(200):
        nodes += [
            helper.make_node("ConstantOfShape", ["s"], [f"c{i}"]),
            helper.make_node("Add", [f"c{i}", "x"], [f"y{i}"]),
        ]
    nodes.append(helper.make_node("Concat", [f"y{i}" for i in range(200)], ["y"], axis=0))
    graph = open_program(small_model(nodes, [numpy_helper.from_array(np.array([260_000]), "s")])).program.main
    folded = fold.run(graph)
    size = sum(array.nbytes for array in folded.constants.values())
    assert fold.TOTAL <= size < fold.TOTAL + (2 << 20)
