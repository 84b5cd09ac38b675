"""An archive may hold what the portable passes made of its graph: loads then run no passes, and everything else is the same."""

from __future__ import annotations

import hashlib
import json
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headrace.runtime import load, passes
from headrace.runtime import lower as lowering
from headrace.runtime.builder import Builder
from headrace.runtime.errors import LoadError
from headrace.runtime.graph import Block, Graph, Program, State, Value
from headrace.runtime.interface import Golden
from headrace.runtime.model import Model
from headrace.runtime.shapes import symbol
from headrace.runtime.types import TensorType
from headrace.serializer import archive, graph_codec, optimized, weights
from headrace.serializer.zip_writer import Entry, layout
from headrace.verbs.verify import verify

SIZE = 96  # biases are larger than what stands in the graph itself
rng = np.random.default_rng(8)
FEEDS = {"x": rng.standard_normal((3, SIZE), np.float32), "h": rng.standard_normal((3, SIZE), np.float32)}


def floats(*shape: int) -> np.ndarray:
    return rng.standard_normal(shape, dtype=np.float32)


def network(name: str = "main") -> Graph:
    """A matrix product whose bias is a sum of constants, its shape computed by shape arithmetic, and a state: passes fold and
    fuse. The output's size is not declared."""
    graph = Graph(Block([], [], []), name=name)
    build = Builder(graph)
    x = build.input("x", TensorType("float32", (symbol("n"), SIZE)))
    h = build.input("h", TensorType("float32", (symbol("n"), SIZE)))
    (product,) = build.node("MatMul", [x, build.constant(floats(SIZE, SIZE))])
    (bias,) = build.node("Add", [build.constant(floats(SIZE)), build.constant(floats(SIZE))])
    (sum_,) = build.node("Add", [product, bias])
    (active,) = build.node("Relu", [sum_])
    (shape,) = build.node("Shape", [active])
    (y,) = build.node("Reshape", [active, shape], outputs=["y"])
    (after,) = build.node("Add", [h, y], outputs=["h_next"])
    graph.outputs.extend([y, after])
    graph.states.append(State("h", "h_next"))
    return graph


@pytest.fixture
def path(tmp_path: Path) -> Path:
    archive.save(
        Program({"main": network(), "other": network("other")}, {"made": "by hand"}),
        tmp_path / "net.hr",
        optimized=True,
    )
    return tmp_path / "net.hr"


@pytest.fixture
def no_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passes, "optimize", lambda *_, **__: pytest.fail("passes ran"))


def same(one: Model, two: Model) -> None:
    first, second = one.run(FEEDS), two.run(FEEDS)
    assert list(first) == list(second)
    for key, array in first.items():
        np.testing.assert_array_equal(second[key], array)


