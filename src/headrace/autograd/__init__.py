"""Automatic differentiation: `backward`, `grad`, modes, custom functions, checks."""

from __future__ import annotations

import headrace.tensors  # first: everything else here is built on tensors
from headrace.autograd import functional
from headrace.autograd.anomaly import detect_anomaly, set_detect_anomaly
from headrace.autograd.checking import gradcheck, gradgradcheck
from headrace.autograd.engine import backward, grad
from headrace.autograd.function import Function, once_differentiable
from headrace.autograd.mode import enable_grad, inference_mode, is_grad_enabled, no_grad, set_grad_enabled
from headrace.tensors import Tensor as Variable

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
