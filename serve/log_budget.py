"""A flood of requests that fail alike is a few lines and a count: pure, on the times that records carry."""

from collections import Counter
from collections.abc import Iterator

from headrace.serve.records import Record


class Budget:
    """At most `most` lines a second of each meaning (0: no limit); of what is over, one count when the second has passed."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._second = 0
        self._seen: Counter[str] = Counter()

    def takes(self, record: Record) -> bool:
        """Whether this record is a line. Ask in the order of their ends, `passed` before."""
        self._seen[record.meaning] += 1
        return not self._most or self._seen[record.meaning] <= self._most

    def passed(self, now_ms: int) -> Iterator[tuple[int, str, int]]:
        """(when, meaning, how many were over) of the second that has passed by `now_ms`."""
        second = now_ms // 1000
        if second <= self._second:
            return
        for meaning, count in sorted(self._seen.items()):
            if self._most and count > self._most:
                yield (self._second + 1) * 1000, meaning, count - self._most
        self._second = second
        self._seen.clear()


__all__ = ["Budget"]
