"""A flood of lines of one kind is a few lines and a count: pure, on the times that are passed in."""

from collections import Counter
from collections.abc import Iterator


class Budget:
    """At most `most` lines a second of each kind (0: no limit); of what is over, one count when the second has passed."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._second = 0
        self._seen: Counter[str] = Counter()

    def takes(self, kind: str) -> bool:
        """Whether this one is a line. Ask in the order of their times, `passed` before."""
        self._seen[kind] += 1
        return not self._most or self._seen[kind] <= self._most

    def hold_back(self, kind: str, count: int) -> None:
        """As many more, which are no lines."""
        self._seen[kind] += count

    def passed(self, now_ms: int) -> Iterator[tuple[int, str, int]]:
        """(when, kind, how many were over) of the second that has passed by `now_ms`."""
        second = now_ms // 1000
        if second <= self._second:
            return
        for kind, count in sorted(self._seen.items()):
            if self._most and count > self._most:
                yield (self._second + 1) * 1000, kind, count - self._most
        self._second = second
        self._seen.clear()


__all__ = ["Budget"]
