"""The extension module (serve/native/module.cpp)."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

def remote_door(
    run: Callable[[list[tuple[Any, list[int]]], float | None], Sequence[tuple[Any, Sequence[int]]]],
    inputs: Sequence[tuple[int, int]],
    outputs: Sequence[tuple[int, int]],
) -> Any: ...

class Version:
    def __init__(
        self,
        name: str,
        number: str,
        inputs: Sequence[tuple[str, str, int, int, list[int] | None]],
        outputs: Sequence[tuple[str, str, int, int, list[int] | None]],
        max_batch_rows: int,
        n_symbols: int,
        max_delay_s: float,
        instances: int,
        max_queue: int,
        preferred: list[int],
        levels: list[tuple[int, float, bool]],
        default_level: int,
        program: Any,
        seconds: list[float],
        rows: list[float],
    ) -> None: ...
    def run(
        self,
        inputs: Sequence[tuple[int, list[int]]],
        rows: int,
        left: float | None,
        watch: Callable[[Callable[[], None]], bool] | None,
        level: int = 1,
        in_time: float | None = None,
    ) -> tuple[str, str, list[tuple[bytes, list[int]]], tuple[float, float, float, float, int, str] | None]: ...
    def close(self) -> None: ...
    def take_counts(self, http: bool) -> dict[str, Any]: ...
    def take_access(self, http: bool) -> tuple[list[tuple[Any, ...]], int]: ...
    def set_access(self, errors: bool, slow_s: float, every: int, most: int) -> None: ...
    @property
    def pending(self) -> int: ...
    @property
    def inflight(self) -> int: ...

class Pending:
    def __init__(
        self, max_rows: int, max_queue: int, preferred: list[int], levels: list[tuple[int, float, bool]]
    ) -> None: ...
    def push(
        self,
        number: int,
        rows: int,
        width: int,
        level: int,
        deadline: float | None,
        delay_at: float | None,
        now: float,
    ) -> bool: ...
    def pop(self, now: float, waited: bool) -> tuple[list[int], str, bool] | None: ...
    def __len__(self) -> int: ...

class Front:
    def __init__(
        self,
        limits: Mapping[str, int | float],
        methods: Sequence[tuple[str, bool]],
        infer_path: str,
        deliver: Callable[[list[tuple[Any, ...]]], None],
    ) -> None: ...
    def listen(self, host: str, port: int, http: bool, tls: tuple[str, str, str] | None, rest: bool = False) -> int: ...
    def set_tls(self, tls: tuple[str, str, str]) -> None: ...
    @property
    def connections(self) -> int: ...
    def start(self) -> None: ...
    def set_closing(self) -> None: ...
    def set_refusing(self) -> None: ...
    def set_gate(
        self,
        http: bool,
        needs_token: bool,
        tokens: Sequence[tuple[str, bytes, float]],
        headers: Sequence[tuple[str, bytes]],
    ) -> None: ...
    def refuse_new(self) -> None: ...
    def stop(self) -> None: ...
    def answer(self, call: int, message: bytes) -> None: ...
    def send(self, call: int, message: bytes) -> None: ...
    def finish(self, call: int, code: int, text: str, retry_ms: int = -1) -> None: ...
    def respond(self, call: int, head: bytes, parts: Sequence[Any], close: bool, more: bool) -> None: ...
    def publish(self, model: str, versions: Sequence[tuple[str, Version]], preferred: str) -> None: ...
