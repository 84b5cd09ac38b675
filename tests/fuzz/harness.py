"""Fuzzing of what reads files and requests: mutated bytes load or raise HeadraceError, within 5 s of CPU and 256 MiB beyond their own size.

    scripts/fuzz onnx|graph|archive|rest|grpc SECONDS [--seed N]

Coverage-guided with atheris where it is installed, else by the mutator below. What breaks a rule is written to
build/fuzz/<target>-<hash>; put it into tests/fuzz/corpus/<target> with the fix. The input in hand lies in
build/fuzz/<target>.last, for crashes that end the process.
"""

from __future__ import annotations

import argparse
import faulthandler
import hashlib
import importlib
import os
import random
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
SECONDS, MEMORY = 5.0, 256 << 20
TARGETS = ("archive", "graph", "grpc", "onnx", "rest")


class Broken(AssertionError):
    """A rule that an input broke."""


def target(name: str) -> Any:
    """The module fuzz_<name>: `read(data)`, and perhaps `mutate(data, rng)` and `seeds()`."""
    sys.path.insert(0, str(HERE))
    return importlib.import_module(f"fuzz_{name}")


def corpus(name: str) -> list[bytes]:
    return [path.read_bytes() for path in sorted((HERE / "corpus" / name).iterdir())]


def check(read: Callable[[bytes], None], data: bytes) -> None:
    """Read one input. Raises Broken where it takes too long or too much, or fails with anything but HeadraceError."""
    from headrace.runtime.errors import HeadraceError

    before, start = _memory(reset=True), time.process_time()
    try:
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            read(data)
    except HeadraceError:
        pass
    except Exception as error:
        raise Broken(f"{type(error).__name__}: {error}") from error
    seconds, grown = time.process_time() - start, _memory() - before
    if seconds > SECONDS:
        raise Broken(f"took {seconds:.1f} s; allowed: {SECONDS}")
    if grown > MEMORY + len(data) and "HEADRACE_NATIVE_DIR" not in os.environ:  # sanitizers keep freed memory
        raise Broken(f"took {grown >> 20} MiB for {len(data)} bytes; allowed: {MEMORY >> 20} MiB more than these")


def _memory(reset: bool = False) -> int:
    """The largest resident size since the last reset, in bytes (Linux)."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) << 10


_NUMBERS = [
    0,
    1,
    127,
    128,
    255,
    256,
    65535,
    1 << 16,
    (1 << 31) - 1,
    1 << 31,
    (1 << 32) - 1,
    1 << 62,
    (1 << 63) - 1,
    (1 << 64) - 1,
]


def mutate(data: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    """One to four changes: bits, bytes, numbers (fixed and varint), pieces cut, doubled, moved or taken from another input."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        at = rng.randrange(len(out) + 1)
        end = min(len(out), at + rng.choice((1, 2, 4, 8, 16, 64)))
        match rng.randrange(8):
            case 0 if out:
                out[at % len(out)] ^= 1 << rng.randrange(8)
            case 1 if out:
                out[at % len(out)] = rng.randrange(256)
            case 2:
                out[at:end] = rng.choice(_NUMBERS).to_bytes(8, "little")[: rng.choice((1, 2, 4, 8))]
            case 3:
                out[at : at + rng.choice((0, 1))] = _varint(rng.choice(_NUMBERS))
            case 4:
                del out[at:end]
            case 5:
                out[at:at] = out[at:end] * rng.choice((1, 1, 2, 50))
            case 6:
                place = rng.randrange(len(out) + 1)
                out[place:place] = out[at:end]
            case _:
                other = rng.choice(others)
                begin = rng.randrange(len(other) + 1)
                out[at : at + rng.choice((0, end - at))] = other[begin : begin + rng.choice((1, 4, 16, 64, 256))]
    return bytes(out)


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes((*out, number))


def campaign(name: str, seconds: float, seed: int) -> int:
    """Mutate the corpus for so long; answers how many kinds of findings there are."""
    module, rng, pool = target(name), random.Random(seed), corpus(name)
    folder = Path("build/fuzz")
    folder.mkdir(parents=True, exist_ok=True)
    change = getattr(module, "mutate", mutate)
    found: dict[str, str] = {}
    accepted = count = 0
    start = time.monotonic()
    while time.monotonic() - start < seconds:
        data = change(rng.choice(pool), rng, pool)
        (folder / f"{name}.last").write_bytes(data)
        faulthandler.dump_traceback_later(6 * SECONDS, exit=True)
        count += 1
        try:
            check(module.read, data)
        except Broken as error:
            path = folder / f"{name}-{hashlib.sha256(data).hexdigest()[:8]}"
            if (kind := str(error)[:60]) not in found:
                path.write_bytes(data)
                found[kind] = f"{path}: {error}"
                print(found[kind], flush=True)
        else:
            accepted += 1
            if len(data) < 4096 and rng.random() < 0.02:
                pool.append(data)  # drift further from the seeds
        faulthandler.cancel_dump_traceback_later()
    print(f"{name}: {count} inputs in {time.monotonic() - start:.0f} s, {len(found)} kinds of findings")
    return len(found)


def guided(name: str, seconds: float, seed: int, atheris: Any) -> None:
    """The same with atheris, which instruments headrace and follows coverage; new inputs go to build/fuzz/corpus-<target>."""
    with atheris.instrument_imports(include=["headrace"]):
        module = target(name)
    change = getattr(module, "mutate", None)
    kept = Path(f"build/fuzz/corpus-{name}")
    kept.mkdir(parents=True, exist_ok=True)
    options = [
        sys.argv[0],
        str(kept),
        str(HERE / "corpus" / name),
        f"-max_total_time={int(seconds)}",
        f"-seed={seed + 1}",
    ]
    options += [
        f"-timeout={int(SECONDS)}",
        "-rss_limit_mb=2048",
        f"-artifact_prefix=build/fuzz/{name}-",
        "-max_len=65536",
    ]
    more: dict[str, Any] = {}
    if change is not None:
        pool = corpus(name)

        def custom(data: bytes, limit: int, seed: int) -> bytes:
            return bytes(change(data, random.Random(seed), pool))[:limit]

        more["custom_mutator"] = custom
    atheris.Setup(options, lambda data: check(module.read, data), **more)
    atheris.Fuzz()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("seconds", type=float)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--plain", action="store_true", help="the mutator of this file, even where atheris is installed"
    )
    options = parser.parse_args()
    if not options.plain:
        try:
            import atheris
        except ImportError:
            print("atheris is not installed: mutating without coverage")
        else:
            guided(options.target, options.seconds, options.seed, atheris)
            return 0
    return campaign(options.target, options.seconds, options.seed) > 0


if __name__ == "__main__":
    raise SystemExit(main())
