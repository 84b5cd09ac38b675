"""Programs kept for the next start: the same model without its graph being read, and a kept file that is not right costs
making the program again, nothing else."""

from __future__ import annotations

import logging
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_control_flow import block, ints, number, start

from headrace.runtime import _native, learnt, load, lower, packs
from headrace.runtime.builder import Builder
from headrace.runtime.errors import LoadError
from headrace.runtime.facts import Facts
from headrace.runtime.graph import Graph, Program, State, Value
from headrace.runtime.interface import Golden
from headrace.runtime.learnt import Learnt
from headrace.runtime.model import Model
from headrace.runtime.rows import prove_rows
from headrace.runtime.shapes import symbol
from headrace.runtime.types import TensorType
from headrace.serializer import archive

SIZE = 72  # two weights of it are more than a block's least size
rng = np.random.default_rng(4)
X = rng.standard_normal((3, SIZE)).astype(np.float32)
ROWS = TensorType("float32", (symbol("n"), SIZE))


def weight(*shape: int) -> np.ndarray:
    return (rng.standard_normal(shape) / SIZE).astype(np.float32)


def dense(name: str = "main") -> Graph:
    """Products, a truth table that passes make bytes of their own of, and a state."""
    graph, b, (x, h) = start(x=ROWS, h=ROWS)
    graph.name = name
    (y,) = b.node("Gemm", [x, b.constant(weight(SIZE, SIZE)), b.constant(weight(SIZE))], name="first")
    (y,) = b.node("Where", [b.constant(rng.random(SIZE) > 0.5), y, b.node("Neg", [y])[0]])
    (y,) = b.node("Gemm", [y, b.constant(weight(SIZE, SIZE))], {"alpha": 0.5}, name="ü")
    (after,) = b.node("Add", [h, y], outputs=["h_next"])
    graph.outputs.extend([y, after])
    graph.states.append(State("h", "h_next"))
    return graph


def convolution() -> Graph:
    graph, b, (x,) = start(x=TensorType("float32", (symbol("n"), 3, 9, 9)))
    (y,) = b.node("Conv", [x, b.constant(weight(8, 3, 3, 3))], {"pads": (1, 1, 1, 1)})
    (y,) = b.node("Relu", [y])
    graph.outputs.extend(b.node("MaxPool", [y], {"kernel_shape": (2, 2), "strides": (2, 2)}))
    return graph


def blocks() -> Graph:
    """An If in a Loop: each captures what is outside."""
    graph, b, (x,) = start(x=ROWS)

    def body(inner: Builder, trip: Value, go: Value, y: Value) -> list[Value]:
        (odd,) = inner.node("Equal", [inner.node("Mod", [trip, number(inner, 2)])[0], number(inner, 1)])
        then = block(inner, [], lambda deep: [deep.node("Add", [y, x])[0]])
        other = block(inner, [], lambda deep: [deep.node("Mul", [y, number(deep, 0.5, np.float32)])[0]])
        (y,) = inner.node("If", [odd], {"then_branch": then, "else_branch": other})
        return [go, y, inner.node("ReduceMax", [y, ints(inner, 1)], {"keepdims": 0})[0]]

    types = [TensorType("int64", ()), TensorType("bool", ()), ROWS]
    graph.outputs.extend(b.node("Loop", [number(b, 5), None, x], {"body": block(b, types, body)}, outputs=2))
    return graph


def callbacks() -> Graph:
    """A node without a native kernel."""
    graph, b, (x,) = start(x=ROWS)
    graph.outputs.extend(b.node("Det", [b.node("Reshape", [x, ints(b, -1, 2, 2)])[0]]))
    return graph


def strings() -> Graph:
    graph, b, (x,) = start(x=TensorType("int64", (symbol("n"),)))
    graph.outputs.extend(b.node("Gather", [b.constant(np.array(["a", "b"], object)), x]))
    return graph


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HEADRACE_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(packs, "SPARE", 1 << 60)  # the disk that tests run on may be full
    return tmp_path / "cache" / "packed"


def feeds_of(model: Model) -> dict[str, np.ndarray]:
    shapes = {spec.name: [3 if not isinstance(dim, int) else dim for dim in spec.shape or ()] for spec in model.inputs}
    made = np.random.default_rng(1)
    return {
        spec.name: made.standard_normal(shapes[spec.name]).astype(np.float32)
        if spec.dtype == "float32"
        else np.zeros(shapes[spec.name], np.int64)
        for spec in model.inputs
    }


def saved(graph: Graph | Program, path: Path, **options: Any) -> Path:
    archive.save(graph, path, optimized=True, **options)
    return path


