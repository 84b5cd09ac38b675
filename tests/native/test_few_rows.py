"""Products of few rows whose weights stay where they lie: the bits of those that are packed, and no memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from one_kernel import program

from headrace.runtime import load
from headrace.runtime.builder import Builder
from headrace.runtime.graph import Block, Graph, Program, Value
from headrace.runtime.passes.machine.few_rows import LEAST, is_few
from headrace.runtime.shapes import Dim, symbol
from headrace.runtime.types import TensorType
from headrace.serializer import archive

RNG = np.random.default_rng(5)
N = symbol("n")


def array(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("k, n, threads", [(1, 3, 1), (13, 130, 2), (321, 1024, 1), (25, 8300, 1), (14, 4171, 2)])
def test_the_bits_are_those_of_packed_weights(tier: str, k: int, n: int, threads: int) -> None:
    """However many rows are multiplied at once, with each kind of end, and beside numbers that are none."""
    b, bias = array(k, n), array(n)
    b[k // 2, n // 2] = np.inf
    for rows in (1, 2, 3, 4, 5, 6, 7, 8, 9, 145):
        x, r = array(rows, 1, k), array(rows, 1, n)
        x[rows // 2, 0, 0] = np.nan
        for given, attributes in (
            ([], {}),
            ([bias, r], {"activation": "Clip", "clip_min": -0.5, "clip_max": 2.0, "alpha": 0.5}),
            ([None, r], {"activation": "Gelu"}),
        ):
            found = [
                program(
                    "headrace.cpu.MatMul", [x, b, *given], {**attributes, "few_rows": few}, constants=[1], threads=threads
                ).run({str(i): array for i, array in enumerate([x, b, *given]) if array is not None and i != 1})["0"]
                for few in (1, 0)
            ]  # fmt: skip
            assert found[0].tobytes() == found[1].tobytes(), (rows, attributes)


@pytest.mark.parametrize(
    "shape, few",
    [
        ((N, 1, 64), True),
        ((N, 1, 1, 64), True),
        ((1, 64), True),
        ((8, 64), True),
        ((2, 4, 64), True),
        ((9, 64), False),
        ((N, 2, 64), False),
        ((N, N, 64), False),
        ((1, N, 64), False),
        ((N, 64), False),  # a batch of examples, not of sequences
        ((0, 64), False),
        ((64,), False),
        (None, False),
    ],
    ids=str,
)
def test_which_factors_have_few_rows(shape: tuple[Dim, ...] | None, few: bool) -> None:
    assert is_few(shape) is few


def decoder(size: int, layers: int) -> Graph:
    graph = Graph(Block([Value("x", TensorType("float32", (N, 1, size)))], [], []))
    builder, value = Builder(graph), graph.inputs[0]
    for _ in range(layers):
        (value,) = builder.node("MatMul", [value, builder.constant(array(size, size) / np.float32(size))])
        (value,) = builder.node("Add", [value, builder.constant(array(size))])
        (value,) = builder.node("Relu", [value])
    graph.outputs.append(value)
    return graph


@pytest.mark.parametrize("size, packed", [(512, False), (256, True)])
def test_a_step_of_a_decoder_packs_no_large_matrix(tmp_path: Path, size: int, packed: bool) -> None:
    path = tmp_path / "net.hr"
    archive.save(Program({"main": decoder(size, 2)}), path)
    with (
        load(path, device="cpu", threads=1) as model,
        load(path, device="cpu", threads=1, without=["few_rows"]) as other,
    ):
        weights = 2 * size * size * 4
        assert (weights >= 2 * LEAST) is not packed
        assert (model.memory()["packed"] >= weights) is packed and other.memory()["packed"] >= weights
        for rows in (1, 3, 20):
            x = array(rows, 1, size)
            (found,), (want,) = model.run({"x": x}).values(), other.run({"x": x}).values()
            assert found.tobytes() == want.tobytes()
            (alone,) = model.run({"x": x[-1:]}).values()
            assert alone.tobytes() == found[-1:].tobytes()
