"""Pow: X to the power Y, where Y may have a dtype of its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from headrace.runtime import dtypes
from headrace.runtime.ops.base import Accuracy, In, Sample
from headrace.runtime.ops.common import PAIRS, code_of, draw, extremes, is_float, scalar, unbroadcast, widen
from headrace.runtime.ops.elementwise.legacy import LegacyBroadcast
from headrace.runtime.ops.table import Elementwise


class Pow(LegacyBroadcast, Elementwise):
    """Computed in the dtype of X; an integer to a negative power is that of C's integer arithmetic (1/x truncated)."""

    versions = (1, 7, 12, 13, 15)
    inputs = (In("X"), In("Y", "T1"))
    types = {"T": dtypes.FLOAT | {"int32", "int64"}, "T1": dtypes.NUMERIC}
    accuracy = Accuracy(4.0)

    def reference(
        self, inputs: list[Any], attributes: Mapping[str, Any], n_outputs: int = 1, run_block: Any = None
    ) -> list[Any]:
        x, y = map(widen, inputs)
        dtype = inputs[0].dtype
        if dtype.kind not in "iu":
            return [np.asarray(np.power(x, y.astype(x.dtype))).astype(dtype, copy=False)]
        if y.dtype.kind == "f":
            with np.errstate(all="ignore"):
                return [np.asarray(np.trunc(np.power(x.astype(np.float64), y))).astype(dtype)]
        positive = np.power(x, np.maximum(y, 0).astype(dtype))
        inverse = np.where(x == 1, 1, np.where(x == -1, np.where(y % 2 == 0, 1, -1), 0))
        return [np.asarray(np.where(y < 0, inverse, positive)).astype(dtype)]

    def gradient(
        self, F: Any, inputs: list[Any], outputs: list[Any], grads: list[Any], attributes: Mapping[str, Any]
    ) -> list[Any]:
        x, y = inputs
        g = grads[0]
        if not is_float(F, x):
            return [None, None]
        power = y if F.dtype(y) == F.dtype(x) else F.Cast(y, to=code_of(F.dtype(x)))
        zero, one = scalar(F, 0, x), scalar(F, 1, x)
        flat = F.Equal(power, zero)  # x**0 is 1 everywhere, at x = 0 too
        slope = F.Mul(power, F.Pow(x, F.Where(flat, one, F.Sub(power, one))))
        for_x = F.Where(flat, zero, F.Mul(g, slope))
        for_y = None
        if is_float(F, y):
            dead = F.And(F.Equal(x, zero), F.GreaterOrEqual(power, zero))
            log = F.Log(F.Where(dead, one, x))
            for_y = F.Mul(g, F.Where(dead, zero, F.Mul(outputs[0], log)))
            if F.dtype(y) != F.dtype(x):
                for_y = F.Cast(for_y, to=code_of(F.dtype(y)))
        return [unbroadcast(F, for_x, x), unbroadcast(F, for_y, y)]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        for left, right in PAIRS:
            yield Sample([draw(rng, left, "float32", 0.2, 3), draw(rng, right, "float32")])
        for exponent in ("int64", "int32", "uint8", "float64"):
            yield Sample([draw(rng, (3, 4), "float32", 0.2, 3), draw(rng, (3, 4), exponent, 0, 3)])
        for dtype in ("int32", "int64"):
            yield Sample([draw(rng, (3, 4), dtype), draw(rng, (4,), dtype, 0, 4)])
        for dtype in ("float64", "float16", "bfloat16"):
            yield Sample([draw(rng, (3, 4), dtype, 0.2, 3), draw(rng, (4,), dtype)])
        yield Sample(
            [extremes("float32")[:, None], np.array([0, 1, 2, 0.5, -1, -2, np.inf, -np.inf, np.nan, 3], np.float32)]
        )
        yield Sample([np.array([-3.0, -2.0, 2.5], np.float32), np.array(2.0, np.float32)])
