"""CRC-32 at the speed of memory where the CPU can."""

from __future__ import annotations

import importlib
import importlib.util
import zlib
from functools import cache
from typing import Any


def crc32(data: memoryview | bytes) -> int:
    """The CRC-32 of zip files. Other threads run meanwhile."""
    native = _native()
    return zlib.crc32(data) if native is None else int(native.crc32(data))


@cache
def _native() -> Any:
    """The extension; None in a source tree without a build, and on CPUs without carry-less products."""
    if importlib.util.find_spec("headrace.runtime._native") is None:
        return None
    native = importlib.import_module("headrace.runtime._native")
    return native if native.has_fast_crc() else None
