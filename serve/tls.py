"""The server's certificate, its key and the authority of clients, from files that may change while it runs.

One `Certificates` serves every port of every front. What is read is checked whole before it replaces anything, and only
connections to come see it: no call is lost when a certificate changes.
"""

import base64
import logging
import re
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from headrace.serve.config import ConfigError, Tls

log = logging.getLogger("headrace.serve")

SOON_SECONDS = 14 * 86400.0  # a certificate that ends within so long is worth a line in the log
_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----(.+?)-----END CERTIFICATE-----", re.DOTALL)
_UTC_TIME, _GENERALIZED_TIME, _VERSION = 0x17, 0x18, 0xA0


@dataclass(frozen=True, slots=True)
class Identity:
    """PEM texts that belong together (`authority` empty: clients need no certificate) and the same as a context for HTTP."""

    certificate: bytes
    key: bytes
    authority: bytes
    context: ssl.SSLContext

    def expiries(self) -> dict[str, float]:
        """When the first certificate of each file ends, in seconds since 1970."""
        texts = {"certificate": self.certificate, "authority": self.authority}
        return {name: expiry(text) for name, text in texts.items() if text}


class Certificates:
    """What is in force now, and who wants to know when it changes."""

    def __init__(self, settings: Tls) -> None:
        """ConfigError where the files cannot be used."""
        self._settings = settings
        self._followers: list[Callable[[Identity], None]] = []
        self.current = read(settings)
        self._warn()

    @property
    def files(self) -> list[str]:
        settings = self._settings
        return [file for file in (settings.certificate, settings.key, settings.authority) if file]

    def follow(self, follower: Callable[[Identity], None]) -> None:
        """`follower` is told of every identity after the current one."""
        self._followers.append(follower)

    def reload(self) -> None:
        """Read the files again. ConfigError where they cannot be used: the old identity stays."""
        identity = read(self._settings)
        for follower in self._followers:
            follower(identity)
        self.current = identity
        log.info("the TLS certificate was read again")
        self._warn()

    def _warn(self) -> None:
        for name, end in self.current.expiries().items():
            if end - time.time() < SOON_SECONDS:
                log.warning("the TLS %s ends at %s", name, datetime.fromtimestamp(end, UTC).isoformat())


def read(settings: Tls) -> Identity:
    """The files as an identity. ConfigError naming the one that cannot be used."""
    if not (settings.certificate and settings.key):
        raise ConfigError("tls: certificate and key are needed together (authority besides, for client certificates)")
    for _ in range(3):
        texts = _texts(settings)
        context = _context(settings, texts[2])
        if texts == _texts(settings):  # not exchanged between the looks
            return Identity(*texts, context)
    raise ConfigError("tls: the files change while they are read; put new ones in place by renaming")


def _texts(settings: Tls) -> tuple[bytes, bytes, bytes]:
    try:
        certificate, key = Path(settings.certificate).read_bytes(), Path(settings.key).read_bytes()
        return certificate, key, Path(settings.authority).read_bytes() if settings.authority else b""
    except OSError as error:
        raise ConfigError(f"tls: {Path(str(error.filename)).name}: {error.strerror}") from None


def _context(settings: Tls, authority: bytes) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(
            settings.certificate, settings.key, password=lambda: b""
        )  # never asked for on a terminal
    except (ssl.SSLError, ValueError) as error:
        reason = getattr(error, "reason", None) or "not in PEM form, or the key has a password"
        raise ConfigError(f"tls: certificate and key cannot be used together: {reason}") from None
    if authority:
        try:
            context.load_verify_locations(cadata=authority.decode("ascii"))
        except (ssl.SSLError, ValueError) as error:
            reason = getattr(error, "reason", None) or "not in PEM form"
            raise ConfigError(f"tls: the authority cannot be used: {reason}") from None
        context.verify_mode = ssl.CERT_REQUIRED
        context.options |= ssl.OP_NO_TICKET  # a resumed session would not show its certificate again
        context.num_tickets = 0
    return context


def expiry(pem: bytes) -> float:
    """When the first certificate of a PEM text to end does so, in seconds since 1970. ConfigError where there is none."""
    ends = []
    for body in _PEM.findall(pem):
        try:
            ends.append(_not_after(base64.b64decode(body)))
        except (ValueError, IndexError):
            raise ConfigError("tls: a certificate is malformed") from None
    if not ends:
        raise ConfigError("tls: no certificate in PEM form")
    return min(ends)


def _not_after(der: bytes) -> float:
    """`validity.notAfter` of an X.509 certificate (RFC 5280, 4.1): the fifth field of its first part, after the version."""
    parts = _fields(_fields(_fields(der)[0][1])[0][1])  # of the TBSCertificate in the Certificate
    if parts[0][0] == _VERSION:
        parts = parts[1:]
    kind, text = _fields(parts[3][1])[1]  # serial, algorithm, issuer, validity
    if kind not in (_UTC_TIME, _GENERALIZED_TIME):
        raise ValueError(kind)
    if kind == _UTC_TIME:  # two digits of the year, 1950 to 2049
        text = (b"19" if text[:2] >= b"50" else b"20") + text
    return datetime.strptime(text.decode("ascii"), "%Y%m%d%H%M%SZ").replace(tzinfo=UTC).timestamp()


def _fields(data: bytes) -> list[tuple[int, bytes]]:
    """(tag, contents) of the DER values in `data`."""
    out, at = [], 0
    while at < len(data):
        tag, size, at = data[at], data[at + 1], at + 2
        if size & 0x80:
            more = size & 0x7F
            size, at = int.from_bytes(data[at : at + more], "big"), at + more
        if size > len(data) - at:
            raise ValueError(size)
        out.append((tag, data[at : at + size]))
        at += size
    return out


__all__ = ["Certificates", "Identity", "expiry", "read"]
