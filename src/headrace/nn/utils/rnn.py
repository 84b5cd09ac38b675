"""Sequences of different lengths: padded, packed, and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from headrace.tensors import Tensor, wrap


class PackedSequence(NamedTuple):
    """The steps of all sequences, longest first, one time step after the other."""

    data: Tensor
    batch_sizes: Tensor
    sorted_indices: Tensor | None = None
    unsorted_indices: Tensor | None = None


def pad_sequence(
    sequences: Sequence[Tensor], batch_first: bool = False, padding_value: float = 0.0, padding_side: str = "right"
) -> Tensor:
    """Sequences [L_i, *] as one tensor [max L, N, *] ([N, max L, *] with batch_first)."""
    from headrace.functional.joins import stack
    from headrace.nn.functional.padding import pad

    if padding_side not in ("left", "right"):
        raise ValueError(f"padding_side must be 'left' or 'right', not {padding_side!r}")
    longest = max(s._data.shape[0] for s in sequences)
    rows = []
    for s in sequences:
        gap = longest - s._data.shape[0]
        sides = (gap, 0) if padding_side == "left" else (0, gap)
        rows.append(pad(s, (0, 0) * (s._data.ndim - 1) + sides, value=padding_value))
    return stack(rows, 0 if batch_first else 1)


def pack_padded_sequence(
    input: Tensor, lengths: Any, batch_first: bool = False, enforce_sorted: bool = True
) -> PackedSequence:
    """Padded sequences [T, N, *] with their lengths, packed."""
    from headrace.autograd.tape import ops

    sizes = np.asarray(lengths._data if isinstance(lengths, Tensor) else lengths, np.int64)
    x = input.transpose(0, 1) if batch_first else input
    if sizes.ndim != 1 or len(sizes) != x._data.shape[1]:
        raise RuntimeError(
            f"Expected `len(lengths)` to be equal to batch_size, but got {len(sizes)} (batch_size={x.shape[1]})"
        )
    if sizes.size and (sizes.min() <= 0 or sizes.max() > x._data.shape[0]):
        raise RuntimeError("Length of all samples has to be greater than 0 and at most the padded length")
    if enforce_sorted:
        if np.any(sizes[:-1] < sizes[1:]):
            raise RuntimeError("`lengths` array must be sorted in decreasing order when `enforce_sorted` is True.")
        order = np.arange(len(sizes))
    else:
        order = np.argsort(-sizes, kind="stable")
    ranked = sizes[order]
    batch_sizes = np.array([(ranked > t).sum() for t in range(int(ranked.max(initial=0)))], np.int64)
    places = np.concatenate([t * len(sizes) + order[:count] for t, count in enumerate(batch_sizes)])
    flat = x.reshape(-1, *x.shape[2:])
    back = np.argsort(order, kind="stable")
    sorted_indices = None if enforce_sorted else wrap(order.astype(np.int64))
    return PackedSequence(
        ops.Gather(flat, places.astype(np.int64), axis=0),
        wrap(batch_sizes),
        sorted_indices,
        None if enforce_sorted else wrap(back.astype(np.int64)),
    )


def pad_packed_sequence(
    sequence: PackedSequence, batch_first: bool = False, padding_value: float = 0.0, total_length: int | None = None
) -> tuple[Tensor, Tensor]:
    """(padded [T, N, *], lengths [N]) of packed sequences, in their first order."""
    from headrace.autograd.tape import ops

    counts = sequence.batch_sizes._data
    steps, width = len(counts), int(counts[0])
    if total_length is not None and total_length < steps:
        raise ValueError(
            f"Expected total_length to be at least the length of the longest sequence in input, but got total_length={total_length} and max sequence length being {steps}"
        )
    order = np.arange(width) if sequence.unsorted_indices is None else sequence.unsorted_indices._data
    starts = np.concatenate([[0], np.cumsum(counts)])[:-1]
    rows = starts[:, None] + order[None, :]
    live = order[None, :] < counts[:, None]
    if total_length is not None:
        extra = total_length - steps
        rows, live = (np.concatenate([v, np.zeros((extra, width), v.dtype)]) for v in (rows, live))
    data = sequence.data
    picked = ops.Gather(data, np.where(live, rows, 0).astype(np.int64), axis=0)
    mask = live.reshape(*live.shape, *(1,) * (data._data.ndim - 1))
    padded = ops.Where(mask, picked, np.asarray(padding_value, data._data.dtype))
    lengths = wrap(live.sum(0).astype(np.int64))
    return (padded.transpose(0, 1) if batch_first else padded), lengths


def pack_sequence(sequences: Sequence[Tensor], enforce_sorted: bool = True) -> PackedSequence:
    """Sequences of different lengths, packed."""
    return pack_padded_sequence(
        pad_sequence(sequences), [s._data.shape[0] for s in sequences], enforce_sorted=enforce_sorted
    )
