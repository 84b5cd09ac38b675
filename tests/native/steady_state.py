"""Blocks that calls of models take from the C allocator, as JSON; runs under count_allocations.c, preloaded."""

from __future__ import annotations

import ctypes
import json

import numpy as np
import test_rows_of_models as networks

import headrace as torch
from headrace import jit, nn
from headrace.runtime import load

WARM, CALLS = 20, 50
taken = ctypes.CDLL(None).allocations


def per_call(model, x: np.ndarray) -> float:
    feeds = {model.inputs[0].name: x}
    for _ in range(WARM):
        model.run(feeds)
    before = taken()
    for _ in range(CALLS):
        model.run(feeds)
    return (taken() - before) / CALLS


def main() -> None:
    x = networks.rows_of("mlp")[:4]
    one_node = load(jit.trace(nn.ReLU().eval(), torch.randn(2, x.shape[1])).graph, threads=1)
    report = {"one node": per_call(one_node, x)}
    for name in networks.NETWORKS:
        for form in networks.FORMS:
            models, _ = networks.models_of(name, form)
            for model, threads in zip(models, networks.THREADS, strict=True):
                report[f"{name}, {form}, {threads} threads"] = per_call(model, networks.rows_of(name)[:4])
    model, rows = networks.models_of("mlp", "float32")[0][0], networks.rows_of("mlp")
    before = taken()
    for batch in range(5, 25):
        model.run({model.inputs[0].name: rows[:batch]})
    report["shapes not seen before"] = (taken() - before) / 20
    print(json.dumps(report))


if __name__ == "__main__":
    main()
