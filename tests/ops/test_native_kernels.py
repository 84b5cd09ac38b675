"""Every native kernel that this CPU can run, in every tier, gives the reference within the operator's accuracy class."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from cases import output_count, reference, samples_of, shape_inputs, single_node, text_of

from headrace.runtime import dtypes
from headrace.runtime.ops import registry
from headrace.runtime.ops.base import Accuracy, Operator, Sample

native = pytest.importorskip("headrace.runtime._native", reason="the native extension is not built")
lower = pytest.importorskip("headrace.runtime.lower", reason="the native extension is not built").lower

OPERATORS = sorted((op for op in registry().values() if op.kind in native.kernels()), key=lambda op: op.kind)


def native_run(operator: Operator, sample: Sample, constants: list[int], threads: int = 1) -> list[Any]:
    """The sample through the native program of a graph of one node."""
    graph, feeds = single_node(operator, sample, constants)
    program = lower(graph, threads)
    found = program.run(feeds)
    assert found is not None, f"the feeds were refused: {text_of(sample)}"
    return [found[value.name] for value in graph.outputs]


def kernels_of(operator: Operator, sample: Sample, constants: list[int]) -> list[bool]:
    """Which nodes of the native program have a kernel; the others call the reference."""
    return [bool(variant) for _, _, variant in lower(single_node(operator, sample, constants)[0], 1).nodes()]


def accurate(operator: Operator, sample: Sample) -> list[Any]:
    """The reference, computed in float64 where the operator rounds at all and allows it."""
    plain = reference(operator, sample)
    if operator.accuracy.ulp == 0:
        return plain
    inputs = [
        x.astype(np.float64) if isinstance(x, np.ndarray) and dtypes.of(x).name in dtypes.FLOAT else x
        for x in sample.inputs
    ]
    try:
        wide = reference(operator, Sample(inputs, sample.attributes, sample.outputs))
    except Exception:
        return plain
    with np.errstate(all="ignore"):
        return [
            w if isinstance(w, np.ndarray) and w.dtype == np.float64 and p.dtype.kind in "fV" else p
            for w, p in zip(wide, plain)
        ]


def assert_within(found: Any, expected: Any, dtype: np.dtype, accuracy: Accuracy, context: str) -> None:
    ulp = accuracy.ulp
    if not isinstance(expected, np.ndarray):
        assert found == expected, context
        return
    assert found.shape == expected.shape, f"shape {found.shape} for {expected.shape}; {context}"
    assert dtypes.of(found).name == dtypes.of(dtype).name, f"{found.dtype} for {dtype}; {context}"
    kind = dtypes.of(dtype).kind
    if kind == "s" or kind not in "f" or expected.size == 0:
        np.testing.assert_array_equal(found, expected, err_msg=context)
        return
    with np.errstate(all="ignore"):
        rounded = expected.astype(dtype).astype(np.float64)
        a, b = found.astype(np.float64), expected.astype(np.float64)
    np.testing.assert_array_equal(np.isnan(a), np.isnan(rounded), err_msg=f"NaN; {context}")
    info = ml_dtypes.finfo(dtype)
    finite = np.isfinite(rounded) & np.isfinite(a)
    infinite = ~finite & ~np.isnan(a)
    limit = float(info.max) * (1 - ulp * float(info.eps))
    assert np.all((a == rounded)[infinite] | (np.minimum(np.abs(a), np.abs(b))[infinite] >= limit)), (
        f"infinity: {a} for {b}; {context}"
    )
    scale = np.maximum(np.abs(b), max(accuracy.scale, np.abs(b[finite]).max(initial=0.0) * 0.25 if ulp >= 8 else 0.0))
    error = np.abs(a - b) - (ulp + 0.5) * float(info.eps) * scale - (ulp + 0.5) * float(info.tiny)
    if ulp == 0:
        error = np.abs(a - rounded)
    assert np.all(error[finite] <= 0), (
        f"{ulp} ulp: {a[finite][error[finite] > 0][:5]} for {b[finite][error[finite] > 0][:5]}; {context}"
    )


@pytest.mark.parametrize("tier", [name for name in native.cpu_tiers() if name != "avx512_bf16"])
@pytest.mark.parametrize("operator", OPERATORS, ids=lambda operator: operator.kind)
def test_kernel(operator: Operator, tier: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if not operator.deterministic:
        pytest.skip("random operators have no numbers to compare")
    monkeypatch.setenv("HEADRACE_CPU_TIER", tier)
    for sample in samples_of(operator):
        expected, plain = accurate(operator, sample), reference(operator, sample)
        # Kernels that pack an input ahead of time may exist for constants only.
        arrays = [i for i, x in enumerate(sample.inputs) if i > 0 and isinstance(x, np.ndarray)]
        for constants in ([], shape_inputs(sample), *([arrays] if operator.prepack else [])):
            found = native_run(operator, sample, constants)
            assert len(found) == output_count(operator, sample)
            for a, b, p in zip(found, expected, plain):
                assert_within(
                    a,
                    b,
                    p.dtype if isinstance(p, np.ndarray) else np.dtype(object),
                    operator.accuracy,
                    f"{tier}: {text_of(sample)}",
                )


@pytest.mark.parametrize("operator", OPERATORS, ids=lambda operator: operator.kind)
def test_weights_as_constants(operator: Operator) -> None:
    """Constant inputs, which a kernel may pack when it is made, change nothing."""
    if not operator.deterministic:
        pytest.skip("random operators have no numbers to compare")
    for sample in samples_of(operator):
        packed = [i for i, x in enumerate(sample.inputs) if i > 0 and isinstance(x, np.ndarray)]
        if packed:
            places = shape_inputs(sample)
            exact = kernels_of(operator, sample, packed) == kernels_of(operator, sample, places)
            for a, b in zip(native_run(operator, sample, packed), native_run(operator, sample, places)):
                assert a.dtype == b.dtype
                if not exact:  # a kernel for constant weights only: the reference runs for others
                    assert_within(a, b, b.dtype, operator.accuracy, text_of(sample))
                    continue
                if dtypes.of(a).kind == "f":
                    a, b = a.astype(np.float64), b.astype(np.float64)
                np.testing.assert_array_equal(a, b, err_msg=text_of(sample))
