"""Fast kernels and direct gradients answer what the operators themselves answer, on the operators' own samples."""

import numpy as np
import pytest

from headrace.autograd.lazy import ARRAYS
from headrace.eager import KERNELS
from headrace.eager.gradients import RULES
from headrace.runtime.ops import find
from headrace.runtime.ops.base import Operator


def operator_of(kind: str) -> Operator:
    domain, _, name = kind.rpartition(".")
    found = find(name, domain)
    assert found is not None
    return found


def close(got: np.ndarray, want: np.ndarray, ulp: float) -> None:
    assert got.shape == want.shape and got.dtype == want.dtype
    if want.dtype.kind in "fV":
        eps = float(np.finfo(np.float32).eps if want.dtype.itemsize >= 4 else 2**-8)
        scale = np.nanmax(np.abs(want.astype(np.float64)[np.isfinite(want.astype(np.float64))]), initial=1e-30)
        np.testing.assert_allclose(
            got.astype(np.float64), want.astype(np.float64), rtol=max(ulp, 4) * eps, atol=max(ulp, 4) * eps * scale
        )
    else:
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("kind", sorted(KERNELS))
def test_kernel_is_reference(kind: str) -> None:
    operator = operator_of(kind)
    for sample in operator.samples(np.random.default_rng(0)):
        if any(x is not None and x.dtype.kind in "OUS" for x in sample.inputs):
            continue  # tensors hold no text
        attributes = operator.complete(sample.attributes)
        count = sample.outputs or sum(not out.optional for out in operator.outputs)
        if operator.outputs[-1].variadic:
            count = sample.outputs or attributes.get("num_outputs") or len(sample.inputs[1])
        with np.errstate(all="ignore"):
            want = operator.reference(list(sample.inputs), attributes, count)
            got = KERNELS[kind](list(sample.inputs), attributes, count)
        for g, w in zip(got, want):
            close(np.asarray(g), np.asarray(w), operator.accuracy.ulp)


@pytest.mark.parametrize("kind", sorted(RULES))
def test_direct_gradient_is_the_rule(kind: str) -> None:
    operator = operator_of(kind)
    rng = np.random.default_rng(1)
    direct = 0
    for sample in operator.samples(rng):
        inputs = list(sample.inputs)
        if inputs[0].dtype.kind != "f" or inputs[0].dtype.itemsize < 4:
            continue
        attributes = operator.complete(sample.attributes)
        with np.errstate(all="ignore"):
            # The loss keeps its logarithms for the way back; other operators have one output.
            count = 2 if kind == "SoftmaxCrossEntropyLoss" else 1
            outputs = [np.asarray(o) for o in operator.reference(inputs, attributes, count)]
            grads = [rng.standard_normal(outputs[0].shape).astype(outputs[0].dtype), None][:count]
            grads[0] = np.asarray(grads[0], outputs[0].dtype)
            wanted = [x is not None and x.dtype.kind == "f" for x in inputs]
            if kind == "headrace.BinaryCrossEntropy":
                wanted[1] = False  # targets are data
            got = RULES[kind](inputs, outputs, grads, attributes, wanted)
            want = operator.gradient(ARRAYS, inputs, outputs, grads, attributes)
        if got is None:
            continue
        direct += 1
        for g, w, asked in zip(got, want, wanted):
            if asked:
                close(np.asarray(g), np.asarray(w), 64)
    assert direct, "no sample reached the direct rule"
