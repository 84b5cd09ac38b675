"""`headrace.onnx.export`: Modules to ONNX files, compared with what the Modules answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import headrace as torch
from headrace import onnx as exporter
from headrace.runtime.errors import HeadraceError


def net() -> Any:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))


def test_a_module_and_its_report(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    report = exporter.export(
        net(),
        torch.randn(2, 4),
        path,
        input_names=["features"],
        output_names=["scores"],
        opset_version=17,
        do_constant_folding=True,
    )
    assert report.opset == 17 and report.bytes == path.stat().st_size
    assert report.errors["headrace"] < 1e-5 and all(error < 1e-5 for error in report.errors.values())
    assert "headrace within" in str(report)
    graph = exporter.load(path)
    assert [value.name for value in (*graph.inputs, *graph.outputs)] == ["features", "scores"]


def test_dynamic_axes_name_dimensions(tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.ReLU())
    exporter.export(
        model,
        torch.randn(2, 4, 5),
        tmp_path / "n.onnx",
        input_names=["x"],
        output_names=["y"],
        dynamic_axes={"x": {0: "rows", 2: "width"}, "y": {0: "rows"}},
    )
    assert str(exporter.load(tmp_path / "n.onnx").inputs[0].type) == "float32[rows, 4, width]"


def test_what_is_wrong_with_the_call(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="no option"):
        exporter.export(net(), torch.randn(2, 4), tmp_path / "n.onnx", opset=17)
    with pytest.raises(TypeError, match="path"):
        exporter.export(net(), torch.randn(2, 4))
    with pytest.raises(HeadraceError, match="2 names for 1 inputs"):
        exporter.export(net(), torch.randn(2, 4), tmp_path / "n.onnx", input_names=["a", "b"])
    assert not list(tmp_path.iterdir())


def test_a_difference_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(np, "allclose", lambda *_, **__: False)
    with pytest.raises(HeadraceError, match="differs"):
        exporter.export(net(), torch.randn(2, 4), tmp_path / "n.onnx")
    assert not list(tmp_path.iterdir())
