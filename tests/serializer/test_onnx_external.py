"""External data: read from a plain file beside the model, and never from anywhere else."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from headrace.runtime.errors import LoadError
from headrace.runtime.model import load
from headrace.serializer.onnx.load import open_program

SECRET = b"0123456789abcdef" * 4


def write(folder: Path, fields: dict[str, Any], dims: tuple[int, ...] = (4,)) -> Path:
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=dims, data_location=TensorProto.EXTERNAL)
    for key, value in fields.items():
        tensor.external_data.add(key=key, value=str(value))
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None if name == "y" else ["n", 4]) for name in "xy"]
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["y"])], "g", info[:1], info[1:], initializer=[tensor]
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    (folder / "m.onnx").write_bytes(proto.SerializeToString())
    return folder / "m.onnx"


def refused(path: Path, *words: str) -> None:
    with pytest.raises(LoadError) as caught:
        open_program(path)
    text = str(caught.value)
    assert "initializer 'w'" in text and all(word in text for word in words), text
    assert "0123456789" not in text


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "secret").write_bytes(SECRET)
    inner = tmp_path / "model"
    inner.mkdir()
    (inner / "m.data").write_bytes(np.arange(8, dtype=np.float32).tobytes())
    return inner


def test_a_file_beside_the_model_is_mapped(folder: Path) -> None:
    w = open_program(write(folder, {"location": "m.data", "offset": 16, "length": 16})).program.main.constants["w"]
    assert w.tolist() == [4, 5, 6, 7] and not w.flags.owndata
    assert open_program(write(folder, {"location": "m.data"})).program.main.constants["w"].tolist() == [0, 1, 2, 3]


def test_weights_beyond_two_gigabytes(folder: Path) -> None:
    """A sparse file of 2.6 GB, mapped: a tensor of 2.4 GB, and one that begins where an int32 offset ends."""
    count, last = 600_000_000, 2_500_000_000
    with open(folder / "m.data", "wb") as file:
        file.truncate(2_600_000_000)
        for place, value in ((0, 1.5), (4 * (count - 1), 2.5), (last, 3.5)):
            file.seek(place)
            file.write(np.float32(value).tobytes())
    tensors = []
    for name, dims, offset in (("w", [count], 0), ("v", [1], last)):
        tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=dims, data_location=TensorProto.EXTERNAL)
        for key, value in (("location", "m.data"), ("offset", offset), ("length", 4 * dims[0])):
            tensor.external_data.add(key=key, value=str(value))
        tensors.append(tensor)
    nodes = [helper.make_node("Gather", ["w", "i"], ["g"]), helper.make_node("Add", ["g", "v"], ["y"])]
    infos = [helper.make_tensor_value_info("i", TensorProto.INT64, ["n"]), helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n"])]  # fmt: skip
    proto = helper.make_model(
        helper.make_graph(nodes, "g", infos[:1], infos[1:], initializer=tensors),
        opset_imports=[helper.make_opsetid("", 20)],
        ir_version=10,
    )
    (folder / "m.onnx").write_bytes(proto.SerializeToString())
    with load(folder / "m.onnx", device="cpu") as model:
        found = model.run({"i": np.array([0, count - 1, 7])})["y"]
    assert found.tolist() == [5.0, 6.0, 3.5]


def test_an_unaligned_offset_is_copied(folder: Path) -> None:
    (folder / "m.data").write_bytes(b"x" + np.arange(4, dtype=np.float32).tobytes())
    w = open_program(write(folder, {"location": "m.data", "offset": 1})).program.main.constants["w"]
    assert w.tolist() == [0, 1, 2, 3] and w.ctypes.data % 4 == 0


def test_bytes_have_no_folder(folder: Path) -> None:
    path = write(folder, {"location": "m.data"})
    with pytest.raises(LoadError, match="given as bytes"):
        open_program(path.read_bytes())


@pytest.mark.parametrize(
    "name",
    [
        "../secret",
        "/etc/hostname",
        "./m.data",
        "sub/m.data",
        "..",
        ".",
        "",
        "a\\b",
        "m.data\0",
        "m\n.data",
        "x" * 300,
        "file://m.data",
        "sub/../m.data",
    ],
)
def test_names_that_are_not_plain(folder: Path, name: str) -> None:
    refused(write(folder, {"location": name}))


def test_symbolic_links(folder: Path) -> None:
    (folder / "link").symlink_to(folder.parent / "secret")
    refused(write(folder, {"location": "link"}), "link")
    (folder / "inside").symlink_to(folder / "m.data")
    refused(write(folder, {"location": "inside"}))


def test_hard_links(folder: Path) -> None:
    os.link(folder.parent / "secret", folder / "hard")
    refused(write(folder, {"location": "hard"}), "hard link")


def test_folders_pipes_and_missing_files(folder: Path) -> None:
    (folder / "sub").mkdir()
    os.mkfifo(folder / "pipe")
    for name in ("sub", "pipe", "missing"):
        refused(write(folder, {"location": name}), name)


@pytest.mark.parametrize(
    "fields",
    [
        {"offset": 17}, {"offset": 32}, {"offset": 33}, {"offset": 1 << 63}, {"offset": (1 << 64) - 16}, {"offset": 10**19}, {"offset": -1}, {"offset": "1e1"}, {"offset": ""}, {"offset": " 0"}, {"offset": "٣"},
        {"length": 15}, {"length": 17}, {"length": 1 << 63}, {"length": -16}, {"length": ""}, {"offset": 24, "length": 16}, {"unknown": 1}, {"basepath": "/etc"},
    ],
)  # fmt: skip
def test_ranges_and_keys(folder: Path, fields: dict[str, Any]) -> None:
    refused(write(folder, {"location": "m.data", **fields}))


def test_a_small_file_does_not_stand_for_many_copies(folder: Path) -> None:
    """Unaligned tensors are copied: a thousand over the same bytes would be a thousand copies."""
    tensors = []
    for index in range(6):
        tensors.append(TensorProto(name=f"w{index}", data_type=1, dims=(4,), data_location=TensorProto.EXTERNAL))
        for key, value in (("location", "m.data"), ("offset", "1"), ("length", "16")):
            tensors[-1].external_data.add(key=key, value=value)
    (folder / "m.data").write_bytes(bytes(17))
    ends = [helper.make_tensor_value_info(name, 1, [4]) for name in "xy"]
    node = helper.make_node("Sum", ["x", *(tensor.name for tensor in tensors)], ["y"])
    graph = helper.make_graph([node], "g", ends[:1], ends[1:], initializer=tensors)
    path = folder / "m.onnx"
    path.write_bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]).SerializeToString())
    with pytest.raises(LoadError, match="more than 4 times the bytes"):
        open_program(path)


def test_a_key_twice(folder: Path) -> None:
    path = write(folder, {"location": "m.data"})
    proto = onnx.ModelProto.FromString(path.read_bytes())
    proto.graph.initializer[0].external_data.add(key="location", value="../secret")
    path.write_bytes(proto.SerializeToString())
    refused(path, "twice")


def test_sizes_that_do_not_fit(folder: Path) -> None:
    refused(write(folder, {"location": "m.data"}, (9,)))
    refused(write(folder, {"location": "m.data"}, (1 << 40, 1 << 20)))
    (folder / "empty").write_bytes(b"")
    refused(write(folder, {"location": "empty"}))
    assert open_program(write(folder, {"location": "empty"}, (0, 4))).program.main.constants["w"].shape == (0, 4)


def test_raw_and_external_at_once(folder: Path) -> None:
    path = write(folder, {"location": "m.data"})
    proto = onnx.ModelProto.FromString(path.read_bytes())
    proto.graph.initializer[0].raw_data = bytes(16)
    path.write_bytes(proto.SerializeToString())
    refused(path, "more than one place")
