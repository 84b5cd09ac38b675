"""Fuzz target: the reader of `.hr` archives. Most mutations would end at a digest, so half of them change a member and seal the
archive again."""

from __future__ import annotations

import hashlib
import json
import random
import zlib

import harness

from headrace.runtime.errors import HeadraceError
from headrace.serializer.archive import open_program
from headrace.serializer.zip_reader import read_members
from headrace.serializer.zip_writer import Entry, layout


def read(data: bytes) -> None:
    open_program(data)


def mutate(data: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    try:
        members = {name: bytes(view) for name, view in read_members(memoryview(data)).items()}
    except HeadraceError:
        members = {}
    if not members or rng.random() < 0.5:
        return harness.mutate(data, rng, others)
    name = rng.choice(sorted(members))
    members[name] = harness.mutate(members[name], rng, others)
    return sealed(members)


def sealed(members: dict[str, bytes]) -> bytes:
    """The members as an archive whose manifest lists them as they are, where it still is one."""
    try:
        document = json.loads(members["manifest.json"])
        document["members"] = {
            name: {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            for name, data in members.items()
            if name != "manifest.json"
        }
        members = {**members, "manifest.json": json.dumps(document).encode()}
    except (ValueError, TypeError):
        pass
    names = sorted(members)
    plan = layout([Entry(name, len(members[name]), zlib.crc32(members[name])) for name in names])
    return b"".join(header + members[name] for header, name in zip(plan.headers, names)) + plan.tail
