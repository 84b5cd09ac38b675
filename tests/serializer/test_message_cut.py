"""Large tensors are cut out of an ONNX message before it is parsed: what is read is the same, from fewer copies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from headrace.runtime import load
from headrace.runtime.errors import LoadError
from headrace.serializer.message_scan import TOKEN, cut, scan, varint
from headrace.serializer.onnx import load as reading

RAW = TensorProto.DESCRIPTOR.fields_by_name["raw_data"]
MODEL = onnx.ModelProto.DESCRIPTOR


def tensor(name: str, data: bytes) -> Any:
    return TensorProto(name=name, data_type=TensorProto.UINT8, dims=[len(data)], raw_data=data)


@st.composite
def models(draw: st.DrawFn, depth: int = 2) -> Any:
    graph = onnx.GraphProto(name=draw(st.text(max_size=3)))
    for index, size in enumerate(draw(st.lists(st.integers(0, 300), max_size=4))):
        graph.initializer.append(tensor(f"w{index}", draw(st.binary(min_size=size, max_size=size))))
    for size in draw(st.lists(st.sampled_from([0, 31, 32, 40, 130, 20000]), max_size=3)):
        node = graph.node.add(op_type="Constant")
        node.attribute.append(helper.make_attribute("value", tensor("v", bytes(size))))
    if depth and draw(st.booleans()):
        inner = draw(models(depth=depth - 1)).graph
        graph.node.add(op_type="If").attribute.append(helper.make_attribute("then_branch", inner))
    return onnx.ModelProto(graph=graph, producer_name="made")


def put_back(message: Any, large: dict[bytes, bytes]) -> None:
    """Every token in the message becomes the bytes that it stands for."""
    for field, value in message.ListFields():
        if field.full_name == RAW.full_name:
            message.raw_data = large.pop(value, value)
        elif field.message_type is not None and not (field.is_repeated and field.message_type.GetOptions().map_entry):
            for item in value if field.is_repeated else [value]:
                put_back(item, large)


@given(models())
@settings(max_examples=150, deadline=None)
def test_what_is_left_and_what_was_cut_are_the_message(model: Any) -> None:
    data = model.SerializeToString()
    left, places = cut(data, MODEL, RAW, 32)
    assert len(left) <= len(data) and all(end - start >= 32 for start, end in places.values())
    found = onnx.ModelProto.FromString(left)
    large = {token: data[start:end] for token, (start, end) in places.items()}
    put_back(found, large)
    assert not large and found == model


def test_only_what_is_large_is_cut_and_a_token_is_a_new_one_each_time() -> None:
    model = onnx.ModelProto(graph=onnx.GraphProto(initializer=[tensor("a", bytes(100)), tensor("b", bytes(99))]))
    data = model.SerializeToString()
    first, second = cut(data, MODEL, RAW, 100), cut(data, MODEL, RAW, 100)
    assert len(first[1]) == 1 and not first[1].keys() & second[1].keys()
    assert not cut(data, MODEL, RAW, 101)[1] and cut(data, MODEL, RAW, 101)[0] == data
    assert all(end - start > TOKEN for start, end in cut(data, MODEL, RAW, 0)[1].values())


@given(models(), st.data())
@settings(max_examples=80, deadline=None)
def test_damage_is_told_as_by_a_look_alone(model: Any, draw: st.DataObject) -> None:
    data = bytearray(model.SerializeToString())
    if draw.draw(st.booleans()):
        del data[draw.draw(st.integers(0, len(data))) :]
    for _ in range(draw.draw(st.integers(0, 3)) if data else 0):
        data[draw.draw(st.integers(0, len(data) - 1))] = draw.draw(st.integers(0, 255))
    told = []
    for read in (lambda: scan(bytes(data), MODEL), lambda: cut(bytes(data), MODEL, RAW, 32)):
        try:
            read()
            told.append("")
        except LoadError as error:
            told.append(str(error))
    assert told[0] == told[1]


def network(weights: list[np.ndarray]) -> Any:
    nodes, value = [], "x"
    for index, _ in enumerate(weights):
        nodes.append(helper.make_node("Add", [value, f"w{index}"], [f"y{index}"]))
        value = f"y{index}"
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [len(weights[0])]) for name in ("x", value)]
    inits = [numpy_helper.from_array(array, f"w{index}") for index, array in enumerate(weights)]
    graph = helper.make_graph(nodes, "net", info[:1], info[1:], inits)
    return helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 21)])


@pytest.mark.parametrize("large", [64, 1 << 20])
def test_weights_are_right_and_lie_as_kernels_read_them(
    large: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "LARGE", large)
    monkeypatch.setattr(reading, "CHUNK", 1000)
    rng = np.random.default_rng(2)
    weights = [rng.standard_normal(1500, dtype=np.float32) for _ in range(5)]
    for shift in range(8):  # of everything in the file
        model = network(weights)
        model.producer_name = "x" * shift
        onnx.save(model, tmp_path / "net.onnx")
        for source in (tmp_path / "net.onnx", (tmp_path / "net.onnx").read_bytes()):
            constants = reading.open_program(source).program.main.constants
            for index, array in enumerate(weights):
                found = constants[f"w{index}"]
                assert found.ctypes.data % 4 == 0
                np.testing.assert_array_equal(found, array)


def test_tensors_that_touch_are_not_moved_over_each_other(tmp_path: Path) -> None:
    """Three bytes apart where a field is given twice, of which the last counts, and six between two tensors."""
    arrays = [np.arange(1500, dtype=np.float32) + i for i in range(2)]
    model = network(arrays)
    del model.graph.initializer[:]
    graph = model.graph.SerializeToString()
    model.ClearField("graph")
    for index, array in enumerate(arrays):
        rows = [TensorProto(raw_data=bytes(6000)), TensorProto(raw_data=array.tobytes())]
        rows.append(TensorProto(data_type=1, dims=[1500], name=f"w{index}"))
        graph += b"\x2a" + _sized(b"".join(row.SerializeToString() for row in (rows if index else rows[::-1])))
    for pad in range(8):
        model.producer_name = "x" * pad
        (tmp_path / "net.onnx").write_bytes(model.SerializeToString() + b"\x3a" + _sized(graph))
        found = reading.open_program(tmp_path / "net.onnx").program.main.constants
        np.testing.assert_array_equal(found["w1"], arrays[1])
        np.testing.assert_array_equal(found["w0"], np.zeros(1500, np.float32))


def _sized(data: bytes) -> bytes:
    return varint(len(data)) + data


def test_a_file_that_is_written_later_does_not_change_a_model(tmp_path: Path) -> None:
    onnx.save(network([np.ones(5000, np.float32)]), tmp_path / "net.onnx")
    model = load(tmp_path / "net.onnx", device="cpu", threads=1)
    size = (tmp_path / "net.onnx").stat().st_size
    (tmp_path / "net.onnx").write_bytes(bytes(size))
    (tmp_path / "net.onnx").write_bytes(b"")
    (y,) = model.run({"x": np.ones(5000, np.float32)}).values()
    np.testing.assert_array_equal(y, np.full(5000, 2, np.float32))
    model.close()


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_what_is_read_is_private_memory(tmp_path: Path) -> None:
    def shared() -> str:
        return next(row for row in Path("/proc/self/status").read_text().splitlines() if row.startswith("RssShmem"))

    (tmp_path / "net.onnx").write_bytes(bytes(4 << 20))
    before = shared()
    data = reading._read(tmp_path / "net.onnx")
    assert len(data) == 4 << 20 and shared() == before
