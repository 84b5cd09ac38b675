"""Programs with control flow: compiled, from their code again, through archives, ONNX and both executors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jit_models import cases
from script_check import arrays, check, compiled_again, same
from script_models import programs, stateful

import headrace.onnx
import headrace.runtime
from headrace import jit
from headrace.runtime.canonical import canonical_text

PROGRAMS = programs()
# A batch is not a sequence of independent steps here: the sizes of the examples hold.
FIXED = frozenset({"greedy", "beam"})
each_program = pytest.mark.parametrize(("name", "program", "example", "others"), PROGRAMS, ids=[p[0] for p in PROGRAMS])


def captured(name: str, program: Any, example: tuple[Any, ...]) -> jit.Exported:
    return jit.script(program, example, dynamic={} if name in FIXED else None)


@each_program
def test_program(name: str, program: Any, example: tuple[Any, ...], others: list[Any], tmp_path: Path) -> None:
    check(captured(name, program, example), [arrays(args) for args in (example, *others)], tmp_path)


@each_program
def test_through_an_archive(
    name: str, program: Any, example: tuple[Any, ...], others: list[Any], tmp_path: Path
) -> None:
    exported = captured(name, program, example)
    exported.save(tmp_path / "program.hr")
    loaded = jit.load(tmp_path / "program.hr")
    assert loaded.graph.hash() == exported.graph.hash()
    assert loaded.model.verify().ok
    for args in (example, *others):
        same(loaded.run(*arrays(args)), exported.eager(*arrays(args)))


@pytest.mark.peer
@each_program
def test_onnxruntime(name: str, program: Any, example: tuple[Any, ...], others: list[Any], tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime", reason="the peer that reads the exported file")
    from headrace.serializer.onnx.save import save

    exported = captured(name, program, example)
    save(exported.program, tmp_path / "program.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "program.onnx"), providers=["CPUExecutionProvider"])
    names = [value.name for value in exported.graph.inputs]
    again = headrace.runtime.load(tmp_path / "program.onnx")
    for args in (example, *others):
        feeds = dict(zip(names, arrays(args)))
        wanted = exported.eager(*feeds.values())
        same([np.asarray(found) for found in session.run(None, feeds)], wanted)
        same(list(again.run(feeds).values()), wanted)


@pytest.mark.peer
def test_the_public_export_takes_scripted_programs(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="the peer that the export compares with")
    _, program, example, _ = next(p for p in PROGRAMS if p[0] == "gated")
    report = headrace.onnx.export(jit.script(program), example, tmp_path / "net.onnx")
    assert set(report.errors) == {"headrace", "onnxruntime"}
    counter, x = stateful()[0][1:]
    report = headrace.onnx.export(jit.script(counter, x), x, tmp_path / "state.onnx")
    assert set(report.errors) == {"headrace", "onnxruntime"}


@pytest.mark.parametrize(("model", "example"), [c[1:] for c in cases()], ids=[c[0] for c in cases()])
def test_the_code_of_a_trace_compiles_to_the_same_graph(model: Any, example: tuple[Any, ...], tmp_path: Path) -> None:
    traced = jit.trace(model, example)
    assert canonical_text(compiled_again(traced, tmp_path).graph) == canonical_text(traced.graph)


@pytest.mark.parametrize(("model", "example"), [c[1:] for c in cases()], ids=[c[0] for c in cases()])
def test_without_control_flow_script_is_trace(model: Any, example: tuple[Any, ...]) -> None:
    assert jit.script(model, example).graph.hash() == jit.trace(model, example).graph.hash()


GOLDEN_GRAPH = """\
graph main(%n: int64[]) {
  const %constant: int64[] = 1
  const %constant_2: int64[] = 0
  %output: int64[], %b_2: int64[] = Loop(%n, _, %constant_2, %constant) body (%trip: int64[], %going: bool[], %a: int64[], %b: int64[]) {
    %add: int64[] = Add(%a, %b)
    return %going, %b, %add
  }
  return %output
}
"""
GOLDEN_CODE = '''\
import headrace as torch
from headrace.jit import operators as F


def forward(n, weights):
    """n: int64[] -> int64[]"""
    a, b = torch.tensor(0), torch.tensor(1)
    for trip in range(n):
        add = F.Add(a, b)
        a, b = b, add
    output, b_2 = a, b
    return output
'''


def fibonacci(n: int) -> Any:
    a, b = 0, 1
    for _ in range(n):
        a, b = b, a + b
    return a


def test_text_forms() -> None:
    exported = jit.script(fibonacci, (10,))
    assert str(exported.graph) == GOLDEN_GRAPH
    assert exported.code == GOLDEN_CODE
