"""The door from PyTorch: `headrace.torch.pack(module, example_inputs, "net.hr")`.

torch exports the module (`torch.onnx.export`, which needs onnxscript), the file is imported, and packed with torch's own
outputs as its golden data. Nothing of torch is imported before `pack` is called.
"""

from __future__ import annotations

import dataclasses
import importlib
import itertools
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from headrace.jit.arguments import Arguments, Dynamic, as_array
from headrace.jit.exported import output_leaves
from headrace.runtime import dtypes
from headrace.runtime.errors import HeadraceError, InputError
from headrace.runtime.graph import Program
from headrace.runtime.interface import TensorSpec
from headrace.runtime.shapes import Dim, Expr
from headrace.runtime.types import TensorType
from headrace.serializer.onnx.load import open_program
from headrace.serializer.rename import rename
from headrace.verbs.pack import ABSOLUTE_FLOOR, RELATIVE_FLOOR, PackReport
from headrace.verbs.pack import pack as pack_program
from headrace.verbs.run import random_feeds, resized

__all__ = ["pack"]

Arrays = Mapping[str, np.ndarray]
BATCHES = (3, 1, 5, 2)  # sizes of a symbolic batch in golden cases after the example


def pack(
    module: Any,
    example_inputs: Any,
    path: str | Path = "model.hr",
    *,
    dynamic_batch: bool = True,
    dynamic: Dynamic = None,
    golden: int | Sequence[Arrays] = 4,
    seed: int = 0,
    rtol: float = RELATIVE_FLOOR,
    atol: float = ABSOLUTE_FLOOR,
    opset: int | None = None,
    evaluate: tuple[Arrays, np.ndarray] | None = None,
    properties: Mapping[str, str] | None = None,
    members: Mapping[str, bytes] | None = None,
    created: str | None = None,
) -> PackReport:
    """Export a `torch.nn.Module` and write it as a `.hr` package at `path`, proven against torch.

    module: on the CPU; packed in evaluation mode and left as it was.
    example_inputs: what it is called with: a tensor or array, a tuple of arguments, or a dict of named ones; tensors may
        stand inside tuples, lists and dicts. Inputs are called as forward's parameters.
    dynamic_batch: dimension 0 of every input is free ("batch"); inputs whose dimension 0 has another size than the first
        input's get a symbol of their own. The example may have size 1 there. False: all shapes are those of the example.
    dynamic: further free dimensions, as for `headrace.jit.trace`: {input: {axis: symbol}}.
    golden: how many golden cases to make: the example, then random ones of its ranges at other batch sizes; or inputs by
        name. Their expected outputs are torch's.
    rtol, atol: an output may be atol + rtol * (its largest magnitude) from torch's.
    opset: version of ai.onnx for torch's exporter; None takes torch's default.
    evaluate, properties, members, created: as for `headrace.pack`; members={"README": b"..."} adds a read-me.

    Raises HeadraceError where torch or onnxscript is missing or torch cannot export the module; PackError where an answer
    is beyond the bound, naming the first node that deviates from what torch itself computes there.
    """
    torch = _library()
    if not isinstance(module, torch.nn.Module):
        raise InputError(f"headrace.torch.pack takes a torch.nn.Module, not {type(module).__module__}.{type(module).__name__}")  # fmt: skip
    _require_cpu(module)
    origin = _Origin(torch, module, _map(example_inputs, lambda leaf: _array(torch, leaf)))
    training = module.training
    with _evaluation(module), _quiet(), torch.no_grad():
        shapes = origin.arguments.shapes(dynamic if dynamic_batch or dynamic else {})
        exported = _export(torch, origin, shapes, opset)
        program = _imported(exported, origin, shapes)
        if isinstance(golden, int):
            cases = _cases(origin, shapes, golden, seed)
        else:
            cases = [dict(feeds) for feeds in golden]
        report = pack_program(
            program, None, path, golden=cases, expect=[origin(feeds) for feeds in cases], rtol=rtol, atol=atol,
            evaluate=evaluate, properties={"source": f"torch {torch.__version__}", **(properties or {})}, members=members,
            created=created, maker="torch", values=lambda feeds: _intermediates(torch, exported, origin, feeds),
        )  # fmt: skip
    note = "the module was in training mode; it was packed in evaluation mode, as module.eval() makes it"
    return dataclasses.replace(report, notes=(note,) if training else ())


