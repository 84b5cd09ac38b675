"""What the CUDA device does here: operators against their references, models against the CPU, graph replay, ceilings.

    scripts/gpu_check [--json] [--only operators,models,replay,ceilings]     on a machine with a GPU
    scripts/gpu_check --emulated                                             the correctness part, kernels run on the CPU

Prints one table; exits 1 where something is wrong, or where there is no GPU (one line says why).

- operators: every operator with a kernel on its own sample inputs; "worst" is the largest error in units of what the operator
  allows (integers: 0 or wrong), "on the CPU" how many samples the kernels leave to the reference.
- models: the digits CNN, its int8 form and a MiniLM with random weights; the largest difference from the CPU's answer, whose
  bits int8 must have.
- replay: a captured graph gives the bits of running step by step; times of both (GPU only).
- ceilings: copies inside the device, and products of bf16, int8 and fp8 by cuBLASLt (GPU only; design targets are in docs/gpu.md).
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from cuda_models import digits, minilm, minilm_feeds

from headrace.runtime import devices, dtypes
from headrace.runtime.builder import Builder
from headrace.runtime.cuda import lt, rules
from headrace.runtime.cuda.kernels import gemm
from headrace.runtime.cuda.kernels.requantize import Epilogue
from headrace.runtime.errors import HeadraceError
from headrace.runtime.executor import run_node
from headrace.runtime.graph import Block, Graph
from headrace.runtime.model import Model, load
from headrace.runtime.ops import registry
from headrace.runtime.ops.base import Operator, Sample
from headrace.runtime.types import TensorType

SECTIONS = ("operators", "models", "replay", "ceilings")
BERT = {"layers": 6, "heads": 12, "size": 32, "vocabulary": 30522}  # MiniLM-L6
SMALL = {"layers": 2, "heads": 2, "size": 16, "vocabulary": 100}  # what the emulator runs in a second


@dataclass
class Row:
    """One line of the table. `ok` None: a figure, nothing to be right or wrong."""

    section: str
    name: str
    result: str
    note: str
    ok: bool | None


# ---- operators


def one_node(operator: Operator, sample: Sample) -> tuple[Graph, dict[str, Any]]:
    """A graph of one node: input 0 and other large float inputs are fed, the rest are constants as parameters are."""
    graph = Graph(Block([], [], []))
    builder, inputs, feeds = Builder(graph), [], {}
    for index, array in enumerate(sample.inputs):
        if array is None:
            inputs.append(None)
        elif index == 0 or index in residuals(operator):
            inputs.append(builder.input(f"x{index}", TensorType(dtypes.of(array).name, np.shape(array))))
            feeds[f"x{index}"] = array
        else:
            inputs.append(builder.constant(array, f"c{index}"))
    count = sample.outputs or max(1, sum(not out.optional for out in operator.outputs))
    outputs = builder.node(operator.name, inputs, sample.attributes, domain=operator.domain, outputs=count)
    graph.outputs.extend(outputs)
    return graph, feeds


def residuals(operator: Operator) -> tuple[int, ...]:
    """Inputs that are data beside input 0: second operands and residuals."""
    if operator.kind.startswith("headrace.Q"):
        return (3,) if operator.kind == "headrace.QAdd" else (9,)
    if operator.kind.startswith("headrace.Fused"):
        return (3,)
    data = {"Gather": (1,), "Where": (1, 2), "MatMul": (1,)}
    elementwise = type(operator).__module__.startswith("headrace.runtime.ops.elementwise")
    return data.get(operator.kind, (1,) if elementwise and operator.kind != "Clip" else ())


def units(operator: Operator, found: Any, sample: Sample, graph: Graph) -> float:
    """The largest error in units of what the operator allows, against the reference in float64 where it rounds at all."""
    count = len(graph.outputs)
    wide = [a.astype(np.float64) if a is not None and a.dtype == np.float32 else a for a in sample.inputs]
    exact = operator.accuracy.ulp == 0
    plain = run_node(operator, sample.inputs, sample.attributes, count)
    try:
        want = plain if exact else run_node(operator, wide, sample.attributes, count)
    except Exception:
        want = plain  # the operator knows no float64
    worst = 0.0
    for a, b, p in zip(found, want, plain):
        if a.shape != p.shape or a.dtype != p.dtype:
            return float("inf")
        if a.dtype.kind != "f" or exact:
            worst = max(worst, 0.0 if np.array_equal(a, p, equal_nan=a.dtype.kind == "f") else float("inf"))
            continue
        worst = max(worst, _error(a, np.asarray(b), operator))
    return worst


def _error(a: np.ndarray, b: np.ndarray, operator: Operator) -> float:
    with np.errstate(all="ignore"):
        info, ulp, least = np.finfo(np.float32), operator.accuracy.ulp, operator.accuracy.scale
        rounded = b.astype(np.float32)
        special = ~(np.isfinite(rounded) & np.isfinite(a))
        largest = float(info.max) * (1 - ulp * float(info.eps))  # a result so near to overflow may be infinite
        same = (a == rounded) | (np.isnan(a) & np.isnan(rounded)) | (np.minimum(np.abs(a), np.abs(b)) >= largest)
        if not same[special].all():
            return float("inf")
        a, b = a[~special].astype(np.float64), b[~special].astype(np.float64)
        if not b.size:
            return 0.0
        typical = np.abs(b).max() / 4 if ulp >= 8 else 0.0
        allowed = (ulp + 0.5) * (float(info.eps) * np.maximum(np.abs(b), max(least, typical)) + float(info.tiny))
        return float((np.abs(a - b) / allowed).max())


def check_operator(operator: Operator, device: Any) -> tuple[float, int, int]:
    """(worst error in units of what is allowed, samples that kernels ran, samples that they left to the CPU)."""
    worst, ran, left = 0.0, 0, 0
    for sample in operator.samples(np.random.default_rng(zlib.crc32(operator.kind.encode()))):
        if not all(isinstance(array, np.ndarray | None) for array in sample.inputs):
            left += 1
            continue
        graph, feeds = one_node(operator, sample)
        with Model(graph, optimize=False, placed=devices.Placed(device)) as model:
            if not feeds or any(row["reason"] for row in model.kernels()):
                left += 1
                continue
            found = list(model.run(feeds).values())
        worst, ran = max(worst, units(operator, found, sample, graph)), ran + 1
    return worst, ran, left


def checked_operators() -> list[Operator]:
    """Every operator with a rule. What only a machine pass makes is no operator; models show it."""
    return sorted((op for op in registry().values() if op.kind in rules.rules()), key=lambda op: op.kind)


def operators(device: Any) -> Iterator[Row]:
    for operator in checked_operators():
        worst, ran, left = check_operator(operator, device)
        yield Row(
            "operators",
            operator.kind,
            f"worst {worst:.2f}",
            f"{ran} samples, {left} on the CPU",
            worst <= 1 and ran > 0,
        )


# ---- models


def cases(folder: Path, emulated: bool) -> Iterator[tuple[str, Any, dict[str, np.ndarray], float]]:
    """(name, source, feeds, allowed difference from the CPU)."""
    plain, small = digits(folder)
    images = np.random.default_rng(0).random((4 if emulated else 64, 1, 8, 8), np.float32)
    yield "digits", plain, {"x": images}, 1e-4
    yield "digits int8", small, {"x": images}, 0.0
    size = SMALL if emulated else BERT
    feeds = minilm_feeds(2, 5, size["vocabulary"]) if emulated else minilm_feeds(8, 48, size["vocabulary"])
    yield f"MiniLM, {size['layers']} layers", minilm(**size), feeds, 1e-4


def models(device: Any, folder: Path, emulated: bool) -> Iterator[Row]:
    for name, source, feeds, allowed in cases(folder, emulated):
        with load(source, device="cpu") as model:
            want = model.run(feeds)
        with load(source, device=device) as model:
            found = model.run(feeds)
            left = model.properties.get("fallbacks", "")
            facts = model._program.plans()[0]
        gap = max(float(np.abs(found[key].astype(np.float64) - want[key]).max()) for key in want)
        note = f"{facts['commands']} commands, arena {facts['arena_bytes']:,} bytes, " + (
            f"on the CPU: {left}" if left else "all on the device"
        )
        yield Row("models", name, f"difference {gap:.1e}", note, gap <= allowed and not left)


# ---- replay


def replay(device: Any, folder: Path) -> Iterator[Row]:
    for name, source, feeds, _ in cases(folder, False):
        with load(source, device=device) as model:
            model.run(feeds)
            (plan,) = model._program._plans.values()
            same = plan.replayed > 0
            replayed = _median(lambda: model.run(feeds))  # noqa: B023
            plan.uncapture()
            eager = _median(lambda: model.run(feeds))  # noqa: B023
        note = f"step by step {eager * 1e6:.0f} us, replayed {replayed * 1e6:.0f} us a call"
        yield Row("replay", name, f"{eager / replayed:.2f}x", note, same)


def _median(work: Callable[[], Any], repeats: int = 200) -> float:
    """Seconds of one call, host side, with everything that a caller waits for."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


