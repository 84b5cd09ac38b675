"""Activation layers. Those that only pass their settings on to a function are rows of one table."""

from __future__ import annotations

from typing import Any

from headrace.nn import functional as F
from headrace.nn.module import Module
from headrace.nn.parameter import Parameter
from headrace.tensors import Tensor


def _layer(name: str, call: str, **settings: Any) -> type[Module]:
    """A Module class whose settings (with defaults) become attributes and arguments of F.<call>."""

    def __init__(self: Module, *args: Any, **kwargs: Any) -> None:
        Module.__init__(self)
        if len(args) > len(settings):
            raise TypeError(f"{name} takes at most {len(settings)} arguments ({', '.join(settings)}), got {len(args)}")
        given = dict(zip(settings, args))
        for key, value in kwargs.items():
            if key not in settings or key in given:
                raise TypeError(f"{name} has no setting {key!r}; allowed: {', '.join(settings) or 'none'}")
            given[key] = value
        for key, default in settings.items():
            setattr(self, key, given.get(key, default))

    def forward(self: Module, input: Tensor) -> Tensor:
        return getattr(F, call)(input, **{key: getattr(self, key) for key in settings})

    def extra_repr(self: Module) -> str:
        return ", ".join(f"{key}={getattr(self, key)}" for key in settings if key != "inplace" or getattr(self, key))

    body = {
        "__init__": __init__,
        "forward": forward,
        "extra_repr": extra_repr,
        "__doc__": f"F.{call} as a layer.",
        "__module__": __name__,
    }
    return type(name, (Module,), body)


_TABLE: dict[str, tuple[str, dict[str, Any]]] = {
    "ReLU": ("relu", {"inplace": False}),
    "ReLU6": ("relu6", {"inplace": False}),
    "LeakyReLU": ("leaky_relu", {"negative_slope": 0.01, "inplace": False}),
    "ELU": ("elu", {"alpha": 1.0, "inplace": False}),
    "CELU": ("celu", {"alpha": 1.0, "inplace": False}),
    "SELU": ("selu", {"inplace": False}),
    "GELU": ("gelu", {"approximate": "none"}),
    "SiLU": ("silu", {"inplace": False}),
    "Mish": ("mish", {"inplace": False}),
    "Sigmoid": ("sigmoid", {}),
    "Tanh": ("tanh", {}),
    "Hardtanh": ("hardtanh", {"min_val": -1.0, "max_val": 1.0, "inplace": False}),
    "Hardsigmoid": ("hardsigmoid", {"inplace": False}),
    "Hardswish": ("hardswish", {"inplace": False}),
    "Hardshrink": ("hardshrink", {"lambd": 0.5}),
    "Softshrink": ("softshrink", {"lambd": 0.5}),
    "Tanhshrink": ("tanhshrink", {}),
    "Softsign": ("softsign", {}),
    "Softplus": ("softplus", {"beta": 1.0, "threshold": 20.0}),
    "LogSigmoid": ("logsigmoid", {}),
    "GLU": ("glu", {"dim": -1}),
    "Softmax": ("softmax", {"dim": None}),
    "LogSoftmax": ("log_softmax", {"dim": None}),
    "Softmin": ("softmin", {"dim": None}),
}
for _name, (_call, _settings) in _TABLE.items():
    globals()[_name] = _layer(_name, _call, **_settings)


class Threshold(Module):
    """x above the threshold, `value` elsewhere."""

    def __init__(self, threshold: float, value: float, inplace: bool = False) -> None:
        super().__init__()
        self.threshold, self.value, self.inplace = threshold, value, inplace

    def forward(self, input: Tensor) -> Tensor:
        return F.threshold(input, self.threshold, self.value, self.inplace)

    def extra_repr(self) -> str:
        return f"threshold={self.threshold}, value={self.value}"


class RReLU(Module):
    """LeakyReLU whose slope is random while training."""

    def __init__(self, lower: float = 1 / 8, upper: float = 1 / 3, inplace: bool = False) -> None:
        super().__init__()
        self.lower, self.upper, self.inplace = lower, upper, inplace

    def forward(self, input: Tensor) -> Tensor:
        return F.rrelu(input, self.lower, self.upper, self.training, self.inplace)


class PReLU(Module):
    """x above 0, weight * x below; the weight is learnt."""

    def __init__(self, num_parameters: int = 1, init: float = 0.25, device: Any = None, dtype: Any = None) -> None:
        from headrace.functional.creation import full

        super().__init__()
        self.num_parameters = num_parameters
        self.weight = Parameter(full((num_parameters,), float(init), dtype=dtype))

    def forward(self, input: Tensor) -> Tensor:
        return F.prelu(input, self.weight)

    def extra_repr(self) -> str:
        return f"num_parameters={self.num_parameters}"


class Softmax2d(Module):
    """Softmax over the channels of images."""

    def forward(self, input: Tensor) -> Tensor:
        return F.softmax(input, -3)


__all__ = [*_TABLE, "PReLU", "RReLU", "Softmax2d", "Threshold"]
