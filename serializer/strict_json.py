"""JSON as files of ours hold it: no repeated keys, no NaN, bounded size and depth, one canonical text."""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn

from headrace.runtime.errors import LoadError

DEPTH_LIMIT = 32


class _Refused(ValueError):
    """What JSON allows and files of ours do not."""


def _pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(items)
    if len(found) != len(items):
        raise _Refused("a key is given twice")
    return found


def _constant(name: str) -> NoReturn:
    raise _Refused(f"{name} is not JSON")


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise _Refused(f"the number {text[:40]} is out of range")
    return value


_DECODER = json.JSONDecoder(object_pairs_hook=_pairs, parse_constant=_constant, parse_float=_number)


def read(data: bytes | memoryview, where: str, limit: int = 1 << 20, depth_limit: int = DEPTH_LIMIT) -> Any:
    """Parse UTF-8 JSON of at most `limit` bytes. Raises LoadError naming `where`."""
    if len(data) > limit:
        raise LoadError(f"{where}: {len(data)} bytes of JSON; allowed are {limit}")
    raw = bytes(data)
    try:
        value = _DECODER.decode(raw.decode())
    except _Refused as error:
        raise LoadError(f"{where}: {error}") from None
    except (ValueError, RecursionError) as error:  # bad UTF-8 and absurd integers are ValueErrors too
        raise LoadError(f"{where}: not JSON: {error}") from None
    if raw.count(b"[") + raw.count(b"{") > depth_limit and _depth(value, depth_limit) > depth_limit:
        raise LoadError(f"{where}: nested more than {depth_limit} deep")
    return value


def write(value: Any) -> bytes:
    """The canonical bytes: sorted keys, two spaces of indent, a final newline."""
    return (json.dumps(value, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _depth(value: Any, limit: int) -> int:
    """How deep a value is nested, without recursion; stops counting past the limit."""
    level, depth = [value], 0
    while level and depth <= limit:
        inner = [item.values() if isinstance(item, dict) else item for item in level if isinstance(item, dict | list)]
        level = [element for items in inner for element in items]
        depth += 1
    return depth
