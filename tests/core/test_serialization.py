"""save and load: what comes back is what went in, and nothing else can go in."""

from pathlib import Path

import numpy as np
import pytest

import headrace as torch
import headrace.nn as nn
from headrace.runtime.errors import HeadraceError, LoadError


def test_a_state_dict(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    torch.save(net.state_dict(), tmp_path / "net.pt")
    state = torch.load(tmp_path / "net.pt")
    assert list(state) == list(net.state_dict())
    twin = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    assert twin.load_state_dict(state) == ([], [])
    assert all(
        a.detach().numpy().tobytes() == b.detach().numpy().tobytes()
        for a, b in zip(net.state_dict().values(), twin.state_dict().values())
    )


def test_trees(tmp_path: Path) -> None:
    tree = {
        "epoch": 3, "loss": 0.1, "nothing": None, "names": ["a", ("b", True)], 7: "seven", "empty": torch.zeros(0, 2),
        "half": torch.ones(2, dtype=torch.bfloat16), "leaf": nn.Parameter(torch.ones(2)),
    }  # fmt: skip
    torch.save(tree, tmp_path / "tree")
    back = torch.load(tmp_path / "tree")
    assert {k: back[k] for k in ("epoch", "loss", "nothing", "names", 7)} == {
        k: tree[k] for k in ("epoch", "loss", "nothing", "names", 7)
    }
    assert back["empty"].shape == (0, 2) and back["half"].dtype is torch.bfloat16 and back["leaf"].requires_grad


def test_other_tools_read_it(tmp_path: Path) -> None:
    safetensors = pytest.importorskip(
        "safetensors.numpy", reason="the file is read by the safetensors package where it is installed"
    )
    torch.save(nn.Linear(2, 1).state_dict(), tmp_path / "a.safetensors")
    assert set(safetensors.load_file(tmp_path / "a.safetensors")) == {"weight", "bias"}
    safetensors.save_file({"x": np.ones((2, 2), np.float32)}, tmp_path / "b.safetensors")
    assert torch.load(tmp_path / "b.safetensors")["x"].tolist() == [[1, 1], [1, 1]]


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(HeadraceError, match=r"object at model.layer"):
        torch.save({"model": {"layer": object()}}, tmp_path / "x")
    assert not (tmp_path / "x").exists()
    (tmp_path / "broken").write_bytes(b"\x80\x04not a checkpoint")
    with pytest.raises(LoadError, match="broken"):
        torch.load(tmp_path / "broken")
    with pytest.raises(TypeError, match=r"headrace\.save"):
        import pickle

        pickle.dumps(torch.ones(1))
