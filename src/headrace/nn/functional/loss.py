"""Losses."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np

from headrace import scalar_types
from headrace.autograd.tape import ops
from headrace.functional.base import FUNCTIONS, axes_input, cast, category, pair, scalar
from headrace.functional.binary import clamp_min
from headrace.functional.exports import exported
from headrace.functional.shape import expand
from headrace.tensors import Tensor, wrap


def _reduced(loss: Tensor, reduction: str) -> Tensor:
    if reduction == "mean":
        return ops.ReduceMean(loss, keepdims=0)
    if reduction == "sum":
        return ops.ReduceSum(loss, keepdims=0)
    if reduction == "none":
        return loss
    raise ValueError(f"{reduction} is not a valid value for reduction")


def _legacy(reduction: str, size_average: Any, reduce: Any) -> str:
    """The reduction that torch's two deprecated flags stand for."""
    if size_average is None and reduce is None:
        return reduction
    if reduce is not None and not reduce:
        return "none"
    return "mean" if size_average is None or size_average else "sum"


def _broadcast(input: Tensor, target: Tensor, loss: str) -> tuple[Any, Any]:
    if input._data.shape != target._data.shape and type(input._data) is np.ndarray:
        warnings.warn(
            f"Using a target size ({target.shape}) that is different to the input size ({input.shape}). This will likely lead"
            " to incorrect results due to broadcasting. Please ensure they have the same size.",
            stacklevel=4,
        )
    return pair(input, target)


def mse_loss(
    input: Tensor,
    target: Tensor,
    size_average: Any = None,
    reduce: Any = None,
    reduction: str = "mean",
    weight: Tensor | None = None,
) -> Tensor:
    """(input - target)²."""
    a, b = _broadcast(input, target, "mse_loss")
    gap = ops.Sub(a, b)
    loss = ops.Mul(gap, gap)
    if weight is not None:
        loss = ops.Mul(loss, weight)
        if reduction == "mean":
            return ops.Div(ops.ReduceSum(loss, keepdims=0), ops.ReduceSum(expand(weight, *loss.shape), keepdims=0))
    return _reduced(loss, _legacy(reduction, size_average, reduce))


def l1_loss(
    input: Tensor,
    target: Tensor,
    size_average: Any = None,
    reduce: Any = None,
    reduction: str = "mean",
    weight: Tensor | None = None,
) -> Tensor:
    """|input - target|."""
    a, b = _broadcast(input, target, "l1_loss")
    loss = ops.Abs(ops.Sub(a, b))
    if weight is not None:
        loss = ops.Mul(loss, weight)
        if reduction == "mean":
            return ops.Div(ops.ReduceSum(loss, keepdims=0), ops.ReduceSum(expand(weight, *loss.shape), keepdims=0))
    return _reduced(loss, _legacy(reduction, size_average, reduce))


def smooth_l1_loss(
    input: Tensor,
    target: Tensor,
    size_average: Any = None,
    reduce: Any = None,
    reduction: str = "mean",
    beta: float = 1.0,
) -> Tensor:
    """Squared below beta, absolute above."""
    if beta < 0:
        raise RuntimeError("smooth_l1_loss does not support negative values for beta.")
    if beta == 0:
        return l1_loss(input, target, size_average, reduce, reduction)
    a, b = _broadcast(input, target, "smooth_l1_loss")
    gap = ops.Abs(ops.Sub(a, b))
    small = ops.Mul(ops.Mul(gap, gap), scalar(0.5 / beta, gap))
    loss = ops.Where(ops.Less(gap, scalar(beta, gap)), small, ops.Sub(gap, scalar(0.5 * beta, gap)))
    return _reduced(loss, _legacy(reduction, size_average, reduce))


