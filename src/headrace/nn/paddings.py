"""Padding layers, one class for each mode and number of spatial dimensions."""

from __future__ import annotations

from typing import Any

from headrace.nn import functional as F
from headrace.nn.module import Module
from headrace.tensors import Tensor


class _Pad(Module):
    n, mode = 2, "constant"

    def __init__(self, padding: Any) -> None:
        super().__init__()
        self.padding = (padding,) * (2 * self.n) if isinstance(padding, int) else tuple(padding)

    def forward(self, input: Tensor) -> Tensor:
        return F.pad(input, self.padding, self.mode)

    def extra_repr(self) -> str:
        return f"{self.padding}"


class _ConstantPad(_Pad):
    def __init__(self, padding: Any, value: float) -> None:
        super().__init__(padding)
        self.value = value

    def forward(self, input: Tensor) -> Tensor:
        return F.pad(input, self.padding, "constant", self.value)

    def extra_repr(self) -> str:
        return f"padding={self.padding}, value={self.value}"


_KINDS: dict[str, tuple[type[_Pad], str]] = {
    "ZeroPad": (_Pad, "constant"), "ConstantPad": (_ConstantPad, "constant"), "ReflectionPad": (_Pad, "reflect"),
    "ReplicationPad": (_Pad, "replicate"), "CircularPad": (_Pad, "circular"),
}  # fmt: skip
__all__ = [f"{name}{n}d" for name in _KINDS for n in (1, 2, 3)]
for _name, (_base, _mode) in _KINDS.items():
    for _n in (1, 2, 3):
        globals()[f"{_name}{_n}d"] = type(
            f"{_name}{_n}d",
            (_base,),
            {"n": _n, "mode": _mode, "__doc__": f"F.pad (mode {_mode}) over {_n} dimensions.", "__module__": __name__},
        )
