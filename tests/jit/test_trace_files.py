"""Captured programs on disk: archives and ONNX files, read back by ourselves and by onnxruntime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jit_models import cases, mlp, rows, same

import headrace
import headrace as torch
from headrace import jit, nn

MODELS = cases()
each_model = pytest.mark.parametrize(
    ("model", "example"), [case[1:] for case in MODELS], ids=[case[0] for case in MODELS]
)


@each_model
def test_save_and_load(model: nn.Module, example: tuple[Any, ...], tmp_path: Path) -> None:
    exported = jit.trace(model, example)
    jit.save(exported, tmp_path / "net.hr")
    loaded = jit.load(tmp_path / "net.hr")
    x = rows(example[0].numpy(), 5)
    same(loaded.run(x), exported.eager(x))
    same([loaded(torch.from_numpy(x)).numpy()], exported.run(x))
    assert str(loaded.graph) == str(exported.graph) and loaded.code == exported.code
    assert headrace.verify(tmp_path / "net.hr").ok


def test_a_module_is_traced_on_the_way(tmp_path: Path) -> None:
    model, x = mlp(), torch.randn(2, 4)
    jit.save(model, tmp_path / "net.hr", x)
    np.testing.assert_allclose(
        jit.load(tmp_path / "net.hr")(x).numpy(), model(x).detach().numpy(), rtol=1e-5, atol=1e-6
    )
    with pytest.raises(TypeError, match="example_inputs"):
        jit.save(model, tmp_path / "other.hr")


def test_a_loaded_program_is_saved_again(tmp_path: Path) -> None:
    jit.trace(mlp(), torch.randn(2, 4)).save(tmp_path / "a.hr")
    jit.save(jit.load(tmp_path / "a.hr"), tmp_path / "b.hr")
    assert str(jit.load(tmp_path / "b.hr").graph) == str(jit.load(tmp_path / "a.hr").graph)


def test_several_inputs_and_outputs(tmp_path: Path) -> None:
    x, y = torch.randn(2, 4), torch.randn(2, 4)
    jit.save(jit.trace(lambda a, b: {"sum": a + b, "product": a * b}, (x, y)), tmp_path / "net.hr")
    loaded = jit.load(tmp_path / "net.hr")
    assert [spec.name for spec in loaded.inputs] == ["a", "b"] and [spec.name for spec in loaded.outputs] == [
        "sum",
        "product",
    ]
    total, product = loaded(x, b=y)
    np.testing.assert_array_equal(total.numpy(), (x + y).numpy())
    np.testing.assert_array_equal(product.numpy(), (x * y).numpy())
    with pytest.raises(TypeError, match="each is given once"):
        loaded(x, a=y)


@each_model
def test_the_rows_of_a_batch_are_independent(model: nn.Module, example: tuple[Any, ...]) -> None:
    proof = jit.trace(model, example).model.rows
    assert proof.independent, proof.reason


@each_model
def test_code_traces_to_the_same_graph(model: nn.Module, example: tuple[Any, ...]) -> None:
    exported = jit.trace(model, example)
    space: dict[str, Any] = {}
    exec(exported.code, space)
    names = ", ".join(exported.structure.names)
    weights = exported.weights
    space["weights"] = weights
    again = eval(f"lambda {names}: forward({names}, weights)", space)
    assert str(jit.trace(again, example).graph) == str(exported.graph)


@pytest.mark.peer
@each_model
def test_onnxruntime_gives_the_same(model: nn.Module, example: tuple[Any, ...], tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime", reason="the peer that reads the exported file")
    headrace.onnx.export(model, example, tmp_path / "net.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "net.onnx"), providers=["CPUExecutionProvider"])
    exported = jit.trace(model, example)
    for batch in (1, 7):
        x = rows(example[0].numpy(), batch)
        same(session.run(None, {exported.structure.names[0]: x}), exported.eager(x))
