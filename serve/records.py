"""The record of a request that has ended: one of the slowest, or a line of the access log."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True, order=True)
class Record:
    """`ended_ms` since 1970; `request_bytes` of the message or body, `response_bytes` of the tensors that went back;
    `principal` is the name of the token. The phases are 0 where it never ran; `batch_rows` counts the rows that ran
    together; requests of one `batch_id` (of a version, from 1; 0: none) were batch mates."""

    total_us: int
    ended_ms: int
    front: str
    id: str
    meaning: str
    request_bytes: int = 0
    response_bytes: int = 0
    principal: str = ""
    queue_us: int = 0
    assemble_us: int = 0
    compute_us: int = 0
    scatter_us: int = 0
    batch_rows: int = 0
    batch_release: str = ""
    batch_id: int = 0

    @classmethod
    def of_engine(cls, front: str, row: Sequence[Any]) -> "Record":
        """From what the native engine keeps of a request."""
        seconds, ended_ms, name, meaning, asked, answered, principal, *spans, rows, reason, batch = row
        queue, assemble, compute, scatter = map(micros, spans)
        return cls(
            micros(seconds), ended_ms, front, name.decode("utf-8", "replace"), meaning, asked, answered, principal, queue,
            assemble, compute, scatter, rows, reason, batch,
        )  # fmt: skip

    def show(self) -> dict[str, int | str]:
        return asdict(self)


def micros(seconds: float) -> int:
    """Whole microseconds."""
    return round(seconds * 1e6)


__all__ = ["Record", "micros"]
