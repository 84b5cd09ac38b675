"""Checkpoints: trees come back as they were; foreign safetensors load; damage is refused."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from serializer_graphs import every_array, same

from headrace.runtime.errors import HeadraceError, LoadError
from headrace.serializer import checkpoint, weights

LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.binary(max_size=5)
    | st.sampled_from(list(every_array().values()))
)
TREES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=4) | st.integers(), inner, max_size=3)
    ),
    max_leaves=12,
)


def equal(left: Any, right: Any) -> bool:
    if type(left) is not type(right):
        return False
    if isinstance(left, np.ndarray):
        return same(left, right)
    if isinstance(left, dict):
        return list(left) == list(right) and all(equal(left[key], right[key]) for key in left)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(equal, left, right))
    if isinstance(left, float) and math.isnan(left):
        return math.isnan(right)
    return bool(left == right)


@settings(max_examples=100)
@given(TREES)
def test_trees_come_back(tmp_path_factory: pytest.TempPathFactory, tree: Any) -> None:
    path = tmp_path_factory.mktemp("checkpoint") / "c.pt"
    checkpoint.save(tree, path)
    assert equal(checkpoint.load(path), tree)


def test_a_state_dict_is_plain_safetensors(tmp_path: Path) -> None:
    state = {"net.0.weight": np.ones((2, 3), np.float32), "net.0.bias": np.zeros(2, np.float32)}
    checkpoint.save(state, tmp_path / "s.pt")
    found = safetensors.numpy.load_file(tmp_path / "s.pt")
    assert found.keys() == state.keys() and all(same(found[name], state[name]) for name in state)
    assert list(checkpoint.load(tmp_path / "s.pt")) == list(state)


def test_foreign_files_load_and_arrays_are_writable(tmp_path: Path) -> None:
    safetensors.numpy.save_file({"w": np.ones(3, np.float32)}, tmp_path / "f.safetensors")
    loaded = checkpoint.load(tmp_path / "f.safetensors")
    loaded["w"][0] = 5
    assert loaded["w"].tolist() == [5, 1, 1]


def test_names_that_meet(tmp_path: Path) -> None:
    tree = {"a.b": np.zeros(1), "a": {"b": np.ones(1)}}
    checkpoint.save(tree, tmp_path / "c.pt")
    assert equal(checkpoint.load(tmp_path / "c.pt"), tree)


@pytest.mark.parametrize("tree", [object(), {"a": {1.5: 2}}, {"a": [print]}, {True: 1}, np.array([object()])[0]])
def test_other_things_are_refused_by_place(tmp_path: Path, tree: Any) -> None:
    with pytest.raises(HeadraceError):
        checkpoint.save(tree, tmp_path / "c.pt")
    assert not (tmp_path / "c.pt").exists()


def test_depth_is_bounded(tmp_path: Path) -> None:
    tree: Any = 1
    for _ in range(40):
        tree = [tree]
    with pytest.raises(HeadraceError, match="nested"):
        checkpoint.save(tree, tmp_path / "c.pt")


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", '{"array":["w","float32",[9]]}', '{"array":["v","float32",[3]]}', '{"array":["w","object",[3]]}', '{"array":"w"}', '{"dict":[1]}',
     '{"dict":[[[],1]]}', '{"float":"x"}', '{"bytes":"xx"}', '{"int":"x"}', '{"a":1,"b":2}', '{"run":"x"}', '{"strings":[[3],["a"]]}', "[" * 10_000],
)  # fmt: skip
def test_damaged_trees(tmp_path: Path, text: str) -> None:
    (tmp_path / "c.pt").write_bytes(b"".join(weights.encode({"w": np.ones(3, np.float32)}, {"headrace.tree": text})))
    with pytest.raises(LoadError):
        checkpoint.load(tmp_path / "c.pt")


def test_missing_and_empty_files(tmp_path: Path) -> None:
    (tmp_path / "empty").write_bytes(b"")
    for name in ("none", "empty"):
        with pytest.raises(LoadError, match=name):
            checkpoint.load(tmp_path / name)
