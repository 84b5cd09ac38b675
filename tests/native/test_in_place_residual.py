"""A convolution may write over its residual where nothing reads that afterwards; never over what it still reads."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from headrace.runtime import _native, load
from headrace.runtime.builder import Builder
from headrace.runtime.executor import run_graph
from headrace.runtime.graph import Block, Graph, Value
from headrace.runtime.infer import infer_graph
from headrace.runtime.shapes import symbol
from headrace.runtime.types import TensorType

RNG = np.random.default_rng(17)


def network(size: int, channels: int, *, itself: bool, **attributes: Any) -> Graph:
    """Two convolutions; the second adds its own input (`itself`), or what lies before the first."""
    graph = Graph(Block([], [], []))
    x = Value("x", TensorType("float32", (symbol("n"), channels, 9, 7)))
    graph.block.inputs.append(x)
    make = Builder(graph)

    def conv(given: Value, add: Value | None) -> Value:
        shape = (channels, channels // attributes.get("group", 1), size, size)
        weight = graph.constant(
            f"w{len(graph.constants)}", RNG.standard_normal(shape).astype(np.float32) / np.float32(channels)
        )
        bias = graph.constant(f"b{len(graph.constants)}", RNG.standard_normal(channels).astype(np.float32))
        return make.node("FusedConv", [given, weight, bias, add], {"pads": (size // 2,) * 4, **attributes}, domain="headrace")[0]  # fmt: skip

    first = conv(x, None)
    second = conv(first, None)
    graph.outputs.append(conv(conv(second, second if itself else first), None))
    infer_graph(graph)
    return graph


@pytest.mark.parametrize("precision", [None, "bf16"])
@pytest.mark.parametrize("itself", [False, True])
@pytest.mark.parametrize(
    "size, channels, attributes",
    [(1, 16, {}), (1, 400, {}), (3, 20, {}), (3, 24, {"group": 24}), (3, 18, {"strides": (1, 1)})],
)
@pytest.mark.parametrize("tier", _native.cpu_tiers())
def test_the_result_is_that_of_the_nodes_as_they_are(
    tier: str, size: int, channels: int, attributes: dict[str, Any], itself: bool, precision: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    """Planned calls and those node by node, beside kernels that share no memory."""
    monkeypatch.setenv("HEADRACE_CPU_TIER", tier)
    graph = network(size, channels, itself=itself, **attributes)
    x = RNG.standard_normal((2, channels, 9, 7)).astype(np.float32)
    model = load(graph, precision=precision)
    model._program.specialise(False)
    first = next(iter(model.run({"x": x}).values()))
    model._program.specialise(True)
    planned, again = (next(iter(model.run({"x": x}).values())) for _ in range(2))
    assert first.tobytes() == planned.tobytes() == again.tobytes()
    (want,) = run_graph(graph, {"x": x}).values()
    bound = (2e-2 if precision else 1e-5) * np.abs(want).max()
    assert np.abs(first - want).max() <= bound
