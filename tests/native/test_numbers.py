"""Native products of float64 and integers, label tables, LRN, rotary embeddings, resampling with wide kernels and named
classes: equal to the references on odd shapes and extreme values, whatever the number of threads and of rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from helpers import assert_near
from one_kernel import run

from headrace.runtime.builder import Builder
from headrace.runtime.executor import run_graph
from headrace.runtime.graph import Block, Graph, Value
from headrace.runtime.lower import lower
from headrace.runtime.ops import find
from headrace.runtime.types import TensorType

RNG = np.random.default_rng(5)


def same(kind: str, inputs: list[Any], attributes: Mapping[str, Any] | None = None, *, packed: tuple[int, ...] = ()) -> None:  # fmt: skip
    domain, _, name = kind.rpartition(".")
    operator = find(name, domain)
    assert operator is not None
    with np.errstate(all="ignore"):
        (want,) = operator.reference(inputs, operator.complete(attributes or {}))
    given = {key: value for key, value in operator.complete(attributes or {}).items() if value is not None}
    for constants in ((), packed):
        for threads in (1, 2):
            found = run(kind, inputs, given, [want.dtype.name], constants=constants, threads=threads)
            assert_near(found, want, operator.accuracy.ulp, f"{kind} {[np.shape(x) for x in inputs]} {attributes}")


def draw(kind: str, *shape: int) -> np.ndarray:
    if kind == "float64":
        return RNG.standard_normal(shape)
    info = np.iinfo(kind)
    return RNG.integers(info.min, info.max, shape, kind)


@pytest.mark.parametrize("kind", ["float64", "int32", "int64", "uint32", "uint64"])
def test_products(tier: str, kind: str) -> None:
    for a, b in (((1, 1), (1, 1)), ((3, 5), (5, 17)), ((5,), (5, 33)), ((4, 7), (7,)), ((9,), (9,)), ((2, 3, 40), (40, 70)),
                 ((2, 1, 3, 5), (4, 5, 2)), ((0, 4), (4, 3)), ((3, 0), (0, 2)), ((130, 65), (65, 9))):  # fmt: skip
        same("MatMul", [draw(kind, *a), draw(kind, *b)], packed=(1,))
    for attributes in ({}, {"transA": 1}, {"transB": 1}, {"transA": 1, "transB": 1}):
        a = draw(kind, *((6, 5) if attributes.get("transA") else (5, 6)))
        b = draw(kind, *((19, 6) if attributes.get("transB") else (6, 19)))
        for added in (None, draw(kind, 19), draw(kind, 5, 1), draw(kind, 1), draw(kind, 5, 19)):
            same(
                "Gemm",
                [a, b, *([] if added is None else [added])],
                attributes,
                packed=(1, 2)[: 1 + (added is not None)],
            )
    if kind == "float64":
        same("Gemm", [draw(kind, 3, 4), draw(kind, 4, 5), draw(kind, 5)], {"alpha": 0.5, "beta": -2.0}, packed=(1,))
        same("MatMul", [np.array([[np.inf, 1.0], [np.nan, 0.0]]), np.array([[0.0, 2.0], [1.0, -np.inf]])])


def test_a_row_of_a_product_has_the_same_bits_among_others(tier: str) -> None:
    a, b = draw("float64", 37, 123), draw("float64", 123, 21)
    whole = run("MatMul", [a, b], outputs=["float64"], constants=(1,), threads=2)
    for rows in (1, 2, 5):
        np.testing.assert_array_equal(run("MatMul", [a[4 : 4 + rows], b], outputs=["float64"]), whole[4 : 4 + rows])


def test_products_that_do_not_fit(tier: str) -> None:
    for op, a, b in (("MatMul", (2, 3), (4, 2)), ("Gemm", (2, 3, 4), (4, 2)), ("MatMul", (2, 2, 3), (3, 3, 2))):
        with pytest.raises(Exception, match=r"multiply|broadcast"):
            run(op, [np.ones(a), np.ones(b)], {}, ["float64"])


@pytest.mark.parametrize("size", [1, 2, 3, 5, 9])
def test_lrn(tier: str, size: int) -> None:
    for shape in ((2, 5, 3, 4), (1, 1, 7), (3, 8), (1, 12, 20, 31), (0, 3, 2), (2, 3, 0)):
        x = RNG.standard_normal(shape).astype(np.float32) * 10
        same("LRN", [x], {"size": size, "alpha": 0.3, "beta": 0.75, "bias": 1.5})
        same("LRN", [x], {"size": size, "alpha": 1e-4, "beta": 0.6, "bias": 2.0})


def test_rotary_embeddings(tier: str) -> None:
    cos, sin = (RNG.uniform(-1, 1, (9, 16)).astype(np.float32) for _ in range(2))
    places = RNG.integers(0, 9, (2, 5))
    for shape, heads in (((2, 3, 5, 32), 0), ((2, 5, 96), 3)):
        x = RNG.standard_normal(shape).astype(np.float32)
        for interleaved in (0, 1):
            for part in (0, 32, 20, 2):
                given = {"interleaved": interleaved, "num_heads": heads, "rotary_embedding_dim": part}
                width = (part or 32) // 2
                tables = [np.ascontiguousarray(table[:, :width]) for table in (cos, sin)]
                same("RotaryEmbedding", [x, *tables, places], given)
                same("RotaryEmbedding", [x, tables[0][places], tables[1][places]], given)
    with pytest.raises(Exception, match=r"out of|index|indices"):
        run("RotaryEmbedding", [x, cos, sin, places + 5], {"num_heads": 3})
    with pytest.raises(Exception, match="do not fit"):
        run("RotaryEmbedding", [x, cos, sin, places[:1]], {"num_heads": 3})


@pytest.mark.parametrize("mode", ["linear", "cubic"])
@pytest.mark.parametrize("wide", [{"antialias": 1}, {"exclude_outside": 1}, {"antialias": 1, "exclude_outside": 1}])
def test_wide_kernels_resample(mode: str, wide: dict[str, int]) -> None:
    if mode == "linear" and "exclude_outside" in wide:
        wide = {"antialias": 1}
    for shape, sizes in (((1, 2, 9, 7), (1, 2, 4, 3)), ((2, 1, 5, 6), (2, 1, 11, 2)), ((1, 3, 20, 1), (1, 3, 3, 5))):
        x = RNG.standard_normal(shape).astype(np.float32)
        for coordinates in ("half_pixel", "asymmetric", "align_corners", "half_pixel_symmetric"):
            given = {"mode": mode, "coordinate_transformation_mode": coordinates, **wide}
            same("Resize", [x, None, None, np.array(sizes, np.int64)], given, packed=(3,))


@pytest.mark.parametrize("policy", ["stretch", "not_larger", "not_smaller"])
def test_resampling_keeps_the_ratio(policy: str) -> None:
    x = RNG.standard_normal((1, 2, 6, 4)).astype(np.float32)
    for mode in ("nearest", "linear", "cubic"):
        for sizes in ((9, 9), (3, 7), (4, 2)):
            given = {"mode": mode, "axes": (3, 2), "keep_aspect_ratio_policy": policy}
            same("Resize", [x, None, None, np.array(sizes, np.int64)], given, packed=(3,))


def test_labels_of_numbers() -> None:
    whole = np.array([[3, -7, 9], [2**60, 3, 0]])
    table = {"keys_int64s": (3, 9, 3, 2**60), "values_int64s": (5, -6, 7, 8), "default_int64": 42}
    same("ai.onnx.ml.LabelEncoder", [whole], table)
    floats = {"keys_int64s": (3, 9), "values_floats": (0.5, float("nan")), "default_float": -1.5}
    same("ai.onnx.ml.LabelEncoder", [whole], floats)
    x = np.array([0.1, np.nan, -0.0, 7.0, np.inf], np.float32)
    real = {"keys_floats": (0.1, float("nan"), 0.0, float("inf")), "values_floats": (1.5, 2.5, 3.5, 4.5)}
    same("ai.onnx.ml.LabelEncoder", [x], real)
    same("ai.onnx.ml.LabelEncoder", [x], {"keys_floats": (7.0,), "values_int64s": (3,)})


@pytest.mark.parametrize("kind", ["int64", "int32", "float32", "float64"])
def test_one_hot_of_numbers(kind: str) -> None:
    x = np.array([[1, 5, 2], [3, -9, 3]], kind)
    same("ai.onnx.ml.OneHotEncoder", [x], {"cats_int64s": (3, 1, 3, -9)})
    with pytest.raises(Exception, match="none of the categories"):
        run("ai.onnx.ml.OneHotEncoder", [x], {"cats_int64s": (3, 1), "zeros": 0})


@pytest.mark.parametrize("name", ["TreeEnsembleClassifier", "LinearClassifier", "SVMClassifier"])
def test_named_classes_run_natively(name: str) -> None:
    operator = find(name, "ai.onnx.ml")
    assert operator is not None
    ran = 0
    for sample in operator.samples(np.random.default_rng(3)):
        numbers = next((key for key in ("classlabels_int64s", "classlabels_ints") if sample.attributes.get(key)), None)
        attributes = dict(sample.attributes)
        if numbers is not None:  # every sample with names as well
            count = len(attributes.pop(numbers))
            attributes["classlabels_strings"] = tuple(f"class {index}" for index in range(count))
        x = np.asarray(sample.inputs[0])
        graph = Graph(Block([Value("x", TensorType(x.dtype.name, x.shape))], [], []))
        outputs = Builder(graph).node(name, [graph.inputs[0]], attributes, domain="ai.onnx.ml", outputs=2)
        graph.outputs.extend(outputs)
        found, wanted = lower(graph).run({"x": x}), run_graph(graph, {"x": x})
        assert found is not None
        names, scores = (value.name for value in outputs)
        np.testing.assert_array_equal(found[names], wanted[names])
        np.testing.assert_allclose(found[scores], wanted[scores], rtol=1e-5, atol=1e-6)
        ran += bool(lower(graph).nodes()[0][2])
    assert ran, f"no sample of {name} with named classes reaches the kernel"
