"""Running a graph on a device: one plan for each signature of input shapes, kept; commands recorded once.

`CudaProgram` is what `runtime.model.Model` runs, as `_native.Program` is on the CPU. From the portable graph: shapes fixed
(runtime/plan.py) -> machine passes -> placement -> one arena -> a list of commands (plan.py), captured and compared.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from headrace.runtime import plan as planning
from headrace.runtime.cuda import stream
from headrace.runtime.cuda.buckets import cut, padded
from headrace.runtime.cuda.constants import Constants
from headrace.runtime.cuda.interface import Device
from headrace.runtime.cuda.placement import EMPTY, listing, place
from headrace.runtime.cuda.plan import Plan
from headrace.runtime.cuda.profile import profile
from headrace.runtime.errors import HeadraceError
from headrace.runtime.graph import Graph
from headrace.runtime.passes.edit import clone
from headrace.runtime.passes.machine import cuda as machine
from headrace.runtime.rows import prove_rows
from headrace.runtime.types import TensorType

if TYPE_CHECKING:
    from headrace.runtime.profile import ProfileRow

log = logging.getLogger("headrace")

PLANS = 16  # signatures kept; the one used longest ago goes first
TRIAL_SIZES = (1, 8, 32, 64, 224)
ARENAS = 4 << 30  # bytes of activations that all plans of a model may hold together


class CudaProgram:
    """A graph on one device. `run` may be called from many threads; device work is in the order of the calls."""

    def __init__(self, graph: Graph, device: Device, *, replay: bool = True) -> None:
        from headrace.runtime.interface import TensorSpec

        self.graph, self.device, self.replay = graph, device, replay
        self.constants = Constants(device, graph.constants.values())
        self._specs = tuple(TensorSpec.of(value) for value in graph.inputs)
        self._lock = threading.RLock()
        self._plans: OrderedDict[tuple[Any, ...], Plan] = OrderedDict()
        self._trial: list[dict[str, str]] | None = None

    def run(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        """Inputs by name to outputs by name, as Model.run says."""
        arrays, rows = self._prepared(feeds)
        results = self._run(arrays)
        return results if rows is None else cut(results, rows)

    def _prepared(self, feeds: Mapping[str, Any]) -> tuple[dict[str, Any], int | None]:
        """The feeds, checked; where rows are independent, padded, with the number of rows that were given."""
        from headrace.runtime.feeds import check_feeds

        arrays = check_feeds(self._specs, feeds)
        return padded(arrays) if self._rows_are_independent else (arrays, None)

    @cached_property
    def _rows_are_independent(self) -> bool:
        return prove_rows(clone(self.graph)).independent

    def _run(self, arrays: Mapping[str, Any]) -> dict[str, Any]:
        key = self._key(arrays)
        with self._lock:
            plan = self._plans.get(key)
            if plan is None:
                return self._first(key, arrays)
            self._plans.move_to_end(key)
        return self._call(plan, arrays)

    def _key(self, arrays: Mapping[str, Any]) -> tuple[Any, ...]:
        return tuple(np.shape(arrays[spec.name]) if isinstance(spec.type, TensorType) else None for spec in self._specs)

    def _call(self, plan: Plan, feeds: Mapping[str, Any]) -> dict[str, Any]:
        with plan.staging.slot() as buffer:
            plan.fill(buffer, feeds)
            with self._lock:
                self._use()
                try:
                    scope = plan.enqueue(buffer, feeds)
                except BaseException:
                    self.device.synchronize()  # what was enqueued may still read the buffer
                    raise
                wait = stream.mark(self.device)
            wait()
            return plan.results(buffer, scope)

    def _first(self, key: tuple[Any, ...], feeds: Mapping[str, Any]) -> dict[str, Any]:
        """Plan, run step by step, then capture and compare a replay with that."""
        self._use()
        shapes = {spec.name: shape for spec, shape in zip(self._specs, key) if shape is not None}
        plan = Plan(machine.run(planning.specialise(self.graph, shapes)), self.device, self.constants)
        results = self._call(plan, feeds)
        if self.replay:
            plan.capture()
            again = self._call(plan, feeds)
            wrong = [name for name, found in results.items() if not _same(found, again[name])]
            if wrong:
                log.warning("graph replay differs in %s from running step by step; not replayed", ", ".join(wrong))
                plan.uncapture()
        self._plans[key] = plan
        while len(self._plans) > 1 and (
            len(self._plans) > PLANS or sum(kept.arena.bytes for kept in self._plans.values()) > ARENAS
        ):
            self._plans.popitem(last=False)  # its memory goes with the last call that uses it
        return results

    def _use(self) -> None:
        use = getattr(self.device, "use", None)
        if use is not None:
            use()

    def profile_feeds(self, feeds: Mapping[str, Any], runs: int) -> list[ProfileRow]:
        """The time of every node for feeds that were run before."""
        arrays, _ = self._prepared(feeds)
        with self._lock:
            plan = self._plans[self._key(arrays)]
        with plan.staging.slot() as buffer, self._lock:  # in this order, as calls do
            self._use()
            return profile(plan, buffer, arrays, runs)

    def kernels(self) -> list[dict[str, str]]:
        """The nodes of the plan used last: operator, node, kernel, reason. Before the first call: as they would be placed
        for symbolic dimensions of the first of TRIAL_SIZES (the batch: 1) that fits; empty where none does."""
        with self._lock:
            plan = next(reversed(self._plans.values()), None)
            if plan is not None:
                return listing(plan.placement.steps)
            if self._trial is None:
                self._trial = self._place_trial()
            return self._trial

    def _place_trial(self) -> list[dict[str, str]]:
        for size in TRIAL_SIZES:
            shapes = {
                spec.name: [dim if isinstance(dim, int) else size if axis else 1 for axis, dim in enumerate(spec.shape)]
                for spec in self._specs
                if spec.shape is not None
            }
            try:
                graph = machine.run(planning.specialise(self.graph, shapes))
            except HeadraceError:
                continue
            blas = getattr(self.device, "blas", None) is not None
            rows = listing(place(graph, self.constants.inner().derive, blas).steps)
            if all(row["reason"] != EMPTY for row in rows):
                return rows
        return []

    def plans(self) -> list[dict[str, Any]]:
        with self._lock:
            return [plan.facts() for plan in reversed(self._plans.values())]

    def close(self) -> None:
        """Forget the plans: what is on the device goes with the last running call."""
        with self._lock:
            self._plans.clear()


def _same(a: Any, b: Any) -> bool:
    if not (isinstance(a, np.ndarray) and isinstance(b, np.ndarray)) or a.dtype.kind == "O":
        return type(a) is type(b)  # made on the host from the same bytes
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
