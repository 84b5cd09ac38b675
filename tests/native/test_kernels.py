"""Every native kernel against its operator's reference, on the operator's own samples: odd shapes, extreme values."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from helpers import assert_near, sample_graph

from headrace.runtime import _native
from headrace.runtime.executor import run_graph
from headrace.runtime.lower import lower
from headrace.runtime.ops import registry

NATIVE = [operator for operator in registry().values() if operator.kind in _native.kernels() and operator.deterministic]


@pytest.mark.parametrize("operator", NATIVE, ids=lambda operator: operator.kind)
def test_kernel_equals_reference(operator) -> None:
    """Each sample runs generically, specialised, and with its parameters (all inputs but the first) constant."""
    ran = 0
    for number, sample in enumerate(itertools.islice(operator.samples(np.random.default_rng(7)), 400)):
        rest = set(range(1, len(sample.inputs)))
        for constant in (set(), rest):
            graph, feeds = sample_graph(operator, sample, constant)
            program = lower(graph, 2, machine=False)
            ran += bool(program.nodes()[0][2])
            wanted = run_graph(graph, feeds)
            for turn in range(3):
                program.specialise(turn > 0)
                found = program.run(feeds)
                assert found is not None
                for name in wanted:
                    shapes = [None if x is None else (np.shape(x), np.asarray(x).dtype.name) for x in sample.inputs]
                    where = (
                        f"{operator.kind} sample {number} {shapes} {sample.attributes} constant {constant} turn {turn}"
                    )
                    assert_near(found[name], wanted[name], operator.accuracy.ulp, where, operator.accuracy.scale)
    assert ran, f"no sample of {operator.kind} reaches a kernel"
