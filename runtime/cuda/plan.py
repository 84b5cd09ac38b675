"""The plan of one signature: every address, every command, and the steps of the host between them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from headrace.runtime import dtypes
from headrace.runtime import plan as planning
from headrace.runtime.cuda import graphs, stream
from headrace.runtime.cuda.arena import ALIGNMENT, Arena
from headrace.runtime.cuda.constants import Constants
from headrace.runtime.cuda.interface import Device
from headrace.runtime.cuda.placement import Download, OnDevice, OnHost, Placement, Upload, place
from headrace.runtime.cuda.rules.base import Bound
from headrace.runtime.errors import RunError
from headrace.runtime.executor import Run
from headrace.runtime.graph import Graph, Value
from headrace.runtime.types import TensorType


@dataclass
class Segment:
    """Device work between two host steps, node by node, and what enqueues it all."""

    nodes: list[tuple[OnDevice, list[graphs.Command]]] = field(default_factory=list)
    run: Callable[[], None] = lambda: None

    @property
    def commands(self) -> list[graphs.Command]:
        return [command for _, commands in self.nodes for command in commands]


@dataclass
class Slot:
    """Where a value lies in the pinned buffer of a call."""

    value: Value
    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype

    def of(self, buffer: np.ndarray) -> np.ndarray:
        return stream.view(buffer, self.offset, self.shape, self.dtype)


Timer = Callable[[OnDevice | OnHost, Callable[[], None]], None]
PlanStep = Segment | OnHost | Upload | Download


class Plan:
    """Everything fixed by one signature: addresses, commands, host steps."""

    def __init__(self, graph: Graph, device: Device, constants: Constants) -> None:
        """`graph` has fixed sizes; `constants` are the model's."""
        self.graph, self.device, self.replayed = graph, device, 0
        blas = getattr(device, "blas", None)
        self.constants = constants.inner()
        self.placement = place(graph, self.constants.derive, blas is not None)
        memory = _memory(self.placement, graph)
        self.arena = Arena(device, memory.bytes)
        self._addresses = {
            value: self.arena.at(offset, planning.byte_size(value)) for value, offset in memory.offsets.items()
        }
        self.inputs, used = _slots(self.placement.uploads, 0)
        outputs = [value for value in dict.fromkeys(graph.outputs) if value in self.placement.on_device]
        self.outputs, used = _slots([value for value in outputs if value not in graph.inputs], used)
        self._watched = [
            step for step in self.placement.steps if isinstance(step, OnDevice) and step.work.failure
        ]  # they have a status word each, in this order
        self._status_at, used = used, used + 4 * len(self._watched)
        self._status = Arena(device, 4 * len(self._watched))
        self.staging = stream.Staging(device, used)
        self.steps = self._record(memory, blas)

    def _record(self, memory: planning.MemoryPlan, blas: Any) -> list[PlanStep]:
        steps: list[PlanStep] = []
        returned = {slot.value for slot in self.outputs}

        def address(value: Value | None) -> int:
            if value is None:
                return 0
            array = self.graph.constant_of(value)
            return self.constants.address(array) if array is not None else self._addresses[value]

        for number, step in enumerate(self.placement.steps):
            if isinstance(step, Download) and step.value in returned and not _read_later(self.placement, number):
                continue  # answered through the pinned buffer, at the end
            if not isinstance(step, OnDevice):
                steps.append(step)
                continue
            if not steps or not isinstance(steps[-1], Segment):
                steps.append(Segment())
            recorder = graphs.Recorder(self.device.name)
            scratch = step.work.scratch and self.arena.at(memory.scratch[number], step.work.scratch)
            step.work.emit(
                Bound(
                    recorder,
                    [address(value) for value in step.node.inputs],
                    [address(value) for value in step.node.outputs],
                    scratch,
                    self._status.at(4 * self._watched.index(step), 4) if step.work.failure else 0,
                    self.constants.address,
                    blas,
                )
            )
            if step.work.failure and step is self._watched[0]:
                recorder.commands.insert(0, graphs.Fill(self._status.base, 0, self._status.bytes))
            steps[-1].nodes.append((step, recorder.commands))  # type: ignore[union-attr]
        for segment in steps:
            if isinstance(segment, Segment):
                segment.run = graphs.eager(self.device, segment.commands)
        return steps

    def fill(self, buffer: np.ndarray, feeds: Mapping[str, Any]) -> None:
        for slot in self.inputs:
            slot.of(buffer)[...] = feeds[slot.value.name]

    def enqueue(self, buffer: np.ndarray, feeds: Mapping[str, Any], timed: Timer | None = None) -> dict[Value, Any]:
        """Upload, run, and start the download of the outputs. Answers what host steps made. With `timed` every node is
        run by it, alone."""
        device, host = self.device, Run(self.graph)
        host.scope.update((value, feeds[value.name]) for value in self.graph.inputs)
        for slot in self.inputs:
            stream.upload(device, self._addresses[slot.value], slot.of(buffer))
        for step in self.steps:
            match step:
                case Segment(nodes=nodes) if timed is not None:
                    for node_step, commands in nodes:
                        timed(node_step, graphs.eager(device, commands))
                case Segment():
                    step.run()
                case OnHost(node=node) if timed is not None:
                    timed(step, partial(host.node, node))
                case OnHost(node=node):
                    host.node(node)
                case Upload(value=value):
                    device.h2d(self._addresses[value], self._as_planned(value, host.read(value)))
                case Download(value=value):
                    array = np.empty(*_array_of(value))
                    device.d2h(array, self._addresses[value])
                    host.scope[value] = array
        for slot in self.outputs:
            stream.download(device, slot.of(buffer), self._addresses[slot.value])
        if self._watched:
            stream.download(device, self._words(buffer), self._status.base)
        return host.scope

    def _words(self, buffer: np.ndarray) -> np.ndarray:
        return stream.view(buffer, self._status_at, (len(self._watched),), np.dtype(np.int32))

    def _as_planned(self, value: Value, given: Any) -> np.ndarray:
        array = np.ascontiguousarray(given).reshape(np.shape(given))
        if array.shape != planning.static_shape(value):
            raise RunError(f"value %{value.name} has shape {list(array.shape)}; planned: {value.type}")
        return array

    def results(self, buffer: np.ndarray, scope: Mapping[Value, Any]) -> dict[str, Any]:
        """The outputs as new arrays, after the call's mark. RunError where a kernel reported what was wrong."""
        if self._watched:
            for step, word in zip(self._watched, self._words(buffer)):
                if word:
                    raise RunError(f"{step.node.label()}: {step.work.failure}")
        found = {slot.value: slot.of(buffer).copy() for slot in self.outputs}
        results: dict[str, Any] = {}
        for value in self.graph.outputs:
            if value in found:
                array = found.pop(value)
            else:
                constant = self.graph.constant_of(value)
                array = constant if constant is not None else scope.get(value, results.get(value.name))
                array = np.array(array) if isinstance(array, np.ndarray) else array
            results[value.name] = array
        return results

    def capture(self) -> None:
        """From now on each segment is one graph. The commands must have run once."""
        for segment in self.steps:
            if isinstance(segment, Segment):
                segment.run = graphs.capture(self.device, segment.commands)
        self.replayed = sum(len(step.commands) >= graphs.SHORTEST for step in self.steps if isinstance(step, Segment))

    def uncapture(self) -> None:
        for segment in self.steps:
            if isinstance(segment, Segment):
                segment.run = graphs.eager(self.device, segment.commands)
        self.replayed = 0

    def facts(self) -> dict[str, Any]:
        segments = [step for step in self.steps if isinstance(step, Segment)]
        return {
            "inputs": {value.name: str(value.type) for value in self.graph.inputs},
            "arena_bytes": self.arena.bytes,
            "commands": sum(len(segment.commands) for segment in segments),
            "segments": len(segments),
            "replayed": self.replayed,
            "fallbacks": len(self.placement.fallbacks),
        }


