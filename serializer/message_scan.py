"""A look at protobuf bytes before they become objects: two bytes of a file can become an object of a hundred.

The bytes are walked once along the message's schema, counting messages and depth, and texts must be UTF-8 (the parser
of proto2 files answers others as bytes). Runs of plain numbers cost no memory that matters: a pattern skips them.
"""

from __future__ import annotations

import os
import re
from functools import cache, lru_cache
from typing import Any

from headrace.runtime.errors import LoadError

MESSAGE_LIMIT = 1_000_000
DEPTH_LIMIT = 96
TOKEN = 24  # bytes

_STRING = 9  # FieldDescriptor.TYPE_STRING
Table = dict[int, tuple[bool, bool, Any]]
Bytes = bytes | memoryview


def scan(data: Bytes, descriptor: Any, limit: int = MESSAGE_LIMIT) -> None:
    """Raise LoadError where `data` holds more messages than `limit`, is nested too deep, or is no protobuf."""
    _Scan(data, limit).message(0, len(data), descriptor, 0)


def cut(data: Bytes, descriptor: Any, field: Any, least: int) -> tuple[bytes, dict[bytes, tuple[int, int]]]:
    """`scan`, and the message without the bytes of `field`, a descriptor, where they are `least` or more: a token that nobody can
    guess stands there for each, and is answered with where its bytes begin and end in `data`."""
    found = _Scan(data, MESSAGE_LIMIT, field.containing_type, field.number, max(least, TOKEN + 1))
    found.message(0, len(data), descriptor, 0)
    pieces, position = [], 0
    for start, end, instead in sorted(found.edits):
        pieces += [data[position:start], instead]
        position = end
    return b"".join([*pieces, data[position:]]), found.large


@cache
def _table(descriptor: Any) -> Table:
    """Field number -> whether it costs an object for each occurrence, whether it is text, and the message in it."""
    return {
        field.number: (field.is_repeated or field.message_type is not None, field.type == _STRING, field.message_type)
        for field in descriptor.fields
        if field.message_type is not None or field.is_repeated or field.type == _STRING
    }


@lru_cache(maxsize=256)
def _run(tag: bytes, kind: int) -> re.Pattern[bytes]:
    """Matches one or more fields with this tag that hold a number each."""
    body = {0: rb"[\x80-\xff]{0,9}[\x00-\x7f]", 1: rb".{8}", 5: rb".{4}"}[kind]
    return re.compile(rb"(?:" + re.escape(tag) + body + rb")++", re.DOTALL)


class _Scan:
    """One walk. What is cut out of which message becomes `edits`: from where to where, and what stands there instead."""

    def __init__(self, data: Bytes, left: int, within: Any = None, number: int = 0, least: int = 0) -> None:
        self.data, self.left = data, left
        self.within, self.number, self.least, self.token = within, number, least, os.urandom(TOKEN - 8)
        self.edits: list[tuple[int, int, bytes]] = []
        self.large: dict[bytes, tuple[int, int]] = {}

    def message(self, position: int, end: int, descriptor: Any, depth: int) -> int:
        """Walk over one; how many bytes it is longer than what is left of it."""
        if depth > DEPTH_LIMIT:
            raise LoadError(f"messages are nested more than {DEPTH_LIMIT} deep")
        data, table, gone = self.data, _table(descriptor), 0
        number = self.number if descriptor is self.within else 0
        while position < end:
            start = position
            tag, position = _varint(data, position, end)
            kind = tag & 7
            if kind in (0, 1, 5):
                match = _run(bytes(data[start:position]), kind).match(data, start, end)
                if match is None:
                    raise LoadError("a number is cut off")
                position = match.end()
                continue
            if kind != 2:
                raise LoadError(f"a field has the wire type {kind}")
            start = position
            length, position = _varint(data, position, end)
            if length > end - position:
                raise LoadError(
                    "a field is longer than its message: the file is cut off, damaged or of another kind; export or copy it again"
                )
            counted, text, inner = table.get(tag >> 3, (False, False, None))
            if text:
                _check_text(data[position : position + length])
            if counted:
                self.left -= 1
                if self.left < 0:
                    raise LoadError("there are too many messages in it")
            less = 0
            if inner is not None:
                less = self.message(position, position + length, inner, depth + 1)
                if less:
                    gone += less + self._edit(start, position, varint(length - less))
            elif number and tag >> 3 == number and length >= self.least:
                token = self.token + len(self.large).to_bytes(8, "little")
                self.large[token] = position, position + length
                gone += self._edit(start, position + length, varint(TOKEN) + token)
            position += length
        return gone

    def _edit(self, start: int, end: int, instead: bytes) -> int:
        """How many bytes less that makes."""
        self.edits.append((start, end, instead))
        return end - start - len(instead)


def _check_text(data: Bytes) -> None:
    try:
        bytes(data).decode()
    except UnicodeDecodeError:
        raise LoadError("a text in it is not UTF-8") from None


def varint(value: int) -> bytes:
    """A number as protobuf writes it."""
    found = bytearray()
    while value >= 128:
        found.append(value & 127 | 128)
        value >>= 7
    return bytes([*found, value])


def _varint(data: Bytes, position: int, end: int) -> tuple[int, int]:
    if position < end and data[position] < 128:
        return data[position], position + 1
    value = 0
    for shift in range(0, 70, 7):
        if position >= end:
            break
        byte = data[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, position
    raise LoadError("a number is cut off")
