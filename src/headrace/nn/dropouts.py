"""Dropout layers: active in training mode only."""

from __future__ import annotations

from headrace.nn import functional as F
from headrace.nn.module import Module
from headrace.tensors import Tensor


class Dropout(Module):
    """Each element is 0 with probability p, else scaled by 1 / (1 - p)."""

    call = "dropout"

    def __init__(self, p: float = 0.5, inplace: bool = False) -> None:
        super().__init__()
        if not 0 <= p <= 1:
            raise ValueError(f"dropout probability has to be between 0 and 1, but got {p}")
        self.p, self.inplace = p, inplace

    def forward(self, input: Tensor) -> Tensor:
        return getattr(F, self.call)(input, self.p, self.training, self.inplace)

    def extra_repr(self) -> str:
        return f"p={self.p}, inplace={self.inplace}"


class Dropout1d(Dropout):
    """Whole channels of [N, C, L]."""

    call = "dropout1d"


class Dropout2d(Dropout):
    """Whole channels of [N, C, H, W]."""

    call = "dropout2d"


class Dropout3d(Dropout):
    """Whole channels of [N, C, D, H, W]."""

    call = "dropout3d"


class AlphaDropout(Dropout):
    """Dropout that keeps mean and variance of SELU networks."""

    call = "alpha_dropout"


__all__ = ["AlphaDropout", "Dropout", "Dropout1d", "Dropout2d", "Dropout3d"]
