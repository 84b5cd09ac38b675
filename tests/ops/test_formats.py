"""Graph to archive to graph is the identity, and so is ONNX save and load, on a graph of one node for every operator."""

from __future__ import annotations

from pathlib import Path

import pytest
from cases import assert_close, samples_of, shape_inputs, single_node, text_of

from headrace.runtime.errors import HeadraceError
from headrace.runtime.executor import run_graph
from headrace.runtime.graph import Block, Graph, graph_text
from headrace.runtime.ops import registry
from headrace.runtime.ops.base import Operator, Sample

archive = pytest.importorskip("headrace.serializer.archive", reason="the archive is not there")

OPERATORS = sorted(registry().values(), key=lambda operator: operator.kind)
every_operator = pytest.mark.parametrize("operator", OPERATORS, ids=lambda operator: operator.kind)


def some(operator: Operator) -> list[Sample]:
    """A few samples with different attributes and dtypes, without those that hold values a graph cannot take as inputs."""
    chosen: dict[str, Sample] = {}
    for sample in samples_of(operator):
        key = str(sorted(sample.attributes)) + str([getattr(x, "dtype", type(x).__name__) for x in sample.inputs])
        chosen.setdefault(key, sample)
    return list(chosen.values())[:6]


@every_operator
def test_archive(operator: Operator, tmp_path: Path) -> None:
    for index, sample in enumerate(some(operator)):
        graph, _ = single_node(operator, sample, shape_inputs(sample))
        path = tmp_path / f"{index}.hr"
        archive.save(graph, path)
        again = archive.open_program(path).program.main
        assert graph_text(again) == graph_text(graph), text_of(sample)
        assert again.hash() == graph.hash(), text_of(sample)


@every_operator
def test_onnx(operator: Operator, tmp_path: Path) -> None:
    save = pytest.importorskip("headrace.serializer.onnx.save", reason="ONNX export is not there")
    load = pytest.importorskip("headrace.serializer.onnx.load", reason="ONNX import is not there")
    for sample in some(operator):
        graph, feeds = single_node(operator, sample, shape_inputs(sample))
        if any(isinstance(value, Block) for value in sample.attributes.values()):
            continue
        try:
            model = save.to_model(graph)
        except HeadraceError as error:
            if (
                "opset" in str(error)
                or "version" in str(error)
                or "no form" in str(error)
                or "does not have it" in str(error)
            ):
                continue  # ONNX cannot say it
            raise
        again: Graph = load.open_program(model).program.main
        if not operator.deterministic:
            continue
        found, expected = run_graph(again, feeds), run_graph(graph, feeds)
        for name, value in expected.items():
            assert_close(found[name], value, text_of(sample), 100.0)
