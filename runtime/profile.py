"""Where a model's time goes: each node and each kernel beside what the machine can do, and a trace of one run."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Callable, Sequence
from typing import Any, TypedDict

from headrace.runtime import dtypes, machine
from headrace.runtime.errors import HeadraceError
from headrace.runtime.ops import find


class ProfileRow(TypedDict):
    """The time of one node: milliseconds a run (the median over runs; on a GPU the mean), and its share (0 to 1) of all nodes together. `kernel` is the
    variant of the native kernel ("native" where there is one only), or "reference"."""

    node: str
    operator: str
    kernel: str
    ms: float
    share: float


class NodeRow(ProfileRow):
    """Beside the time, what was done in it, and the least time that this machine needs for that. `flops` is None where
    the operator is counted by its bytes alone: `bytes` are those of every input and output, once; of a Gather's table
    only the rows that it takes. `limit_ms` is the longer of two times (the roofline): of the operations at the measured
    peak of `precision`, and of the bytes at the measured bandwidth of what holds them: for constants, which come round once
    a run, the cache that would hold those of all nodes, or memory; for other values the one that holds the node's.
    `of_limit` is `limit_ms / ms`, 0 where no limit is known.

    Source: Williams, Waterman, Patterson, "Roofline" (CACM 52, 4, 2009)."""

    calls: float
    flops: float | None
    bytes: float
    gflops: float | None
    gbytes: float
    precision: str
    limit_ms: float
    of_limit: float


class KernelSum(TypedDict):
    """All nodes that one kernel runs, together; the fields are those of NodeRow, `nodes` how many they are."""

    kernel: str
    nodes: int
    ms: float
    share: float
    gflops: float | None
    gbytes: float
    limit_ms: float
    of_limit: float


# (element type code, sizes, whether constant) as the native program saw it
_Seen = tuple[int, tuple[int, ...], bool] | None


def profile_nodes(program: Any, run: Callable[[], object], runs: int) -> list[NodeRow]:
    """Time every node of a native program over `runs` calls of `run`, longest first."""
    import statistics  # loads do without

    seen = [program.profile_rows()]
    program.profile(1)
    try:
        for _ in range(runs):
            run()
            seen.append(program.profile_rows())
    finally:
        program.profile(0)
    # The median, not the mean: what interrupts one run on a busy machine says nothing about the node.
    times = [statistics.median(b[4] - a[4] for a, b in itertools.pairwise(own)) for own in zip(*seen)]
    calls = [(last[3] - first[3]) / runs for first, last in zip(seen[0], seen[-1])]
    whole = sum(times) or 1
    moved = [_moved(row[1], row[5], row[6], _precision(row[2])) for row in seen[-1]]
    constants = sum(of_node for of_node, _ in moved)
    rows = [
        _row(row, count, time, time / whole, size, constants, program.threads)
        for row, count, time, size in zip(seen[-1], calls, times, moved)
        if count
    ]
    return sorted(rows, key=lambda row: -row["ms"])


def _row(
    row: tuple[Any, ...], calls: float, nanoseconds: float, share: float, moved: tuple[int, int], constants: int, threads: int
) -> NodeRow:  # fmt: skip
    label, operator, kernel, _, _, inputs, outputs = row
    flops = flops_of(operator, inputs, outputs)
    precision = _precision(kernel)
    seconds = max(nanoseconds, 1.0) * 1e-9
    total = None if flops is None else flops * calls
    best = machine.peak(precision, threads) if flops else 0.0
    own, values = moved
    needed = own / machine.bandwidth(constants, threads) + values / machine.bandwidth(values, threads)
    limit = calls * max(needed, flops / best if flops and best else 0.0)
    return NodeRow(
        node=label, operator=operator, kernel=kernel, ms=nanoseconds / 1e6, share=share, calls=calls,
        flops=total, bytes=sum(moved) * calls, gflops=None if total is None else total / seconds / 1e9,
        gbytes=sum(moved) * calls / seconds / 1e9, precision=precision, limit_ms=limit * 1e3, of_limit=limit / seconds,
    )  # fmt: skip


def flops_of(operator: str, inputs: Sequence[_Seen], outputs: Sequence[_Seen]) -> int | None:
    """What the operator contract says of a node that ran; machine operators ("headrace.cpu.Conv") do what the operator
    of their name does, and a convolution by transforms counts as the direct one whose work it does."""
    domain, _, name = operator.rpartition(".")
    found = find(name, domain)
    if domain == "headrace.cpu":
        if name == "SeparableConv":
            return _separable_flops(inputs, outputs)
        name = name.removeprefix("Winograd")
        found = find(name, "headrace") or find(name, "")
    sizes = [[None if seen is None else seen[1] for seen in side] for side in (inputs, outputs)]
    return None if found is None else found.flops(*sizes)


def _separable_flops(inputs: Sequence[_Seen], outputs: Sequence[_Seen]) -> int:
    """Those of its two or three convolutions: weights at every pixel, of the input those of the first 1x1 one."""
    expand, depthwise, project = (
        math.prod(seen[1]) if seen is not None else 0 for seen in (inputs[1], inputs[3], inputs[5])
    )
    before, after = (math.prod(seen[1][:3]) if seen is not None else 0 for seen in (inputs[0], outputs[0]))
    return 2 * (before * expand + after * (depthwise + project))


def by_kernel(rows: Sequence[NodeRow]) -> list[KernelSum]:
    """The rows of each kernel as one, longest first."""

    def key(row: NodeRow) -> str:
        plain = row["kernel"] in ("native", "reference", "view")
        return f"{row['kernel']} {row['operator']}" if plain else row["kernel"]

    sums = []
    for kernel, group in itertools.groupby(sorted(rows, key=key), key):
        nodes = list(group)
        seconds = max(sum(row["ms"] for row in nodes) / 1e3, 1e-9)
        counted = [row["flops"] for row in nodes if row["flops"] is not None]
        flops, moved = sum(counted) if counted else None, sum(row["bytes"] for row in nodes)
        sums.append(
            KernelSum(
                kernel=kernel,
                nodes=len(nodes),
                ms=seconds * 1e3,
                share=sum(row["share"] for row in nodes),
                gflops=None if flops is None else flops / seconds / 1e9,
                gbytes=moved / seconds / 1e9,
                limit_ms=(limit := sum(row["limit_ms"] for row in nodes)),
                of_limit=limit / (seconds * 1e3),
            )
        )
    return sorted(sums, key=lambda one: -one["ms"])


def trace_events(program: Any, run: Callable[[], object], name: str) -> dict[str, Any]:
    """One call of `run` as a document of Chrome's trace event format ("X" events, microseconds), which chrome://tracing
    and ui.perfetto.dev open. The bodies of If, Loop and Scan lie under their node.

    Source: "Trace Event Format" (Chromium).
    """
    program.profile(2)
    try:
        run()
    finally:
        program.profile(0)
    events = program.events()
    if not events:
        raise HeadraceError("nothing ran natively: there is nothing to trace")
    about = {row[0]: row for row in program.profile_rows()}
    start, process = min(event[1] for event in events), os.getpid()
    told: list[dict[str, Any]] = [
        {"ph": "M", "name": "process_name", "pid": process, "tid": 1, "args": {"name": f"headrace {name}"}},
        {"ph": "M", "name": "thread_name", "pid": process, "tid": 1, "args": {"name": "nodes"}},
    ]
    for label, at, nanoseconds in sorted(events, key=lambda event: (event[1], -event[2])):
        _, operator, kernel, _, _, inputs, outputs = about[label]
        flops = flops_of(operator, inputs, outputs)
        facts: dict[str, Any] = {"kernel": kernel, "inputs": _texts(inputs), "outputs": _texts(outputs)}
        if flops is not None:
            facts |= {"GFLOP/s": round(flops / max(nanoseconds, 1), 3)}
        told.append(
            {
                "ph": "X",
                "name": label,
                "cat": operator,
                "pid": process,
                "tid": 1,
                "ts": (at - start) / 1e3,
                "dur": nanoseconds / 1e3,
                "args": facts,
            }
        )
    return {"traceEvents": told, "displayTimeUnit": "ms"}


def _precision(kernel: str) -> str:
    """In what a kernel multiplies, by its name: "gemm_int8_avx2"."""
    return next((precision for precision in ("int8", "bf16") if precision in kernel), "float32")


def _moved(
    operator: str, inputs: Sequence[_Seen], outputs: Sequence[_Seen], precision: str = "float32"
) -> tuple[int, int]:
    """Bytes of constants that are read, and of other values that are read and written: all inputs and outputs, but of what an
    operator picks its results from only what it picks. Kernels of bf16 keep their weights so, in half the bytes."""
    written = sum(map(_bytes, outputs))
    constants = sum(_bytes(one) for one in inputs if one is not None and one[2])
    read = sum(map(_bytes, inputs)) - constants
    if precision == "bf16":
        constants //= 2
    domain, _, name = operator.rpartition(".")
    if type(find(name, domain)).__module__.startswith("headrace.runtime.ops.move."):
        constants = min(constants, written)
        read = min(read, written - constants)
    return constants, written + read


def _bytes(seen: _Seen) -> int:
    return 0 if seen is None else math.prod(seen[1]) * dtypes.BY_ONNX[seen[0]].itemsize


def _texts(seen: Sequence[_Seen]) -> list[str]:
    return ["-" if one is None else f"{dtypes.BY_ONNX[one[0]].name}{list(one[1])}" for one in seen]
