"""What passes report, and leaving them out."""

from __future__ import annotations

import numpy as np
import pytest

from headrace.runtime.builder import Builder
from headrace.runtime.errors import LoadError
from headrace.runtime.graph import Block, Graph, Value
from headrace.runtime.lower import lower
from headrace.runtime.model import load
from headrace.runtime.passes import names, optimize
from headrace.runtime.passes.report import Watch
from headrace.runtime.types import TensorType

RNG = np.random.default_rng(0)


def f32(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def network() -> Graph:
    """Two convolutions with activations, an Identity and a constant that folds."""
    graph = Graph(Block([Value("x", TensorType("float32", (1, 3, 8, 8)))], [], []))
    builder, value = Builder(graph), graph.inputs[0]
    for channels in (3, 4):
        (value,) = builder.node("Conv", [value, builder.constant(f32(4, channels, 3, 3))])
        (value,) = builder.node("Relu", [value])
    (value,) = builder.node("Identity", [value])
    (two,) = builder.node("Add", [builder.constant(f32(1)), builder.constant(f32(1))])
    graph.outputs.extend(builder.node("Mul", [value, two]))
    return graph


def test_each_pass_says_what_it_did() -> None:
    watch = Watch()
    lower(optimize(network(), watch=watch), 1, watch=watch)
    assert set(watch.rewrites) == set(names())
    fused, last = watch.rewrites["fuse_conv"], watch.rewrites["channels_last"]
    assert (fused.portable, last.portable) == (True, False)
    assert str(fused) == "Conv 2 + Relu 2 -> headrace.FusedConv 2" and fused.count == 4
    assert last.gone["headrace.FusedConv"] == last.came["headrace.cpu.Conv"] == 2
    assert str(watch.rewrites["attention"]) == "" and watch.rewrites["attention"].count == 0


def test_a_pass_that_is_left_out_does_nothing() -> None:
    watch = Watch()
    skip = ("fuse_conv", "channels_last")
    lower(optimize(network(), skip=skip, watch=watch), 1, without=skip, watch=watch)
    assert set(watch.rewrites) == set(names()) - set(skip)


@pytest.mark.parametrize("name", names())
def test_answers_stay_without_any_one_pass(name: str) -> None:
    graph, x = network(), f32(1, 3, 8, 8)
    with load(graph, device="cpu", threads=1) as whole, load(graph, device="cpu", threads=1, without=[name]) as less:
        (wanted,), (found,) = whole.run({"x": x}).values(), less.run({"x": x}).values()
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


def test_without_changes_what_runs() -> None:
    with load(network(), device="cpu", threads=1, without="channels_last") as model:
        assert "headrace.cpu.Conv" not in [row["operator"] for row in model.kernels()]
    with load(network(), device="cpu", threads=1) as model:
        assert "headrace.cpu.Conv" in [row["operator"] for row in model.kernels()]


def test_an_unknown_pass_is_named() -> None:
    with pytest.raises(LoadError, match=r"no pass is called fuse_konv; allowed: .*fuse_conv.*, channels_last"):
        load(network(), device="cpu", without=["fuse_konv"])