def huber_loss(
    input: Tensor, target: Tensor, reduction: str = "mean", delta: float = 1.0, weight: Tensor | None = None
) -> Tensor:
    """Squared below delta, delta times absolute above."""
    if delta <= 0:
        raise RuntimeError("huber_loss does not support non-positive values for delta.")
    a, b = _broadcast(input, target, "huber_loss")
    gap = ops.Abs(ops.Sub(a, b))
    small = ops.Mul(ops.Mul(gap, gap), scalar(0.5, gap))
    loss = ops.Where(
        ops.LessOrEqual(gap, scalar(delta, gap)),
        small,
        ops.Mul(ops.Sub(gap, scalar(0.5 * delta, gap)), scalar(delta, gap)),
    )
    return _reduced(loss if weight is None else ops.Mul(loss, weight), reduction)


def _check_same(input: Tensor, target: Tensor) -> None:
    if tuple(input._data.shape) != tuple(target._data.shape):
        raise ValueError(
            f"Using a target size ({target.shape}) that is different to the input size ({input.shape}) is deprecated. Please ensure they have the same size."
        )


def binary_cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: Any = None,
    reduce: Any = None,
    reduction: str = "mean",
) -> Tensor:
    """-(target * log(input) + (1 - target) * log(1 - input)); logarithms are at least -100."""
    _check_same(input, target)
    data = input._data
    if type(data) is np.ndarray and data.size and not (data.min() >= 0 and data.max() <= 1):
        raise RuntimeError("all elements of input should be between 0 and 1")
    if input._data.dtype != target._data.dtype:
        raise RuntimeError(f"Found dtype {target.dtype} but expected {input.dtype}")
    reduction = _legacy(reduction, size_average, reduce)
    if ops.has("BinaryCrossEntropy"):
        loss = ops.BinaryCrossEntropy(input, target)
    else:
        one, floor = scalar(1, input), scalar(-100, input)
        loss = ops.Neg(ops.Add(
            ops.Mul(target, ops.Max(ops.Log(input), floor)),
            ops.Mul(ops.Sub(one, target), ops.Max(ops.Log(ops.Sub(one, input)), floor)),
        ))  # fmt: skip
    return _reduced(loss if weight is None else ops.Mul(loss, expand(weight, *input.shape)), reduction)


