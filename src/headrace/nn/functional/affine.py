"""Affine maps and look-ups."""

from __future__ import annotations

import numpy as np

from headrace import scalar_types
from headrace.autograd.mode import MODE
from headrace.autograd.tape import ops
from headrace.functional.base import cast, category, is_symbolic
from headrace.functional.exports import exported
from headrace.tensors import Tensor, wrap


def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """input @ weight.T + bias; input [..., in], weight [out, in], bias [out]."""
    x, w = input._data, weight._data
    if x.dtype is not w.dtype and x.dtype != w.dtype:
        raise RuntimeError(
            f"mat1 and mat2 must have the same dtype, but got {input.dtype} and {weight.dtype}; convert the input: "
            "x.to(layer.weight.dtype)"
        )
    if x.ndim == 0 or (x.shape[-1] != w.shape[-1] and not is_symbolic(x.shape[-1])):
        raise RuntimeError(
            f"mat1 and mat2 shapes cannot be multiplied ({'x'.join(map(str, x.shape))} and {'x'.join(map(str, reversed(w.shape)))})"
        )
    if x.ndim == 2 and w.ndim == 2:
        return ops.Gemm(input, weight, bias, transB=1)
    if MODE.tracer is not None or w.ndim == 1 or x.ndim == 1:
        found = ops.MatMul(input, ops.Transpose(weight, perm=(1, 0)) if w.ndim == 2 else weight)
        return found if bias is None else ops.Add(found, bias)
    rows = input.reshape(-1, x.shape[-1])
    return ops.Gemm(rows, weight, bias, transB=1).reshape(*x.shape[:-1], w.shape[0])


