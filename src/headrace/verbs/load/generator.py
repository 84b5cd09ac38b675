"""One process of the load generator: calls in a closed loop, or at times that nobody's slowness moves.

In an open loop a call has a time at which it is due, and its latency counts from there: a server that stalls is charged for
the calls that should have been sent meanwhile (what is often called coordinated omission is then not left out).
"""

from __future__ import annotations

import asyncio
import gc
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from headrace.serve.client_types import Ask, ClientTls
from headrace.serve.errors import ServeError
from headrace.verbs.load.wire import Wire, open_wire

MOST_OPEN = 20_000  # calls without an answer in an open loop; what would come on top is counted as `unsent`
TICK_SECONDS = 0.01
Check = Callable[[bytes], bool]


@dataclass(frozen=True)
class Step:
    """What one process does: `clients` callers (closed loop), or `rate` calls a second at random or even times (open)."""

    url: str
    ask: Ask
    seconds: float
    warmup: float
    timeout: float
    tls: ClientTls | str | None = None
    token: str = ""
    clients: int = 0
    rate: float = 0.0
    arrivals: str = "poisson"
    seed: int = 0


@dataclass
class Counted:
    """What came of it. Latencies in seconds, of good answers; `lags` are how late the generator woke when it wanted to: it
    was that late to send, and to see answers."""

    latencies: list[float] = field(default_factory=list)
    lags: list[float] = field(default_factory=list)
    errors: dict[str, int] = field(default_factory=dict)
    wrong: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0


def run_step(step: Step) -> Counted:
    """Run it here, on a loop of its own."""
    return asyncio.run(_run(step))


async def _run(step: Step) -> Counted:
    wire = open_wire(step.url, step.ask, step.clients or STREAMS_OPEN, step.tls, step.token)
    try:
        check = _checker(wire, await wire.send(step.timeout))
        play = _closed if step.clients else _open
        if step.warmup:
            await play(step, wire, check, step.warmup, Counted())
        counted = Counted()
        gc.collect()
        gc.freeze()
        started, cpu = time.perf_counter(), time.process_time()
        ticks = asyncio.create_task(_tick(counted))
        await play(step, wire, check, step.seconds, counted)
        ticks.cancel()
        counted.seconds, counted.cpu_seconds = time.perf_counter() - started, time.process_time() - cpu
        return counted
    finally:
        gc.unfreeze()
        await wire.close()


STREAMS_OPEN = 256  # connections for an open loop are made for so many calls at a time


def _checker(wire: Wire, first: bytes) -> Check:
    """Whether an answer is the first one: the same bytes, or else the same outputs."""
    outputs = {name: (array.dtype, array.shape, array.tolist()) for name, array in wire.read(first).outputs.items()}

    def same(data: bytes) -> bool:
        if data == first:
            return True
        found = wire.read(data).outputs
        return {name: (array.dtype, array.shape, array.tolist()) for name, array in found.items()} == outputs

    return same


async def _call(step: Step, wire: Wire, check: Check, counted: Counted, due: float) -> None:
    try:
        answer = await wire.send(step.timeout)
        now = time.perf_counter()
        if check(answer):
            counted.latencies.append(now - due)
        else:
            counted.wrong += 1
    except ServeError as error:
        counted.errors[error.meaning.value] = counted.errors.get(error.meaning.value, 0) + 1


async def _closed(step: Step, wire: Wire, check: Check, seconds: float, counted: Counted) -> None:
    end = time.perf_counter() + seconds

    async def caller() -> None:
        while (now := time.perf_counter()) < end:
            await _call(step, wire, check, counted, now)

    await asyncio.gather(*(caller() for _ in range(step.clients)))


async def _open(step: Step, wire: Wire, check: Check, seconds: float, counted: Counted) -> None:
    chance = random.Random(step.seed)
    waiting: set[asyncio.Task[None]] = set()
    due = started = time.perf_counter()
    while True:
        due += chance.expovariate(step.rate) if step.arrivals == "poisson" else 1 / step.rate
        if due - started >= seconds:
            break
        await _until(due)
        if len(waiting) >= MOST_OPEN:
            counted.errors["unsent"] = counted.errors.get("unsent", 0) + 1
            continue
        task = asyncio.create_task(_call(step, wire, check, counted, due))
        waiting.add(task)
        task.add_done_callback(waiting.discard)
    if waiting:
        await asyncio.wait(waiting)


async def _tick(counted: Counted) -> None:
    while True:
        due = time.perf_counter() + TICK_SECONDS
        await asyncio.sleep(TICK_SECONDS)
        counted.lags.append(time.perf_counter() - due)


async def _until(due: float) -> None:
    """Sleep up to a time; where it has passed, others run once."""
    left = due - time.perf_counter()
    await asyncio.sleep(max(0.0, left))


__all__ = ["Counted", "Step", "run_step"]
