"""Calibration data: from files, folders or dicts to checked batches; and random batches where there is no data."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from headrace.runtime import dtypes
from headrace.runtime.errors import HeadraceError
from headrace.runtime.graph import Graph
from headrace.runtime.quant.calibrate import Feeds
from headrace.runtime.types import TensorType

CHUNK = 64  # rows that are run at once; larger batches are cut


def batches(calibration: Any, graph: Graph) -> Iterable[Feeds]:
    """Batches as dicts by input name, each checked to feed every input."""
    names = [value.name for value in graph.inputs]
    for place, batch in _sources(calibration, names):
        missing = [name for name in names if name not in batch]
        if missing:
            raise HeadraceError(
                f"calibration {place} has no array {missing[0]!r}; it has {', '.join(batch) or 'none'}; inputs: {', '.join(names)}"
            )
        yield from chunks({value.name: typed(batch[value.name], value.type) for value in graph.inputs}, graph, CHUNK)


def chunks(feeds: Feeds, graph: Graph, size: int) -> Iterator[Feeds]:
    """The feeds cut along the batch dimension, where all inputs have the same symbolic first dimension."""
    firsts = {
        value.type.shape[0] if isinstance(value.type, TensorType) and value.type.shape else 0 for value in graph.inputs
    }
    rows = {np.shape(array)[0] if np.ndim(array) else 0 for array in feeds.values()}
    if len(firsts) != 1 or isinstance(firsts.pop(), int) or len(rows) != 1:
        yield feeds
        return
    (total,) = rows
    for start in range(0, max(total, 1), size):
        yield {name: np.ascontiguousarray(array[start : start + size]) for name, array in feeds.items()}


def typed(array: Any, type: object) -> np.ndarray:
    """Floats in the input's float type: data is often kept in float64."""
    array = np.asarray(array)
    if isinstance(type, TensorType) and type.dtype in dtypes.FLOAT and array.dtype.kind == "f":
        return np.asarray(array, dtypes.of(type.dtype).numpy)
    return np.asarray(array)


def _sources(calibration: Any, names: Sequence[str]) -> Iterable[tuple[str, Mapping[str, Any]]]:
    if not isinstance(calibration, str | os.PathLike):
        for index, batch in enumerate(calibration):
            if not isinstance(batch, Mapping):
                raise HeadraceError(
                    f"calibration batch {index} is a {type(batch).__name__}; allowed is a dict of arrays by input name"
                )
            yield f"batch {index}", batch
        return
    path = Path(calibration)
    files = sorted([*path.glob("*.npz"), *path.glob("*.npy")]) if path.is_dir() else [path]
    if not files:
        raise HeadraceError(f"calibration folder {path.name} has no .npz and no .npy file")
    for file in files:
        yield file.name, _read(file, names)


def _read(path: Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    """One file of plain arrays; never a pickle."""
    try:
        loaded = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise HeadraceError(f"calibration {path.name} cannot be read as .npz or .npy: {error}") from None
    if isinstance(loaded, np.ndarray):
        if len(names) != 1:
            raise HeadraceError(
                f"calibration {path.name} is one array, but the model has inputs {', '.join(names)}; allowed is .npz"
            )
        return {names[0]: loaded}
    with loaded:
        return {name: loaded[name] for name in loaded.files}


def random_batches(graph: Graph, count: int = 4) -> list[Feeds]:
    """Inputs of the interface's types without any meaning, always the same."""
    rng = np.random.default_rng(0)
    return [{value.name: _random(rng, value.name, value.type) for value in graph.inputs} for _ in range(count)]


def _random(rng: np.random.Generator, name: str, type: object) -> np.ndarray:
    if not isinstance(type, TensorType) or type.shape is None or dtypes.of(type.dtype).kind not in "fiub":
        raise HeadraceError(f"input {name!r} is {type}; give calibration data for the report")
    kind = dtypes.of(type.dtype)
    dims = [dim if isinstance(dim, int) else 2 for dim in type.shape]
    if kind.kind == "f":
        return rng.standard_normal(dims).astype(kind.numpy)
    return rng.integers(0, 2, dims).astype(kind.numpy)
