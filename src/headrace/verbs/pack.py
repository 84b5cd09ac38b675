"""pack: a model becomes one checked file.

The graph is captured, checked, optimized by the portable passes, written with golden inputs and outputs, loaded back
from the file, and compared with the model it came from. Only then is the file put in its place.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from headrace.runtime.errors import HeadraceError, InputError
from headrace.runtime.golden import difference
from headrace.runtime.graph import Graph, Program
from headrace.runtime.interface import Golden, TensorSpec
from headrace.runtime.model import Model, load
from headrace.verbs.deviation import blame
from headrace.verbs.preprocess import examples
from headrace.verbs.preprocess import preprocess as surround
from headrace.verbs.run import random_feeds

# The floor of the golden bound between CPU tiers, in units of each output's largest magnitude (float32 kernels that
# sum in another order).
RELATIVE_FLOOR = 1e-4
ABSOLUTE_FLOOR = 1e-5


class PackError(HeadraceError):
    """The packed file does not give the answers of the model it was made from. `case`: the golden case that shows it."""

    case: int | None = None


@dataclass(frozen=True)
class PackReport:
    """What `pack` did. `deviation` is the largest absolute difference between the packed model and its origin over the
    golden data; `accuracy` a share between 0 and 1, or None; `notes` what was done that was not asked for."""

    path: str
    bytes: int
    inputs: dict[str, str]
    outputs: dict[str, str]
    operators: int
    golden: int
    deviation: float
    accuracy: float | None
    notes: tuple[str, ...] = ()


Arrays = Mapping[str, np.ndarray]


def pack(
    model: Any,
    example_inputs: Any = None,
    path: str | Path = "model.hr",
    *,
    golden: int | Sequence[Arrays] = 4,
    expect: Sequence[Arrays] | None = None,
    seed: int = 0,
    rtol: float = RELATIVE_FLOOR,
    atol: float = ABSOLUTE_FLOOR,
    evaluate: tuple[Arrays, np.ndarray] | None = None,
    properties: Mapping[str, str] | None = None,
    members: Mapping[str, bytes] | None = None,
    preprocess: Mapping[str, Any] | str | Path | None = None,
    created: str | None = None,
    maker: str = "the model it was made from",
    values: Callable[[Arrays], Arrays] | None = None,
) -> PackReport:
    """Write `model` as a `.hr` package at `path`.

    model: an `nn.Module` (captured by `jit.trace` in evaluation mode), what `jit.script` answers (a Scripted is captured
        with its control flow, an Exported may have several entry points), a Graph or Program, or the path of an `.onnx` or
        `.hr` file.
    example_inputs: what the Module is called with (an array or a tuple of them); dimension 0 becomes the batch.
    golden: how many golden cases to make from `seed` (inputs shaped and ranged like the example), or the inputs
        themselves, as dicts by input name.
    expect: outputs of somebody else for exactly these golden inputs: stored as the golden ones and compared within
        rtol and atol.
    evaluate: (inputs by name, labels): the packed model's top-1 accuracy on them is measured and stored.
    members: further files of the package ("post/labels.txt" -> bytes).
    preprocess: how inputs are made of images and texts, as operators of the package (see `verbs/preprocess.py`): a dict,
        or the path of a TOML file. Golden inputs are then those of the whole.
    maker: what messages call the origin; values: golden inputs to what it computes on the way, by names of the graph.

    Raises PackError where the packed model's answers differ from the origin's by more than the bound, naming the first
    node that deviates (nothing is written then), and the capture's own errors.
    """
    program, reference, example = _capture(model, example_inputs)
    if preprocess is not None:
        entries = {
            name: surround(graph, preprocess) if graph is program.main else graph
            for name, graph in program.entries.items()
        }
        program, reference, example = Program(entries, program.metadata), None, None
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    facts = dict(properties or {})
    with tempfile.TemporaryDirectory(prefix=".pack-", dir=path.parent) as folder:
        trial = Path(folder, path.name)
        _save(program, trial, None, facts, members, created)
        packed = load(trial)
        try:
            if isinstance(golden, int):
                cases = _golden_inputs(packed, golden, seed, example, preprocess)
            else:
                cases = [dict(feeds) for feeds in golden]
            answers = [packed.run(feeds) for feeds in cases]
            origin = answers
            if expect is not None:
                origin = [dict(outputs) for outputs in expect]
            elif reference is not None:
                origin = [reference(feeds) for feeds in cases]
            try:
                deviation = _compare(answers, origin, rtol, atol)
            except PackError as error:
                if error.case is None:
                    raise
                feeds = cases[error.case]
                start = blame(program.main, feeds, rtol, atol, values(feeds) if values else None, maker)
                raise PackError(f"{error}; {start}") from None
            accuracy = top1(packed, *evaluate) if evaluate else None
            specs = _texts(packed)
        finally:
            packed.close()
        if accuracy is not None and evaluate is not None:
            facts["accuracy.top1"] = f"{accuracy:.6f}"
            facts["accuracy.samples"] = str(len(evaluate[1]))
        facts["golden.deviation"] = f"{deviation:.3e}"
        stored = Golden(cases, origin if expect is not None else answers, rtol, atol)
        _save(program, trial, stored if cases else None, facts, members, created)
        _prove(trial)
        trial.replace(path)
    operators = sum(1 for _ in program.main.block.walk())
    return PackReport(str(path), path.stat().st_size, specs[0], specs[1], operators, len(cases), deviation, accuracy)


def _capture(
    model: Any, example: Any
) -> tuple[Program, Callable[[Arrays], dict[str, np.ndarray]] | None, Arrays | None]:
    """The program, a function that gives the origin's answers (None: the program is its own origin), the example feeds."""
    if isinstance(model, Graph):
        return Program({model.name: model}), None, None
    if isinstance(model, Program):
        return model, None, None
    if isinstance(model, str | Path):
        from headrace.runtime.source import open_source

        return open_source(Path(model)).program, None, None
    from headrace.jit import Exported, Scripted, trace

    if isinstance(model, Exported):
        exported = next(entry for entry in model.entries.values() if entry.graph is model.program.main)
    elif example is None:
        raise InputError("a Module is captured by running it: give example_inputs (an array, or a tuple of arrays)")
    else:
        inputs = tuple(example) if isinstance(example, tuple | list) else (example,)
        exported = model.capture(inputs) if isinstance(model, Scripted) else trace(model, inputs)
        if exported.fixed_batch:
            raise InputError(
                f"the model takes no other batch than the example's: with one row more it ends with {exported.fixed_batch}. "
                "Take sizes from the input (x.shape[0], or -1 in reshape); or fix the batch on purpose: "
                "headrace.pack(torch.jit.trace(model, example_inputs, dynamic={name: {0: None}}), path=...)"
            )
    names = [value.name for value in exported.graph.inputs]
    outputs = [value.name for value in exported.graph.outputs]

    def eager(feeds: Arrays) -> dict[str, np.ndarray]:
        return dict(zip(outputs, exported.eager(*(feeds[name] for name in names)), strict=True))

    return exported.program, eager, dict(zip(names, exported.examples, strict=True))


