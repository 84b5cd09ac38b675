"""Operators over rows: normalisations, softmax, reductions, pools over everything."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from headrace.runtime.cuda.kernels import norm
from headrace.runtime.cuda.rules.base import Bound, Rule, Site, Work
from headrace.runtime.ops.reduce.reductions import resolve_axes

F32 = ("float32",)
REDUCE = {
    "ReduceSum": "sum", "ReduceMean": "mean", "ReduceMax": "max", "ReduceMin": "min", "ReduceProd": "prod",
    "ReduceL1": "l1", "ReduceL2": "l2", "ReduceSumSquare": "sum_square",
}  # fmt: skip


def _layer_norm(site: Site) -> Work:
    site.need_dtypes(F32, 0, 1, 2)
    site.need(site.attributes["stash_type"] == 1, "a stash type other than float32")
    shape, centred = site.shape(), site.kind == "LayerNormalization"
    axis = site.attributes["axis"] % len(shape)
    k = math.prod(shape[axis:])
    rows = math.prod(shape[:axis])
    for index in (1, 2):
        site.need(not site.has(index) or site.size(index) == k, f"input {index} is not one value for each of a row")
    epsilon = float(site.attributes["epsilon"])

    def emit(at: Bound) -> None:
        scale, bias = at.inputs[1], at.inputs[2] if len(at.inputs) > 2 else 0
        mean, inverse = (*at.outputs[1:], 0, 0)[:2]
        norm.layer_norm(at.device, at.inputs[0], scale, bias, at.outputs[0], rows, k, epsilon, mean, inverse, centred)

    return Work("layer_norm", emit)


def _batch_norm(site: Site) -> Work:
    site.need_dtypes(F32, 0, 1, 2, 3, 4)
    site.need(not site.attributes["training_mode"], "training mode")
    scale, shift, mean, variance = (site.fixed(i) for i in range(1, 5))
    epsilon = np.float32(site.attributes["epsilon"])
    factor = site.derived(f"factor {epsilon}", [scale, variance], lambda: scale / np.sqrt(variance + epsilon))
    shape = site.shape()
    n, inner, channels = math.prod(shape), math.prod(shape[2:]), shape[1] if len(shape) > 1 else 1

    def emit(at: Bound) -> None:
        parts = [at.constant(array) for array in (mean, factor, shift)]
        norm.scale_shift(at.device, at.inputs[0], at.outputs[0], parts[0], parts[1], parts[2], n, inner, channels)

    return Work("scale_shift", emit, in_place=(0,))


def _rows(shape: Sequence[int], axis: int) -> tuple[int, int, int]:
    """(rows, elements of a row, distance between them) for one axis."""
    axis %= len(shape)
    return math.prod(shape) // shape[axis], shape[axis], math.prod(shape[axis + 1 :])


def _softmax(site: Site) -> Work:
    site.need_dtypes(F32, 0)
    site.need(len(site.shape()) > 0, "a scalar")
    rows, k, inner = _rows(site.shape(), site.attributes["axis"])
    log = site.kind == "LogSoftmax"

    def emit(at: Bound) -> None:
        norm.softmax(at.device, at.inputs[0], at.outputs[0], rows, k, inner, log)

    return Work("log_softmax" if log else "softmax", emit)


def _lp_normalize(site: Site) -> Work:
    site.need_dtypes(F32, 0)
    site.need(len(site.shape()) > 0, "a scalar")
    rows, k, inner = _rows(site.shape(), site.attributes["axis"])
    p = int(site.attributes["p"])

    def emit(at: Bound) -> None:
        norm.lp_normalize(at.device, at.inputs[0], at.outputs[0], rows, k, inner, p)

    return Work("lp_normalize", emit)


def _arg_extreme(site: Site) -> Work:
    site.need_dtypes(F32, 0)
    site.need(len(site.shape()) > 0, "a scalar")
    rows, k, inner = _rows(site.shape(), site.attributes["axis"])
    least, last = site.kind == "ArgMin", bool(site.attributes["select_last_index"])

    def emit(at: Bound) -> None:
        norm.arg_extreme(at.device, at.inputs[0], at.outputs[0], rows, k, inner, least, last)

    return Work("arg_extreme", emit)


def _reduce(site: Site) -> Work:
    given = site.fixed(1) if site.has(1) else None
    axes = resolve_axes(given, len(site.shape()), bool(site.attributes["noop_with_empty_axes"]))
    return _over(site, REDUCE[site.kind], axes)


def _global(site: Site) -> Work:
    return _over(site, "mean" if site.kind == "GlobalAveragePool" else "max", range(2, len(site.shape())))


def _over(site: Site, function: str, axes: Sequence[int]) -> Work:
    """A reduction over neighbouring axes."""
    site.need_dtypes(F32, 0)
    shape = site.shape()
    site.need(len(axes) > 0, "no axis")
    first, last = axes[0], axes[-1]
    site.need(list(axes) == list(range(first, last + 1)), "axes that are not neighbours")
    k, inner = math.prod(shape[first : last + 1]), math.prod(shape[last + 1 :])
    rows = math.prod(shape) // k

    def emit(at: Bound) -> None:
        norm.reduce(at.device, function, at.inputs[0], at.outputs[0], rows, k, inner)

    return Work(f"reduce {function}", emit)


RULES: dict[str, Rule] = {
    "LayerNormalization": _layer_norm, "RMSNormalization": _layer_norm, "BatchNormalization": _batch_norm,
    "Softmax": _softmax, "LogSoftmax": _softmax, "LpNormalization": _lp_normalize,
    "ArgMax": _arg_extreme, "ArgMin": _arg_extreme, "GlobalAveragePool": _global, "GlobalMaxPool": _global, **dict.fromkeys(REDUCE, _reduce),
}  # fmt: skip
