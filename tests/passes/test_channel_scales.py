"""Scales for each channel before a depthwise convolution go into weights, where that changes nothing but roundings."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from graph_cases import Ops, count, make
from test_int8_fusion import dq, integers, normal, q, weights, within_one_quantum

from headrace.runtime.graph import Graph, Value
from headrace.runtime.passes import optimize

F, CHANNELS = "float32", 6
SCALES = np.linspace(0.01, 0.02, CHANNELS, dtype=np.float32)


def network(
    *, clip: tuple[float, float] | None = None, relu: bool = False, zeros: Any = 0, kind: str = "uint8", shared: bool = False, group: int = CHANNELS
) -> Graph:  # fmt: skip
    def body(o: Ops, x: Value) -> Any:
        y = o.Conv(
            dq(o, q(o, x, 0.02, 120), 0.02, 120), weights(o, integers(CHANNELS, 4, 1, 1), 0), o.const(normal(CHANNELS))
        )
        y = o.Clip(y, *(o.const(np.float32(bound)) for bound in clip)) if clip else o.Relu(y) if relu else y
        parameters = o.const(SCALES), o.const(np.broadcast_to(np.array(zeros, kind), (CHANNELS,)).copy())
        middle = o.DequantizeLinear(o.QuantizeLinear(y, *parameters, axis=1), *parameters, axis=1)
        depthwise = weights(o, integers(CHANNELS, CHANNELS // group, 3, 3), 0)
        last = dq(
            o,
            q(o, o.Conv(middle, depthwise, o.const(normal(CHANNELS)), group=group, pads=(1, 1, 1, 1)), 0.05, 128),
            0.05,
            128,
        )
        return (last, middle) if shared else last

    return make(body, x=(F, ("n", 4, 7, 6)))


@pytest.mark.parametrize(
    "given", [{"relu": True}, {"clip": (0.0, 5.5)}, {"zeros": 128}, {"kind": "int8", "zeros": -3}, {"clip": (-9.0, 9.0), "zeros": 128}]
)  # fmt: skip
def test_two_integer_convolutions_are_left(given: dict[str, Any]) -> None:
    graph = network(**given)
    result = optimize(graph)
    assert count(result) == {"QuantizeLinear": 1, "headrace.QConv": 2, "DequantizeLinear": 1}, str(result)
    assert within_one_quantum(graph, result, 0.05, n=2) < 0.1


@pytest.mark.parametrize(
    "given",
    [
        {"clip": (0.0, 4.0)},  # below what the scales reach
        {"clip": (-1.0, 6.0), "zeros": 100},
        {"relu": True, "zeros": 3},
        {"zeros": [120, 121, 120, 120, 120, 120]},
        {"shared": True},
        {"group": 3},
    ],
)
def test_what_would_change_more_stays(given: dict[str, Any]) -> None:
    graph = network(**given)
    result = optimize(graph)
    assert count(result)["headrace.QConv"] == 0
    within_one_quantum(graph, result, 0.05, n=2)
