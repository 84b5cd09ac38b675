"""`manifest.json`: what an archive is, and the size and SHA-256 of every other member."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from headrace.runtime.errors import LoadError
from headrace.serializer import strict_json

NAME = "manifest.json"
FORMAT = "headrace"
VERSION = (1, 0)  # a reader takes its major version and every minor one whose operators it has
SIZE_LIMIT = 1 << 20

_KEYS = frozenset(
    {
        "format",
        "format_version",
        "producer",
        "created",
        "opsets",
        "operators",
        "members",
        "properties",
        "golden",
        "optimized",
    }
)
_OPTIONAL = frozenset({"created", "golden", "optimized"})
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Digest:
    size: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """`operators` are those that a reader must have. `golden` holds cases, rtol and atol where there is golden data;
    `optimized` the fingerprint of the passes that an optimized graph comes from."""

    members: dict[str, Digest]
    producer: str
    opsets: dict[str, int]
    operators: list[str]
    properties: dict[str, str] = field(default_factory=dict)
    created: str | None = None
    golden: dict[str, float] | None = None
    optimized: str | None = None
    version: tuple[int, int] = VERSION

    def encode(self) -> bytes:
        document: dict[str, Any] = {
            "format": FORMAT,
            "format_version": "{}.{}".format(*self.version),
            "producer": self.producer,
            "opsets": self.opsets,
            "operators": self.operators,
            "members": {name: {"size": digest.size, "sha256": digest.sha256} for name, digest in self.members.items()},
            "properties": self.properties,
        }
        if self.created is not None:
            document["created"] = self.created
        if self.golden is not None:
            document["golden"] = self.golden
        if self.optimized is not None:
            document["optimized"] = self.optimized
        return strict_json.write(document)


def decode(data: memoryview) -> Manifest:
    """Read and check a manifest. Raises LoadError."""
    document = strict_json.read(data, NAME, SIZE_LIMIT)
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise LoadError(f"{NAME}: this is no headrace archive")
    version = _version(document.get("format_version"))
    missing = sorted(_KEYS - _OPTIONAL - set(document))
    unknown = sorted(set(document) - _KEYS)
    if missing or (unknown and version <= VERSION):
        raise LoadError(f"{NAME}: {'needs' if missing else 'does not know'} the key {(missing or unknown)[0][:40]!r}")
    if not _SHA256.fullmatch(str(document.get("optimized", "0" * 64))):
        raise LoadError(f"{NAME}: optimized must be a fingerprint of passes, 64 hexadecimal digits")
    if not isinstance(document["producer"], str) or not isinstance(document.get("created", ""), str):
        raise LoadError(f"{NAME}: producer and created must be texts")
    return Manifest(
        members=_members(document["members"]),
        producer=document["producer"],
        opsets=_mapping(document["opsets"], "opsets", int),
        operators=_texts(document["operators"]),
        properties=_mapping(document["properties"], "properties", str),
        created=document.get("created"),
        golden=_golden(document.get("golden")),
        optimized=document.get("optimized"),
        version=version,
    )


def check_members(manifest: Manifest, members: Mapping[str, memoryview], unread: Collection[str] = ()) -> None:
    """Every member listed, every listed member there, and each the bytes that were recorded, but for those `unread`."""
    present, listed = set(members) - {NAME}, set(manifest.members)
    for name in sorted(present ^ listed):
        raise LoadError(f"member {name!r} is {'not listed in' if name in present else 'missing, but listed in'} {NAME}")
    check_bytes(manifest, {name: data for name, data in members.items() if name not in unread})


def check_bytes(manifest: Manifest, members: Mapping[str, memoryview]) -> None:
    """These members, which need not be all, are listed and the bytes that were recorded."""
    for name, data in members.items():
        if name == NAME:
            continue
        if (digest := manifest.members.get(name)) is None:
            raise LoadError(f"member {name!r} is not listed in {NAME}")
        if len(data) != digest.size or hashlib.sha256(data).hexdigest() != digest.sha256:
            raise LoadError(f"member {name!r} is damaged: its size or SHA-256 is not that of {NAME}")


def _version(text: object) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,4})\.(\d{1,4})", text) if isinstance(text, str) else None
    if match is None:
        raise LoadError(f"{NAME}: the format version {str(text)[:40]!r} is not MAJOR.MINOR")
    major, minor = int(match[1]), int(match[2])
    if major != VERSION[0]:
        raise LoadError(f"the archive has format version {major}.{minor}; this reader takes {VERSION[0]}.x")
    return major, minor


def _members(value: object) -> dict[str, Digest]:
    found: dict[str, Digest] = {}
    for name, item in _mapping(value, "members", dict).items():
        size, sha256 = item.get("size"), item.get("sha256")
        if (
            set(item) != {"size", "sha256"}
            or type(size) is not int
            or not isinstance(sha256, str)
            or not _SHA256.fullmatch(sha256)
        ):
            raise LoadError(f"{NAME}: member {name[:80]!r} needs exactly a size and a SHA-256")
        found[name] = Digest(size, sha256)
    return found


def _mapping(value: object, key: str, kind: type) -> dict[str, Any]:
    if not isinstance(value, dict) or not all(type(item) is kind for item in value.values()):
        raise LoadError(f"{NAME}: {key} must be an object of {kind.__name__} values")
    return value


def _texts(value: object) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise LoadError(f"{NAME}: operators must be a list of texts")
    return value


def _golden(value: object) -> dict[str, float] | None:
    if value is None:
        return None
    if not isinstance(value, dict) or set(value) != {"cases", "rtol", "atol"}:
        raise LoadError(f"{NAME}: golden must have exactly cases, rtol and atol")
    if type(value["cases"]) is not int or not 0 <= value["cases"] <= 10_000:
        raise LoadError(f"{NAME}: golden.cases must be a number from 0 to 10000")
    if not all(type(value[key]) in (int, float) and value[key] >= 0 for key in ("rtol", "atol")):
        raise LoadError(f"{NAME}: golden.rtol and golden.atol must be numbers >= 0")
    return value
