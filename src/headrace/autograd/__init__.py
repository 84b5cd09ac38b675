"""Automatic differentiation: `backward`, `grad`, modes, custom functions, checks.

Names are imported when first asked for (PEP 562): tensors import the modes, and everything else here imports tensors.
"""

from __future__ import annotations

import importlib
from typing import Any

# Public name -> the module that defines it.
_PLACES = {
    "Function": "function",
    "backward": "engine",
    "detect_anomaly": "anomaly",
    "enable_grad": "mode",
    "grad": "engine",
    "gradcheck": "gradcheck",
    "gradgradcheck": "gradcheck",
    "inference_mode": "mode",
    "is_grad_enabled": "mode",
    "no_grad": "mode",
    "once_differentiable": "function",
    "set_detect_anomaly": "anomaly",
    "set_grad_enabled": "mode",
}


def __getattr__(name: str) -> Any:
    if name == "Variable":  # torch's old name
        return importlib.import_module("headrace.tensors").Tensor
    if name in _PLACES:
        return getattr(importlib.import_module(f"{__name__}.{_PLACES[name]}"), name)
    if name == "functional":
        return importlib.import_module(f"{__name__}.functional")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "Function",
    "Variable",
    "backward",
    "detect_anomaly",
    "enable_grad",
    "functional",
    "grad",
    "gradcheck",
    "gradgradcheck",
    "inference_mode",
    "is_grad_enabled",
    "no_grad",
    "once_differentiable",
    "set_detect_anomaly",
    "set_grad_enabled",
]
