"""Parameters as one vector and back."""

from __future__ import annotations

from collections.abc import Iterable

from headrace.tensors import Tensor


def parameters_to_vector(parameters: Iterable[Tensor]) -> Tensor:
    """All parameters joined as one vector."""
    from headrace.functional.joins import cat

    return cat([p.reshape(-1) for p in parameters])


def vector_to_parameters(vec: Tensor, parameters: Iterable[Tensor]) -> None:
    """A vector written back into parameters, in order."""
    start = 0
    for p in parameters:
        count = p._data.size
        p._data[...] = vec._data[start : start + count].reshape(p._data.shape)
        p._storage.version += 1
        start += count
