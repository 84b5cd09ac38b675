"""Feeds against an interface: the one check of what a caller hands over, for every executor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from headrace.runtime import dtypes
from headrace.runtime.errors import InputError
from headrace.runtime.hints import shape_hint
from headrace.runtime.interface import TensorSpec
from headrace.runtime.shapes import LIMIT, Expr, shape_text, substitute
from headrace.runtime.types import TensorType


def check_feeds(specs: Sequence[TensorSpec], feeds: Mapping[str, Any]) -> dict[str, Any]:
    """The feeds as arrays of the right type. Lists and scalars become arrays; no dtype is ever converted.

    Raises InputError naming the input and what is allowed.
    """
    if not isinstance(feeds, Mapping):
        wanted = ", ".join(f"{spec.name!r}: array" for spec in specs)
        raise InputError(
            f"feeds must be a mapping from input name to array, not {type(feeds).__name__}; write run({{{wanted}}})"
        )
    known = {spec.name for spec in specs}
    for name in feeds:
        if name not in known:
            raise InputError(f"the model has no input {name!r}; its inputs: {', '.join(map(str, specs)) or 'none'}")
    sizes: dict[str, int] = {}
    return {spec.name: _check_feed(spec, feeds, sizes) for spec in specs}


def _check_feed(spec: TensorSpec, feeds: Mapping[str, Any], sizes: dict[str, int]) -> Any:
    if spec.name not in feeds:
        raise InputError(f"input {spec} is missing; given: {', '.join(map(repr, feeds)) or 'nothing'}")
    feed = feeds[spec.name]
    if not isinstance(spec.type, TensorType):
        return feed
    array = _as_array(spec, feed)
    if spec.shape is None:
        return array
    if array.ndim != len(spec.shape):
        given = f"given: shape {list(array.shape)}{shape_hint(array.shape, spec.shape)}"
        raise InputError(f"input {spec} has rank {len(spec.shape)}; {given}")
    for axis, (dim, size) in enumerate(zip(spec.shape, array.shape)):
        _check_dim(spec, array, axis, dim, size, sizes)
    return array


def _as_array(spec: TensorSpec, feed: Any) -> np.ndarray:
    wanted = dtypes.BY_NAME[spec.dtype]
    if isinstance(feed, list | tuple | int | float | bool | str):
        try:  # Python values carry no dtype of their own
            array = np.asarray(feed, dtype=wanted.numpy)
        except (ValueError, TypeError, OverflowError) as error:
            reason = "its rows differ in length" if "inhomogeneous" in str(error) else str(error)
            raise InputError(f"input {spec} cannot be made from the given list: {reason}") from error
        return array
    if not isinstance(feed, np.ndarray | np.generic):
        hint = "; give tensor.detach().numpy()" if hasattr(feed, "detach") else ""
        raise InputError(f"input {spec} takes a NumPy array, not {type(feed).__name__}{hint}")
    array = np.asarray(feed)
    try:
        given = dtypes.of(array).name
    except TypeError:
        given = str(array.dtype)
    if given != spec.dtype:
        hint = f'; convert it first: x.astype("{wanted.numpy}")' if wanted.numpy.kind in "biuf" else ""
        raise InputError(f"input {spec} takes {spec.dtype}; given: {given}{hint}")
    if given == "string":
        array = array.astype(object) if array.dtype.kind != "O" else array
    elif not array.dtype.isnative:
        array = array.astype(wanted.numpy)
    return np.ascontiguousarray(array).reshape(array.shape)


def _check_dim(spec: TensorSpec, array: np.ndarray, axis: int, dim: object, size: int, sizes: dict[str, int]) -> None:
    given = f"given: shape {list(array.shape)}{shape_hint(array.shape, spec.shape or ())}"
    if isinstance(dim, Expr):
        if size > LIMIT:
            raise InputError(f"input {spec}: dimension {axis} is {size}; allowed: up to {LIMIT}")
        if dim.name is not None:
            if sizes.setdefault(dim.name, size) != size:
                raise InputError(
                    f"input {spec}: dimension {axis} is {size}, but {dim.name} is {sizes[dim.name]} in an earlier input; {given}"
                )
            return
        dim = substitute(dim, sizes)
        if isinstance(dim, Expr):
            return
    if dim != size:
        raise InputError(
            f"input {spec}: dimension {axis} must be {dim}, expected {shape_text(spec.shape or ())}; {given}"
        )