def bilinear(input1: Tensor, input2: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """input1 @ weight[k] @ input2 for each k, plus bias."""
    if input1._data.shape[:-1] != input2._data.shape[:-1]:
        raise RuntimeError("bilinear(): input batch dimensions do not match")
    if input1._data.shape[-1] != weight._data.shape[1] or input2._data.shape[-1] != weight._data.shape[2]:
        raise RuntimeError(
            f"bilinear(): input sizes {input1.shape[-1]}, {input2.shape[-1]} do not match weight {list(weight.shape)}"
        )
    lead = tuple(input1.shape)[:-1]
    a, b = (t.reshape(-1, t.shape[-1]) for t in (input1, input2))
    found = ops.Einsum(a, weight, b, equation="ni,kij,nj->nk").reshape(*lead, weight.shape[0])
    return found if bias is None else ops.Add(found, bias)


def embedding(
    input: Tensor, weight: Tensor, padding_idx: int | None = None, max_norm: float | None = None, norm_type: float = 2.0,
    scale_grad_by_freq: bool = False, sparse: bool = False,
) -> Tensor:  # fmt: skip
    """Rows of `weight` by number. The row padding_idx gets no gradient; rows longer than max_norm are scaled in place."""
    if category(input) != 1:
        raise RuntimeError(
            f"Expected tensor for argument #1 'indices' to have one of the following scalar types: Long, Int; but got {input.dtype} instead"
        )
    if weight._data.ndim != 2:
        raise RuntimeError("'weight' must be 2-D")
    rows = weight._data.shape[0]
    if padding_idx is not None:
        if not -rows <= padding_idx < rows:
            raise AssertionError("padding_idx must be within num_embeddings")
        padding_idx %= rows
    data = input._data
    if type(data) is np.ndarray and data.size and (data.min() < 0 or data.max() >= rows):
        raise IndexError("index out of range in self")
    if max_norm is not None:
        _renorm(weight, np.unique(data), max_norm, norm_type)
    index = cast(input, scalar_types.int64)
    if (padding_idx is None and not scale_grad_by_freq) or weight._node is None or not MODE.grad:
        return ops.Gather(weight, index, axis=0)
    found = ops.Gather(weight, index, axis=0)
    factor = np.ones(data.shape, weight._data.dtype)
    if scale_grad_by_freq:
        factor /= np.bincount(data.reshape(-1), minlength=rows)[data]
    if padding_idx is not None:
        factor = np.where(data == padding_idx, 0, factor).astype(weight._data.dtype)
    return _scaled_gradient(found, factor[..., None])


def _scaled_gradient(x: Tensor, factor: np.ndarray) -> Tensor:
    """x with its gradient multiplied on the way back."""
    from headrace.autograd.tape import PythonNode, edge_of

    found = wrap(x._data)
    if x._node is not None and MODE.grad:
        found._node = PythonNode(
            "EmbeddingBackward",
            [edge_of(x)],
            1,
            lambda grads: [None if grads[0] is None else ops.Mul(grads[0], factor)],
        )
    return found


def _renorm(weight: Tensor, rows: np.ndarray, max_norm: float, norm_type: float) -> None:
    norms = np.linalg.norm(weight._data[rows], norm_type, axis=-1)
    over = norms > max_norm
    weight._data[rows[over]] *= (max_norm / (norms[over] + 1e-7))[:, None]
    weight._storage.version += 1


def embedding_bag(
    input: Tensor, weight: Tensor, offsets: Tensor | None = None, max_norm: float | None = None, norm_type: float = 2,
    scale_grad_by_freq: bool = False, mode: str = "mean", sparse: bool = False, per_sample_weights: Tensor | None = None,
    include_last_offset: bool = False, padding_idx: int | None = None,
) -> Tensor:  # fmt: skip
    """Sums, means or maxima of bags of embedding rows: bags are the rows of a 2-D input, or start at `offsets`."""
    if mode not in ("sum", "mean", "max"):
        raise ValueError("mode has to be one of sum, mean or max")
    if per_sample_weights is not None and mode != "sum":
        raise NotImplementedError(
            f"embedding_bag: per_sample_weights was not None. per_sample_weights is only supported for mode='sum' (got mode='{mode}')."
        )
    if per_sample_weights is not None and per_sample_weights._data.shape != input._data.shape:
        raise ValueError("embedding_bag: If per_sample_weights is not None, it must have the same shape as the input")
    if input._data.ndim == 2:
        if offsets is not None:
            raise ValueError(
                "if input is 2D, then offsets has to be None, as input is treated is a mini-batch of fixed length sequences."
            )
        count, width = input._data.shape
        starts = np.arange(count) * width
    elif input._data.ndim == 1:
        if offsets is None or offsets._data.ndim != 1:
            raise ValueError("offsets has to be a 1D Tensor when input is 1D")
        starts = offsets._data[:-1] if include_last_offset else offsets._data
        if len(starts) and starts[0] != 0:
            raise ValueError(
                "offsets[0] has to be 0, i.e., the first sequence in the mini-batch has to start from position 0"
            )
    else:
        raise ValueError(f"input has to be a 1D or 2D Tensor, but got Tensor of dimension {input._data.ndim}")
    flat = input._data.reshape(-1)
    bag = np.searchsorted(starts, np.arange(flat.size), side="right") - 1
    kept = np.ones(flat.size, bool) if padding_idx is None else flat != padding_idx % weight._data.shape[0]
    rows = embedding(wrap(flat), weight, None, max_norm, norm_type, scale_grad_by_freq)
    if per_sample_weights is not None:
        rows = rows * per_sample_weights.reshape(-1, 1)
    keep = np.flatnonzero(kept)
    rows, bag = ops.Gather(rows, keep.astype(np.int64), axis=0), bag[keep]
    zero = wrap(np.zeros((len(starts), weight._data.shape[1]), weight._data.dtype))
    if mode == "max":
        found = zero.scatter_reduce(
            0,
            wrap(np.repeat(bag[:, None], weight._data.shape[1], 1).astype(np.int64)),
            rows,
            "amax",
            include_self=False,
        )
        return found
    total = zero.index_add(0, wrap(bag.astype(np.int64)), rows)
    if mode == "sum":
        return total
    sizes = np.maximum(np.bincount(bag, minlength=len(starts)), 1).astype(weight._data.dtype)
    return ops.Div(total, sizes[:, None])


def one_hot(tensor: Tensor, num_classes: int = -1) -> Tensor:
    """int64 vectors with a 1 at the place that each element names."""
    if tensor.dtype is not scalar_types.int64:
        raise RuntimeError(f"one_hot is only applicable to index tensor of type LongTensor, got {tensor.dtype}")
    data = tensor._data
    if type(data) is not np.ndarray:
        if num_classes < 0:
            data.refuse("one_hot without num_classes")
        return ops.OneHot(tensor, np.asarray(num_classes, np.int64), np.array([0, 1], np.int64))
    if data.size == 0 and num_classes <= 0:
        raise RuntimeError("Can not infer total number of classes from empty tensor.")
    if data.size and data.min() < 0:
        raise RuntimeError("Class values must be non-negative.")
    count = int(data.max()) + 1 if num_classes == -1 else num_classes
    if data.size and data.max() >= count:
        raise RuntimeError("Class values must be smaller than num_classes.")
    return wrap(np.eye(count, dtype=np.int64)[data])


__all__ = exported(globals())
