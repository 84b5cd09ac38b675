"""Convolution layers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from headrace.functional.creation import empty
from headrace.nn import functional as F
from headrace.nn import init
from headrace.nn.functional.convolution import ntuple
from headrace.nn.module import Module
from headrace.nn.parameter import Parameter, UninitializedParameter
from headrace.tensors import Tensor


class _ConvNd(Module):
    """What all convolutions share. `n` is the number of spatial dimensions."""

    n = 2
    transposed = False

    def _setup(self, in_channels: int, out_channels: int, kernel_size: Any, stride: Any, padding: Any, dilation: Any, output_padding: Any,
               groups: int, bias: bool, padding_mode: str, device: Any, dtype: Any) -> None:  # fmt: skip
        if groups <= 0:
            raise ValueError("groups must be a positive integer")
        if in_channels % groups:
            raise ValueError("in_channels must be divisible by groups")
        if out_channels % groups:
            raise ValueError("out_channels must be divisible by groups")
        if padding_mode not in ("zeros", "reflect", "replicate", "circular"):
            raise ValueError(
                f"padding_mode must be one of zeros, reflect, replicate, circular, but got padding_mode='{padding_mode}'"
            )
        n = self.n
        self.in_channels, self.out_channels, self.groups, self.padding_mode = (
            in_channels,
            out_channels,
            groups,
            padding_mode,
        )
        self.kernel_size, self.stride, self.dilation = ntuple(kernel_size, n), ntuple(stride, n), ntuple(dilation, n)
        if isinstance(padding, str):
            if padding not in ("same", "valid"):
                raise ValueError(f"Invalid padding string {padding!r}, should be one of 'valid', 'same'")
            if padding == "same" and any(s != 1 for s in self.stride):
                raise ValueError("padding='same' is not supported for strided convolutions")
            self.padding: Any = padding
        else:
            self.padding = ntuple(padding, n)
        self.output_padding = ntuple(output_padding, n)
        self._make(bias, device, dtype)

    def _make(self, bias: bool, device: Any, dtype: Any) -> None:
        shape = (
            (self.in_channels, self.out_channels // self.groups)
            if self.transposed
            else (self.out_channels, self.in_channels // self.groups)
        )
        self.weight = Parameter(empty(*shape, *self.kernel_size, dtype=dtype, device=device))
        if bias:
            self.bias = Parameter(empty(self.out_channels, dtype=dtype, device=device))
        else:
            self.register_parameter("bias", None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Uniform within 1 / sqrt(inputs of one output)."""
        init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            inputs = int(np.prod(self.weight._data.shape[1:]))
            if inputs:
                init.uniform_(self.bias, -1 / math.sqrt(inputs), 1 / math.sqrt(inputs))

    def forward(self, input: Tensor) -> Tensor:
        conv = getattr(F, f"conv{self.n}d")
        if self.padding_mode != "zeros":
            around = [p for d in reversed(self._around()) for p in d]
            return conv(
                F.pad(input, around, mode=self.padding_mode),
                self.weight,
                self.bias,
                self.stride,
                0,
                self.dilation,
                self.groups,
            )
        return conv(input, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)

    def _around(self) -> list[tuple[int, int]]:
        if self.padding == "valid":
            return [(0, 0)] * self.n
        if self.padding == "same":
            total = [d * (k - 1) for k, d in zip(self.kernel_size, self.dilation)]
            return [(t // 2, t - t // 2) for t in total]
        return [(p, p) for p in self.padding]

    def extra_repr(self) -> str:
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"
        if self.padding not in ((0,) * self.n,):
            text += f", padding={self.padding}"
        if self.dilation != (1,) * self.n:
            text += f", dilation={self.dilation}"
        if self.output_padding != (0,) * self.n:
            text += f", output_padding={self.output_padding}"
        if self.groups != 1:
            text += f", groups={self.groups}"
        if self.bias is None:
            text += ", bias=False"
        return text + (f", padding_mode={self.padding_mode}" if self.padding_mode != "zeros" else "")


class _Conv(_ConvNd):
    def __init__(self, in_channels: int, out_channels: int, kernel_size: Any, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1,
                 bias: bool = True, padding_mode: str = "zeros", device: Any = None, dtype: Any = None) -> None:  # fmt: skip
        Module.__init__(self)
        self._setup(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            0,
            groups,
            bias,
            padding_mode,
            device,
            dtype,
        )


class _ConvTranspose(_ConvNd):
    transposed = True

    def __init__(self, in_channels: int, out_channels: int, kernel_size: Any, stride: Any = 1, padding: Any = 0, output_padding: Any = 0, groups: int = 1,
                 bias: bool = True, dilation: Any = 1, padding_mode: str = "zeros", device: Any = None, dtype: Any = None) -> None:  # fmt: skip
        Module.__init__(self)
        if padding_mode != "zeros":
            raise ValueError(f'Only "zeros" padding mode is supported for {type(self).__name__}')
        self._setup(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            output_padding,
            groups,
            bias,
            padding_mode,
            device,
            dtype,
        )

    def forward(self, input: Tensor, output_size: Any = None) -> Tensor:
        extra = self.output_padding if output_size is None else self._extra(input, output_size)
        call = getattr(F, f"conv_transpose{self.n}d")
        return call(input, self.weight, self.bias, self.stride, self.padding, extra, self.groups, self.dilation)

    def _extra(self, input: Tensor, output_size: Any) -> tuple[int, ...]:
        """The output padding that gives an output size."""
        wanted = tuple(output_size)[-self.n :]
        sizes = input._data.shape[-self.n :]
        least = [
            (s - 1) * st - 2 * p + d * (k - 1) + 1
            for s, st, p, d, k in zip(sizes, self.stride, self.padding, self.dilation, self.kernel_size)
        ]
        extra = tuple(w - low for w, low in zip(wanted, least))
        if any(e < 0 or e >= max(st, d) for e, st, d in zip(extra, self.stride, self.dilation)):
            raise ValueError(
                f"requested an output size of {list(wanted)}, but valid sizes range from {least} to {[low + st - 1 for low, st in zip(least, self.stride)]} (for an input of {list(sizes)})"
            )
        return extra


class Conv1d(_Conv):
    """Convolution of [N, C, L]."""

    n = 1


class Conv2d(_Conv):
    """Convolution of [N, C, H, W]."""

    n = 2


class Conv3d(_Conv):
    """Convolution of [N, C, D, H, W]."""

    n = 3


class ConvTranspose1d(_ConvTranspose):
    """Transposed convolution of [N, C, L]."""

    n = 1


class ConvTranspose2d(_ConvTranspose):
    """Transposed convolution of [N, C, H, W]."""

    n = 2


class ConvTranspose3d(_ConvTranspose):
    """Transposed convolution of [N, C, D, H, W]."""

    n = 3


class _LazyConv(_Conv):
    """A convolution that learns its number of input channels from its first input."""

    def __init__(self, out_channels: int, kernel_size: Any, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1,
                 bias: bool = True, padding_mode: str = "zeros", device: Any = None, dtype: Any = None) -> None:  # fmt: skip
        Module.__init__(self)
        self._wanted = (bias, dtype)
        self._setup(0, 0, kernel_size, stride, padding, dilation, 0, groups, bias, padding_mode, device, dtype)
        self.out_channels = out_channels

    def _make(self, bias: bool, device: Any, dtype: Any) -> None:
        self.weight = UninitializedParameter()
        if bias:
            self.bias = UninitializedParameter()
        else:
            self.register_parameter("bias", None)

    def forward(self, input: Tensor) -> Tensor:
        if isinstance(self.weight, UninitializedParameter):
            self.in_channels = input._data.shape[-self.n - 1]
            self.weight.materialize((self.out_channels, self.in_channels // self.groups, *self.kernel_size))
            if self.bias is not None:
                self.bias.materialize((self.out_channels,))
            self.__class__ = _FULL[self.n]  # type: ignore[assignment]
            self.reset_parameters()
        return _Conv.forward(self, input)


class LazyConv1d(_LazyConv):
    """Conv1d that learns its number of input channels from its first input."""

    n = 1


class LazyConv2d(_LazyConv):
    """Conv2d that learns its number of input channels from its first input."""

    n = 2


_FULL = {1: Conv1d, 2: Conv2d}


class Unfold(Module):
    """Windows of images as columns."""

    def __init__(self, kernel_size: Any, dilation: Any = 1, padding: Any = 0, stride: Any = 1) -> None:
        super().__init__()
        self.kernel_size, self.dilation, self.padding, self.stride = kernel_size, dilation, padding, stride

    def forward(self, input: Tensor) -> Tensor:
        return F.unfold(input, self.kernel_size, self.dilation, self.padding, self.stride)


class Fold(Module):
    """Columns of windows added up to images."""

    def __init__(
        self, output_size: Any, kernel_size: Any, dilation: Any = 1, padding: Any = 0, stride: Any = 1
    ) -> None:
        super().__init__()
        self.output_size = output_size
        self.kernel_size, self.dilation, self.padding, self.stride = kernel_size, dilation, padding, stride

    def forward(self, input: Tensor) -> Tensor:
        return F.fold(input, self.output_size, self.kernel_size, self.dilation, self.padding, self.stride)


__all__ = [
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "ConvTranspose1d",
    "ConvTranspose2d",
    "ConvTranspose3d",
    "Fold",
    "LazyConv1d",
    "LazyConv2d",
    "Unfold",
]
