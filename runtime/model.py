"""A loaded model: its interface, `run`, `verify`; and `load`, which finds the reader of a file by its suffix."""

from __future__ import annotations

import collections
import functools
import importlib
import importlib.util
import os
import threading
import weakref
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypedDict

from headrace.runtime import devices
from headrace.runtime.collector import paused
from headrace.runtime.errors import HeadraceError, InputError, LoadError
from headrace.runtime.facts import Facts
from headrace.runtime.feeds import check_feeds
from headrace.runtime.golden import VerifyReport, compare_golden
from headrace.runtime.graph import Graph, Program, State
from headrace.runtime.interface import Contents, Golden, Opened, TensorSpec
from headrace.runtime.memory import Memory, memory_of
from headrace.runtime.notes import Notes
from headrace.runtime.packs import LIMIT, Loaded, Made, Packs
from headrace.runtime.passes import check_names, portable
from headrace.runtime.profile import ProfileRow, profile_nodes, trace_events
from headrace.runtime.source import open_source

if TYPE_CHECKING:
    from headrace.runtime._native import Packing, Recipe
    from headrace.runtime.cuda.interface import Device
    from headrace.runtime.devices import Placed
    from headrace.runtime.learnt import Learnt
    from headrace.runtime.rows import RowProof
    from headrace.runtime.session import Session


class KernelRow(TypedDict):
    """What runs one node: the kernel's name, or "reference" and the reason why there is no kernel."""

    operator: str
    node: str
    kernel: str
    reason: str


