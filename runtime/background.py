"""Work of a thread beside others that answer requests: it lets them have its processor whenever they wait for it
(`runtime/native/give_way.h`). Without the extension it does not."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import cache
from typing import Any


def gives_way() -> bool:
    """Whether this thread does, now."""
    native = _native()
    return native is not None and bool(native.gives_way())


@contextlib.contextmanager
def giving_way(on: bool = True) -> Iterator[None]:
    """This thread gives way meanwhile; or it does not (`on` False): while it waits for something, it has no processor to give
    away."""
    native = _native()
    before = native is not None and native.give_way(on)
    try:
        yield
    finally:
        if native is not None:
            native.give_way(before)


@cache
def _native() -> Any:
    """The extension; None in a source tree without a build."""
    try:
        from headrace.runtime import _native
    except ImportError:
        return None
    return _native
