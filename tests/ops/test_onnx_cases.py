"""The node cases that come with the onnx package: the specification's own examples, through import and reference executor."""

from __future__ import annotations

import warnings
from collections import defaultdict
from typing import Any

import numpy as np
import pytest
from cases import assert_close

from headrace.runtime import dtypes
from headrace.runtime.errors import UnsupportedOperator
from headrace.runtime.executor import run_graph
from headrace.runtime.ops import registry

loader = pytest.importorskip("onnx.backend.test.loader", reason="onnx is not installed")
load = pytest.importorskip("headrace.serializer.onnx.load", reason="ONNX import is not there")

OPERATORS = sorted(operator.name for operator in registry().values() if operator.domain in ("", "ai.onnx.ml"))
EXPANDED, OTHERS = "expanded functions", "operators that import spells out"
# Cases without numbers to compare, and where the case itself departs from the specification's text: name -> why.
EXCLUDED = {
    "test_bernoulli": "random numbers",
    "test_image_decoder": "needs image files",
}


def excluded(name: str) -> str:
    return next((why for prefix, why in EXCLUDED.items() if name.startswith(prefix)), "")


def plain(value: Any) -> Any:
    """Test data as headrace's run-time values."""
    import onnx

    if isinstance(value, onnx.TensorProto):
        return onnx.numpy_helper.to_array(value)
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if value is None or isinstance(value, dict):
        return value
    return np.asarray(value)


def compare(found: Any, expected: Any, case: Any, context: str) -> None:
    if isinstance(expected, list):
        assert len(found) == len(expected), context
        for a, b in zip(found, expected):
            compare(a, b, case, context)
        return
    if isinstance(expected, np.ndarray) and dtypes.of(expected).kind == "f":
        assert found.shape == expected.shape and dtypes.of(found).name == dtypes.of(expected).name, (
            f"{context}: {found.dtype}{found.shape}"
        )
        narrow = expected.dtype.itemsize < 4
        rtol, atol = (max(case.rtol, 1e-2), 1e-2) if narrow else (max(case.rtol, 1e-4), max(case.atol, 1e-5))
        with np.errstate(all="ignore"):
            np.testing.assert_allclose(
                found.astype(np.float64), expected.astype(np.float64), rtol, atol, err_msg=context
            )
        return
    assert_close(found, expected, context)


@pytest.fixture(scope="module")
def by_operator() -> dict[str, list[Any]]:
    """The cases of each operator; those that spell a function out in other operators under EXPANDED, those of
    operators that headrace has no class for under OTHERS. Made once: 20 s."""
    groups: dict[str, list[Any]] = defaultdict(list)
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for case in loader.load_model_tests(kind="node"):
            kinds = {node.op_type for node in case.model.graph.node}
            if not excluded(case.name):
                name = kinds.pop() if len(kinds) == 1 else EXPANDED
                groups[name if name in (EXPANDED, *OPERATORS) else OTHERS].append(case)
    return groups


@pytest.mark.timeout(300)
@pytest.mark.xdist_group("conformance")  # the cases take 15 s to make, once in a process
@pytest.mark.parametrize("name", [*OPERATORS, EXPANDED, OTHERS])
def test_cases(name: str, by_operator: dict[str, list[Any]]) -> None:
    cases = by_operator.get(name, [])
    if not cases:
        pytest.skip("the onnx package has no case")
    mistakes, skipped = [], 0
    for case in cases:
        try:
            graph = load.open_program(case.model).program.main
        except UnsupportedOperator:
            skipped += 1  # a sub-operator that headrace does not have
            continue
        except Exception as error:
            mistakes.append(f"{case.name}: import: {type(error).__name__} {error}")
            continue
        for inputs, outputs in case.data_sets:
            try:
                feeds = {value.name: plain(x) for value, x in zip(graph.inputs, inputs)}
                found = run_graph(graph, feeds)
                for value, expected in zip(graph.outputs, outputs):
                    compare(found[value.name], plain(expected), case, case.name)
            except Exception as error:
                mistakes.append(f"{case.name}: {type(error).__name__} {str(error)[:300]}")
    assert not mistakes, f"{len(mistakes)} of {len(cases)}:\n" + "\n".join(mistakes)
    if skipped == len(cases):
        pytest.skip("all cases use operators that headrace does not have")
