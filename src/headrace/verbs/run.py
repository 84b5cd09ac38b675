"""run: one run of a model file; feeds from .npz or made from a seed."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from headrace.runtime.dtypes import BY_NAME
from headrace.runtime.errors import InputError
from headrace.runtime.interface import TensorSpec
from headrace.runtime.model import load

FREE_DIMENSION = 1  # what an unnamed or symbolic dimension becomes in made-up inputs


def run(
    model: str | Path,
    inputs: str | Path | Mapping[str, np.ndarray] | None = None,
    *,
    output: str | Path | None = None,
    seed: int | None = None,
    threads: int = 0,
    precision: str | None = None,
    device: str = "cpu",
) -> dict[str, np.ndarray]:
    """Load `model` (.hr or .onnx), run it once, and answer its outputs by name; `output` also writes them as .npz.

    `inputs`: arrays by name, or the path of an .npz file of them; None makes random ones from `seed`.
    Raises LoadError and InputError.
    """
    loaded = load(model, device=device, threads=threads, precision=precision)
    try:
        feeds = random_feeds(loaded.inputs, seed or 0) if inputs is None else read_arrays(inputs)
        outputs = loaded.run(feeds)
    finally:
        loaded.close()
    if output is not None:
        from headrace.verbs.files import write_npz

        write_npz(output, outputs)
    return outputs


def read_arrays(source: str | Path | Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Arrays by name from an .npz file (never pickled objects) or a mapping."""
    if isinstance(source, Mapping):
        return {name: np.asarray(array) for name, array in source.items()}
    try:
        archive = np.load(source, allow_pickle=False)
        with archive if hasattr(archive, "files") else contextlib.nullcontext():
            if isinstance(archive, np.ndarray):
                raise ValueError("one array without a name")
            return {name: archive[name] for name in archive.files}
    except (ValueError, AttributeError) as error:
        raise InputError(
            f"{source} is not an .npz file of plain arrays; make one with numpy.savez(path, name=array)"
        ) from error


def random_feeds(
    specs: Sequence[TensorSpec], seed: int, batch: int = FREE_DIMENSION, like: Mapping[str, np.ndarray] | None = None
) -> dict[str, np.ndarray]:
    """Inputs for `specs` from a seed: normal floats, small integers, coin-flip booleans. The first symbolic dimension
    becomes `batch`, others 1; with `like`, shapes and value ranges follow those arrays."""
    rng = np.random.default_rng(seed)
    return {spec.name: _random(spec, rng, batch, (like or {}).get(spec.name)) for spec in specs}


def _random(spec: TensorSpec, rng: np.random.Generator, batch: int, like: np.ndarray | None) -> np.ndarray:
    dtype = BY_NAME[spec.dtype]
    if like is not None:
        shape: tuple[int, ...] = like.shape
    elif spec.shape is None:
        raise InputError(f"input {spec.name!r} has no known rank: give an example of it")
    else:
        shape = tuple(
            d if isinstance(d, int) else (batch if i == 0 else FREE_DIMENSION) for i, d in enumerate(spec.shape)
        )
    if dtype.kind == "f":
        values = rng.standard_normal(shape)
        if like is not None and like.size > 1:
            low, high = float(np.min(like)), float(np.max(like))
            values = np.clip(values * float(np.std(like)) + float(np.mean(like)), low, high)
        return values.astype(dtype.numpy)
    if dtype.kind == "b":
        return rng.integers(0, 2, shape).astype(np.bool_)
    if dtype.kind in "iu":
        low, high = (int(like.min()), int(like.max())) if like is not None and like.size else (0, 1)
        return rng.integers(low, high + 1, shape).astype(dtype.numpy)
    if dtype.kind == "s":
        return np.full(shape, "text", dtype=object)
    raise InputError(f"input {spec.name!r} is {spec.dtype}: give an example of it")


def resized(array: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """The array cut or repeated along each axis until it has `shape`; zeros where there is nothing to repeat."""
    if 0 in array.shape and 0 not in shape:
        return np.zeros(shape, array.dtype)
    for axis, size in enumerate(shape):
        if array.shape[axis] != size:
            array = array.take(np.arange(size) % array.shape[axis], axis)
    return array
