"""Errors of serving are meanings from a closed list; only the fronts turn them into status codes.

The text of an error says what is wrong, where (model, tensor, field) and what is allowed. It never carries a
traceback, a file path, an address or client bytes unescaped.
"""

from enum import Enum

from headrace.runtime.errors import HeadraceError


class Meaning(Enum):
    """Why a request was not answered with a result (Open Inference Protocol codes: see the tables of the fronts)."""

    BAD_ARGUMENT = "bad_argument"
    NOT_FOUND = "not_found"
    EXISTS = "exists"
    UNSUPPORTED = "unsupported"
    UNAVAILABLE = "unavailable"
    OVERLOADED = "overloaded"
    EXPIRED = "expired"
    CANCELLED = "cancelled"
    TOO_LARGE = "too_large"
    UNAUTHENTICATED = "unauthenticated"
    FORBIDDEN = "forbidden"
    INTERNAL = "internal"


class ServeError(HeadraceError):
    """The one exception of serving: a meaning, a text for the client and, when overloaded, when to come back. `limit` names
    the bound that was reached (see `rejections.py`)."""

    def __init__(self, meaning: Meaning, text: str, *, retry_after_ms: int | None = None, limit: str = "") -> None:
        super().__init__(text)
        self.meaning = meaning
        self.text = text
        self.retry_after_ms = retry_after_ms
        self.limit = limit


def bad_argument(text: str) -> ServeError:
    """The request itself is wrong; repeating it unchanged cannot help."""
    return ServeError(Meaning.BAD_ARGUMENT, text)


def not_found(text: str) -> ServeError:
    """An unknown model, version, label, region or repository."""
    return ServeError(Meaning.NOT_FOUND, text)


def unavailable(text: str) -> ServeError:
    """Known, but not ready now: loading, failed, unloaded or draining."""
    return ServeError(Meaning.UNAVAILABLE, text)


def unsupported(text: str) -> ServeError:
    """The protocol has it, this server does not or has it switched off."""
    return ServeError(Meaning.UNSUPPORTED, text)


def unauthenticated(text: str) -> ServeError:
    """No credentials came, or none that are good."""
    return ServeError(Meaning.UNAUTHENTICATED, text)


def forbidden(text: str) -> ServeError:
    """The caller is known well enough, the call is not allowed to it."""
    return ServeError(Meaning.FORBIDDEN, text)


def overloaded(text: str, limit: str, retry_after_ms: int = 50) -> ServeError:
    """The bound `limit` was reached; the same request may succeed after `retry_after_ms` milliseconds."""
    return ServeError(Meaning.OVERLOADED, text, retry_after_ms=retry_after_ms, limit=limit)


def quoted(text: str, limit: int = 64) -> str:
    """Client text for an error message: escaped, quoted and cut to `limit` characters."""
    cut = text if len(text) <= limit else text[:limit] + "…"
    return "'" + cut.encode("unicode_escape").decode("ascii").replace("\\u2026", "…").replace("'", "\\'") + "'"
