"""CRC-32 at the speed of memory where the CPU can."""

from __future__ import annotations

import importlib
import importlib.util
import zlib
from functools import cache
from typing import Any


def crc32(data: memoryview | bytes) -> int:
    """The CRC-32 of zip files. Other threads run meanwhile."""
    native = extension()
    return zlib.crc32(data) if native is None or not native.has_fast_crc() else int(native.crc32(data))


@cache
def extension() -> Any:
    """The native extension; None in a source tree without a build."""
    if importlib.util.find_spec("headrace.runtime._native") is None:
        return None
    return importlib.import_module("headrace.runtime._native")
