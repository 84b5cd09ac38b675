"""3x3 convolutions by Winograd's transforms: beside the reference, over odd sizes, blocks and threads; the pass and its rule."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from one_kernel import run
from test_conv import array, first, last, reference
from test_gemm import ACTIVATIONS

from headrace.runtime.builder import Builder
from headrace.runtime.graph import Block, Graph, Value
from headrace.runtime.model import load
from headrace.runtime.passes.machine.winograd import tile_of
from headrace.runtime.shapes import symbol
from headrace.runtime.types import TensorType

KIND = "headrace.cpu.WinogradConv"
ERROR = {2: 2e-6, 4: 6e-6}  # of the largest of many results, about 4 deviations, where factors have variance 1


def transformed(inputs: list[Any], attributes: dict[str, Any], **options: Any) -> np.ndarray:
    """Of weights that are transformed ahead in one half of the cases, in the run in the other."""
    x, *rest = inputs
    attributes = {"expand": rest[0].shape[0] % 2, **attributes}
    rest[2:] = [last(rest[2])] if len(rest) > 2 else []
    return first(run(KIND, [last(x), *rest], attributes, constants=[1, 2], **options))


def check(got: np.ndarray, want: np.ndarray, tile: int, inputs: int) -> None:
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want, rtol=0, atol=ERROR[tile] * 4 * (9 * inputs) ** 0.5)


@pytest.mark.parametrize("tile", [2, 4])
@settings(max_examples=25)
@given(
    batch=st.integers(0, 3), height=st.integers(1, 14), width=st.integers(1, 14), inputs=st.integers(1, 40),
    outputs=st.integers(1, 70), pads=st.tuples(*[st.integers(-1, 3)] * 4), seed=st.integers(0, 9),
)  # fmt: skip
def test_every_size(
    tile: int, batch: int, height: int, width: int, inputs: int, outputs: int, pads: tuple[int, ...], seed: int
) -> None:
    if height + pads[0] + pads[2] < 3 or width + pads[1] + pads[3] < 3:
        return
    rng = np.random.default_rng(seed)
    x, w = rng.standard_normal((batch, inputs, height, width)), rng.standard_normal((outputs, inputs, 3, 3))
    factors = [x.astype(np.float32), w.astype(np.float32), rng.standard_normal(outputs).astype(np.float32)]
    check(transformed(factors, {"pads": pads, "tile": tile}), reference("Conv", factors, {"pads": pads}), tile, inputs)


@pytest.mark.parametrize("tile", [2, 4])
@pytest.mark.parametrize("inputs, outputs", [(16, 8), (33, 65), (300, 20), (128, 128)])
def test_every_tier(tier: str, tile: int, inputs: int, outputs: int) -> None:
    given = [array(2, inputs, 11, 9), array(outputs, inputs, 3, 3), array(outputs)]
    check(
        transformed(given, {"pads": (1,) * 4, "tile": tile}), reference("Conv", given, {"pads": (1,) * 4}), tile, inputs
    )


@pytest.mark.parametrize("tile", [2, 4])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_epilogues(tier: str, tile: int, activation: str) -> None:
    window = {"pads": (1,) * 4}
    x, w, bias, r = array(2, 20, 6, 9), array(37, 20, 3, 3), array(37), array(2, 37, 6, 9)
    fused = {**window, "tile": tile, "activation": activation, "clip_min": -0.5, "clip_max": 1.25}
    for added in ([bias, r], [None, r], [bias, None]):
        total = reference("Conv", [x, w, added[0]], window) + (0 if added[1] is None else r)
        check(transformed([x, w, *added], fused), ACTIVATIONS[activation](total), tile, 20)


@pytest.mark.parametrize("tile", [2, 4])
def test_an_image_has_the_same_bytes_in_every_batch(tier: str, tile: int) -> None:
    images, weight, attributes = array(7, 24, 13, 10), array(40, 24, 3, 3), {"pads": (1,) * 4, "tile": tile}
    whole = transformed([images, weight], attributes)
    for i in range(7):
        assert transformed([images[i : i + 1], weight], attributes).tobytes() == whole[i : i + 1].tobytes()
    assert transformed([images, weight], attributes, threads=2).tobytes() == whole.tobytes()


@pytest.mark.parametrize("tile", [2, 4])
def test_small_integers_are_nearly_exact(tier: str, tile: int) -> None:
    """Zeros stay zeros, and sums that float32 holds come out within the rounding of the transforms."""
    x, w = np.zeros((1, 16, 9, 9), np.float32), array(8, 16, 3, 3)
    assert not transformed([x, w], {"pads": (1,) * 4, "tile": tile}).any()
    rng = np.random.default_rng(3)
    x, w = (rng.integers(-8, 9, shape).astype(np.float32) for shape in ((1, 16, 9, 9), (8, 16, 3, 3)))
    check(transformed([x, w], {"tile": tile}), reference("Conv", [x, w], {}), tile, 16 * 25**2)


@pytest.mark.parametrize("tile", [2, 4])
def test_what_is_not_finite_stays_within_its_tiles(tier: str, tile: int) -> None:
    x, w = array(1, 16, 16, 16), array(8, 16, 3, 3)
    want = transformed([x, w], {"pads": (1,) * 4, "tile": tile})
    x[0, 3, 8, 8] = np.nan
    got = transformed([x, w], {"pads": (1,) * 4, "tile": tile})
    assert np.isnan(got[0, :, 7:10, 7:10]).all()
    far = np.ones((16, 16), bool)
    far[4:12, 4:12] = False
    assert got[0][:, far].tobytes() == want[0][:, far].tobytes()


def test_what_it_does_not_do_is_refused() -> None:
    for attributes in ({"strides": (2, 2)}, {"dilations": (1, 2)}, {"group": 2}, {"tile": 3}):
        with pytest.raises(LookupError):
            transformed([array(1, 16, 5, 5), array(8, 16, 3, 3)], attributes)
    with pytest.raises(Exception, match="does not fit"):
        transformed([array(1, 15, 5, 5), array(8, 16, 3, 3)], {})


def test_the_rule_asks_for_channels_and_for_tiles_that_are_used() -> None:
    assert [tile_of(3, 64, (224, 224)), tile_of(64, 4, (56, 56)), tile_of(64, 64, (0, 56))] == [0, 0, 0]
    assert [tile_of(64, 64, (56, 56)), tile_of(64, 64, None), tile_of(512, 512, None)] == [4, 4, 0]
    # 7 of 8 rows and columns are inside tiles of 2, whose weights are read for 16 tiles only.
    assert [tile_of(256, 256, (14, 14)), tile_of(256, 256, (28, 28)), tile_of(512, 512, (7, 7))] == [2, 4, 0]
    # On few pixels tiles of 4 save too little for weights of 4 times the memory, unless those are few.
    assert [tile_of(128, 128, (20, 20)), tile_of(128, 128, (40, 40)), tile_of(32, 32, (20, 20))] == [2, 4, 4]


@pytest.mark.parametrize("size", [12, "size"])
def test_the_pass_takes_what_it_can_and_may_be_left_out(size: int | str) -> None:
    sizes = size if isinstance(size, int) else symbol(size)
    graph = Graph(Block([Value("x", TensorType("float32", (symbol("batch"), 16, sizes, sizes)))], [], []))
    builder, value = Builder(graph), graph.inputs[0]
    for kernel, window in ((3, {"pads": (1,) * 4}), (3, {"pads": (1,) * 4, "strides": (2, 2)}), (1, {})):
        (value,) = builder.node("Conv", [value, builder.constant(array(16, 16, kernel, kernel))], window)
        (value,) = builder.node("Relu", [value])
    graph.outputs.append(value)
    x = array(2, 16, 12, 12)
    with load(graph, device="cpu", threads=1) as model, load(graph, device="cpu", without="winograd") as direct:
        assert [row["operator"] for row in model.kernels()].count(KIND) == 1
        assert KIND not in [row["operator"] for row in direct.kernels()]
        (got,), (want,) = model.run({"x": x}).values(), direct.run({"x": x}).values()
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * np.abs(want).max())
