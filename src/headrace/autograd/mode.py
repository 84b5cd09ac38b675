"""What the current thread records: gradients (on, off, inference), and the tracer, if one listens."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any


class _Mode(threading.local):
    grad = True
    inference = False
    tracer: Any = None
    anomaly = False
    quiet = False  # NumPy's floating-point warnings are off already


MODE = _Mode()


class _GradMode:
    """Sets grad mode for a `with` block, or for every call of a function that it decorates."""

    enabled: bool

    def __enter__(self) -> None:
        self._before = MODE.grad
        MODE.grad = self.enabled

    def __exit__(self, *_: object) -> None:
        MODE.grad = self._before

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def inside(*args: Any, **kwargs: Any) -> Any:
            with self.clone():
                return function(*args, **kwargs)

        return inside

    def clone(self) -> _GradMode:
        return type(self)()


class no_grad(_GradMode):
    """Operations inside record nothing: `with no_grad():`, `@no_grad()` or `@no_grad`."""

    enabled = False

    def __new__(cls, function: Callable[..., Any] | None = None) -> Any:
        made = super().__new__(cls)
        return made if function is None else made(function)

    def __init__(self, function: None = None) -> None:
        pass


class enable_grad(no_grad):
    """Operations inside record gradients, also within no_grad."""

    enabled = True


class set_grad_enabled(_GradMode):
    """Switch recording on or off, at once; as a `with` block it is undone at the end."""

    def __init__(self, mode: bool) -> None:
        self.enabled = bool(mode)
        self._before = MODE.grad
        MODE.grad = self.enabled

    def __enter__(self) -> None:
        MODE.grad = self.enabled

    def clone(self) -> _GradMode:
        return type(self)(self.enabled)

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        MODE.grad = self._before
        return super().__call__(function)


class inference_mode(_GradMode):
    """As no_grad; tensors made inside may not take part in recorded operations later."""

    def __new__(cls, mode: Any = True) -> Any:
        made = super().__new__(cls)
        if callable(mode):
            cls.__init__(made, True)
            return made(mode)
        return made

    def __init__(self, mode: bool = True) -> None:
        self.mode, self.enabled = bool(mode), False

    def __enter__(self) -> None:
        self._before, self._outer = MODE.grad, MODE.inference
        if self.mode:
            MODE.grad = False
        MODE.inference = self.mode

    def __exit__(self, *_: object) -> None:
        MODE.grad, MODE.inference = self._before, self._outer

    def clone(self) -> _GradMode:
        return type(self)(self.mode)


def is_grad_enabled() -> bool:
    return MODE.grad


def is_inference_mode_enabled() -> bool:
    return MODE.inference


__all__ = [
    "enable_grad",
    "inference_mode",
    "is_grad_enabled",
    "is_inference_mode_enabled",
    "no_grad",
    "set_grad_enabled",
]
