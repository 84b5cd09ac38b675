"""Where models come from: a path, bytes or an ONNX message, to the reader of its format."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import Any

from headrace.runtime.errors import LoadError
from headrace.runtime.foreign import model_advice
from headrace.runtime.hints import nearest
from headrace.runtime.interface import Opened
from headrace.runtime.notes import Notes

# Suffix -> the module that reads it. The only upward edge of the runtime; it goes by name.
READERS = {".hr": "headrace.serializer.archive", ".onnx": "headrace.serializer.onnx.load"}


def open_source(source: Any, *, optimized: bool = False, notes: Notes | None = None) -> Opened:
    """Read a path, bytes or `onnx.ModelProto` without making it ready to run. `optimized`: what passes made of it is enough,
    where the file has that; a file that `notes` know to be what was written is not read in full again. Raises LoadError."""
    suffix = _suffix(source)
    options = {"optimized": optimized, "notes": notes} if suffix == ".hr" else {}
    opened: Opened = importlib.import_module(READERS[suffix]).open_program(source, **options)
    return opened


def _kind(path: Path) -> str:
    return "a folder" if path.is_dir() else f"a {path.suffix} file" if path.suffix else "a file without suffix"


def _beside(path: Path) -> str:
    """The file that may have been meant by a path where there is none."""
    folder = path.parent
    names = [one.name for one in folder.iterdir() if one.suffix in READERS] if folder.is_dir() else []
    return f"; {nearest(path.name, names)}" if names else ""


def _suffix(source: Any) -> str:
    """Which reader a source needs."""
    if isinstance(source, bytes | bytearray | memoryview):
        return ".hr" if bytes(source[:4]) == b"PK\x03\x04" else ".onnx"
    if isinstance(source, str | os.PathLike):
        suffix = os.path.splitext(source)[1]
        if suffix in READERS and os.path.isfile(source):
            return str(suffix)
        path = Path(source)
        if path.suffix not in READERS:
            advice = model_advice(path) or f"allowed: {', '.join(READERS)}"
            raise LoadError(f"{path}: {_kind(path)} is no model that headrace reads; {advice}")
        raise LoadError(f"{path}: {'is not a file' if path.exists() else 'no such file'}{_beside(path)}")
    if hasattr(source, "SerializeToString"):
        return ".onnx"
    raise LoadError(f"cannot load from {type(source).__name__}; allowed: a path, bytes, an onnx.ModelProto, a Graph")
