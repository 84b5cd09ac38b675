"""Inputs of the models that benchmarks run. Other environments use it, too: it needs NumPy alone."""

from __future__ import annotations

from typing import Any

import numpy as np


def feeds_of(inputs: list[Any], batch: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Inputs, the same every time; a maximum of 2 means a mask, which is all ones."""
    rng, feeds = np.random.default_rng(seed), {}
    for name, shape, dtype, high in inputs:
        whole = (batch, *shape)
        if dtype == "int64":
            feeds[name] = np.ones(whole, np.int64) if high == 2 else rng.integers(0, high, whole)
        else:
            feeds[name] = rng.standard_normal(whole, np.float32)
    return feeds
