"""The time of each node of a plan: its commands alone, one after another, as the plan runs them step by step."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from headrace.runtime.cuda.interface import Device
from headrace.runtime.cuda.placement import OnDevice, OnHost

if TYPE_CHECKING:
    from headrace.runtime.cuda.plan import Plan
    from headrace.runtime.profile import ProfileRow


def profile(plan: Plan, buffer: np.ndarray, feeds: Mapping[str, Any], runs: int) -> list[ProfileRow]:
    """Mean milliseconds of every node over `runs` runs, longest first; copies between host and device are left out. The
    caller holds the program's lock and a slot of the plan."""
    times: dict[int, float] = {}

    def timed(step: OnDevice | OnHost, work: Callable[[], None]) -> None:
        times[id(step)] = times.get(id(step), 0.0) + _seconds(plan.device, step, work)

    plan.fill(buffer, feeds)
    for _ in range(runs):
        plan.enqueue(buffer, feeds, timed)
        plan.device.synchronize()
    nodes = [step for step in plan.placement.steps if isinstance(step, OnDevice | OnHost)]
    whole = sum(times.values()) or 1.0
    rows: list[ProfileRow] = [
        {
            "node": step.node.label(),
            "operator": step.node.kind,
            "kernel": step.work.kernel if isinstance(step, OnDevice) else "reference",
            "ms": 1e3 * times.get(id(step), 0.0) / runs,
            "share": times.get(id(step), 0.0) / whole,
        }
        for step in nodes
    ]
    return sorted(rows, key=lambda row: -row["ms"])


def _seconds(device: Device, step: OnDevice | OnHost, work: Callable[[], None]) -> float:
    """By events on the stream where the device has them, else by the host's clock."""
    events: Callable[[Callable[[], None], int], float] | None = getattr(device, "seconds", None)
    if events is not None and isinstance(step, OnDevice):
        return events(work, 1)
    device.synchronize()
    start = time.perf_counter()
    work()
    device.synchronize()
    return time.perf_counter() - start
