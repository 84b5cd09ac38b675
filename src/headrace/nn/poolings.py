"""Pooling layers, one class for each number of spatial dimensions."""

from __future__ import annotations

from typing import Any

from headrace.nn import functional as F
from headrace.nn.module import Module
from headrace.tensors import Tensor


class _MaxPool(Module):
    n = 2

    def __init__(
        self,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        dilation: Any = 1,
        return_indices: bool = False,
        ceil_mode: bool = False,
    ) -> None:
        super().__init__()
        self.kernel_size, self.stride = kernel_size, stride if stride is not None else kernel_size
        self.padding, self.dilation, self.return_indices, self.ceil_mode = padding, dilation, return_indices, ceil_mode

    def forward(self, input: Tensor) -> Any:
        pool = getattr(F, f"max_pool{self.n}d")
        return pool(
            input, self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode, self.return_indices
        )

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}, dilation={self.dilation}, ceil_mode={self.ceil_mode}"


class _AvgPool(Module):
    n = 2

    def __init__(
        self,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> None:
        super().__init__()
        self.kernel_size, self.stride = kernel_size, stride if stride is not None else kernel_size
        self.padding, self.ceil_mode, self.count_include_pad, self.divisor_override = (
            padding,
            ceil_mode,
            count_include_pad,
            divisor_override,
        )

    def forward(self, input: Tensor) -> Tensor:
        pool = getattr(F, f"avg_pool{self.n}d")
        more = {} if self.n == 1 else {"divisor_override": self.divisor_override}
        return pool(input, self.kernel_size, self.stride, self.padding, self.ceil_mode, self.count_include_pad, **more)

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class _AdaptiveAvgPool(Module):
    n = 2

    def __init__(self, output_size: Any) -> None:
        super().__init__()
        self.output_size = output_size

    def forward(self, input: Tensor) -> Tensor:
        return getattr(F, f"adaptive_avg_pool{self.n}d")(input, self.output_size)

    def extra_repr(self) -> str:
        return f"output_size={self.output_size}"


class _AdaptiveMaxPool(Module):
    n = 2

    def __init__(self, output_size: Any, return_indices: bool = False) -> None:
        super().__init__()
        self.output_size, self.return_indices = output_size, return_indices

    def forward(self, input: Tensor) -> Any:
        return getattr(F, f"adaptive_max_pool{self.n}d")(input, self.output_size, self.return_indices)

    def extra_repr(self) -> str:
        return f"output_size={self.output_size}"


_KINDS = {
    "MaxPool": _MaxPool,
    "AvgPool": _AvgPool,
    "AdaptiveAvgPool": _AdaptiveAvgPool,
    "AdaptiveMaxPool": _AdaptiveMaxPool,
}
__all__ = [f"{name}{n}d" for name in _KINDS for n in (1, 2, 3)]
for _name, _base in _KINDS.items():
    for _n in (1, 2, 3):
        globals()[f"{_name}{_n}d"] = type(
            f"{_name}{_n}d",
            (_base,),
            {"n": _n, "__doc__": f"F.{_name} over {_n} spatial dimensions.", "__module__": __name__},
        )
