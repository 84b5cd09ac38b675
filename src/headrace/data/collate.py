"""Samples into batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from headrace.tensors import Tensor, wrap


def default_collate(batch: Sequence[Any]) -> Any:
    """Stack the samples of a batch: tensors, arrays and numbers become one tensor; dicts, tuples, named tuples and lists are
    collated part by part; text stays a list. TypeError for anything else, naming it."""
    first = batch[0]
    if isinstance(first, Tensor):
        from headrace.functional.joins import stack

        return stack(list(batch), 0)
    if isinstance(first, np.ndarray | np.generic):
        if first.dtype.kind in "OUS":
            raise TypeError(
                f"default_collate: batch must contain tensors, numpy arrays, numbers, dicts or lists; found {first.dtype}"
            )
        return wrap(np.stack([np.asarray(b) for b in batch]))
    if isinstance(first, bool):
        return wrap(np.array(batch, np.bool_))
    if isinstance(first, float):
        return wrap(np.array(batch, np.float64))
    if isinstance(first, int):
        return wrap(np.array(batch, np.int64))
    if isinstance(first, str | bytes):
        return list(batch)
    if isinstance(first, Mapping):
        found = {key: default_collate([b[key] for b in batch]) for key in first}
        return type(first)(found) if type(first) is not dict else found  # type: ignore[call-arg]
    if isinstance(first, tuple) and hasattr(first, "_fields"):
        return type(first)(*(default_collate(parts) for parts in zip(*batch, strict=True)))
    if isinstance(first, Sequence):
        if any(len(b) != len(first) for b in batch):
            raise RuntimeError("each element in list of batch should be of equal size")
        parts = [default_collate(p) for p in zip(*batch, strict=True)]
        return parts if isinstance(first, tuple | list) else type(first)(parts)  # type: ignore[call-arg]
    raise TypeError(
        f"default_collate: batch must contain tensors, numpy arrays, numbers, dicts or lists; found {type(first)}"
    )


def default_convert(data: Any) -> Any:
    """Arrays inside a sample as tensors; everything else as it is."""
    if isinstance(data, Tensor | str | bytes):
        return data
    if isinstance(data, np.ndarray) and data.dtype.kind not in "OUS":
        return wrap(data)
    if isinstance(data, Mapping):
        return {key: default_convert(value) for key, value in data.items()}
    if isinstance(data, tuple) and hasattr(data, "_fields"):
        return type(data)(*(default_convert(d) for d in data))
    if isinstance(data, tuple | list):
        return [default_convert(d) for d in data]
    return data
