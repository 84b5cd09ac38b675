"""External data of ONNX files: arrays mapped from a plain file beside the model, and from nowhere else.

A model file chooses these names and offsets, so nothing in them is trusted: the name has no folder part, the file is
opened relative to the model's folder without following links, must be regular and have exactly one hard link, and a
range lies inside it (`spans.inside`).
"""

from __future__ import annotations

import mmap
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from headrace.runtime.errors import LoadError
from headrace.runtime.spans import inside
from headrace.serializer.message_scan import TOKEN

_KEYS = frozenset({"location", "offset", "length", "checksum"})
_NAME_LIMIT = 255
_OVERLAP = 4  # how often the bytes of a data file may be used, on average


class ExternalData:
    """The bytes of tensors that do not stand in a model's message: in its data files, and those that were cut out of it, `large`, by
    their tokens. `folder` None: the model came as bytes, so there is no place to look."""

    def __init__(self, folder: Path | None, large: Mapping[bytes, memoryview] | None = None) -> None:
        self._folder, self._large = folder, large or {}
        self._files: dict[str, memoryview] = {}
        self._read: dict[str, int] = {}

    def raw(self, data: bytes) -> memoryview:
        """What a tensor's raw_data stands for: itself, or what was cut out there."""
        found = self._large.get(data) if len(data) == TOKEN else None
        return memoryview(data) if found is None else found

    def read(self, entries: Any, size: int, where: str) -> memoryview:
        """The `size` bytes that a tensor's external_data entries describe. Raises LoadError naming the tensor."""
        fields = _fields(entries, where)
        name = _plain_name(fields.get("location", ""), where)
        offset = _number(fields.get("offset", "0"), "offset", where)
        length = _number(fields["length"], "length", where) if "length" in fields else size
        if length != size:
            raise LoadError(f"{where}: external data has {length} bytes; dtype and dims need {size}")
        if size == 0:
            return memoryview(b"")
        data = self._open(name, where)
        total = len(data)
        if not inside(offset, length, total):
            raise LoadError(
                f"{where}: external data at {offset} with {length} bytes reaches outside {name!r}, which has {total}"
            )
        self._read[name] = self._read.get(name, 0) + length
        if self._read[name] > _OVERLAP * total:  # each may become a copy
            raise LoadError(
                f"{where}: the tensors of the model take more than {_OVERLAP} times the bytes that {name!r} has"
            )
        return data[offset : offset + length]

    def _open(self, name: str, where: str) -> memoryview:
        if self._folder is None:
            raise LoadError(
                f"{where}: external data in {name!r} cannot be read: the model was given as bytes; load it from its file"
            )
        if name not in self._files:
            self._files[name] = _map_beside(self._folder, name, where)
        return self._files[name]


def _map_beside(folder: Path, name: str, where: str) -> memoryview:
    """The whole file as a read-only mapping."""
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    directory = os.open(folder, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY)
    try:
        file = os.open(name, flags, dir_fd=directory)
    except OSError as error:
        raise LoadError(
            f"{where}: external data file {name!r} cannot be opened ({error.strerror}); put it beside the model, as a plain file and no link"
        ) from None
    finally:
        os.close(directory)
    try:
        facts = os.fstat(file)
        if not stat.S_ISREG(facts.st_mode) or facts.st_nlink != 1:
            raise LoadError(
                f"{where}: external data file {name!r} must be a regular file with one hard link; it has {facts.st_nlink}"
            )
        if facts.st_size == 0:
            return memoryview(b"")
        return memoryview(mmap.mmap(file, facts.st_size, prot=mmap.PROT_READ, flags=mmap.MAP_PRIVATE))
    finally:
        os.close(file)


def _fields(entries: Any, where: str) -> dict[str, str]:
    fields: dict[str, str] = {}
    for entry in entries:
        if entry.key not in _KEYS or entry.key in fields:
            raise LoadError(
                f"{where}: external data key {entry.key[:40]!r} is unknown or given twice; allowed: {', '.join(sorted(_KEYS))}"
            )
        fields[entry.key] = entry.value
    return fields


def _plain_name(name: str, where: str) -> str:
    bad = (
        not name
        or name in (".", "..")
        or "/" in name
        or "\\" in name
        or "\0" in name
        or len(name.encode()) > _NAME_LIMIT
    )
    if bad or any(ord(character) < 32 for character in name):
        raise LoadError(
            f"{where}: external data location {name[:80]!r} is not allowed; allowed: the plain name of a file beside the model"
        )
    return name


def _number(text: str, key: str, where: str) -> int:
    if not re.fullmatch(r"[0-9]{1,19}", text):
        raise LoadError(f"{where}: external data {key} {text[:40]!r} is not a number >= 0")
    return int(text)
