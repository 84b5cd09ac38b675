"""How tensors print: as torch's do."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from headrace import scalar_types
from headrace.tensors import Tensor


class _Options:
    precision, threshold, edgeitems, linewidth = 4, 1000, 3, 80
    sci_mode: bool | None = None


OPTIONS = _Options()


def set_printoptions(
    precision: int | None = None, threshold: int | None = None, edgeitems: int | None = None,
    linewidth: int | None = None, profile: str | None = None, sci_mode: bool | None = None,
) -> None:  # fmt: skip
    """Digits after the point, the number of elements above which the middle is left out, elements kept at each edge,
    characters a line, and scientific notation on or off (None: by the values)."""
    named = {"default": (4, 1000, 3, 80), "short": (2, 1000, 2, 80), "full": (4, math.inf, 3, 80)}
    if profile is not None:
        OPTIONS.precision, OPTIONS.threshold, OPTIONS.edgeitems, OPTIONS.linewidth = named[profile]  # type: ignore[assignment]
    for name, value in (
        ("precision", precision),
        ("threshold", threshold),
        ("edgeitems", edgeitems),
        ("linewidth", linewidth),
    ):
        if value is not None:
            setattr(OPTIONS, name, value)
    OPTIONS.sci_mode = sci_mode


class _Format:
    """How one number of an array prints; all have one width."""

    def __init__(self, array: np.ndarray) -> None:
        self.kind = array.dtype.kind
        self.integral = self.scientific = False
        flat = array.ravel()
        if self.kind != "f":
            self.width = max((len(str(v)) for v in flat.tolist()), default=1)
            return
        finite = np.abs(flat[np.isfinite(flat) & (flat != 0)].astype(np.float64))
        self.width = 1
        if finite.size:
            low, high = finite.min(), finite.max()
            self.integral = bool(np.all(np.ceil(finite) == finite))
            if OPTIONS.sci_mode is not None:
                self.scientific = OPTIONS.sci_mode
            elif self.integral:
                self.scientific = (high / low > 1000.0 and high > 1e8) or high > 1e8
            else:
                self.scientific = high / low > 1000.0 or high > 1e8 or low < 1e-4
        self.width = max((len(self.one(v)) for v in flat.tolist()), default=1)

    def one(self, value: Any) -> str:
        if self.kind != "f":
            return str(value)
        if self.scientific:
            return f"{value:.{OPTIONS.precision}e}"
        if self.integral:
            text = f"{value:.0f}"
            return text + "." if math.isfinite(value) else text
        return f"{value:.{OPTIONS.precision}f}"

    def __call__(self, value: Any) -> str:
        return self.one(value).rjust(self.width)


def tensor_text(tensor: Tensor) -> str:
    """`tensor([1., 2.], requires_grad=True)`"""
    data = tensor._data
    if type(data) is not np.ndarray:
        return f"traced tensor({data.dtype}{list(data.shape)})"
    prefix = "Parameter containing:\n" if type(tensor).__name__ == "Parameter" else ""
    suffixes = []
    dtype = tensor.dtype
    defaults = (scalar_types.get_default_dtype(), scalar_types.int64, scalar_types.bool_)
    if data.size == 0:
        if data.ndim != 1:
            suffixes.append(f"size={tuple(data.shape)}")
        if dtype is not scalar_types.get_default_dtype():
            suffixes.append(f"dtype={dtype}")
        body = "[]"
    else:
        if dtype not in defaults:
            suffixes.append(f"dtype={dtype}")
        body = _body(data)
    if not tensor.is_leaf:
        suffixes.append(f"grad_fn=<{tensor.grad_fn.name()}>")
    elif tensor.requires_grad:
        suffixes.append("requires_grad=True")
    text = f"{prefix}tensor({body}"
    start = len(text.split("\n")[-1])
    for suffix in suffixes:
        start += len(suffix) + 2
        if start > OPTIONS.linewidth:
            text += ",\n       " + suffix
            start = 7 + len(suffix)
        else:
            text += ", " + suffix
    return text + ")"


def _body(data: np.ndarray) -> str:
    if data.dtype.kind == "V":
        data = data.astype(np.float32)
    summary = data.size > OPTIONS.threshold
    if data.dtype.kind == "c":
        shown = _edges(data) if summary else data
        real, imaginary = _Format(shown.real.astype(np.float64)), _Format(np.abs(shown.imag).astype(np.float64))
        return _rows(
            data,
            lambda v: f"{real(v.real)}{'-' if v.imag < 0 else '+'}{imaginary(abs(v.imag)).strip()}j",
            20,
            7,
            summary,
        )
    form = _Format(_edges(data) if summary else data)
    if data.ndim == 0:
        return form.one(data.item())
    return _rows(data, form, form.width, 7, summary)


def _edges(data: np.ndarray) -> np.ndarray:
    for axis in range(data.ndim):
        if data.shape[axis] > 2 * OPTIONS.edgeitems:
            keep = [*range(OPTIONS.edgeitems), *range(data.shape[axis] - OPTIONS.edgeitems, data.shape[axis])]
            data = data.take(keep, axis)
    return data


def _rows(data: np.ndarray, form: Any, width: int, indent: int, summary: bool) -> str:
    if data.ndim == 0:
        return str(form(data.item()))
    edge = OPTIONS.edgeitems
    cut = summary and len(data) > 2 * edge
    if data.ndim == 1:
        a_line = max(1, (OPTIONS.linewidth - indent) // (width + 2))
        items = data.tolist()
        texts = (
            [form(v) for v in items[:edge]] + [" ..."] + [form(v) for v in items[-edge:]]
            if cut
            else [form(v) for v in items]
        )
        lines = [", ".join(texts[i : i + a_line]) for i in range(0, len(texts), a_line)]
        return "[" + (",\n" + " " * (indent + 1)).join(lines) + "]"
    parts = [*data[:edge], None, *data[-edge:]] if cut else list(data)
    texts = ["..." if part is None else _rows(part, form, width, indent + 1, summary) for part in parts]
    return "[" + ("," + "\n" * (data.ndim - 1) + " " * (indent + 1)).join(texts) + "]"
