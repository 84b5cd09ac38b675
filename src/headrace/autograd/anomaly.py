"""Anomaly mode: operations remember where they were called, and a NaN in a gradient is an error that says so."""

from __future__ import annotations

from typing import Any

from headrace.autograd.mode import MODE


class set_detect_anomaly:
    """Switch anomaly mode; as a `with` block it is undone at the end."""

    def __init__(self, mode: bool, check_nan: bool = True) -> None:
        self._before = MODE.anomaly
        MODE.anomaly = mode

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: Any) -> None:
        MODE.anomaly = self._before


class detect_anomaly(set_detect_anomaly):
    """Anomaly mode for a `with` block."""

    def __init__(self, check_nan: bool = True) -> None:
        super().__init__(True, check_nan)
