"""A model of the runtime's shape whose file is one line of text: the behaviour it has.

The repository then needs no real archive: `model.hr` holds, for example, `identity FP32`.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from headrace.runtime.background import gives_way
from headrace.runtime.errors import HeadraceError

DTYPES = {
    "BOOL": "bool", "UINT8": "uint8", "UINT16": "uint16", "UINT32": "uint32", "UINT64": "uint64", "INT8": "int8",
    "INT16": "int16", "INT32": "int32", "INT64": "int64", "FP16": "float16", "FP32": "float32", "FP64": "float64",
    "BF16": "bfloat16", "BYTES": "string",
}  # fmt: skip


@dataclass(frozen=True)
class Spec:
    name: str
    dtype: str
    shape: tuple[int | str | None, ...] | None


@dataclass(frozen=True)
class Rows:
    independent: bool = True
    reason: str = ""


@dataclass(frozen=True)
class Report:
    ok: bool = True
    message: str = "no golden data"
    max_error: float = float("nan")
    outputs: Mapping[str, tuple[float, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class State:
    input: str
    output: str
    initial: np.ndarray | None = None


@dataclass
class FakeModel:
    inputs: tuple[Spec, ...]
    outputs: tuple[Spec, ...]
    function: Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]
    rows: Rows = Rows()
    report: Report = Report()
    states: tuple[State, ...] = ()
    properties: dict[str, str] = field(default_factory=dict)
    weight_bytes: int = 0
    calls: list[int] = field(default_factory=list)  # rows of every run
    closed: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        assert not self.closed
        first = next(iter(feeds.values()), np.empty(0))
        with self.lock:
            self.calls.append(first.shape[0] if first.ndim else 1)
        return self.function(feeds)

    def verify(self) -> Report:
        return self.report

    def close(self) -> None:
        self.closed = True


def identity(datatype: str, width: int | str = "n", rows: Rows = Rows()) -> FakeModel:
    dtype = DTYPES[datatype]
    return FakeModel(
        (Spec("x", dtype, ("batch", width)),),
        (Spec("y", dtype, ("batch", width)),),
        lambda feeds: {"y": feeds["x"].copy()},
        rows,
    )


def add() -> FakeModel:
    """Two FP32 inputs of shape [batch, 4], their sum and difference: the form of Triton's `simple`."""
    spec = lambda name: Spec(name, "float32", ("batch", 4))  # noqa: E731
    return FakeModel(
        (spec("a"), spec("b")),
        (spec("sum"), spec("difference")),
        lambda feeds: {"sum": feeds["a"] + feeds["b"], "difference": feeds["a"] - feeds["b"]},
    )