def binary_cross_entropy_with_logits(
    input: Tensor, target: Tensor, weight: Tensor | None = None, size_average: Any = None, reduce: Any = None, reduction: str = "mean",
    pos_weight: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """binary_cross_entropy of sigmoid(input), without overflow."""
    if tuple(input._data.shape) != tuple(target._data.shape):
        raise ValueError(f"Target size ({target.shape}) must be the same as input size ({input.shape})")
    one = scalar(1, input)
    soft = ops.Softplus(ops.Neg(input))  # -log(sigmoid(x))
    rest = ops.Mul(ops.Sub(one, target), input)
    if pos_weight is None:
        loss = ops.Add(rest, soft)
    else:
        factor = ops.Add(ops.Mul(ops.Sub(pos_weight, one), target), one)
        loss = ops.Add(rest, ops.Mul(factor, soft))
    return _reduced(loss if weight is None else ops.Mul(loss, weight), _legacy(reduction, size_average, reduce))


# -------------------------------------------------------------------- classes


def _classes_last(input: Tensor) -> Tensor:
    """[N, C, d1, ...] as [N * d1 * ..., C]."""
    rank = input._data.ndim
    if rank == 2:
        return input
    if rank == 1:
        return input.unsqueeze(0)
    return input.permute(0, *range(2, rank), 1).reshape(-1, input.shape[1])


def nll_loss(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: Any = None,
    ignore_index: int = -100,
    reduce: Any = None,
    reduction: str = "mean",
) -> Tensor:
    """-input[target] for log-probabilities [N, C, ...] and class numbers [N, ...]."""
    reduction = _legacy(reduction, size_average, reduce)
    _check_classes(input, target)
    rows = _classes_last(input)
    places = target.reshape(-1)
    picked = _picked(rows, places, ignore_index)
    factor, total = _class_factors(rows, places, weight, ignore_index)
    if isinstance(factor, Tensor | np.ndarray):
        loss = ops.Neg(ops.Mul(picked, factor))
    else:
        loss = ops.Neg(picked)
    if reduction == "none":
        return loss.reshape(target.shape)
    summed = ops.ReduceSum(loss, keepdims=0)
    if reduction == "sum":
        return summed
    if reduction != "mean":
        raise ValueError(f"{reduction} is not a valid value for reduction")
    return ops.Div(summed, total)


def _check_classes(input: Tensor, target: Tensor) -> None:
    if category(target) != 1:
        raise RuntimeError(f"expected scalar type Long but found {target.dtype}")
    rank = input._data.ndim
    if rank == 0 or target._data.ndim != max(0, rank - 1):
        raise ValueError(
            f"Expected target size to have {max(0, rank - 1)} dimensions, got {list(target.shape)} for input {list(input.shape)}"
        )
    wanted = input._data.shape[:1] + input._data.shape[2:] if rank > 1 else ()
    if tuple(target._data.shape) != tuple(wanted):
        raise ValueError(
            f"Expected input batch_size ({wanted[0] if wanted else 1}) to match target batch_size ({list(target.shape)})"
        )


def _picked(rows: Tensor, places: Tensor, ignore_index: int) -> Tensor:
    """rows[i, places[i]]; an ignored place reads column 0."""
    data = places._data
    classes = rows._data.shape[1]
    if type(data) is np.ndarray:
        ignored = data == ignore_index
        safe: Any = np.where(ignored, 0, data).astype(np.int64)
        if safe.size and (safe.min() < 0 or safe.max() >= classes):
            wrong = int(safe.max() if safe.max() >= classes else safe.min())
            raise IndexError(f"Target {wrong} is out of bounds. The input has {classes} classes: 0 to {classes - 1}")
        index: Any = safe[:, None]
    else:
        safe = cast(places, scalar_types.int64)
        index = ops.Unsqueeze(safe, axes_input((1,)))
    return ops.Squeeze(ops.GatherElements(rows, index, axis=1), axes_input((1,)))


def _class_factors(rows: Tensor, places: Tensor, weight: Tensor | None, ignore_index: int) -> tuple[Any, Any]:
    """The factor of each sample (None: one each) and their sum."""
    data = places._data
    if type(data) is not np.ndarray:
        if weight is not None:
            data.refuse("a loss with class weights")
        return None, scalar(1, rows)
    dtype = rows._data.dtype
    keep = data != ignore_index
    if weight is None:
        if keep.all():
            return None, np.asarray(data.size, dtype)
        return keep.astype(dtype), np.asarray(keep.sum(), dtype)
    factor = np.where(keep, weight._data[np.where(keep, data, 0)], 0).astype(dtype)
    return factor, np.asarray(factor.sum(), dtype)


def cross_entropy(
    input: Tensor, target: Tensor, weight: Tensor | None = None, size_average: Any = None, ignore_index: int = -100, reduce: Any = None,
    reduction: str = "mean", label_smoothing: float = 0.0,
) -> Tensor:  # fmt: skip
    """nll_loss of log_softmax(input); the target holds class numbers, or probabilities in the shape of the input."""
    reduction = _legacy(reduction, size_average, reduce)
    if not 0.0 <= label_smoothing <= 1.0:
        raise RuntimeError(f"label_smoothing must be between 0.0 and 1.0. Got: {label_smoothing}")
    if weight is not None and tuple(weight.shape) != (input._data.shape[1 if input._data.ndim > 1 else 0],):
        raise RuntimeError(
            f"cross_entropy: weight tensor should be defined either for all {input.shape[1 if input._data.ndim > 1 else 0]} classes or no classes but got weight tensor of shape: {list(weight.shape)}"
        )
    if category(target) >= 2:
        return _soft_cross_entropy(input, target, weight, reduction, label_smoothing)
    axis = 0 if input._data.ndim == 1 else 1
    if input._data.ndim == 0:
        raise ValueError("cross_entropy: input must have at least 1 dimension")
    if _plain_classes(input, target, weight, ignore_index) and label_smoothing == 0.0 and reduction in ("mean", "sum"):
        return ops.SoftmaxCrossEntropyLoss(input, target, reduction=reduction, outputs=2)[0]
    logs = ops.LogSoftmax(input, axis=axis)
    hard = nll_loss(logs, target, weight, ignore_index=ignore_index, reduction=reduction)
    if label_smoothing == 0.0:
        return hard
    rows = _classes_last(logs)
    places = target.reshape(-1)
    spread = rows if weight is None else ops.Mul(rows, weight)
    smooth = ops.Neg(ops.ReduceSum(spread, axes_input((1,)), keepdims=0))
    keep = (places._data != ignore_index).astype(rows._data.dtype)
    smooth = ops.Mul(smooth, keep)
    _, total = _class_factors(rows, places, weight, ignore_index)
    if reduction == "none":
        soft: Any = smooth.reshape(target.shape)
    else:
        soft = ops.ReduceSum(smooth, keepdims=0)
        if reduction == "mean":
            soft = ops.Div(soft, total)
    classes = rows._data.shape[1]
    return hard * (1 - label_smoothing) + soft * (label_smoothing / classes)


def _plain_classes(input: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int) -> bool:
    """Scores [N, C] and class numbers [N] that are all in range: one operator does it."""
    x, t = input._data, target._data
    if weight is not None or x.ndim != 2 or t.ndim != 1 or type(x) is not np.ndarray or type(t) is not np.ndarray:
        return False
    if t.shape[0] != x.shape[0] or t.dtype.kind not in "iu" or not t.size:
        return False
    low, high = t.min(), t.max()
    return bool(low >= 0 and high < x.shape[1] and not low <= ignore_index <= high)


def _soft_cross_entropy(
    input: Tensor, target: Tensor, weight: Tensor | None, reduction: str, smoothing: float
) -> Tensor:
    if tuple(input._data.shape) != tuple(target._data.shape):
        raise RuntimeError(
            f"Expected floating point type for target with class probabilities, of the input's shape {list(input.shape)}; "
            f"got {target.dtype} of shape {list(target.shape)}. Class numbers are whole numbers: target.long()"
        )
    axis = 0 if input._data.ndim == 1 else 1
    classes = input._data.shape[axis]
    if smoothing:
        target = target * (1 - smoothing) + smoothing / classes
    logs = ops.LogSoftmax(input, axis=axis)
    product = ops.Mul(logs, target)
    if weight is not None:
        product = ops.Mul(product, weight.reshape([-1 if i == axis else 1 for i in range(input._data.ndim)]))
    loss = ops.Neg(ops.ReduceSum(product, axes_input((axis,)), keepdims=0))
    if reduction == "mean":
        return ops.Div(ops.ReduceSum(loss, keepdims=0), scalar(max(1, input._data.size // max(1, classes)), input))
    return _reduced(loss, reduction)


def kl_div(
    input: Tensor,
    target: Tensor,
    size_average: Any = None,
    reduce: Any = None,
    reduction: str = "mean",
    log_target: bool = False,
) -> Tensor:
    """target * (log(target) - input), for log-probabilities."""
    from headrace.functional.binary import xlogy

    if log_target:
        loss = ops.Mul(ops.Exp(target), ops.Sub(target, input))
    else:
        loss = ops.Sub(xlogy(target, target), ops.Mul(target, input))
    if reduction == "batchmean":
        total = ops.ReduceSum(loss, keepdims=0)
        return ops.Div(total, scalar(input._data.shape[0], input)) if input._data.ndim else total
    return _reduced(loss, _legacy(reduction, size_average, reduce))


def poisson_nll_loss(
    input: Tensor, target: Tensor, log_input: bool = True, full: bool = False, size_average: Any = None, eps: float = 1e-8, reduce: Any = None,
    reduction: str = "mean",
) -> Tensor:  # fmt: skip
    """The negative log-likelihood of counts."""
    if log_input:
        loss = ops.Exp(input) - target * input
    else:
        loss = input - target * (input + eps).log()
    if full:
        stirling = target * target.log() - target + 0.5 * (2 * math.pi * target).log()
        loss = loss + stirling.masked_fill(target <= 1, 0)
    return _reduced(loss, _legacy(reduction, size_average, reduce))


def gaussian_nll_loss(
    input: Tensor, target: Tensor, var: Any, full: bool = False, eps: float = 1e-6, reduction: str = "mean"
) -> Tensor:
    """The negative log-likelihood of normal variables with mean `input` and variance `var`."""
    if not isinstance(var, Tensor):
        if var < 0:
            raise ValueError("var has negative entry/entries")
        var = wrap(np.full(input._data.shape, var, input._data.dtype))
    elif type(var._data) is np.ndarray and np.any(var._data < 0):
        raise ValueError("var has negative entry/entries")
    if var._data.shape != input._data.shape:
        if input._data.shape[:-1] == var._data.shape:
            var = var.unsqueeze(-1)
        elif not _stretches(var._data.shape, input._data.shape):
            raise ValueError("var is of incorrect size")
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"{reduction} is not valid")
    low = scalar(eps, var)
    var = _clamped_without_gradient(var, low)
    loss = 0.5 * (var.log() + (input - target) ** 2 / var)
    if full:
        loss = loss + 0.5 * math.log(2 * math.pi)
    return _reduced(loss, reduction)


def _stretches(shape: tuple[int, ...], to: tuple[int, ...]) -> bool:
    return (
        len(shape) == len(to)
        and sum(a != b for a, b in zip(shape, to)) <= 1
        and all(a in (1, b) for a, b in zip(shape, to))
    )


def _clamped_without_gradient(var: Tensor, low: Any) -> Any:
    """max(var, low) whose gradient is that of var itself."""
    gap = ops.Sub(ops.Max(var.detach(), low), var.detach())
    return ops.Add(var, gap.detach())


# -------------------------------------------------------------------- pairs and margins


def cosine_embedding_loss(
    input1: Tensor,
    input2: Tensor,
    target: Tensor,
    margin: float = 0,
    size_average: Any = None,
    reduce: Any = None,
    reduction: str = "mean",
) -> Tensor:
    """1 - cos for target 1, max(0, cos - margin) for target -1."""
    if (
        target._data.ndim not in (0, 1)
        or input1._data.ndim != target._data.ndim + 1
        or input1._data.ndim != input2._data.ndim
    ):
        raise RuntimeError(
            f"{target._data.ndim}D target tensor expects {target._data.ndim + 1}D input tensors, but found inputs with sizes {list(input1.shape)} and {list(input2.shape)}."
        )
    axes = axes_input((target._data.ndim,))
    eps = scalar(1e-12, input1)
    product = ops.ReduceSum(ops.Mul(input1, input2), axes, keepdims=0)
    left = ops.Add(ops.ReduceSum(ops.Mul(input1, input1), axes, keepdims=0), eps)
    right = ops.Add(ops.ReduceSum(ops.Mul(input2, input2), axes, keepdims=0), eps)
    cos = ops.Div(product, ops.Sqrt(ops.Mul(left, right)))
    near, far = ops.Sub(scalar(1, cos), cos), clamp_min(cos - margin, 0)
    zero = scalar(0, cos)
    loss = ops.Add(ops.Where(target == 1, near, zero), ops.Where(target == -1, far, zero))
    return _reduced(loss, _legacy(reduction, size_average, reduce))


def hinge_embedding_loss(
    input: Tensor,
    target: Tensor,
    margin: float = 1.0,
    size_average: Any = None,
    reduce: Any = None,
    reduction: str = "mean",
) -> Tensor:
    """x for target 1, max(0, margin - x) for target -1."""
    zero = scalar(0, input)
    far = ops.Where(target != 1, clamp_min(margin - input, 0), zero)
    near = ops.Where(target != -1, input, zero)
    return _reduced(ops.Add(far, near), _legacy(reduction, size_average, reduce))


def margin_ranking_loss(
    input1: Tensor,
    input2: Tensor,
    target: Tensor,
    margin: float = 0,
    size_average: Any = None,
    reduce: Any = None,
    reduction: str = "mean",
) -> Tensor:
    """max(0, -target * (input1 - input2) + margin)."""
    if input1._data.ndim != input2._data.ndim or input1._data.ndim != target._data.ndim:
        raise RuntimeError(
            f"margin_ranking_loss : All input tensors should have same dimension but got sizes: input1: {list(input1.shape)}, input2: {list(input2.shape)}, target: {list(target.shape)} "
        )
    return _reduced(clamp_min(-target * (input1 - input2) + margin, 0), _legacy(reduction, size_average, reduce))


def soft_margin_loss(
    input: Tensor, target: Tensor, size_average: Any = None, reduce: Any = None, reduction: str = "mean"
) -> Tensor:
    """log(1 + exp(-target * input))."""
    return _reduced(ops.Softplus(-target * input), _legacy(reduction, size_average, reduce))


def triplet_margin_loss(
    anchor: Tensor, positive: Tensor, negative: Tensor, margin: float = 1.0, p: float = 2, eps: float = 1e-6, swap: bool = False,
    size_average: Any = None, reduce: Any = None, reduction: str = "mean",
) -> Tensor:  # fmt: skip
    """max(0, d(anchor, positive) - d(anchor, negative) + margin)."""
    from headrace.nn.functional.distance import pairwise_distance

    if margin <= 0:
        raise ValueError(f"margin must be greater than 0, got {margin}")
    if not anchor._data.ndim == positive._data.ndim == negative._data.ndim:
        raise RuntimeError(
            f"The anchor, positive, and negative tensors are expected to have the same number of dimensions, but got: anchor {anchor._data.ndim}D, positive {positive._data.ndim}D, and negative {negative._data.ndim}D inputs"
        )
    near, far = pairwise_distance(anchor, positive, p, eps), pairwise_distance(anchor, negative, p, eps)
    if swap:
        far = ops.Min(far, pairwise_distance(positive, negative, p, eps))
    return _reduced(clamp_min(near - far + margin, 0), _legacy(reduction, size_average, reduce))


def multilabel_soft_margin_loss(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: Any = None,
    reduce: Any = None,
    reduction: str = "mean",
) -> Tensor:
    """The mean over classes of the binary cross entropy with logits."""
    loss = binary_cross_entropy_with_logits(input, target, weight, reduction="none")
    return _reduced(
        ops.ReduceMean(loss, axes_input((input._data.ndim - 1,)), keepdims=0), _legacy(reduction, size_average, reduce)
    )


def ctc_loss(
    log_probs: Tensor, targets: Tensor, input_lengths: Any, target_lengths: Any, blank: int = 0, reduction: str = "mean",
    zero_infinity: bool = False,
) -> Tensor:  # fmt: skip
    """Connectionist temporal classification (Graves 2006): log_probs [T, N, C], targets [N, S] or joined."""
    from headrace.nn.functional.ctc import losses

    single = log_probs._data.ndim == 2
    probs = log_probs.unsqueeze(1) if single else log_probs
    steps, sizes = (
        np.atleast_1d(v._data if isinstance(v, Tensor) else np.asarray(v)).astype(np.int64)
        for v in (input_lengths, target_lengths)
    )
    found = losses(probs, targets._data, steps, sizes, blank)
    if zero_infinity:
        found = ops.Where(np.isinf(found._data), scalar(0, found), found)
    if reduction == "mean":
        return ops.ReduceMean(ops.Div(found, np.maximum(sizes, 1).astype(found._data.dtype)), keepdims=0)
    found = _reduced(found, reduction)
    return found.squeeze(0) if single and reduction == "none" else found


for _name in (
    "cosine_embedding_loss",
    "hinge_embedding_loss",
    "kl_div",
    "margin_ranking_loss",
    "poisson_nll_loss",
    "triplet_margin_loss",
    "ctc_loss",
):
    FUNCTIONS[_name] = globals()[_name]
__all__ = exported(globals())