class Model:
    """A graph ready to run. `run` may be called from many threads at once."""

    def __init__(
        self,
        source: Graph | Opened,
        *,
        entry: str = "",
        threads: int = 0,
        optimize: bool = True,
        placed: Placed | None = None,
        precision: str | None = None,
        without: Collection[str] = (),
        checked: bool = False,
        packs: Packs | None = None,
    ) -> None:
        """`entry`: which entry point of what was opened; "": the main one."""
        self._opened = source if isinstance(source, Opened) else Opened(Contents(Program({source.name: source})))
        self._entry, self._placed, self._precision = entry, placed, precision
        self._entries: dict[str, Model] = {}
        self._options: dict[str, Any] = {
            "threads": threads, "optimize": optimize, "placed": placed, "precision": precision, "without": without,
            "checked": checked, "packs": packs,
        }  # fmt: skip
        self._lock = threading.Lock()
        on_device = placed is not None and placed.device is not None

        def make(packing: Packing | None) -> Made:
            facts = Facts.of(self._opened, entry)
            prepared = facts.entry in self._opened.optimized
            learnt: list[dict[str, Any]] = []

            def meanwhile() -> None:
                self._opened.proof()
                if packs is not None and packs.keeps:
                    learnt.append(_learn(self._opened.program.entries[facts.entry]).encode())

            program, recipe = _program(
                self._opened.runs(facts.entry), threads, optimize and not prepared, placed, precision, without, checked,
                packing, meanwhile,
            )  # fmt: skip
            return Made(program, recipe, replace(facts, learnt=learnt[0]) if learnt else facts)

        if packs is None or on_device:
            program, _, facts = make(None)
            found = Loaded(program, facts, None)
        else:
            found = packs.load(entry, threads, make)
        self._program, self._said, self._shared = found
        if hasattr(self._program, "set_rows"):
            alive = weakref.ref(self)
            self._program.set_rows(lambda: (model := alive()) is not None and model._learnt.apart)

    @functools.cached_property
    def _facts(self) -> Facts:
        if not isinstance(self._said, bytes):
            return self._said
        try:
            return Facts.decode(self._said)
        except ValueError:  # what was kept costs reading the file when it is wrong, nothing else
            return Facts.of(self._opened, self._entry)

    @functools.cached_property
    def _learnt(self) -> Learnt:
        return self._kept_learnt() or _learn(self.graph)

    def _kept_learnt(self) -> Learnt | None:
        said = self._facts.learnt
        return None if said is None else importlib.import_module("headrace.runtime.learnt").Learnt.decode(said)

    @property
    def _name(self) -> str:
        return self._facts.entry

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return self._facts.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return self._facts.outputs

    @property
    def entries(self) -> tuple[str, ...]:
        """Names of the entry points of the file: see `entry`."""
        return self._facts.entries

    @property
    def golden(self) -> Golden | None:
        """The recorded answers in the file, those of its main entry point."""
        return None if self._entry or not self._facts.golden else self._opened.golden

    @property
    def graph(self) -> Graph:
        """The graph as it was before passes; read from the file where nobody has asked for it yet."""
        return self._opened.program.entries[self._name]

    def run(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        """One inference: arrays by input name to arrays by output name. Thread-safe; releases the interpreter lock, other than for
        models so small that handing it over would take as long as they do.

        Inputs are borrowed for the call, outputs are new arrays. Strings are object arrays, sequences lists, maps
        dicts, an absent optional None. Raises InputError where a feed does not fit, RunError where a node fails.
        """
        program = self._program
        if program is None:
            raise HeadraceError("the model is closed")
        outputs: dict[str, Any] | None = program.run(feeds)  # None: something about the feeds is unusual
        if outputs is None:
            outputs = program.run(check_feeds(self.inputs, feeds))
        if outputs is None:
            raise InputError("the feeds do not fit the model's interface: " + ", ".join(map(str, self.inputs)))
        return outputs

    __call__ = run

    def entry(self, name: str) -> Model:
        """One of the entry points, `entries`, as a model of its own. Raises InputError naming those that exist."""
        if name not in self.entries:
            raise InputError(f"there is no entry point {name!r}; there are {', '.join(self.entries)}")
        with self._lock:
            if name == self._name:
                return self
            if name not in self._entries:
                self._entries[name] = Model(self._opened, entry=name, **self._options)
            return self._entries[name]

    def session(self, initial: Mapping[str, Any] | None = None) -> Session:
        """What keeps the model's states between calls: `session().run(feeds)`. `initial`: state input -> first value."""
        from headrace.runtime.session import Session

        return Session(self, initial)

    @property
    def rows(self) -> RowProof:
        """Whether row i of every output depends on row i of the inputs only, and if not, why."""
        return self._learnt.rows

    @property
    def states(self) -> tuple[State, ...]:
        """The inputs that a caller keeps between runs, each with the output that is its next value."""
        return tuple(self._opened.runs(self._name).states) if self._facts.stateful else ()

    @property
    def fed_rows(self) -> RowProof:
        """`rows` for a caller that gives every row its own states."""
        return self._learnt.fed

    @property
    def properties(self) -> dict[str, str]:
        """What the file says about itself, plus how it runs here: `precision`, that of its weights, or "bf16" where products
        round to it; `device`, `device_reason` where another one was possible; and `fallbacks`, the operators that another
        device than the CPU leaves to the CPU's reference, with reasons."""
        found = {**self._facts.properties, **(self._placed.properties if self._placed is not None else {})}
        found["precision"] = self._precision or self._facts.precision
        left: dict[str, list[str]] = {}
        for row in getattr(self._program, "kernels", list)():
            if row["reason"]:
                left.setdefault(row["reason"], []).append(row["operator"])
        if left:
            found["fallbacks"] = "; ".join(f"{_counted(kinds)} ({reason})" for reason, kinds in left.items())
        return found

    def kernels(self) -> list[KernelRow]:
        """Which kernel runs each node here. On another device than the CPU: for the input shapes planned last, or before the
        first call for small sizes that fit the model."""
        program = self._program
        if program is None:
            raise HeadraceError("the model is closed")
        if hasattr(program, "kernels"):
            rows: list[KernelRow] = program.kernels()
            return rows
        nodes = program.nodes() if hasattr(program, "nodes") else [(n.kind, n.label(), "") for n in self.graph.nodes]
        return [
            KernelRow(
                operator=kind, node=label, kernel=variant or "reference", reason="" if variant else "no native kernel"
            )
            for kind, label, variant in nodes
        ]

    @property
    def weight_bytes(self) -> int:
        """Bytes of the model's constants, mapped from its file or in memory."""
        learnt = self._kept_learnt()
        return self.graph.weight_bytes if learnt is None else learnt.weight_bytes

    @property
    def arena_bytes(self) -> int:
        """Bytes of the values on the way that calls have had so far, kept for the next calls: an arena for each call at a
        time. 0 where the native executor does not run it."""
        return int(getattr(self._program, "arena_bytes", 0))

    def verify(self) -> VerifyReport:
        """Run the golden data that came with the file and compare."""
        if self.golden is None or not self.golden.inputs:
            return VerifyReport(True, "no golden data to verify")
        return compare_golden(self, self.golden)

    def profile(self, feeds: Mapping[str, Any], *, runs: int = 10) -> Sequence[ProfileRow]:
        """Time every node over `runs` runs (one more before them, untimed), longest first. Nodes are those that run here:
        fused ones stand for several of the graph. Calls of `run` by other threads meanwhile count as well. On the CPU the
        rows are NodeRow: also what was done in that time, beside what the machine can do.

        Raises what `run` raises, and HeadraceError for less than one run or without the native extension.
        """
        if runs < 1:
            raise HeadraceError(f"runs is {runs}; allowed: 1 and more")
        self.run(feeds)
        program = self._program
        if hasattr(program, "profile_feeds"):
            on_device: list[ProfileRow] = program.profile_feeds(feeds, runs)
            return on_device
        if not hasattr(program, "profile_rows"):
            raise HeadraceError("a profile needs an open model and the native extension")
        with self._lock:  # one profile at a time
            return profile_nodes(program, lambda: self.run(feeds), runs)

    def trace(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        """One run (after an untimed one) as a document of Chrome's trace event format: `json.dump` it into a file and open
        that in ui.perfetto.dev. Raises as `profile` does."""
        self.run(feeds)
        if not hasattr(self._program, "events"):
            raise HeadraceError("a trace needs an open model on the CPU and the native extension")
        with self._lock:
            return trace_events(self._program, lambda: self.run(feeds), self._name)

    def memory(self, shapes: Mapping[str, Sequence[int]] | None = None, *, batch: int = 1) -> Memory:
        """How much memory the model and one call take, for inputs of these shapes (by name; else `batch` rows, 1 for other
        free dimensions). Nothing is run. Raises InputError where the shapes do not fit."""
        return memory_of(self._program, self.inputs, self.weight_bytes, shapes, batch, packs=self._shared)

    @property
    def program(self) -> Any:
        """The native program, for the server's engine; None where there is none, or where its interface has objects."""
        program = self._program
        return program if hasattr(program, "door") and program.door() is not None else None

    def close(self) -> None:
        """Release the program; running calls finish first. Further calls of `run` are errors."""
        program, self._program, self._shared = self._program, None, None
        getattr(program, "close", lambda: None)()

    def __enter__(self) -> Model:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        inputs, outputs = ", ".join(map(str, self.inputs)), ", ".join(map(str, self.outputs))
        return f"Model({self._name}: ({inputs}) -> ({outputs}))"


def _counted(names: list[str]) -> str:
    """ "Gather, Softmax x2": each name once, with how often it came."""
    counts = collections.Counter(names)
    return ", ".join(name if count == 1 else f"{name} x{count}" for name, count in counts.items())


def _learn(graph: Graph) -> Learnt:
    learnt: Learnt = importlib.import_module("headrace.runtime.learnt").Learnt.of(graph)  # loads do without
    return learnt


class _Reference:
    """The readable executor behind the interface of a native program."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph

    def run(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        from headrace.runtime.executor import run_graph

        return run_graph(self._graph, feeds)


def _program(
    graph: Graph,
    threads: int,
    optimize: bool,
    placed: Placed | None,
    precision: str | None,
    without: Collection[str],
    checked: bool,
    packing: Packing | None,
    meanwhile: Callable[[], None],
) -> tuple[Any, Recipe | None]:
    """The program that runs `graph`: on the device where one was chosen, native where the extension is built, or else by
    the reference; and its recipe where that can be kept. `meanwhile` is done while a thread packs."""
    device = None if placed is None else placed.device
    if device is None and importlib.util.find_spec("headrace.runtime._native") is None:
        return _Reference(graph), None  # a source tree without a build
    if optimize:
        from headrace.runtime import passes

        graph = passes.optimize(graph, skip=without, checked=checked)
    if device is not None:
        from headrace.runtime.cuda.executor import CudaProgram

        return CudaProgram(graph, device), None
    from headrace.runtime.lower import lowered

    return lowered(graph, threads, precision=precision, without=without, packing=packing, meanwhile=meanwhile)


@paused()
def load(
    source: Any,
    *,
    device: str | Device = "auto",
    threads: int = 0,
    precision: str | None = None,
    without: Collection[str] = (),
    cache: bool | int = False,
) -> Model:
    """Load a model: a path to `.hr` or `.onnx`, the bytes of such a file, an `onnx.ModelProto`, or a `Graph`.

    `device`: "cpu"; "cuda" or "cuda:N", an NVIDIA GPU, a LoadError with the cause where it cannot be used; "auto", the GPU
    where there is one, else the CPU, with the reason in `properties`; "emulated", the CUDA kernels on the CPU, for tests; or a
    Device of headrace.runtime.cuda.interface.
    precision="bf16" lets products with constant weights and convolutions round their factors to bfloat16 (at most 2**-8, one
    part in 256, each; sums stay float32) and keep what lies between convolutions in bfloat16, on CPUs that multiply it; elsewhere, and
    by default, all is float32.
    `without` names passes to leave out, portable ones and those of this machine (`headrace inspect MODEL --passes` lists them).
    Loads of the same archive share what kernels pack of its weights; with `cache` that is also kept in a file of the cache
    folder ($HEADRACE_CACHE_DIR), with the program itself, which is as large as the weights and which this and the next load map, so that it is no memory of
    this process (CPU only); all such files together have at most 8 GiB, or as many bytes as `cache` says. An archive that was
    proven to be what was written is then noted there, too: within a day it is not read in full again while nobody writes it.
    `threads=0` takes HEADRACE_THREADS, or else what the process may use (CPU affinity and cgroup quota). Raises LoadError for a file that is
    missing, broken or of an unknown kind, UnsupportedOperator (a LoadError) listing operators that do not exist here.
    """
    placed = devices.choose(device)
    if precision not in (None, "float32", "bf16"):
        raise LoadError(f"precision {precision!r} is not available; allowed: None, 'float32', 'bf16'")
    if precision == "float32":
        precision = None
    if isinstance(threads, bool) or not isinstance(threads, int) or not 0 <= threads <= 1024:
        raise LoadError(f"threads must be an integer from 0 (as many as allowed) to 1024, not {threads!r}")
    threads = threads or _threads_asked()
    without = (without,) if isinstance(without, str) else tuple(without)
    if without:
        try:
            check_names(without)
        except ValueError as error:
            raise LoadError(str(error)) from error
    if isinstance(source, Graph):
        return Model(source, threads=threads, placed=placed, precision=precision, without=without)
    limit = LIMIT if cache is True else max(0, cache)
    notes = Notes.of("checked") if limit else None
    ready = not without or not any(name in without for name, _ in portable())
    opened = open_source(source, optimized=ready, notes=notes)
    packs = None
    if opened.digest:
        identity = "\n".join((opened.digest, precision or "", *sorted(set(without))))
        packs = Packs(identity, limit, opened.proof, opened.data)
    try:
        model = Model(
            opened, threads=threads, placed=placed, precision=precision, without=without, checked=True, packs=packs
        )
    except BaseException:
        opened.proof()  # damage is told before what follows from it
        raise
    try:
        opened.proof()
    except BaseException:
        model.close()
        raise
    opened.leave()
    return model


def _threads_asked() -> int:
    """HEADRACE_THREADS, or 0 where it is not set."""
    asked = os.environ.get("HEADRACE_THREADS") or "0"
    if not asked.isdecimal() or int(asked) > 1024:
        raise LoadError(f"HEADRACE_THREADS is {asked!r}; allowed: an integer from 0 (as many as allowed) to 1024")
    return int(asked)
