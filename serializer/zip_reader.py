"""Reading the container of an archive: stored members only, every byte accounted for.

The central directory says which members there are; `zip_writer.layout` says what a file with these members looks like;
the file must look exactly so. That one comparison refuses compression, encryption, data descriptors, links, comments,
gaps, overlaps, trailing bytes and disagreement between the two headers of a member. Nothing is ever extracted.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping

from headrace.runtime.checksums import crc32, extension
from headrace.runtime.errors import LoadError
from headrace.serializer.zip_writer import Entry, Layout, layout

MEMBER_LIMIT = 4096
NAME_LIMIT = 255
_END, _END64, _LOCATOR = 22, 56, 20
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*")


def read_members(data: memoryview) -> dict[str, memoryview]:
    """The members of an archive by name, as views. Raises LoadError naming the member, or the part of the container,
    where a byte is not what it must be; CRC-32 of each member is checked."""
    members, sums = list_members(data)
    check_sums(members, sums)
    return members


def list_members(data: memoryview) -> tuple[dict[str, memoryview], dict[str, int]]:
    """The members as `read_members` answers them, and their recorded CRC-32, not yet compared: that is `check_sums`."""
    native = extension()
    if native is not None and (rows := native.members_of(data)):  # all is as `layout` has it: see native/container.h
        members = {name: data[offset : offset + size] for name, offset, size, _ in rows}
        return members, {name: crc for name, _, _, crc in rows}
    return _listed(data)


def _listed(data: memoryview) -> tuple[dict[str, memoryview], dict[str, int]]:
    """The same, or what is wrong."""
    entries: list[Entry] = []
    try:
        entries = _directory(data)
        _check_names(entries)
        if sum(entry.size for entry in entries) > len(data):
            claimed = sum(entry.size for entry in entries)
            raise LoadError(f"the members claim {claimed} bytes, but the file has {len(data)}")
        expected = layout(entries)
        _compare(data, entries, expected)
    except LoadError:
        _blame(data, entries)
        raise
    members = {entry.name: data[offset : offset + entry.size] for entry, offset in zip(entries, expected.offsets)}
    return members, {entry.name: entry.crc for entry in entries}


def check_sums(members: Mapping[str, memoryview], recorded: Mapping[str, int]) -> None:
    """Raise LoadError naming a member whose CRC-32 is not the recorded one."""
    for name, crc in recorded.items():
        if crc32(members[name]) != crc:
            raise LoadError(f"member {name!r} is damaged: its CRC-32 is not the recorded one")


def _directory(data: memoryview) -> list[Entry]:
    """Names, sizes and checksums as the central directory tells them; nothing of it is believed yet."""
    begins = bytes(data[:4]) in (b"PK\3\4", b"PK\5\6")
    if len(data) < _END or not (begins or bytes(data[-_END : 4 - _END]) == b"PK\5\6"):
        raise LoadError("this is no archive: it does not begin as a zip file does")
    magic, _, _, _, count, length, position, comment = struct.unpack("<4sHHHHIIH", data[-_END:])
    if magic != b"PK\5\6" or comment:
        raise LoadError("the end record is damaged, or there are bytes after it")
    end = len(data) - _END
    if 0xFFFFFFFF in (length, position) or count == 0xFFFF:
        count, length, position, end = _zip64_end(data)
    if not (length <= end and position == end - length):
        raise LoadError("the central directory is not where the end record says")
    if count > MEMBER_LIMIT:
        raise LoadError(f"there are {count} members; allowed are {MEMBER_LIMIT}")
    entries = []
    for index in range(count):
        entry, used = _directory_entry(data[position:end], index)
        entries.append(entry)
        position += used
    if position != end:
        raise LoadError("the central directory has bytes that belong to no member")
    return entries


def _blame(data: memoryview, listed: list[Entry]) -> None:
    """Raise a better error where the headers before the members, unlike the directory (`listed`), are whole and so say
    whose directory entry is damaged. The two say the same things twice."""
    entries: list[Entry] = []
    position = 0
    try:
        while len(entries) < MEMBER_LIMIT and bytes(data[position : position + 4]) == b"PK\3\4":
            entry, used = _local_entry(data[position:], len(entries))
            entries.append(entry)
            position += used + entry.size
        _check_names(entries)
    except (LoadError, struct.error):
        return
    for entry, other in zip(entries, listed):
        if entry.name != other.name and len(entries) == len(listed):
            raise LoadError(f"member {entry.name!r} is called {other.name!r} in the central directory: one is damaged")
    expected = layout(entries)
    if entries and position == expected.tail_offset and len(data) == expected.size:
        _compare(data, entries, expected)


def _local_entry(data: memoryview, index: int) -> tuple[Entry, int]:
    """The entry that the header at the start of `data` tells, and how many bytes this header takes."""
    crc, _, size, name_length, extra_length = struct.unpack("<IIIHH", data[14:30])
    name = bytes(data[30 : 30 + name_length])
    if not name.isascii() or 30 + name_length + extra_length > len(data):
        raise LoadError(f"the header of member {index} is damaged")
    if size == 0xFFFFFFFF:
        (size,) = struct.unpack("<Q", data[34 + name_length : 42 + name_length])
    return Entry(name.decode("ascii"), size, crc), 30 + name_length + extra_length


def _zip64_end(data: memoryview) -> tuple[int, int, int, int]:
    end = len(data) - _END - _LOCATOR - _END64
    if end < 0 or bytes(data[end : end + 4]) != b"PK\6\6":
        raise LoadError("the zip64 end record is missing")
    count, length, position = struct.unpack("<QQQ", data[end + 32 : end + 56])
    return count, length, position, end


def _directory_entry(data: memoryview, index: int) -> tuple[Entry, int]:
    """The entry at the start of `data`, and how many bytes it takes."""
    if len(data) < 46 or bytes(data[:4]) != b"PK\1\2":
        raise LoadError(f"entry {index} of the central directory is damaged")
    crc, packed, size, name_length, extra_length = struct.unpack("<IIIHH", data[16:32])
    used = 46 + name_length + extra_length
    if used > len(data) or name_length > NAME_LIMIT:
        raise LoadError(f"entry {index} of the central directory is damaged")
    try:
        name = bytes(data[46 : 46 + name_length]).decode("ascii")
    except UnicodeDecodeError:
        raise LoadError(f"the name of member {index} is not ASCII") from None
    if packed != size:
        raise LoadError(f"member {name!r} is compressed or its sizes differ; allowed: stored members")
    if size == 0xFFFFFFFF:
        extra = data[46 + name_length : used]
        if len(extra) < 20:
            raise LoadError(f"member {name!r} has no zip64 sizes")
        (size,) = struct.unpack("<Q", extra[4:12])
    return Entry(name, size, crc), used


def _check_names(entries: list[Entry]) -> None:
    """Names: relative, plain ASCII parts, sorted, and different even where upper and lower case are the same."""
    names = [entry.name for entry in entries]
    for name in names:
        check_name(name)
    if names != sorted(names):
        raise LoadError("the members are not in the order of their names")
    seen: set[str] = set()
    for name in names:
        if name.lower() in seen:
            raise LoadError(f"there are two members called {name!r} (upper and lower case are the same)")
        seen.add(name.lower())


def check_name(name: str) -> None:
    """Raise LoadError unless `name` is allowed for a member."""
    if len(name) > NAME_LIMIT or not _NAME.fullmatch(name):
        raise LoadError(
            f"member name {name[:80]!r} is not allowed; allowed: parts of letters, digits, '.', '_' and '-', joined by '/'"
        )


def _compare(data: memoryview, entries: list[Entry], expected: Layout) -> None:
    """Every byte that is not member data must be what the writer would have written."""
    if len(data) != expected.size:
        raise LoadError(f"the file has {len(data)} bytes; with these members it must have {expected.size}")
    for entry, header, offset in zip(entries, expected.headers, expected.offsets):
        if data[offset - len(header) : offset] != header:
            raise LoadError(f"the header of member {entry.name!r}, or the padding before its data, is damaged")
    position = expected.tail_offset
    for entry, record in zip(entries, expected.directory):
        if data[position : position + len(record)] != record:
            raise LoadError(f"the central directory's entry of member {entry.name!r} is damaged")
        position += len(record)
    if data[position:] != expected.end:
        raise LoadError("the end record is damaged")
