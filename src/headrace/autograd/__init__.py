"""Automatic differentiation: `backward`, `grad`, modes, custom functions, checks."""

from __future__ import annotations

import headrace.tensors  # noqa: F401
from headrace.autograd.engine import backward, grad
from headrace.autograd.mode import enable_grad, inference_mode, is_grad_enabled, no_grad, set_grad_enabled