def _golden_inputs(
    model: Model, count: int, seed: int, example: Arrays | None, spec: Mapping[str, Any] | str | Path | None
) -> list[dict[str, np.ndarray]]:
    if spec is not None:
        texts = [one for one in model.inputs if one.dtype == "string" and one.shape]
        rows = {one.name: one.shape[0] if isinstance(one.shape[0], int) else 2 for one in texts if one.shape}
        rest = [one for one in model.inputs if one not in texts]
        return [random_feeds(rest, seed + i, batch=2) | examples(spec, rows, seed + i) for i in range(count)]
    cases = [dict(example)] if example is not None and count else []
    return cases + [random_feeds(model.inputs, seed + i, batch=2, like=example) for i in range(count - len(cases))]


def _save(
    program: Program,
    path: Path,
    golden: Golden | None,
    facts: Mapping[str, str],
    members: Mapping[str, bytes] | None,
    created: str | None,
) -> None:
    from headrace.serializer import archive

    archive.save(
        program, path, golden=golden, properties=dict(facts), extra_members=dict(members or {}), created=created,
        optimized=True,
    )  # fmt: skip


def _compare(answers: Sequence[Arrays], origin: Sequence[Arrays], rtol: float, atol: float) -> float:
    """The largest absolute deviation; PackError where one output is out of bound."""
    if len(answers) != len(origin):
        raise PackError(f"{len(answers)} golden inputs but {len(origin)} expected outputs: give one for each")
    worst = 0.0
    for case, (ours, theirs) in enumerate(zip(answers, origin)):
        for name, want in theirs.items():
            if name not in ours:
                raise PackError(f"the expected output {name!r} is not an output of the model; it has {', '.join(ours)}")
            seen = difference(ours[name], want, rtol, atol)
            if seen.message:
                located = PackError(f"output {name!r} of golden case {case} {seen.message}")
                located.case = case
                raise located
            worst = max(worst, seen.error)
    return worst


def top1(model: Model, inputs: Arrays, labels: np.ndarray, batch: int = 256) -> float:
    """Share of rows whose largest value (or whose integer answer) in the first output is the label."""
    labels = np.asarray(labels).reshape(-1)
    name, right = model.outputs[0].name, 0
    for start in range(0, len(labels), batch):
        part = slice(start, start + batch)
        answer = model.run({key: np.ascontiguousarray(array[part]) for key, array in inputs.items()})[name]
        got = answer.argmax(-1) if answer.dtype.kind == "f" else answer
        right += int((got.reshape(-1) == labels[part]).sum())
    return right / max(1, len(labels))


def _prove(path: Path) -> None:
    """Open the written file as a user would and re-run its golden data."""
    from headrace.verbs.verify import verify

    report = verify(path)
    if not report.ok:
        raise PackError(f"the packed file does not verify: {report.message}")


def _texts(model: Model) -> tuple[dict[str, str], dict[str, str]]:
    inputs, outputs = ({spec.name: _text(spec) for spec in specs} for specs in (model.inputs, model.outputs))
    return inputs, outputs


def _text(spec: TensorSpec) -> str:
    return f"{spec.dtype}[{', '.join(map(str, spec.shape or ()))}]"
