"""ONNX files from Modules: `headrace.onnx.export(model, args, "net.onnx")`.

The Module is captured by `headrace.jit.trace`, written by `serializer.onnx.save`, read back, run, and compared with what
the Module itself answers; where onnxruntime is installed, with that too.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from headrace.runtime.errors import HeadraceError
from headrace.runtime.graph import Graph, Program

__all__ = ["Report", "export", "load"]

# What torch.onnx.export takes and what makes no difference here.
_IGNORED = frozenset(
    {
        "verbose",
        "export_params",
        "do_constant_folding",
        "keep_initializers_as_inputs",
        "training",
        "dynamo",
        "optimize",
        "verify",
    }
)


@dataclass(frozen=True)
class Report:
    """What an export made. `errors`: runner ("headrace", "onnxruntime") -> largest absolute difference to the Module."""

    path: str
    opset: int
    nodes: int
    bytes: int
    errors: dict[str, float]

    def __str__(self) -> str:
        compared = ", ".join(f"{runner} within {error:.2g}" for runner, error in self.errors.items()) or "not compared"
        return f"{self.path}: {self.nodes} nodes, opset {self.opset}, {self.bytes} bytes; {compared}"


def export(
    model: Any,
    args: Any = None,
    f: str | os.PathLike[str] = "",
    *,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    dynamic_axes: Mapping[str, Mapping[int, str] | Sequence[int]] | None = None,
    opset_version: int | None = None,
    external_data: bool = False,
    functions: bool = True,
    rtol: float = 1e-3,
    atol: float = 1e-4,
    **options: Any,
) -> Report:
    """Write a Module or what `jit.script` answers (with example arguments), an `Exported`, a Program or a Graph as an ONNX file.

    Dimension 0 of every input is symbolic; `dynamic_axes` ({input: {axis: name}} or {input: [axis]}) names it and makes
    others symbolic. `opset_version` is 13 or newer, None the default of the writer. Operators of headrace's own are calls of
    functions in the file; without `functions` their bodies take their place. Example arguments are run through the file, and
    HeadraceError is raised where an answer differs by more than atol + rtol * |value|; nothing is left then. Raises
    GraphError naming a node that ONNX cannot say.
    """
    unknown = sorted(set(options) - _IGNORED)
    if unknown:
        raise TypeError(f"export() has no option {unknown[0]!r}")
    if not os.fspath(f):
        raise TypeError("export() needs the path of the file to write")
    from headrace.serializer.onnx.save import save
    from headrace.serializer.rename import rename

    program, feeds, answers = _captured(model, args, input_names, dynamic_axes)
    names = _names(program.main, input_names, output_names)
    graph = rename(program.main, names) if names else program.main
    path = Path(f)
    before = path.read_bytes() if path.exists() else None
    save(
        Program({graph.name: graph}, program.metadata),
        path,
        opset=opset_version,
        external_data=external_data,
        functions=functions,
    )
    try:
        errors = _compare(path, {names.get(name, name): array for name, array in feeds.items()}, answers, rtol, atol)
    except BaseException:
        path.unlink() if before is None else path.write_bytes(before)
        raise
    return _report(path, errors)


def load(source: Any) -> Graph:
    """The graph of an ONNX file, its bytes, or a ModelProto."""
    from headrace.serializer.onnx.load import open_program

    return open_program(source).program.main


def _captured(
    model: Any, args: Any, input_names: Sequence[str] | None, dynamic_axes: Mapping[str, Any] | None
) -> tuple[Program, dict[str, np.ndarray], list[np.ndarray]]:
    """The program, example feeds by name, and the Module's own answers in the order of the outputs."""
    if isinstance(model, Graph):
        return Program({model.name: model}), {}, []
    if isinstance(model, Program):
        return model, {}, []
    from headrace.jit import Exported, Scripted, trace

    examples = () if args is None else tuple(args) if isinstance(args, tuple | list) else (args,)
    traced = not isinstance(model, Exported)
    capture = model.capture if isinstance(model, Scripted) else functools.partial(trace, model)
    exported = capture(examples) if traced else model
    names = [value.name for value in exported.graph.inputs]
    if dynamic_axes and traced:
        known = dict(zip(input_names or names, names))  # what the file calls an input -> what the Module calls it
        wanted = {
            known[name]: axes for name, axes in dynamic_axes.items() if name in known
        }  # outputs follow from inputs
        exported = capture(examples, dynamic=wanted)
    arrays = list(_leaves(examples))
    arrays += exported.examples[len(arrays) :]  # states
    answers = list(exported.eager(*arrays)) if arrays else []
    return exported.program, dict(zip(names, arrays)), answers


def _leaves(value: Any) -> Iterator[np.ndarray]:
    """The arrays in nested arguments, in order."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, tuple | list):
        for item in value:
            yield from _leaves(item)
    elif value is not None:
        yield np.asarray(value.detach().numpy() if hasattr(value, "detach") else value)


def _names(graph: Graph, inputs: Sequence[str] | None, outputs: Sequence[str] | None) -> dict[str, str]:
    """Old name -> new name of the interface."""
    names: dict[str, str] = {}
    for given, values, what in ((inputs, graph.inputs, "inputs"), (outputs, graph.outputs, "outputs")):
        if given is not None and len(given) > len(values):
            raise HeadraceError(f"{len(given)} names for {len(values)} {what}: {', '.join(given)}")
        names.update({value.name: name for value, name in zip(values, given or ()) if value.name != name})
    return names


def _compare(
    path: Path, feeds: dict[str, np.ndarray], answers: list[np.ndarray], rtol: float, atol: float
) -> dict[str, float]:
    if not answers:
        return {}
    from headrace.runtime.model import load as load_model

    found = {"headrace": list(load_model(path).run(feeds).values())}
    if find_spec("onnxruntime") is not None:
        import onnxruntime  # type: ignore[import-not-found, import-untyped, unused-ignore]

        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        found["onnxruntime"] = session.run(None, feeds)
    errors: dict[str, float] = {}
    for runner, outputs in found.items():
        errors[runner] = 0.0
        for index, (output, wanted) in enumerate(zip(outputs, answers, strict=True)):
            if output.shape != wanted.shape or not np.allclose(output, wanted, rtol=rtol, atol=atol, equal_nan=True):
                raise HeadraceError(
                    f"{path}: output {index} in {runner} differs from the Module: shape {list(output.shape)}, expected {list(wanted.shape)}, within {atol} + {rtol} * |value|"
                )
            gap = np.abs(output.astype(np.float64) - wanted) if wanted.dtype.kind in "fiub" else np.zeros(1)
            errors[runner] = max(errors[runner], float(np.nanmax(gap, initial=0.0)))
    return errors


def _report(path: Path, errors: dict[str, float]) -> Report:
    import onnx

    proto = onnx.load(str(path), load_external_data=False)
    opset = next(item.version for item in proto.opset_import if not item.domain)
    return Report(str(path), opset, len(proto.graph.node), path.stat().st_size, errors)
