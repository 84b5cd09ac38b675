"""Laws over random graphs: the device answers what the reference answers, wherever each node runs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

sys.path.append(str(Path(__file__).parents[1] / "passes"))
from graph_cases import feeds_of
from test_laws import build, programs

from headrace.runtime.cuda.emul import EmulDevice
from headrace.runtime.cuda.rules import rules
from headrace.runtime.executor import run_graph
from headrace.runtime.model import load

LEFT_OUT = ("Add", "Mul", "Sub", "Tanh", "Relu", "Transpose", "MatMul", "headrace.FusedMatMul", "ReduceMean", "Sigmoid")


@pytest.fixture(scope="module")
def device() -> EmulDevice:
    return EmulDevice()


@settings(max_examples=25, suppress_health_check=list(HealthCheck))
@given(programs(), st.sets(st.sampled_from(LEFT_OUT)), st.integers(1, 3))
def test_every_mixture_of_device_and_cpu_gives_the_reference(
    device: EmulDevice, steps: list[Any], left_out: set[str], n: int
) -> None:
    """Kinds in `left_out` have no kernel in this example, so their values are copied to and fro."""
    graph = build([step for step in steps if step[0] != "quantize"])  # a level may flip where floats differ by rounding
    feeds = feeds_of(graph, np.random.default_rng(0), n=n)
    with patch.dict(rules()):
        for kind in left_out:
            rules().pop(kind, None)
        with load(graph, device=device) as model:
            found = model.run(feeds)
            again = model.run(feeds)
            assert {row["operator"] for row in model.kernels() if not row["reason"]}.isdisjoint(left_out)
    for name, want in run_graph(graph, feeds).items():
        np.testing.assert_allclose(found[name], want, rtol=1e-3, atol=1e-4 * max(1.0, float(np.abs(want).max())))
        assert found[name].tobytes() == again[name].tobytes()
