"""The bytes of an archive's container: a zip of stored members, each at a multiple of 64 bytes, that any zip tool reads.

`layout` is the whole format: from names, sizes and checksums it gives every byte that is not member data. The writer
writes these bytes and the reader compares the file with them, so no byte of a file is free to be anything else.
Source of the record layouts: PKWARE's APPNOTE.TXT 6.3.9, sections 4.3.7 to 4.3.16 and 4.5.3.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import NamedTuple

ALIGNMENT = 64
_MAX32, _MAX16 = 0xFFFFFFFF, 0xFFFF
_DATE = (1 << 5) | 1  # 1980-01-01, the first day that zip knows; time 0
_MADE_BY = (3 << 8) | 45  # Unix, specification 4.5
_MODE = 0o100644 << 16
_ZIP64_EXTRA = 0x0001
_PADDING_EXTRA = 0xD935  # the identifier that zipalign uses for padding


class Entry(NamedTuple):
    """One member: name, size and CRC-32 of its data."""

    name: str
    size: int
    crc: int


@dataclass(frozen=True)
class Layout:
    """Where everything is. `headers[i]` stands right before the data of member i, which begins at `offsets[i]`; `tail`
    (central directory and end records) stands after the last member; the file has `size` bytes."""

    headers: list[bytes]
    offsets: list[int]
    tail_offset: int
    directory: list[bytes]
    end: bytes

    @property
    def tail(self) -> bytes:
        return b"".join(self.directory) + self.end

    @property
    def size(self) -> int:
        return self.tail_offset + len(self.tail)


def layout(entries: list[Entry]) -> Layout:
    """The container of these members in this order."""
    headers, offsets, directory = [], [], []
    position = 0
    for entry in entries:
        header = _local_header(entry, position)
        headers.append(header)
        directory.append(_directory_entry(entry, position))
        offsets.append(position + len(header))
        position += len(header) + entry.size
    return Layout(headers, offsets, position, directory, _end(len(entries), sum(map(len, directory)), position))


def _local_header(entry: Entry, position: int) -> bytes:
    """The header, padded so that the data after it begins at a multiple of ALIGNMENT."""
    name = entry.name.encode("ascii")
    large = entry.size >= _MAX32
    extra = struct.pack("<HHQQ", _ZIP64_EXTRA, 16, entry.size, entry.size) if large else b""
    padding = -(position + 30 + len(name) + len(extra) + 4) % ALIGNMENT
    extra += struct.pack("<HH", _PADDING_EXTRA, padding) + bytes(padding)
    size = _MAX32 if large else entry.size
    fixed = struct.pack(
        "<4sHHHHHIIIHH", b"PK\3\4", _version(large), 0, 0, 0, _DATE, entry.crc, size, size, len(name), len(extra)
    )
    return fixed + name + extra


def _directory_entry(entry: Entry, position: int) -> bytes:
    name = entry.name.encode("ascii")
    large, far = entry.size >= _MAX32, position >= _MAX32
    values = ([entry.size, entry.size] if large else []) + ([position] if far else [])
    extra = struct.pack(f"<HH{len(values)}Q", _ZIP64_EXTRA, 8 * len(values), *values) if values else b""
    size = _MAX32 if large else entry.size
    fixed = struct.pack(
        "<4sHHHHHHIIIHHHHHII",
        b"PK\1\2", _MADE_BY, _version(large or far), 0, 0, 0, _DATE, entry.crc, size, size,
        len(name), len(extra), 0, 0, 0, _MODE, _MAX32 if far else position,
    )  # fmt: skip
    return fixed + name + extra


def _end(count: int, length: int, position: int) -> bytes:
    """The end record, after its zip64 form where a number is too large for it."""
    records = b""
    if position >= _MAX32 or length >= _MAX32 or count >= _MAX16:
        records = struct.pack("<4sQHHIIQQQQ", b"PK\6\6", 44, _MADE_BY, 45, 0, 0, count, count, length, position)
        records += struct.pack("<4sIQI", b"PK\6\7", 0, position + length, 1)
    short = min(count, _MAX16)
    return records + struct.pack(
        "<4sHHHHIIH", b"PK\5\6", 0, 0, short, short, min(length, _MAX32), min(position, _MAX32), 0
    )


def _version(zip64: bool) -> int:
    return 45 if zip64 else 10