def opened(path: Path, **options: Any) -> Model:
    return load(path, device="cpu", threads=1, cache=True, **options)


def read_no_graph(model: Model) -> bool:
    return "contents" not in vars(model._opened)


@pytest.mark.parametrize("made", [dense, convolution, blocks])
@pytest.mark.parametrize("precision", [None, "bf16"])
def test_the_next_start_is_the_same_model(
    made: Callable[[], Graph], precision: str | None, folder: Path, tmp_path: Path
) -> None:
    path = saved(made(), tmp_path / "net.hr", properties={"author": "me"})
    with opened(path, precision=precision) as first:
        assert not read_no_graph(first)
    options: dict[str, Any] = {"precision": precision}
    with opened(path, **options) as second, load(path, device="cpu", threads=1, **options) as plain:
        feeds = feeds_of(second)
        for _ in range(3):  # generic, then planned
            wanted, found = plain.run(feeds), second.run(feeds)
            assert list(found) == list(wanted)
            for name, array in wanted.items():
                np.testing.assert_array_equal(found[name], array, strict=True)
        assert second.kernels() == plain.kernels()
        rows = [
            {(row["node"], row["operator"], row["kernel"]) for row in model.profile(feeds)} for model in (plain, second)
        ]
        assert rows[0] == rows[1]
        assert second.properties == plain.properties and second.properties["author"] == "me"
        assert repr(second) == repr(plain) and second.entries == plain.entries
        assert read_no_graph(second)
        assert second.states == plain.states and second.memory()["packed"] == plain.memory()["packed"]
        assert second.graph.hash() == plain.graph.hash() and second.rows == plain.rows


def test_golden_data_and_entry_points_are_read_when_they_are_asked_for(folder: Path, tmp_path: Path) -> None:
    graph = dense()
    feeds = {"x": X, "h": np.zeros_like(X)}
    golden = Golden([feeds], [load(graph, device="cpu").run(feeds)])
    path = saved(Program({"main": graph, "other": dense("other")}), tmp_path / "net.hr", golden=golden)
    with opened(path) as model, model.entry("other") as other:
        wanted = other.run(feeds)
    with opened(path) as model:
        assert read_no_graph(model) and model.entries == ("main", "other")
        other = model.entry("other")
        assert read_no_graph(model)  # it was kept as well
        for name, array in wanted.items():
            np.testing.assert_array_equal(other.run(feeds)[name], array)
        assert model.verify().ok and model.golden is not None and other.golden is None


@pytest.mark.parametrize("made", [callbacks, strings])
def test_what_needs_python_is_not_kept(made: Callable[[], Graph], folder: Path, tmp_path: Path) -> None:
    path = saved(made(), tmp_path / "net.hr")
    for _ in range(2):
        with opened(path) as model:
            assert not read_no_graph(model) and model.run(feeds_of(model))


def test_nothing_is_kept_without_a_cache_or_used_for_something_else(folder: Path, tmp_path: Path) -> None:
    path = saved(dense(), tmp_path / "net.hr")
    load(path, device="cpu").close()
    assert not folder.exists()
    opened(path).close()
    for options in {"without": "fuse_matmul"}, {"precision": "bf16"}:
        with opened(path, **options) as model:
            assert not read_no_graph(model)
    with opened(saved(convolution(), tmp_path / "net.hr")) as model:
        assert not read_no_graph(model)
    assert len(list(folder.iterdir())) == 4


def test_a_damaged_archive_is_refused_although_its_program_is_kept(folder: Path, tmp_path: Path) -> None:
    path = saved(dense(), tmp_path / "net.hr")
    opened(path).close()
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(LoadError, match="damaged"):
        opened(path)


# ---- kept files that are not right. The head is a page, then come blocks, then rows of (kind, offset, bytes, checksum).

HEAD = struct.Struct("<8s5Q")  # magic, bytes, where rows are, how many, their checksum, bytes of the key
ROW = struct.Struct("<4Q")
RECIPE = 1
MASK = (1 << 64) - 1


def mixed(hash: int, value: int) -> int:
    product = ((hash ^ value) * 0x9E3779B97F4A7C15) & MASK
    return (product << 29 | product >> 35) & MASK


def checksum(data: bytes) -> int:
    """As native/pack_store.cpp has it."""
    lanes, whole = list(range(1, 9)), len(data) // 64 * 64
    for index, (word,) in enumerate(struct.iter_unpack("<Q", data[:whole])):
        lanes[index % 8] = mixed(lanes[index % 8], word)
    total = len(data)
    for one in [*data[whole:], *lanes]:
        total = mixed(total, one)
    return total


