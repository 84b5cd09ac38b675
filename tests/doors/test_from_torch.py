"""`headrace.torch.pack`: torch's own outputs are the golden data, and a deviation is named where it starts."""

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import headrace.torch
from headrace.runtime.errors import HeadraceError, InputError
from headrace.runtime.model import load
from headrace.verbs.pack import PackError

torch = pytest.importorskip("torch", reason="the door from PyTorch is tested where torch is installed")
pytest.importorskip("onnxscript", reason="torch's exporter needs onnxscript")
import torch_nets as nets  # noqa: E402

pytestmark = [pytest.mark.peer, pytest.mark.timeout(300)]

NETS: dict[str, Any] = {
    "MLP": lambda: (nets.mlp(), torch.randn(4, 16)),
    "ResNet-18 of width 8": lambda: (nets.resnet(8, 10), torch.randn(1, 3, 32, 32)),
    "TransformerEncoder": lambda: (nets.encoder(), torch.randn(2, 5, 32)),
}


@pytest.mark.parametrize("name", NETS)
def test_a_net_is_packed_with_torchs_own_answers(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    module, example = NETS[name]()
    module.eval()
    report = headrace.torch.pack(module, example, tmp_path / "net.hr", rtol=1e-5, atol=1e-5)
    assert report.golden == 4 and report.deviation <= 5e-6 and report.notes == ()
    model = load(tmp_path / "net.hr")
    assert model.golden is not None and model.verify().ok
    sizes = {feeds[model.inputs[0].name].shape[0] for feeds in model.golden.inputs}
    assert len(sizes) >= 3, "the golden cases have other batch sizes than the example"
    with torch.no_grad():
        for feeds, stored in zip(model.golden.inputs, model.golden.outputs):
            (x,), (y,) = feeds.values(), stored.values()
            np.testing.assert_allclose(y, module(torch.from_numpy(x.copy())).numpy(), rtol=1e-6, atol=1e-7)


def test_named_arguments_nested_inputs_and_named_outputs(tmp_path: Path) -> None:
    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.scale = torch.nn.Linear(3, 3), 2.0

        def forward(self, x: Any, pair: Any, flag: bool = False) -> Any:
            a, b = pair
            return {"sum": self.layer(x) + a + b, "count": (x > 0).sum(-1)}

    torch.manual_seed(0)
    example = {"x": torch.randn(2, 3), "pair": (torch.randn(2, 3), torch.randn(2, 3)), "flag": True}
    report = headrace.torch.pack(Net(), example, tmp_path / "net.hr", members={"README": b"a read-me"})
    assert list(report.inputs) == ["x", "pair_0", "pair_1"] and list(report.outputs) == ["sum", "count"]
    assert report.outputs == {"sum": "float32[batch, 3]", "count": "int64[batch]"}
    assert "training mode" in report.notes[0]


def test_the_module_is_left_in_its_mode(tmp_path: Path) -> None:
    module = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Dropout(0.5))
    module[0].eval()
    report = headrace.torch.pack(module, torch.ones(2, 4), tmp_path / "net.hr")
    assert module.training and module[1].training and not module[0].training
    assert report.deviation < 1e-6  # dropout in training mode would be far off


def test_a_deviation_names_the_first_node_the_module_and_both_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if the importer lost the weight of one layer in the middle."""
    torch.manual_seed(0)
    opened = headrace.torch.open_program

    def wrong(proto: Any) -> Any:
        answer = opened(proto)
        constants = answer.program.main.constants
        constants["layers.1.norm1.bias"] = constants["layers.1.norm1.bias"] + np.float32(0.01)
        return answer

    monkeypatch.setattr(headrace.torch, "open_program", wrong)
    module = nets.encoder().eval()
    for parameter in module.parameters():  # the layers of a new encoder are alike, and share their weights in the file
        parameter.data += 0.05 * torch.randn_like(parameter)
    with pytest.raises(PackError) as caught:
        headrace.torch.pack(module, torch.randn(2, 5, 32), tmp_path / "net.hr")
    text = str(caught.value)
    assert "output 'output' of golden case 0 deviates by" in text
    assert "LayerNormalization" in text and "of module 'layers.1.norm1'" in text
    assert "0.01 from torch's own value, allowed" in text
    assert not (tmp_path / "net.hr").exists()


def test_what_torch_cannot_export_says_so(tmp_path: Path) -> None:
    class Decides(torch.nn.Module):
        def forward(self, x: Any) -> Any:
            return x * 2 if x.sum() > 0 else x

    with pytest.raises(HeadraceError, match="torch cannot export Decides"):
        headrace.torch.pack(Decides(), torch.ones(2, 2), tmp_path / "net.hr")

    class Fixed(torch.nn.Module):
        def forward(self, x: Any) -> Any:
            return x.reshape(3, 4)

    with pytest.raises(HeadraceError, match="dynamic_batch=False packs it for the shapes of the example"):
        headrace.torch.pack(Fixed(), torch.ones(3, 4), tmp_path / "net.hr")
    report = headrace.torch.pack(Fixed(), torch.ones(3, 4), tmp_path / "net.hr", dynamic_batch=False)
    assert report.inputs == {"x": "float32[3, 4]"}


def test_other_objects_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"takes a torch.nn.Module, not builtins.int"):
        headrace.torch.pack(3, torch.ones(1), tmp_path / "net.hr")


def test_a_missing_library_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ModuleNotFoundError(name=name)

    monkeypatch.setattr(headrace.torch.importlib, "import_module", missing)
    with pytest.raises(HeadraceError, match=r"needs torch: pip install 'headrace\[torch\]'"):
        headrace.torch.pack(None, None)
    monkeypatch.undo()
    assert importlib.import_module("torch") is torch
