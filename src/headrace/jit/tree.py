"""Nested tuples, lists and dicts of tensors: their leaves with names, and the way back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from headrace.tensors import Tensor


def is_leaf(value: Any) -> bool:
    return isinstance(value, Tensor | np.ndarray | np.generic)


def flatten(tree: Any, name: str) -> list[tuple[str, Any]]:
    """(name, leaf) of every tensor and array. The name of a leaf is its path: "output", "output_1", "scores", "state_h"."""
    if is_leaf(tree):
        return [(name, tree)]
    found = []
    for key, item in _items(tree):
        found += flatten(item, f"{name}_{key}" if name else str(key))
    return found


def rebuild(tree: Any, leaves: Iterator[Any], leaf: Callable[[Any], bool] = is_leaf) -> Any:
    """The same tree with its leaves replaced, in the order of `flatten`."""
    if leaf(tree):
        return next(leaves)
    if isinstance(tree, Mapping):
        made = {key: rebuild(item, leaves, leaf) for key, item in tree.items()}
        return made if type(tree) is dict else _like(tree, made)
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return type(tree)(*(rebuild(item, leaves, leaf) for item in tree))
    if isinstance(tree, tuple | list):
        return type(tree)(rebuild(item, leaves, leaf) for item in tree)
    return tree


def _like(tree: Mapping[Any, Any], made: dict[Any, Any]) -> Any:
    try:
        return type(tree)(made)  # type: ignore[call-arg]
    except TypeError:
        return made


def _items(tree: Any) -> list[tuple[Any, Any]]:
    if isinstance(tree, Mapping):
        return list(tree.items())
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return list(zip(tree._fields, tree))
    return list(enumerate(tree)) if isinstance(tree, tuple | list) else []