def test_a_load_runs_no_passes_and_is_the_same_model(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive.save(archive.open_program(path).program, tmp_path / "plain.hr")
    with load(tmp_path / "plain.hr", device="cpu") as plain:
        plain.entry("other")
        monkeypatch.setattr(passes, "optimize", lambda *_, **__: pytest.fail("passes ran"))
        with load(path, device="cpu") as model:
            assert len(model.kernels()) == len(plain.kernels()) < len(plain.graph.nodes)
            for one, two in ((model, plain), (model.entry("other"), plain.entry("other"))):
                same(one, two)
                assert (one.inputs, one.outputs, one.entries) == (two.inputs, two.outputs, two.entries)
                assert str(one.states) == str(two.states)
                assert one.graph.hash() == two.graph.hash()
                assert (one.weight_bytes, one.rows, repr(one)) == (two.weight_bytes, two.rows, repr(two))
            assert {**model.properties, "digest": ""} == {**plain.properties, "digest": ""}


def test_the_program_is_read_when_somebody_asks(path: Path, no_passes: None, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    real = graph_codec.decode

    def decode(data: Any, stored: Any, where: str = "graph.pb", **options: Any) -> Program:
        read.append(where)
        return real(data, stored, where, **options)

    monkeypatch.setattr(graph_codec, "decode", decode)
    with load(path, device="cpu") as model:
        model.run(FEEDS)
        assert model.properties["precision"] == "float32"
        assert read == ["optimized.pb"]
        assert len(model.graph.nodes) == 7 and model.entry("other").graph.name == "other"
        assert read == ["optimized.pb", "graph.pb"]


def test_other_passes_do_not_look_at_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with load(path, device="cpu") as model:
        monkeypatch.setattr(archive, "fingerprint", lambda: "0" * 64)
        monkeypatch.setattr(optimized, "decode", lambda *_: pytest.fail("it was read"))
        with load(path, device="cpu") as other:
            same(model, other)


@pytest.mark.parametrize("without", [["fuse_matmul"], ["fold", "attention"]])
def test_passes_can_still_be_left_out(path: Path, without: list[str]) -> None:
    with load(path, device="cpu") as model, load(path, device="cpu", without=without) as bare:
        assert len(bare.kernels()) > len(model.kernels())
    with load(path, device="cpu", without=["attention"]) as model:  # of this machine: not in the archive
        assert "program" not in vars(model._opened.contents)


def test_readers_see_the_program_itself(path: Path) -> None:
    assert len(archive.open_program(path).program.main.nodes) == 7
    facts = archive.inspect(path)
    assert facts["nodes"]["main"] == 7 and {"optimized.pb", "optimized.safetensors"} <= set(facts["members"])
    assert archive.read_extra(path) == {}


def test_bytes_are_reproducible(path: Path, tmp_path: Path) -> None:
    program = archive.open_program(path).program
    for name in ("one", "two"):
        archive.save(program, tmp_path / name, optimized=True)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_nothing_is_stored_where_passes_make_many_constants(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optimized, "LIMIT", 0)
    archive.save(network(), tmp_path / "net.hr", optimized=True)
    with zipfile.ZipFile(tmp_path / "net.hr") as file:
        assert "optimized.pb" in file.namelist()  # an eighth of the weights is allowed
    monkeypatch.setattr(optimized, "SHARE", 1 << 40)
    archive.save(network(), tmp_path / "net.hr", optimized=True)
    with zipfile.ZipFile(tmp_path / "net.hr") as file:
        assert "optimized.pb" not in file.namelist()
    with load(tmp_path / "net.hr", device="cpu") as model:
        model.run(FEEDS)


def test_golden_data_are_run_on_it(tmp_path: Path, no_passes: None, monkeypatch: pytest.MonkeyPatch) -> None:
    with Model(network(), optimize=False) as model:
        outputs = model.run(FEEDS)
    monkeypatch.undo()
    archive.save(network(), tmp_path / "net.hr", golden=Golden([FEEDS], [outputs]), optimized=True)
    with load(tmp_path / "net.hr", device="cpu") as model:
        assert not model.verify().ok  # other weights: `network` draws them anew
    graph = network()
    with Model(graph) as model:
        outputs = model.run(FEEDS)
    archive.save(graph, tmp_path / "net.hr", golden=Golden([FEEDS], [outputs]), optimized=True)
    with load(tmp_path / "net.hr", device="cpu") as model:
        assert model.verify().ok


def changed(path: Path, members: dict[str, bytes | None], change: Callable[[dict[str, Any]], None]) -> Path:
    """The archive with other members (None: without them), its digests right, its manifest then changed."""
    with zipfile.ZipFile(path) as file:
        found = {name: file.read(name) for name in file.namelist()}
    found = {name: data for name, data in {**found, **members}.items() if data is not None}
    document = json.loads(found.pop("manifest.json"))
    document["members"] = {
        name: {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in found.items()
    }
    change(document)
    found["manifest.json"] = json.dumps(document).encode()
    plan = layout([Entry(name, len(found[name]), zlib.crc32(found[name])) for name in sorted(found)])
    path.write_bytes(b"".join(header + found[name] for header, name in zip(plan.headers, sorted(found))) + plan.tail)
    return path


def refused(path: Path, why: str) -> None:
    with pytest.raises(LoadError, match=why) as caught:
        load(path, device="cpu")
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)


def without_weights(graph: Graph) -> Graph:
    """y = x: no constant that the archive would have to have."""
    graph.block.nodes[:], (x, h) = [], graph.inputs
    build = Builder(graph)
    (y,) = build.node("Relu", [x], outputs=["y"])
    (after,) = build.node("Add", [h, y], outputs=["h_next"])
    graph.outputs[:] = [y, after]
    graph.constants.clear(), graph.values.clear()
    return graph


def test_what_is_wrong_in_it_is_refused(path: Path) -> None:
    keep = path.read_bytes()
    both = {"main": without_weights(network()), "other": without_weights(network("other"))}
    cases: list[tuple[dict[str, bytes | None], Callable[[dict[str, Any]], Any], str]] = [
        ({"optimized.pb": b"\xff"}, lambda _: None, "optimized.pb|cut off"),
        ({"optimized.pb": None}, lambda _: None, "do not agree on an optimized graph"),
        ({"optimized.safetensors": None}, lambda _: None, "do not agree on an optimized graph"),
        ({}, lambda document: document.pop("optimized"), "do not agree on an optimized graph"),
        ({}, lambda document: document.update(optimized=None), "fingerprint"),
        ({}, lambda document: document.update(optimized="F" * 64), "fingerprint"),
        ({"optimized.safetensors": b"\0" * 8}, lambda _: None, "optimized.safetensors"),
    ]
    one = Value("x", TensorType("float32", (symbol("n"), SIZE)))
    strange = Graph(Block([one], [], [one]))
    unknown = without_weights(network())
    unknown.nodes[0].operator = "Frobnicate"
    for program, why in (
        (Program({"main": strange, "other": both["other"]}), "interface.json does not agree"),
        (Program({"main": both["main"]}), "interface.json does not agree"),
        (Program({"main": unknown, "other": both["other"]}), "no operator Frobnicate"),
    ):
        empty = b"".join(map(bytes, weights.encode({})))
        data = graph_codec.encode(program)[0]
        cases.append(({"optimized.pb": data, "optimized.safetensors": empty}, lambda _: None, why))
    for members, change, why in cases:
        path.write_bytes(keep)
        refused(changed(path, members, change), why)


def test_verify_proves_that_it_comes_from_the_graph(path: Path) -> None:
    assert verify(path).ok
    both = Program({"main": without_weights(network()), "other": without_weights(network("other"))})
    members = {"optimized.pb": graph_codec.encode(both)[0], "optimized.safetensors": b"".join(weights.encode({}))}
    changed(path, members, lambda _: None)  # a graph that keeps every rule
    load(path, device="cpu").close()
    with pytest.raises(LoadError, match="'main' is not what the portable passes make of"):
        verify(path)


def test_damage_to_the_program_is_told_though_it_is_not_read(path: Path) -> None:
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as file:
        info = file.getinfo("graph.pb")
    data[info.header_offset + 200] ^= 1
    path.write_bytes(data)
    refused(path, "graph.pb")


def test_equal_constants_in_any_order(tmp_path: Path) -> None:
    """Merging keeps one of equal constants; which one does not hang on the order in which the graph was built."""
    graph = Graph(Block([], [], []))
    build = Builder(graph)
    value = build.input("x", TensorType("float32", (symbol("n"), SIZE)))
    tied = floats(SIZE, SIZE)
    for name in ("z", "a", "m"):
        (value,) = build.node("MatMul", [value, build.constant(tied, f"tied_{name}")])
        (value,) = build.node("Add", [value, build.constant(np.float32([7]), f"seven_{name}")])
    graph.outputs.append(value)
    archive.save(Program({"main": graph}), tmp_path / "net.hr", optimized=True)
    assert verify(tmp_path / "net.hr")


def silu() -> Graph:
    """A SiLU of 8-bit numbers, as a quantizer leaves it."""
    graph = Graph(Block([], [], []))
    build = Builder(graph)
    x = build.input("x", TensorType("uint8", (symbol("n"), 4)))
    scale, zero = build.constant(np.float32(0.05), "scale"), build.constant(np.uint8(128), "zero")
    (real,) = build.node("DequantizeLinear", [x, scale, zero])
    (gate,) = build.node("Sigmoid", [real])
    (product,) = build.node("Mul", [real, gate])
    graph.outputs.extend(build.node("QuantizeLinear", [product, scale, zero], outputs=["y"]))
    return graph


@pytest.mark.parametrize(("levels", "same"), [(1, True), (2, False)])
def test_a_table_may_be_rounded_otherwise(tmp_path: Path, levels: int, same: bool) -> None:
    """Tables are computed where an archive is packed, whose CPU may round an exponential otherwise."""
    path = tmp_path / "net.hr"
    archive.save(silu(), path, optimized=True)
    opened = archive.open_program(path, optimized=True)
    graph = opened.optimized["main"].graph
    ((name, table),) = graph.constants.items()
    assert [node.kind for node in graph.nodes] == ["headrace.QLookup"] and table.shape == (256,)
    other = table.copy()
    other[200] += levels
    graph.constants[name] = other
    changed(path, {"optimized.pb": graph_codec.encode(Program({"main": graph}))[0]}, lambda _: None)
    if same:
        assert verify(path).ok
    else:
        with pytest.raises(LoadError, match="is not what the portable passes make of"):
            verify(path)


def test_checksums_are_compared_once_while_kernels_are_made(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    check, finish = archive._check, lowering._Lowering.finish
    monkeypatch.setattr(archive, "_check", lambda *a, **k: events.append("checksums") or check(*a, **k))
    monkeypatch.setattr(lowering._Lowering, "finish", lambda *a: events.append("kernels") or finish(*a))
    with load(path, device="cpu") as model:
        assert events == ["checksums", "kernels"]
        model.entry("other").run(FEEDS)
    assert events == ["checksums", "kernels", "kernels"]
