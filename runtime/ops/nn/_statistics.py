"""Means, deviations and their gradients, for the normalizations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from headrace.runtime.ops.axes import int64
from headrace.runtime.ops.common import scalar


def per_channel(x: Any, rank: int) -> Any:
    """A vector over channels, shaped to meet axis 1."""
    return x.reshape(-1, *[1] * (rank - 2)) if rank > 1 else x


def channelwise(F: Any, vector: Any, rank: int) -> Any:
    """The same in a namespace."""
    return F.Unsqueeze(vector, F.constant(int64(*range(1, rank - 1)))) if rank > 2 else vector


def mean_of(F: Any, x: Any, axes: Sequence[int]) -> Any:
    return F.ReduceMean(x, F.constant(int64(*axes)), keepdims=1)


def normalized_gradient(F: Any, g: Any, hat: Any, inverse: Any, axes: Sequence[int]) -> Any:
    """The gradient through hat = (x - mean) * inverse, both over `axes`, for the gradient g of hat."""
    centered = F.Sub(F.Sub(g, mean_of(F, g, axes)), F.Mul(hat, mean_of(F, F.Mul(g, hat), axes)))
    return F.Mul(centered, inverse)


def inverse_deviation(F: Any, x: Any, axes: Sequence[int], epsilon: float) -> tuple[Any, Any]:
    """(x - mean, 1 / sqrt(variance + epsilon)) over `axes`."""
    centered = F.Sub(x, mean_of(F, x, axes))
    variance = mean_of(F, F.Mul(centered, centered), axes)
    return centered, F.Reciprocal(F.Sqrt(F.Add(variance, scalar(F, epsilon, x))))


def total_over(F: Any, x: Any, axes: Sequence[int]) -> Any:
    return F.ReduceSum(x, F.constant(int64(*axes)), keepdims=0)