def with_recipe(file: bytes, change: Callable[[bytearray], bytearray]) -> bytes:
    """A kept file with another recipe in it, no longer than what was there, and checksums that are right."""
    magic, size, at, count, _, key = HEAD.unpack_from(file)
    rows = [list(ROW.unpack_from(file, at + index * ROW.size)) for index in range(count)]
    (row,) = (row for row in rows if row[0] == RECIPE)
    recipe = bytes(change(bytearray(file[row[1] : row[1] + row[2]])))[: row[2]]
    row[2:] = len(recipe), checksum(recipe)
    index = b"".join(ROW.pack(*row) for row in rows)
    made = bytearray(file)
    made[row[1] : row[1] + len(recipe)] = recipe
    made[at:] = index
    HEAD.pack_into(made, 0, magic, size, at, count, checksum(index), key)
    return bytes(made)


@pytest.fixture
def kept(folder: Path, tmp_path: Path) -> tuple[Path, Path]:
    """An archive, and the file that is kept of it."""
    path = saved(blocks(), tmp_path / "net.hr")
    opened(path).close()
    (file,) = folder.iterdir()
    return path, file


def test_a_flipped_byte_anywhere_changes_no_answer(kept: tuple[Path, Path], caplog: pytest.LogCaptureFixture) -> None:
    path, file = kept
    good = file.read_bytes()
    with opened(path) as model:
        feeds = feeds_of(model)
        wanted = model.run(feeds)
    used = [*(place for place in range(len(good)) if good[place]), 44, len(good) - 1]
    for place in sorted({*used[:: len(used) // 48], *used[-2:]}):
        file.write_bytes(good[:place] + bytes([good[place] ^ 0x41]) + good[place + 1 :])
        caplog.clear()
        with caplog.at_level(logging.WARNING), opened(path) as model:
            for name, array in model.run(feeds).items():
                np.testing.assert_array_equal(array, wanted[name])
            assert not read_no_graph(model) and len(caplog.records) == 1, place
    assert with_recipe(good, lambda recipe: recipe) == good  # which is what the next test goes by


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda recipe: recipe[:-9], "it ends too early"),
        (lambda recipe: recipe[:0], "it ends too early"),
        (lambda recipe: recipe[:4] + b"\xff\xff\xff\xff" + recipe[8:], "."),
    ],
    ids=["cut", "empty", "counts"],
)
def test_a_recipe_that_is_wrong_is_made_again(
    change: Callable[[bytearray], bytearray], what: str, kept: tuple[Path, Path], caplog: pytest.LogCaptureFixture
) -> None:
    path, file = kept
    good = file.read_bytes()
    file.write_bytes(with_recipe(good, change))
    with caplog.at_level(logging.WARNING), opened(path) as model:
        assert not read_no_graph(model) and model.run(feeds_of(model))
    (record,) = caplog.records
    assert f"a recipe: {what}" in record.getMessage() or what == "."
    with opened(path) as model:  # and kept again
        assert read_no_graph(model)


def test_no_recipe_crashes_who_reads_it(kept: tuple[Path, Path], tmp_path: Path) -> None:
    """Whatever bytes it has, it is read, or refused: nothing outside of it, of the archive or of its own values is looked at."""
    path, file = kept
    good, made, data = file.read_bytes(), np.random.default_rng(11), memoryview(path.read_bytes())
    key = file.stem
    refused = 0
    for _ in range(400):

        def change(recipe: bytearray) -> bytearray:
            for _ in range(int(made.integers(1, 4))):
                place, kind = int(made.integers(len(recipe))), made.integers(3)
                if kind == 0:
                    recipe[place] = int(made.integers(256))
                elif kind == 1:
                    recipe[place : place + 4] = made.choice([b"\xff" * 4, b"\0" * 4, b"\1\0\0\0", b"\xff\xff\xff\x7f"])
                else:
                    del recipe[place : place + int(made.integers(1, 9))]
            return recipe

        other = tmp_path / "other"
        other.write_bytes(with_recipe(good, change))
        with other.open("rb") as opening:
            store = _native.PackStore.open(opening.fileno(), key, True)
        try:
            _native.Recipe.read(store, data)
        except ValueError:
            refused += 1
    assert 200 < refused < 400


