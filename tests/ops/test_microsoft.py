"""Operators of com.microsoft against onnxruntime, whose they are: every sample, imported and run natively."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cases import assert_close, output_count, reference, samples_of
from oracle import _feeds, _model, _onnxruntime, within_a_level

from headrace.runtime.ops import find, registry
from headrace.runtime.ops.base import Operator, Sample

runtime = pytest.importorskip("headrace.runtime", reason="the runtime is not there")
pytest.importorskip("onnxruntime", reason="onnxruntime is the oracle")

# Of that domain in files of skl2onnx alone, whose estimators are the oracle (tests/doors).
NOT_THEIRS = frozenset({"com.microsoft.Solve"})
FAMILY = sorted(
    (o for o in registry().values() if ".ops.microsoft." in type(o).__module__ and o.kind not in NOT_THEIRS),
    key=lambda operator: operator.kind,
)
# What onnxruntime's CPU kernels refuse, by the beginning of its message: these samples are checked by the contract test.
REFUSED = ("these element types cannot be fed", "Packed QKV of shape", "Packed KV not implemented")


def theirs(operator: Operator, sample: Sample) -> tuple[Any, list[Any]] | None:
    model = _model(operator, sample, output_count(operator, sample), 1 if operator.domain else 20)
    try:
        return model, _onnxruntime(model, _feeds(sample))
    except Exception as error:
        assert any(text in str(error) for text in REFUSED), error
        return None


def loosened(model: Any, ranks: bool) -> Any:
    """The model with dimensions that only the run tells, and without ranks."""
    copy = type(model).FromString(model.SerializeToString())
    for value in copy.graph.input:
        shape = value.type.tensor_type.shape
        for dim in shape.dim:
            dim.Clear()
        if not ranks:
            value.type.tensor_type.ClearField("shape")
    return copy


@pytest.mark.peer
@pytest.mark.parametrize("operator", FAMILY, ids=lambda operator: operator.kind)
def test_imported_it_answers_as_onnxruntime(operator: Operator) -> None:
    compared = 0
    for sample in samples_of(operator):
        answer = theirs(operator, sample)
        if answer is None:
            continue
        model, expected = answer
        for form in (model, loosened(model, True), loosened(model, False)):
            found = runtime.load(form, device="cpu").run(_feeds(sample))
            for index, right in enumerate(expected):
                assert_close(within_a_level(operator, found[f"y{index}"], right), right, str(sample.attributes))
        compared += 1
    assert compared >= 2


@pytest.mark.parametrize("operator", FAMILY, ids=lambda operator: operator.kind)
def test_import_puts_other_operators_in_its_place(operator: Operator) -> None:
    from headrace.serializer.onnx.load import open_program

    for sample in samples_of(operator):
        graph = open_program(
            _model(operator, sample, output_count(operator, sample), 1 if operator.domain else 20)
        ).program.main
        left = [node.kind for node in graph.nodes if node.kind == operator.kind]
        assert not left, f"{left} with {sample.attributes}"


@pytest.mark.peer
def test_rows_of_different_lengths_have_their_own_cache() -> None:
    """Past the end of a row the cache holds anything; up to there it is onnxruntime's."""
    operator = find("GroupQueryAttention", "com.microsoft")
    assert operator is not None
    rng = np.random.default_rng(0)
    q, k, v = (rng.uniform(-1, 1, (2, 1, n * 8)).astype(np.float32) for n in (4, 2, 2))
    past = [rng.uniform(-1, 1, (2, 2, 6, 8)).astype(np.float32) for _ in range(2)]
    for lengths, total in (((5, 4), 5), ((7, 5), 7)):
        ends = np.array(lengths, np.int32) - 1
        sample = Sample(
            [q, k, v, *past, ends, np.array([total], np.int32)], {"num_heads": 4, "kv_num_heads": 2}, outputs=3
        )
        found, answer = reference(operator, sample), theirs(operator, sample)
        assert answer is not None
        assert_close(found[0], answer[1][0], str(lengths))
        for row, length in enumerate(lengths):
            for ours, right in zip(found[1:], answer[1][1:]):
                assert_close(ours[row, :, :length], right[row, :, :length], str(lengths))
