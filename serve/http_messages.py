"""HTTP requests and responses as an application sees them, whatever server carries them."""

import http
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from headrace.serve.datatypes import Buffer

WRITE_SECONDS = 30.0  # that a client may take none of an answer
PHRASES = {status.value: status.phrase.encode() for status in http.HTTPStatus}

Headers = list[tuple[bytes, bytes]]


@dataclass(slots=True)
class HttpRequest:
    """A complete request. `headers` have lower-case names; `watch` registers a callback for a client that left. `trusted`:
    the application found that the client may change the server."""

    method: str
    target: str
    headers: dict[bytes, bytes]
    body: bytearray
    local: bool
    watch: Callable[[Callable[[], None]], bool]
    trusted: bool = False

    def header(self, name: str) -> str | None:
        """The value of a header as text."""
        value = self.headers.get(name.encode("latin-1"))
        return None if value is None else value.decode("latin-1")


@dataclass(slots=True)
class HttpResponse:
    """Status, body in pieces (sent without joining them) and headers besides length and connection. `stream`, where given, is
    the body instead: pieces that are sent as they come, and closed where the client leaves."""

    status: int
    body: Sequence[Buffer] = ()
    headers: Headers = field(default_factory=list)
    stream: Generator[bytes, None, None] | None = None


class Application(Protocol):
    """What answers requests, on threads of the pool. It raises nothing."""

    @property
    def closing(self) -> bool:
        """True when clients should be told to take their next request elsewhere."""
        ...

    def __call__(self, request: HttpRequest) -> HttpResponse: ...

    def refuse(self, status: int, text: str) -> HttpResponse:
        """The answer to a request that is no request."""
        ...