VALID: dict[str, Any] = {
    "dtypes": [1, 1],
    "constants": [-1, -1],
    "inputs": [("x", [-1, 3])],
    "steps": [("Relu", "", {}, [0], [1], 14, True, [], [])],
    "outputs": [("y", 1)],
}


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"dtypes": [1, 99]}, "no known element type"),
        ({"constants": [-1, 0]}, "a constant that does not exist"),
        ({"constants": [-1, -2]}, "a constant that does not exist"),
        ({"inputs": [("x", None)] * 3}, "more inputs than values"),
        ({"inputs": [("x", [-9999])]}, "neither size nor symbol"),
        ({"inputs": [("x", [1] * 13)]}, "too many dimensions"),
        ({"steps": [("Relu", "", {}, [1], [1], 14, True, [], [])]}, "reads a value that does not exist"),
        ({"steps": [("Relu", "", {}, [2], [1], 14, True, [], [])]}, "reads a value that does not exist"),
        ({"steps": [("Relu", "", {}, [0], [0], 14, True, [], [])]}, "something else's"),
        ({"steps": [("Relu", "", {}, [0], [-2], 14, True, [], [])]}, "writes a value"),
        ({"steps": VALID["steps"] * 2}, "something else's"),
        ({"steps": [("If", "", {}, [0], [1], 14, True, [], [(0, [])])]}, "a block that does not exist"),
        ({"outputs": [("y", 2)]}, "an output is a value that does not exist"),
        ({"steps": []}, "an output is a value that does not exist"),
    ],
)
def test_a_block_keeps_the_rules(change: dict[str, Any], what: str) -> None:
    _native.Recipe().add_block(**VALID)
    with pytest.raises(ValueError, match=what):
        _native.Recipe().add_block(**{**VALID, **change})


@pytest.mark.parametrize(
    ("captured", "what"),
    [
        ([1, 1], "more than it has inputs"),
        ([4], "does not read"),
        ([-1], "does not read"),
        ([1], "another element type"),
    ],
)
def test_a_block_captures_what_its_node_reads(captured: list[int], what: str) -> None:
    recipe = _native.Recipe()
    inner = recipe.add_block(**VALID)
    node = ("If", "", {}, [0, 1], [2], 14, True, [], [(inner, captured)])
    with pytest.raises(ValueError, match=what):
        recipe.add_block([9, 7, 1], [-1] * 3, [("c", []), ("x", None)], [node], [("y", 2)])


@pytest.mark.parametrize("made", [dense, convolution, blocks])
def test_what_was_learnt_of_a_graph_is_kept(made: Callable[[], Graph], folder: Path, tmp_path: Path) -> None:
    path, graph = saved(made(), tmp_path / "net.hr"), made()
    with opened(path), opened(path) as again:
        assert (again.rows, again.fed_rows) == (prove_rows(graph), prove_rows(graph, fed=True))
        assert again.weight_bytes == graph.weight_bytes
        assert again._learnt == Learnt.of(graph)
        assert again.golden is None and again.verify().ok
        assert read_no_graph(again)


def test_what_other_sources_learnt_is_learnt_again(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(convolution(), tmp_path / "net.hr")
    with monkeypatch.context() as patch:
        patch.setattr(learnt, "sources", lambda: "earlier")
        opened(path).close()
    with opened(path) as again:
        assert again.rows.independent and not read_no_graph(again)


def test_learnt_is_what_it_was() -> None:
    said = Learnt.of(dense()).encode()
    assert Learnt.decode(said) == Learnt.of(dense())
    for wrong in None, {}, {**said, "rows": []}, {**said, "fed": {"other": 1}}, {**said, "weight_bytes": "many"}:
        assert Learnt.decode(wrong) is None


def test_facts_are_what_they_were(tmp_path: Path) -> None:
    with load(dense(), device="cpu") as model:
        facts = model._facts
    assert Facts.decode(facts.encode()) == facts
    for wrong in b"", b"[]", b'{"inputs": []}', facts.encode().replace(b"float32[", b"float33["):
        with pytest.raises(ValueError):
            Facts.decode(wrong)


@pytest.mark.parametrize("wrong", [b"", b"[]", b'{"inputs": []}'])
def test_kept_facts_that_do_not_parse_cost_reading_the_file(wrong: bytes, folder: Path, tmp_path: Path) -> None:
    path = saved(dense(), tmp_path / "net.hr")
    with opened(path) as first, opened(path) as again:
        assert isinstance(again._said, bytes)
        again._said = wrong
        assert again.inputs == first.inputs and again.properties == first.properties


def test_a_recipe_makes_as_many_programs_as_it_is_asked_for() -> None:
    graph = blocks()
    one = lower.lowered(graph, 1)
    assert one.recipe is not None
    *_, other = one.recipe.build(1, ValueError)
    assert not other.finish()
    first, second = one.program.run({"x": X}), other.run({"x": X})
    assert first is not None and second is not None and len(first) == 2
    for name, array in first.items():
        np.testing.assert_array_equal(second[name], array)
