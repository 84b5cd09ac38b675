"""save and load: checkpoints of tensors, dicts, lists, tuples, numbers and text. Data only; loading runs nothing.

Arrays come back as tensors, whatever they were. The file is safetensors (see headrace.serializer.checkpoint).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from headrace.runtime.errors import LoadError
from headrace.runtime.foreign import weights_advice
from headrace.tensors import Tensor, wrap

_LEAF = "headrace.leaf"  # marks tensors that require a gradient


def save(obj: Any, f: str | os.PathLike[str], **_: Any) -> None:
    """Write `obj` (a state_dict, or a tree of them) to the file `f`. HeadraceError naming the place of what cannot be
    written; the file is replaced whole or not at all."""
    from headrace.serializer import checkpoint

    checkpoint.save(_to_arrays(obj), f)


def load(f: str | os.PathLike[str], map_location: Any = None, *, weights_only: bool = True, **_: Any) -> Any:
    """Read what `save` wrote, or any safetensors file; arrays come back as tensors. LoadError naming the file."""
    from headrace.devices import check_device
    from headrace.serializer import checkpoint

    if isinstance(map_location, str):
        check_device(map_location)
    try:
        return _to_tensors(checkpoint.load(f))
    except LoadError as error:  # many programs name what they save "net.pt": only its content tells whose it is
        if Path(f).exists() and (advice := weights_advice(Path(f))):
            raise LoadError(f"{f}: {advice}") from error
        raise


def _to_arrays(value: Any) -> Any:
    if isinstance(value, Tensor):
        array = value.detach().numpy()
        return {_LEAF: array} if value.requires_grad else array
    if isinstance(value, Mapping):
        return {key: _to_arrays(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        items = [_to_arrays(item) for item in value]
        return tuple(items) if isinstance(value, tuple) else items
    return value


def _to_tensors(value: Any) -> Any:
    if isinstance(value, np.ndarray) and value.dtype.kind not in "OUS":
        return wrap(value)
    if isinstance(value, dict):
        if list(value) == [_LEAF]:
            from headrace.nn.parameter import Parameter

            return Parameter(wrap(value[_LEAF]))
        return {key: _to_tensors(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        items = [_to_tensors(item) for item in value]
        return tuple(items) if isinstance(value, tuple) else items
    return value


__all__ = ["load", "save"]
