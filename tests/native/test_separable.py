"""Depthwise convolutions joined with the 1x1 convolutions around them: the bits of the separate nodes, on every tier, whatever the
strips, the batch, the threads; and which convolutions the pass joins."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from one_kernel import run

from headrace.runtime import _native, load
from headrace.runtime.builder import Builder
from headrace.runtime.graph import Block, Graph, Value
from headrace.runtime.infer import infer_graph
from headrace.runtime.lower import capabilities
from headrace.runtime.passes import machine, optimize
from headrace.runtime.profile import flops_of
from headrace.runtime.shapes import symbol
from headrace.runtime.types import TensorType

RNG = np.random.default_rng(13)
HAS_BF16 = "avx512_bf16" in _native.cpu_tiers()
OP = "headrace.cpu.SeparableConv"


def array(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


@dataclass
class Case:
    x: tuple[int, ...]
    middle: int
    features: int
    depthwise: dict[str, Any] = field(default_factory=dict)
    kernel: tuple[int, int] = (3, 3)
    expand: dict[str, Any] | None = field(default_factory=dict)
    project: dict[str, Any] = field(default_factory=dict)
    residual: bool = False
    bias: bool = True


PADS = {"pads": (1, 1, 1, 1)}
CLIP = {"activation": "Clip", "clip_min": 0.0, "clip_max": 6.0}
CASES = [
    Case((1, 9, 7, 6), 20, 10, PADS, residual=False),
    Case((2, 14, 14, 10), 60, 10, {**PADS, **CLIP}, expand=CLIP, residual=True),
    Case((1, 56, 57, 24), 146, 33, {**PADS, "strides": (2, 2), "activation": "Silu"}, expand={"activation": "HardSwish"}),  # several strips
    Case((1, 40, 80, 16), 96, 16, PADS, expand={"activation": "Relu"}, project={"activation": "Relu"}, residual=True),
    Case((3, 12, 11, 18), 18, 7, {**PADS, "activation": "Relu"}, expand=None),
    Case((1, 30, 23, 340), 340, 40, {"pads": (2, 1, 0, 3), "dilations": (2, 1)}, expand=None),
    Case((1, 13, 9, 4), 12, 2, {"pads": (0, 2, 1, 2), "strides": (3, 1)}, (1, 5)),
    Case((1, 17, 16, 8), 34, 8, {"auto_pad": "SAME_UPPER", "strides": (2, 1)}, (5, 4), bias=False),
    Case((1, 11, 30, 8), 16, 8, {"strides": (5, 4)}),  # rows that no window sees
    Case((1, 1, 1, 2), 2, 1, PADS),
    Case((1, 20, 5, 400), 24, 330, PADS),  # several ranges of k
    Case((0, 4, 4, 2), 4, 2, PADS),
]  # fmt: skip


def prefixed(prefix: str, attributes: dict[str, Any] | None) -> dict[str, Any]:
    return {f"{prefix}_{key}": value for key, value in (attributes or {}).items()}


def both(case: Case, x: np.ndarray, low: bool = False, out: str = "float32", threads: int = 1) -> tuple[Any, Any]:
    """The joined node, and the nodes one by one; with `low` in bf16."""
    rng = np.random.default_rng(5)

    def weight(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(np.float32)

    def bias(size: int) -> np.ndarray | None:
        return weight(size) if case.bias else None

    channels, kind = case.x[-1], "bfloat16" if low else "float32"
    extra: dict[str, Any] = {"precision": "bf16"} if low else {}
    expand = [weight(case.middle, channels, 1, 1), bias(case.middle)] if case.expand is not None else [None, None]
    depthwise = [weight(case.middle, 1, *case.kernel), bias(case.middle)]
    project = [weight(case.features, case.middle, 1, 1), bias(case.features)]
    depthwise_of = {"group": case.middle, **case.depthwise}

    y, conv = x, "headrace.cpu.Conv"
    if case.expand is not None:
        y = run(conv, [y, *expand], {**case.expand, **extra}, [kind], constants=[1, 2], threads=threads)
    y = run(conv, [y, *depthwise], depthwise_of, [kind], constants=[1, 2], threads=threads)
    shape = (*y.shape[:3], case.features)
    residual = weight(*shape).astype(x.dtype) if case.residual else None
    y = run(conv, [y, *project, residual], {**case.project, **extra}, [out], constants=[1, 2], threads=threads)

    attributes = {**depthwise_of, **prefixed("expand", case.expand), **prefixed("project", case.project)}
    inputs = [x, *expand, *depthwise, *project, residual]
    given = [index for index in range(1, 7) if inputs[index] is not None]
    return run(OP, inputs, attributes, [out], constants=given, threads=threads), y


@pytest.mark.parametrize("case", CASES, ids=lambda case: "x".join(map(str, case.x)))
@pytest.mark.parametrize("tier", _native.cpu_tiers())
def test_the_bits_of_separate_nodes(case: Case, tier: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_CPU_TIER", tier)
    x = array(*case.x)
    found, want = both(case, x)
    assert found.shape == want.shape and found.tobytes() == want.tobytes()
    assert both(case, x, threads=3)[0].tobytes() == want.tobytes()


@pytest.mark.skipif(not HAS_BF16, reason="this CPU does not multiply bf16")
@pytest.mark.parametrize("case", CASES, ids=lambda case: "x".join(map(str, case.x)))
@pytest.mark.parametrize("out", ["bfloat16", "float32"])
def test_the_bits_of_separate_nodes_in_bf16(case: Case, out: str) -> None:
    x = array(*case.x).astype(ml_dtypes.bfloat16)
    found, want = both(case, x, low=True, out=out)
    assert found.shape == want.shape and found.tobytes() == want.tobytes()


@pytest.mark.parametrize("case", CASES[:7], ids=lambda case: "x".join(map(str, case.x)))
def test_extreme_values(case: Case) -> None:
    x = array(*case.x)
    flat = x.reshape(-1)
    flat[0], flat[-1], flat[flat.size // 2], flat[flat.size // 3] = np.nan, np.inf, 3e38, 1e-41
    found, want = both(case, x)
    assert np.array_equal(np.isnan(found), np.isnan(want))
    np.testing.assert_array_equal(found, want)


def test_a_row_has_the_same_bits_in_every_batch() -> None:
    case = CASES[3]
    x = array(5, *case.x[1:])
    case = Case(x.shape, case.middle, case.features, case.depthwise, expand=case.expand)
    whole, _ = both(case, x, threads=2)
    for i in (0, 4):
        alone, _ = both(
            Case((1, *x.shape[1:]), case.middle, case.features, case.depthwise, expand=case.expand), x[i : i + 1].copy()
        )
        assert alone.tobytes() == whole[i : i + 1].tobytes()  # fmt: skip


def test_a_shape_that_does_not_fit_is_an_error() -> None:
    w, d, p = array(8, 4, 1, 1), array(8, 1, 3, 3), array(6, 8, 1, 1)
    with pytest.raises(Exception, match=r"input \[1, 5, 5, 3\] does not have 4 channels last"):
        run(OP, [array(1, 5, 5, 3), w, None, d, None, p], {"group": 8}, constants=[1, 3, 5])
    with pytest.raises(Exception, match=r"the residual is \[1, 2, 2, 6\], the result \[1, 3, 3, 6\]"):
        run(OP, [array(1, 5, 5, 4), w, None, d, None, p, None, array(1, 2, 2, 6)], {"group": 8}, constants=[1, 3, 5])


def inverted(*, size: int = 64, answered: bool = False, grouped: bool = False) -> Graph:
    """conv, then an inverted residual, a depthwise convolution with a 1x1 one, and a small inverted residual."""
    graph = Graph(Block([], [], []))
    x = Value("x", TensorType("float32", (symbol("n"), 4, size, size)))
    graph.block.inputs.append(x)
    make = Builder(graph)

    def conv(given: Value, channels: int, features: int, size: int, **attributes: Any) -> Value:
        weight = graph.constant(
            f"w{len(graph.constants)}", array(features, channels // attributes.get("group", 1), size, size)
        )
        (made,) = make.node("Conv", [given, weight], {"pads": (size // 2,) * 4, **attributes})
        (made,) = make.node("Relu", [made])
        return made  # fmt: skip

    y = conv(x, 4, 16, 3)
    wide = conv(y, 16, 48, 1)
    y = conv(conv(wide, 48, 48, 3, group=24 if grouped else 48), 48, 16, 1)
    y = conv(conv(y, 16, 16, 3, group=16, strides=(2, 2)), 16, 32, 1)
    y = conv(conv(conv(y, 32, 64, 1), 64, 64, 3, group=64), 64, 8, 1)
    graph.outputs.extend([y, wide] if answered else [y])
    infer_graph(graph)
    return graph


@pytest.mark.parametrize(
    "options, joined, convolutions",
    [({}, 1, 6), ({"answered": True}, 1, 7), ({"grouped": True}, 0, 9), ({"size": 256}, 3, 1), ({"size": 16}, 0, 9)],
)
def test_the_pass_joins_what_is_large_and_read_once(options: dict[str, Any], joined: int, convolutions: int) -> None:
    graph = optimize(inverted(**options))
    kinds = [node.kind for node in machine.run(graph, capabilities()).block.nodes]
    assert (kinds.count(OP), kinds.count("headrace.cpu.Conv")) == (joined, convolutions)
    without = machine.run(graph, capabilities(), skip=("separable",))
    assert OP not in [node.kind for node in without.block.nodes]


@pytest.mark.parametrize("precision", [None, "bf16"])
def test_a_model_has_the_same_bits(precision: str | None) -> None:
    graph, x = inverted(size=160), array(2, 4, 160, 160)
    (want,) = load(graph, precision=precision, without=["separable"]).run({"x": x}).values()
    (found,) = load(graph, precision=precision).run({"x": x}).values()
    assert found.tobytes() == want.tobytes()


def test_its_work_is_that_of_its_convolutions() -> None:
    shapes: list[Any] = [(1, 14, 14, 8), (48, 8, 1, 1), None, (48, 1, 3, 3), None, (16, 48, 1, 1)]
    seen = [None if shape is None else (1, shape) for shape in shapes]
    assert flops_of(OP, seen, [(1, (1, 7, 7, 16))]) == 2 * (14 * 14 * 8 * 48 + 7 * 7 * 48 * (9 + 16))
