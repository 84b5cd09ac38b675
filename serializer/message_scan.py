"""A look at protobuf bytes before they become objects: two bytes of a file can become an object of a hundred.

The bytes are walked once along the message's schema, counting messages and depth, and texts must be UTF-8 (the parser
of proto2 files answers others as bytes). Runs of plain numbers cost no memory that matters: a pattern skips them.
"""

from __future__ import annotations

import re
from functools import cache, lru_cache
from typing import Any

from headrace.runtime.errors import LoadError

MESSAGE_LIMIT = 1_000_000
DEPTH_LIMIT = 96

_STRING = 9  # FieldDescriptor.TYPE_STRING
Table = dict[int, tuple[bool, bool, Any]]


def scan(data: bytes, descriptor: Any, limit: int = MESSAGE_LIMIT) -> None:
    """Raise LoadError where `data` holds more messages than `limit`, is nested too deep, or is no protobuf."""
    _scan(data, 0, len(data), descriptor, 0, [limit])


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


def _scan(data: bytes, position: int, end: int, descriptor: Any, depth: int, left: list[int]) -> None:
    if depth > DEPTH_LIMIT:
        raise LoadError(f"messages are nested more than {DEPTH_LIMIT} deep")
    table = _table(descriptor)
    while position < end:
        start = position
        tag, position = _varint(data, position, end)
        kind = tag & 7
        if kind in (0, 1, 5):
            match = _run(data[start:position], kind).match(data, start, end)
            if match is None:
                raise LoadError("a number is cut off")
            position = match.end()
            continue
        if kind != 2:
            raise LoadError(f"a field has the wire type {kind}")
        length, position = _varint(data, position, end)
        if length > end - position:
            raise LoadError(
                "a field is longer than its message: the file is cut off, damaged or of another kind; export or copy it again"
            )
        counted, text, inner = table.get(tag >> 3, (False, False, None))
        if text:
            _check_text(data[position : position + length])
        if counted:
            left[0] -= 1
            if left[0] < 0:
                raise LoadError("there are too many messages in it")
        if inner is not None:
            _scan(data, position, position + length, inner, depth + 1, left)
        position += length


def _check_text(data: bytes) -> None:
    try:
        data.decode()
    except UnicodeDecodeError:
        raise LoadError("a text in it is not UTF-8") from None


def _varint(data: bytes, position: int, end: int) -> tuple[int, int]:
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
