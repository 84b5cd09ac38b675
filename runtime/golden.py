"""Answers against wanted answers: the one comparison of golden data, of packing, and of peers.

Two arrays agree where shape, and the places of NaN and of infinities, are the same and no element is further away than
atol + rtol * M, M the largest finite magnitude of the wanted array: float32 kernels that sum in another order differ by
shares of the terms, whose size the largest element shows, and an element near zero does not. What is no floating-point
number must be equal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from headrace.runtime import dtypes
from headrace.runtime.errors import HeadraceError
from headrace.runtime.interface import Golden


@dataclass(frozen=True)
class VerifyReport:
    """The result of running golden data: `max_error` is the largest absolute difference seen (nan: nothing compared);
    `outputs` has it by output, with the bound that it keeps."""

    ok: bool
    message: str
    max_error: float = float("nan")
    outputs: Mapping[str, tuple[float, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Difference:
    """`error`: the largest absolute difference; `message`: what is beyond the bound, as the end of a sentence, or ""."""

    error: float
    message: str = ""


class Runs(Protocol):
    def run(self, feeds: Mapping[str, Any]) -> dict[str, Any]: ...


def allowed(want: np.ndarray, rtol: float, atol: float) -> float:
    """The bound of one array: atol + rtol times its largest finite magnitude."""
    return atol + rtol * float(np.abs(want[np.isfinite(want)]).max(initial=0.0))


def error_of(got: np.ndarray, want: np.ndarray) -> float:
    """The largest absolute difference, in double precision; infinite where shapes, or the places of NaN, differ."""
    if got.shape != want.shape:
        return float("inf")
    if got.dtype.kind in "OSU" or want.dtype.kind in "OSU":
        return 0.0 if np.array_equal(got, want) else float("inf")
    a, b = _wide(got), _wide(want)
    with np.errstate(invalid="ignore"):
        gap = np.where((a == b) | (np.isnan(a) & np.isnan(b)), 0.0, np.abs(a - b))
    return float("inf") if np.isnan(gap).any() else float(gap.max(initial=0.0))


def difference(got: Any, want: Any, rtol: float, atol: float) -> Difference:
    """How far `got` is from `want`, and whether that is beyond the bound. Sequences are compared item by item."""
    if isinstance(want, list | dict):
        return _difference_inside(got, want, rtol, atol)
    got, want = np.asarray(got), np.asarray(want)
    if got.shape != want.shape:
        return Difference(float("inf"), f"has shape {list(got.shape)}, wanted is {list(want.shape)}")
    if _kind(got) not in "fc" or _kind(want) not in "fc":
        if np.array_equal(got, want):
            return Difference(0.0)
        return Difference(float("inf"), f"differs (compared exactly: {got.dtype})")
    if not np.array_equal(np.isnan(_wide(got)), np.isnan(_wide(want))):
        return Difference(float("inf"), "has NaN where the wanted one has none, or the reverse")
    error, bound = error_of(got, want), allowed(_wide(want), rtol, atol)
    if error <= bound:
        return Difference(error)
    return Difference(error, f"deviates by {error:.3g}; allowed are {bound:.3g} (rtol {rtol:g}, atol {atol:g})")


def _difference_inside(got: Any, want: Sequence[Any] | Mapping[Any, Any], rtol: float, atol: float) -> Difference:
    if type(got) is not type(want) or len(got) != len(want) or (isinstance(want, dict) and set(got) != set(want)):
        return Difference(float("inf"), f"is another {type(want).__name__} than the wanted one")
    keys = want.keys() if isinstance(want, Mapping) else range(len(want))
    worst = Difference(0.0)
    for key in keys:
        inner = difference(got[key], want[key], rtol, atol)
        if inner.message:
            return Difference(inner.error, f"at {key!r} {inner.message}")
        worst = max(worst, inner, key=lambda one: one.error)
    return worst


def compare_golden(model: Runs, golden: Golden) -> VerifyReport:
    """Run every golden case and compare; the first difference beyond the tolerance is named."""
    worst, outputs = 0.0, dict[str, tuple[float, float]]()
    for index, (feeds, expected) in enumerate(zip(golden.inputs, golden.outputs)):
        try:
            found = model.run(feeds)
        except HeadraceError as error:
            return VerifyReport(False, f"golden case {index} failed: {error}")
        for name, wanted in expected.items():
            if name not in found:
                return VerifyReport(False, f"golden case {index}: the model has no output {name!r}")
            seen = difference(found[name], wanted, golden.rtol, golden.atol)
            worst = max(worst, seen.error)
            if seen.message:
                return VerifyReport(False, f"golden case {index}, output {name!r} {seen.message}", worst)
            if not isinstance(wanted, list | dict):  # of several cases the one that comes closest to its bound
                seen_here = seen.error, _bound(np.asarray(wanted), golden.rtol, golden.atol)
                outputs[name] = max(outputs.get(name, seen_here), seen_here, key=_share)
    how = "bit for bit" if worst == 0.0 else f"within the bound, largest difference {worst:.3g}"
    return VerifyReport(True, f"{len(golden.inputs)} golden cases agree {how}", worst, outputs)


def _bound(want: np.ndarray, rtol: float, atol: float) -> float:
    """What `difference` allows: nothing where it compares exactly."""
    return allowed(_wide(want), rtol, atol) if _kind(want) in "fc" else 0.0


def _share(seen: tuple[float, float]) -> float:
    error, bound = seen
    return error / bound if bound else error


def _kind(array: np.ndarray) -> str:
    return dtypes.of(array).kind if array.dtype.kind in "fcV" else array.dtype.kind


def _wide(array: np.ndarray) -> np.ndarray:
    return array.astype(np.complex128 if array.dtype.kind == "c" else np.float64)
