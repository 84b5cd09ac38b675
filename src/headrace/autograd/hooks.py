"""Handles by which hooks are removed."""

from __future__ import annotations

import itertools
from typing import Any

_numbers = itertools.count()


class Handle:
    """Removes one hook: `handle.remove()`, or leaving its `with` block."""

    def __init__(self, table: dict[int, Any], key: int) -> None:
        self.table, self.id = table, key

    @staticmethod
    def add(table: dict[int, Any], hook: Any, *, first: bool = False) -> Handle:
        """Put a hook into a table (insertion order is calling order)."""
        key = next(_numbers)
        table[key] = hook
        if first:
            rest = [k for k in table if k != key]
            for k in rest:
                table[k] = table.pop(k)
        return Handle(table, key)

    def remove(self) -> None:
        self.table.pop(self.id, None)

    def __enter__(self) -> Handle:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()


RemovableHandle = Handle