def _slots(values: Sequence[Value], at: int) -> tuple[list[Slot], int]:
    """Places for values from byte `at` on, and the first byte behind them."""
    slots = []
    for value in values:
        slots.append(Slot(value, at, *_array_of(value)))
        at += -(-planning.byte_size(value) // ALIGNMENT) * ALIGNMENT
    return slots, at


def _array_of(value: Value) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and dtype of a tensor of static shape."""
    shape = planning.static_shape(value)
    assert isinstance(value.type, TensorType) and shape is not None
    return shape, dtypes.BY_NAME[value.type.dtype].numpy


def _read_later(placement: Placement, number: int) -> bool:
    """Whether a host step after this download may read it."""
    return any(isinstance(step, OnHost) for step in placement.steps[number + 1 :])


def _memory(placement: Placement, graph: Graph) -> planning.MemoryPlan:
    steps = []
    for step in placement.steps:
        match step:
            case OnDevice(node=node, work=work):
                given = [value for value in node.inputs if value is not None]
                taken = [value for i in work.in_place if (value := node.inputs[i]) is not None]
                made = [value for value in node.outputs if value is not None]
                steps.append(planning.Step(given, made, work.scratch, taken))
            case Upload(value=value):
                steps.append(planning.Step((), (value,)))
            case Download(value=value):
                steps.append(planning.Step((value,), ()))
            case _:
                steps.append(planning.Step((), ()))
    return planning.plan_memory(steps, placement.views, placement.uploads, graph.outputs, ALIGNMENT)