# ---- ceilings


def ceilings(device: Any, size: int = 1 << 30, n: int = 8192, own: int = 4096) -> Iterator[Row]:
    """Copies of `size` bytes; products n^3 by cuBLASLt and own^3 by our kernel, on random bytes."""
    a, b = device.alloc(size), device.alloc(size)
    try:
        rng = np.random.default_rng(0)
        noise = rng.integers(0, 256, min(size, 64 << 20), np.uint8)
        for at in (a, b):
            for offset in range(0, size, noise.nbytes):
                device.h2d(at + offset, noise)
        seconds = _device_seconds(device, lambda: device.d2d(b, a, size))
        yield Row("ceilings", "copy", f"{2 * size / seconds / 1e12:.2f} TB/s", f"{size:,} bytes read and written", None)
        yield _own_int8(device, own, a, b, size)
        for dtype, out in (("bfloat16", "bfloat16"), ("int8", "int32"), ("float8_e4m3fn", "bfloat16")):
            yield _product(device, dtype, out, n, a, b, b + size // 2)
    finally:
        device.free(a)
        device.free(b)


def _own_int8(device: Any, n: int, a: int, b: int, size: int) -> Row:
    """The product of our kernel with its requantization to uint8, which cuBLASLt does not have."""
    vector = b + size // 2
    device.h2d(vector, np.full(n, 1e-4, np.float32))
    epilogue = Epilogue("uint8", scale=vector, zero=128)
    result = b + size // 4 * 3
    seconds = _device_seconds(device, lambda: gemm.gemm_s8(device, "uint8", a, b, result, n, n, n, epilogue))
    note = f"own kernel with requantization, {seconds * 1e6:.0f} us"
    return Row("ceilings", f"uint8 x int8 {n}^3", f"{2 * n**3 / seconds / 1e12:.0f} TOPS", note, None)


def _product(device: Any, dtype: str, out: str, n: int, a: int, b: int, d: int) -> Row:
    """n^3 by cuBLASLt; addresses of A, B and the result."""
    name = f"{dtype} {n}^3"
    problem = lt.Problem(n, n, n, a=dtype, out=out, trans_b=True)
    one = device.alloc(4)
    device.h2d(one, np.ones(1, np.float32))
    scales = (one, one) if dtype.startswith("float8") else None
    try:
        call = device.blas.plan(problem, a, b, d, scales=scales)
        seconds = _device_seconds(device, lambda: call(device.stream_handle))
    except HeadraceError as error:
        return Row("ceilings", name, "none", str(error), None)
    finally:
        device.free(one)
    unit = "TOPS" if dtype == "int8" else "TFLOP/s"
    return Row("ceilings", name, f"{2 * n**3 / seconds / 1e12:.0f} {unit}", f"cuBLASLt, {seconds * 1e6:.0f} us", None)


def _device_seconds(device: Any, work: Callable[[], None]) -> float:
    """The median of ten means over ten runs, by events on the stream, after a first run."""
    work()
    return statistics.median(device.seconds(work, 10) for _ in range(10))


# ---- the table


def facts(device: Any) -> dict[str, Any]:
    caps = getattr(device, "caps", None)
    return {"device": device.name, **(asdict(caps) if caps is not None else {})}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--emulated", action="store_true", help="the correctness part, kernels run on the CPU")
    parser.add_argument("--only", default=",".join(SECTIONS), help=f"some of {','.join(SECTIONS)}")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args(arguments)
    wanted = options.only.split(",")
    if set(wanted) - set(SECTIONS):
        parser.error(f"--only takes {','.join(SECTIONS)}")
    try:
        device = devices.choose("emulated" if options.emulated else "cuda").device
    except HeadraceError as error:
        print(f"gpu_check: {error}" + ("" if options.emulated else "; --emulated checks the kernels without a GPU"))
        return 1
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as scratch:
        parts = {
            "operators": lambda: operators(device),
            "models": lambda: models(device, Path(scratch), options.emulated),
            "replay": lambda: replay(device, Path(scratch)),
            "ceilings": lambda: ceilings(device),
        }
        for name in wanted:
            if options.emulated and name in ("replay", "ceilings"):
                continue  # speed has no meaning here; that a replay has the same bits is checked in every first call
            for row in parts[name]():
                rows.append(row)
                if not options.json:
                    verdict = {None: "", True: "ok", False: "WRONG"}[row.ok]
                    print(f"{row.section:<10} {row.name:<24} {row.result:<22} {verdict:<6} {row.note}", flush=True)
    wrong = sum(row.ok is False for row in rows)
    if options.json:
        print(json.dumps({**facts(device), "rows": [asdict(row) for row in rows], "wrong": wrong}, indent=1))
    else:
        print(f"{device.name}: {sum(row.ok is True for row in rows)} ok, {wrong} wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