class _Origin:
    """The module as a function of arrays by input name."""

    def __init__(self, torch: Any, module: Any, examples: Any) -> None:
        self.torch, self.module = torch, module
        self.arguments = Arguments(module.forward, examples)
        self.outputs = [name for name, _ in self._answers(self.arguments.examples)]

    def tensors(self, arrays: Sequence[np.ndarray]) -> list[Any]:
        return [_tensor(self.torch, array) for array in arrays]

    def __call__(self, feeds: Arrays) -> dict[str, np.ndarray]:
        """The module's outputs by name. Raises InputError for a missing input."""
        missing = [name for name in self.arguments.names if name not in feeds]
        if missing:
            raise InputError(f"golden inputs have no {missing[0]!r}; the inputs: {', '.join(self.arguments.names)}")
        return dict(self._answers([np.asarray(feeds[name]) for name in self.arguments.names]))

    def _answers(self, arrays: Sequence[np.ndarray]) -> list[tuple[str, np.ndarray]]:
        try:
            with _evaluation(self.module), self.torch.no_grad():
                answer = self.arguments.call(self.module, iter(self.tensors(arrays)))
        except Exception as error:
            shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in zip(self.arguments.names, arrays))
            raise InputError(
                f"{type(self.module).__name__} itself fails on inputs of shape {shapes}: {error}"
            ) from error
        plain = _map(answer, lambda leaf: _array(self.torch, leaf))
        return [(name, as_array(leaf)) for name, leaf in output_leaves(plain)]


def _export(torch: Any, origin: _Origin, shapes: Mapping[str, tuple[Dim, ...]], opset: int | None) -> Any:
    """torch's ONNXProgram. Symbolic dimensions have size 2 at least in it: torch takes 0 and 1 for constants."""
    least = {dim.name: 2 for shape in shapes.values() for dim in shape if isinstance(dim, Expr)}
    for name, example in zip(origin.arguments.names, origin.arguments.examples):
        for dim, size in zip(shapes[name], example.shape):
            if isinstance(dim, Expr):
                least[dim.name] = max(least[dim.name], size)
    dims = {name: torch.export.Dim(name) for name in least}
    arrays = [
        resized(example, [least[dim.name] if isinstance(dim, Expr) else dim for dim in shapes[name]])
        for name, example in zip(origin.arguments.names, origin.arguments.examples)
    ]
    axes = [
        _Axes({axis: dims[dim.name] for axis, dim in enumerate(shapes[name]) if isinstance(dim, Expr)})
        for name in origin.arguments.names
    ]
    specs = {key: _map(value, lambda leaf: leaf.dims if isinstance(leaf, _Axes) else None) for key, value in origin.arguments.bound(axes).arguments.items()}  # fmt: skip
    bound = origin.arguments.bound(origin.tensors(arrays))
    try:
        program = torch.onnx.export(
            origin.module, bound.args, kwargs=bound.kwargs or {}, dynamo=True, verbose=False, opset_version=opset,
            dynamic_shapes=specs if dims else None, input_names=origin.arguments.names, output_names=origin.outputs,
        )  # fmt: skip
    except Exception as error:
        hint = "; dynamic_batch=False packs it for the shapes of the example" if dims else ""
        raise HeadraceError(
            f"torch cannot export {type(origin.module).__name__}: {_summary(error)} (see torch.onnx.export){hint}"
        ) from error
    if program is None:
        raise HeadraceError(f"torch.onnx.export of torch {torch.__version__} gives no program; 2.5 and newer do")
    return program


def _imported(exported: Any, origin: _Origin, shapes: Mapping[str, tuple[Dim, ...]]) -> Program:
    """The program, its free dimensions under the names that were asked for: torch may make up its own, or fix one."""
    program = open_program(exported.model_proto).program
    graph = program.main
    symbols: dict[str, str] = {}
    for value in graph.inputs:
        found = value.type.shape if isinstance(value.type, TensorType) and value.type.shape else ()
        for axis, (wanted, dim) in enumerate(zip(shapes.get(value.name, ()), found)):
            if isinstance(wanted, Expr) and isinstance(dim, int):
                raise HeadraceError(
                    f"torch fixes dimension {axis} of input {value.name!r} to {dim}: {type(origin.module).__name__} works for "
                    f"that size only; dynamic_batch=False packs it for the shapes of the example"
                )
            if isinstance(wanted, Expr) and isinstance(dim, Expr) and dim.name and wanted.name:
                symbols.setdefault(dim.name, wanted.name)
    graph = rename(graph, {}, {old: new for old, new in symbols.items() if old != new})
    return Program({graph.name: graph}, program.metadata)