def slow(seconds: float) -> FakeModel:
    model = identity("FP32", 4)

    def run(feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        time.sleep(seconds)
        return {"y": feeds["x"] * 2}

    model.function = run
    return model


def poison() -> FakeModel:
    """Raises when any row holds 666."""
    model = identity("FP32", 4)

    def run(feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        if (feeds["x"] == 666).any():
            raise RuntimeError("secret detail at /some/path")
        return {"y": feeds["x"] * 2}

    model.function = run
    return model


def mortal(datatype: str = "FP32") -> FakeModel:
    """Twice x; where a row holds 666 the process dies, 667: it loops for ever, 668: it stops, 669: it raises."""
    model = identity(datatype, 4)

    def run(feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        texts = feeds["x"].dtype == object
        values = {int(v) for v in feeds["x"].ravel().tolist()}
        if 666 in values:
            os.kill(os.getpid(), signal.SIGKILL)
        while 667 in values:
            pass
        if 668 in values:
            os.kill(os.getpid(), signal.SIGSTOP)
        if 669 in values:
            raise RuntimeError("secret detail at /some/path")
        return {"y": feeds["x"] + feeds["x"] if texts else feeds["x"] * 2}

    model.function = run
    return model


def last() -> FakeModel:
    """Its first run ends the process."""
    model = identity("FP32", 4)
    model.function = lambda feeds: os.abort()
    return model


def endless() -> FakeModel:
    """Never ends where it is fed zeros."""
    model = identity("FP32", 4)

    def run(feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        while not feeds["x"].any():
            time.sleep(0.01)
        return {"y": feeds["x"] * 2}

    model.function = run
    return model


MEETING = threading.Barrier(2)


def meet() -> FakeModel:
    """Runs only while another one of its kind runs, too."""
    model = identity("FP32", 4)

    def run(feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        MEETING.wait(10)
        return {"y": feeds["x"] * 2}

    model.function = run
    return model


def scale(factor: float) -> FakeModel:
    model = identity("FP32", 4)
    model.function = lambda feeds: {"y": feeds["x"] * np.float32(factor)}
    return model


def misbehave(kind: str) -> None:
    """What may happen while a package is loaded."""
    if kind == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    while kind == "loop":
        pass
    if kind == "eat":
        kept = [bytearray(1 << 26) for _ in range(1024)]
        raise AssertionError(f"{len(kept)} x 64 MiB were to be had")
    if kind == "exit":
        os._exit(3)
    if kind == "way":
        raise HeadraceError(f"gives way: {gives_way()}")


def accumulate(seconds: float, declared: bool, shape: tuple[int | str | None, ...] = ("batch", 4)) -> FakeModel:
    """y = x + total, which is the next total; a state that the model declares, or not."""

    def run(feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        time.sleep(seconds)
        if (feeds["x"] == 666).any():
            raise RuntimeError("secret detail")
        total = feeds["x"] + feeds["total"]
        return {"y": total.copy(), "total_next": total}

    rows = Rows(shape[0] == "batch", "it has one row")
    model = FakeModel(
        (Spec("x", "float32", shape), Spec("total", "float32", shape)),
        (Spec("y", "float32", shape), Spec("total_next", "float32", shape)),
        run,
        rows,
    )
    model.states = (State("total", "total_next"),) if declared else ()
    return model


def count(seconds: float) -> FakeModel:
    """The next number of a row of tokens, and how many tokens were seen: a state."""

    def run(feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        time.sleep(seconds)
        seen = feeds["seen"] + feeds["token"].shape[1]
        if (feeds["token"] == 666).any():
            raise RuntimeError("secret detail")
        return {"next": feeds["token"][:, -1] + 1, "length": seen.copy(), "seen_next": seen}

    model = FakeModel(
        (Spec("token", "int64", ("batch", "n")), Spec("seen", "int64", ("batch", 1))),
        (
            Spec("next", "int64", ("batch",)),
            Spec("length", "int64", ("batch", 1)),
            Spec("seen_next", "int64", ("batch", 1)),
        ),
        run,
    )
    model.states = (State("seen", "seen_next"),)
    return model


def flood(width: int) -> FakeModel:
    """Counts, and tells the count `width` times."""

    def run(feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        found = feeds["token"][:, -1] + 1
        return {"next": found, "much": np.repeat(found[:, None].astype(np.float32), width, 1)}

    return FakeModel(
        (Spec("token", "int64", ("batch", 1)),),
        (Spec("next", "int64", ("batch",)), Spec("much", "float32", ("batch", width))),
        run,
    )


def controlled(corrid: str) -> FakeModel:
    """Answers what it was told of the sequence: start, end, ready as one row, and the id."""
    flags = ("START", "END", "READY")
    column = ("batch", 1)

    def run(feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {
            "told": np.concatenate([feeds[name].astype(np.float32) for name in flags], 1),
            "who": feeds["CORRID"],
        }

    return FakeModel(
        (
            Spec("x", "float32", column),
            *(Spec(name, "float32", column) for name in flags),
            Spec("CORRID", corrid, column),
        ),
        (Spec("told", "float32", ("batch", 3)), Spec("who", corrid, column)),
        run,
    )


def load(path: Path) -> FakeModel:
    kind, *words = path.read_text().split()
    misbehave(kind)
    if kind == "identity":
        return identity(*words)
    if kind == "fixed":
        return identity("FP32", int(words[0]))
    if kind == "accumulate":
        return accumulate(float(words[0]), words[1] == "declared", ("batch", 4) if len(words) < 3 else (1, 4))
    if kind == "count":
        return count(float(words[0]))
    if kind == "meet":
        return meet()
    if kind == "last":
        return last()
    if kind == "endless":
        return endless()
    if kind == "flood":
        return flood(int(words[0]))
    if kind == "controlled":
        return controlled(words[0])
    if kind == "dependent":
        return identity("FP32", "n", Rows(False, "node 'mean' mixes rows"))
    if kind == "add":
        return add()
    if kind == "slow":
        return slow(float(words[0]))
    if kind == "poison":
        return poison()
    if kind == "mortal":
        return mortal(*words)
    if kind == "scale":
        return scale(float(words[0]))
    if kind == "golden":
        model = identity("FP32")
        model.report = Report(words[0] == "good", f"output 'y' is off by 0.5, bound 0.001 ({words[0]})", 0.5)
        return model
    raise ValueError(f"unknown kind {kind!r}")


def repository(root: Path, models: Mapping[str, str]) -> Path:
    """A folder with version 1 of every model, or of `name/version`."""
    for name, text in models.items():
        name, _, version = name.partition("/")
        place = root / name / (version or "1")
        place.mkdir(parents=True, exist_ok=True)
        (place / "model.hr").write_text(text)
    return root
