"""A look at protobuf bytes before they become objects: two bytes of a file can become an object of a hundred.

Small files are let through; larger ones are walked once along the message's schema, counting messages and depth.
"""

from __future__ import annotations

from typing import Any

from headrace.runtime.errors import LoadError

FREE_SIZE = 512 << 10  # what fits in here cannot become more than about 64 MiB
MESSAGE_LIMIT = 2_000_000
DEPTH_LIMIT = 96


def scan(data: bytes, descriptor: Any, limit: int = MESSAGE_LIMIT) -> None:
    """Raise LoadError where `data` holds more messages than `limit`, is nested too deep, or is no protobuf."""
    if len(data) > FREE_SIZE:
        _scan(data, 0, len(data), descriptor, 0, [limit])


def _scan(data: bytes, position: int, end: int, descriptor: Any, depth: int, left: list[int]) -> None:
    if depth > DEPTH_LIMIT:
        raise LoadError(f"messages are nested more than {DEPTH_LIMIT} deep")
    inner = {field.number: field.message_type for field in descriptor.fields if field.message_type is not None}
    repeated = {field.number for field in descriptor.fields if field.is_repeated}
    while position < end:
        tag, position = _varint(data, position, end)
        kind, number = tag & 7, tag >> 3
        if kind == 2:
            length, position = _varint(data, position, end)
            if length > end - position:
                raise LoadError("a field is longer than its message")
            if number in inner or (number in repeated and length < 16):
                left[0] -= 1
                if left[0] < 0:
                    raise LoadError("there are too many messages in it")
            if number in inner:
                _scan(data, position, position + length, inner[number], depth + 1, left)
            position += length
        elif kind == 0:
            _, position = _varint(data, position, end)
        elif kind in (1, 5):
            position += 8 if kind == 1 else 4
        else:
            raise LoadError(f"a field has the wire type {kind}")
    if position != end:
        raise LoadError("a field is longer than its message")


def _varint(data: bytes, position: int, end: int) -> tuple[int, int]:
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
