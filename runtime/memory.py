"""How much memory a model takes, told before it runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from headrace.runtime.errors import HeadraceError, InputError
from headrace.runtime.interface import TensorSpec
from headrace.runtime.packs import Shared
from headrace.runtime.types import TensorType


class Memory(TypedDict):
    """Bytes. `weights`: constants of the graph, mapped from an archive (shared by every process that maps it) or in memory
    where the source was another; `packed`: copies of them in the order of kernels, of which all loads of the same archive
    share `shared`, `mapped` of them pages of a file that the system can drop (`file`: where they are kept for the next start,
    or empty); `arena` (values on the way, at most, where lifetimes overlap) and `folded` (values known beforehand): of each
    call at a time; `inputs` and `outputs`: the caller's arrays. `peak` is the sum. `dynamic` of `steps` have sizes known only
    at run time: their memory comes on top."""

    weights: int
    packed: int
    shared: int
    mapped: int
    file: str
    arena: int
    folded: int
    inputs: int
    outputs: int
    peak: int
    dynamic: int
    steps: int
    shapes: dict[str, list[int]]


def memory_of(
    program: Any,
    specs: Sequence[TensorSpec],
    weights: int,
    shapes: Mapping[str, Sequence[int]] | None = None,
    batch: int = 1,
    *,
    packs: Shared | None = None,
) -> Memory:
    """What one call with inputs of these shapes takes; others have their first dimension `batch` where it is free, further
    free ones 1. Nothing is run. Raises InputError where the shapes do not fit."""
    if not hasattr(program, "plan_bytes"):
        raise HeadraceError("memory is planned ahead by the native executor only")
    shapes = dict(shapes or {})
    unknown = set(shapes) - {spec.name for spec in specs}
    if unknown:
        known = ", ".join(map(str, specs)) or "none"
        raise InputError(f"the model has no input {', '.join(map(repr, sorted(unknown)))}; its inputs: {known}")
    sizes = {spec.name: _sizes(spec, shapes.get(spec.name), batch) for spec in specs}
    try:
        plan = program.plan_bytes(list(sizes.values()))
    except ValueError as error:
        told = ", ".join(f"{name} {list(size)}" for name, size in sizes.items() if size is not None)
        raise InputError(f"{error}: {told}; inputs: {', '.join(map(str, specs))}") from error
    parts = {"weights": weights, "packed": program.packed_bytes}
    parts |= {key: plan[key] for key in ("arena", "folded", "inputs", "outputs")}
    return {
        "weights": parts["weights"],
        "packed": parts["packed"],
        "shared": 0 if packs is None else packs.size,
        "mapped": 0 if packs is None else packs.mapped,
        "file": "" if packs is None else packs.file,
        "arena": parts["arena"],
        "folded": parts["folded"],
        "inputs": parts["inputs"],
        "outputs": parts["outputs"],
        "peak": sum(parts.values()),
        "dynamic": plan["dynamic"],
        "steps": plan["steps"],
        "shapes": {name: list(size) for name, size in sizes.items() if size is not None},
    }


def _sizes(spec: TensorSpec, given: Sequence[int] | None, batch: int) -> tuple[int, ...] | None:
    if not isinstance(spec.type, TensorType) or spec.dtype == "string":
        return None
    if given is not None:
        return tuple(given)
    if spec.shape is None:
        raise InputError(f"input {spec.name!r} has no known rank: give its shape")
    return tuple(dim if isinstance(dim, int) else (1, batch)[axis == 0] for axis, dim in enumerate(spec.shape))
