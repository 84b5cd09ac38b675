"""Who may call what: bearer tokens by role, and groups of calls that need a header (the restricted groups of Triton).

The files hold SHA-256 digests only, and are read again when they change. A front asks `Guard.check` before each call. Without
tokens everything is open, except that what changes the server is for clients on its own machine.
"""

import hashlib
import hmac
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from msgspec import Meta

from headrace.serve.config import Auth, ConfigError, convert
from headrace.serve.errors import forbidden, unauthenticated
from headrace.serve.schema import Section

Role = Literal["metadata", "infer", "metrics", "manage"]
Group = Literal[
    "health", "metadata", "inference", "shared-memory", "model-config", "model-repository", "statistics", "trace",
    "logging", "metrics",
]  # fmt: skip
Front = Literal["grpc", "http"]
Digest = Annotated[str, Meta(pattern="^[0-9a-f]{64}$", description="the SHA-256 of a text, 64 hexadecimal digits")]
Lookup = Callable[[str], str | None]  # the value of a header, by lower-case name

_METADATA: frozenset[str] = frozenset({"metadata", "model-config", "statistics"})
ALLOWED: dict[str, frozenset[str]] = {  # role -> groups
    "metadata": _METADATA,
    "infer": _METADATA | {"inference", "shared-memory"},
    "metrics": frozenset({"metrics", "statistics"}),
    "manage": frozenset(Group.__args__),  # type: ignore[attr-defined]
}
OPEN: frozenset[str] = frozenset({"health"})  # to everybody: probes have no tokens
HEADERS: dict[str, str] = {"grpc": "triton-grpc-protocol-", "http": ""}  # before the key of a restricted group


class Token(Section, frozen=True):
    """`sha256` is the digest of the token's text, in hexadecimal; `expires` has a time zone."""

    name: str
    sha256: Digest
    roles: tuple[Role, ...]
    expires: Annotated[datetime, Meta(tz=True)] | None = None


class Restricted(Section, frozen=True):
    """Calls of `groups` need a header of this key (on gRPC after `triton-grpc-protocol-`) whose value has the digest."""

    groups: tuple[Group, ...]
    key: Annotated[str, Meta(pattern="^[a-z0-9-]+$")]
    sha256: Digest
    fronts: tuple[Front, ...] = ("grpc", "http")


class _Tokens(Section, frozen=True):
    token: tuple[Token, ...] = ()


class _Groups(Section, frozen=True):
    restricted: tuple[Restricted, ...] = ()


@dataclass(frozen=True, slots=True)
class Rules:
    """What is in force. `tokens` None: none are needed."""

    tokens: tuple[Token, ...] | None = None
    restricted: tuple[Restricted, ...] = ()


class Guard:
    """The rules of `settings`. ConfigError where a file cannot be used."""

    def __init__(self, settings: Auth | None = None, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._settings, self._clock = settings or Auth(), clock
        self._followers: list[Callable[[Rules], None]] = []
        self.rules = _read(self._settings)

    @property
    def files(self) -> list[str]:
        return [file for file in (self._settings.tokens, self._settings.restricted) if file]

    def follow(self, follower: Callable[[Rules], None]) -> None:
        """`follower` is told of the rules now and of every change."""
        self._followers.append(follower)
        follower(self.rules)

    def reload(self) -> None:
        """Read the files again. ConfigError where they cannot be used: the old rules stay."""
        self.rules = _read(self._settings)
        for follower in self._followers:
            follower(self.rules)

    def check(self, front: Front, group: str, header: Lookup, local: bool) -> bool:
        """Whether the caller may change the server. ServeError (unauthenticated, forbidden) where it may not even ask."""
        rules = self.rules
        asked = [row for row in rules.restricted if group in row.groups and front in row.fronts]
        if asked and not any(_equal(row.sha256, header(HEADERS[front] + row.key)) for row in asked):
            names = ", ".join(sorted({HEADERS[front] + row.key for row in asked}))
            raise forbidden(
                f"calls of the group {group} are restricted; they need the right value of the header {names}"
            )
        if rules.tokens is None or group in OPEN:
            return local or bool(asked)
        roles = self._roles(rules.tokens, header("authorization"))
        if not any(group in ALLOWED[role] for role in roles):
            needed = ", ".join(role for role, groups in ALLOWED.items() if group in groups)
            raise forbidden(f"the token does not allow calls of the group {group}; allowed with the role {needed}")
        return "manage" in roles

    def name_of(self, header: Lookup) -> str:
        """The name of the token that a caller showed, for the log; "" without tokens."""
        if self.rules.tokens is None:
            return ""
        _, _, text = (header("authorization") or "").partition(" ")
        digest = _digest(text.strip())
        return next((token.name for token in self.rules.tokens if hmac.compare_digest(token.sha256, digest)), "")

    def _roles(self, tokens: tuple[Token, ...], value: str | None) -> tuple[Role, ...]:
        scheme, _, text = (value or "").partition(" ")
        if scheme.lower() != "bearer" or not text.strip():
            raise unauthenticated("a token is needed; send the header authorization: Bearer TOKEN")
        digest, now = _digest(text.strip()), self._clock()
        matches = [token for token in tokens if hmac.compare_digest(token.sha256, digest)]  # all are compared
        for token in matches:
            if token.expires is None or now < token.expires:
                return token.roles
        raise unauthenticated("the token is unknown or has expired")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _equal(digest: str, value: str | None) -> bool:
    return value is not None and hmac.compare_digest(digest, _digest(value))


def _read(settings: Auth) -> Rules:
    tokens = _file(_Tokens, settings.tokens).token if settings.tokens else None
    return Rules(tokens, _file(_Groups, settings.restricted).restricted if settings.restricted else ())


S = TypeVar("S", bound=Section)


def _file(kind: type[S], file: str) -> S:
    path = Path(file)
    try:
        return convert(kind, tomllib.loads(path.read_text(encoding="utf-8")), path.name, quote=False)
    except OSError as error:
        raise ConfigError(f"auth: {path.name}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError):
        raise ConfigError(f"auth: {path.name}: not TOML") from None  # the parser's words would quote the file


__all__ = ["ALLOWED", "Guard", "Restricted", "Rules", "Token"]