@dataclasses.dataclass
class _Axes:
    """Which dimensions of one input are free, as torch.export wants it."""

    dims: dict[int, Any]


def _summary(error: Exception) -> str:
    """The line of an exporter's error that says what happened."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    marked = [following for line, following in itertools.pairwise(lines) if "Exception summary" in line]
    return (marked or lines or [type(error).__name__])[0][:300]


def _cases(origin: _Origin, shapes: Mapping[str, tuple[Dim, ...]], count: int, seed: int) -> list[dict[str, np.ndarray]]:  # fmt: skip
    """The example, then random inputs of its ranges; the free dimension 0 takes other sizes."""
    names, examples = origin.arguments.names, origin.arguments.examples
    cases = [dict(zip(names, examples))][:count]
    specs = [TensorSpec(name, dtypes.of(example).name, example.shape) for name, example in zip(names, examples)]
    for index in range(count - 1):
        sizes = {"batch": BATCHES[index % len(BATCHES)]}
        like = {name: resized(example, _sizes(shapes[name], example.shape, sizes)) for name, example in zip(names, examples)}  # fmt: skip
        made = random_feeds(specs, seed + index, like=like)
        cases.append({name: like[name] if _is_mask(like[name]) else made[name] for name in names})
    return cases


def _sizes(shape: tuple[Dim, ...], example: tuple[int, ...], sizes: Mapping[str, int]) -> list[int]:
    """The example's shape with some symbolic dimensions at other sizes."""
    return [sizes.get(dim.name or "", size) if isinstance(dim, Expr) else size for dim, size in zip(shape, example)]


def _is_mask(array: np.ndarray) -> bool:
    """Zeros and ones: random ones could leave a row with nothing to attend to."""
    return array.dtype.kind in "biu" and array.size > 0 and int(array.min()) >= 0 and int(array.max()) <= 1


def _intermediates(torch: Any, exported: Any, origin: _Origin, feeds: Arrays) -> dict[str, np.ndarray]:
    """What torch computes at every node of the exported program; the file's values have the nodes' names."""
    program = exported.exported_program
    given = iter(origin.tensors([np.asarray(feeds[name]) for name in origin.arguments.names]))
    stored = {**program.constants, **program.state_dict}
    arguments = [
        next(given) if spec.kind.name == "USER_INPUT" else stored.get(spec.target)
        for spec in program.graph_signature.input_specs
    ]
    found: dict[str, np.ndarray] = {}

    class Recorder(torch.fx.Interpreter):  # type: ignore[misc]
        def run_node(self, node: Any) -> Any:
            answer = super().run_node(node)
            if isinstance(answer, torch.Tensor):
                found[node.name] = _array(torch, answer)
            return answer

    answers = Recorder(program.graph_module).run(*arguments)
    for name, answer in zip(origin.outputs, answers):
        found[name] = _array(torch, answer)
    return found


def _library() -> Any:
    """torch itself. Raises HeadraceError that says what to install."""
    for name in ("torch", "onnxscript"):
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            raise HeadraceError(f"headrace.torch needs {error.name}: pip install 'headrace[torch]'") from None
    return importlib.import_module("torch")


def _require_cpu(module: Any) -> None:
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if tensor.device.type != "cpu":
            raise InputError(f"parameter {name!r} is on {tensor.device}; move the module first: module.cpu()")


@contextmanager
def _evaluation(module: Any) -> Iterator[None]:
    """Evaluation mode inside; each part back in its own mode afterwards."""
    before = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in before:
            part.training = training


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's talk about itself."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _map(tree: Any, leaf: Callable[[Any], Any]) -> Any:
    """A function over the items of tuples, lists and dicts."""
    if isinstance(tree, Mapping):
        return {key: _map(item, leaf) for key, item in tree.items()}
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return type(tree)(*(_map(item, leaf) for item in tree))
    if isinstance(tree, tuple | list):
        return type(tree)(_map(item, leaf) for item in tree)
    return leaf(tree)


def _array(torch: Any, value: Any) -> Any:
    """A tensor as an array; anything else stays."""
    if not isinstance(value, torch.Tensor):
        return value
    value = value.detach().cpu().contiguous()
    if value.dtype == torch.bfloat16:
        return value.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return value.numpy()


def _tensor(torch: Any, array: np.ndarray) -> Any:
    """A tensor of its own memory."""
    array = np.array(array)
    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)
