"""The `.hr` archive: a program, its weights, its interface and recorded answers in one file that holds data only.

    save(program, "net.hr", golden=golden)      opened = open_program("net.hr")      inspect("net.hr")

A file is refused with the name of the member at fault if any bit of it is not what was written: the container has no
free byte (`zip_reader`), and every member has a CRC-32 and a SHA-256. Weights are views of one read-only mapping.
"""

from __future__ import annotations

import functools
import mmap
import os
import re
import stat
import zlib
from collections.abc import Callable, Collection, Mapping, Sequence
from hashlib import sha256
from typing import Any, TypeVar

from headrace.runtime import atomic
from headrace.runtime.check import check
from headrace.runtime.errors import HeadraceError, LoadError, UnsupportedOperator
from headrace.runtime.graph import OPSETS, Graph, Program
from headrace.runtime.interface import Contents, Golden, Opened, Optimized
from headrace.runtime.notes import DAY_S, Notes, identity, name_of, settled
from headrace.runtime.ops import kinds
from headrace.runtime.passes import fingerprint
from headrace.serializer import golden as golden_file
from headrace.serializer import graph_codec, interface, manifest, strict_json, weights
from headrace.serializer import optimized as optimized_graph
from headrace.serializer.manifest import Digest, Manifest
from headrace.serializer.zip_reader import check_name, check_sums, list_members
from headrace.serializer.zip_writer import Entry, layout

GRAPH, WEIGHTS = "graph.pb", "weights.safetensors"
_ARRAYS = frozenset({WEIGHTS, optimized_graph.WEIGHTS})  # the members that are large
_READY = frozenset({optimized_graph.GRAPH, optimized_graph.WEIGHTS})
_REQUIRED = frozenset({manifest.NAME, GRAPH, WEIGHTS, interface.NAME})
_OWN = _REQUIRED | _READY | {golden_file.NAME}
_FREE = frozenset({"calibration.json", "quant_report.json", "README", "LICENSE"})
T = TypeVar("T")
_LARGE = 1 << 20  # bytes; from here on it matters what of a file is in memory, and that it is proven once
AGAIN = "an archive is used only as it was written: copy it again, or pack the model again"
# Declared pre- and post-processing, as data.
_FOLDER = re.compile(r"(pre|post)/.+\.(json|jsonl|txt|csv|tsv|md|toml|model|vocab)")


def save(
    program: Program | Graph,
    path: str | os.PathLike[str],
    *,
    golden: Golden | None = None,
    properties: Mapping[str, str] | None = None,
    extra_members: Mapping[str, bytes] | None = None,
    created: str | None = None,
    optimized: bool = False,
) -> None:
    """Write an archive. The same arguments give the same bytes: `created` is stored as given, the clock is never read.

    `optimized`: with what the portable passes make of it, which saves them on load (see `serializer/optimized.py`).
    `extra_members` may hold calibration.json, quant_report.json, README, LICENSE, and data under pre/ and post/.
    An interruption leaves the old file or the new one, whole. Raises HeadraceError, and OSError from the disk.
    """
    program = Program({program.name: program}) if isinstance(program, Graph) else program
    if golden is not None:
        golden_file.check(golden, program.main)
    graph, arrays = graph_codec.encode(program)
    members: dict[str, Sequence[bytes | memoryview]] = {
        GRAPH: [graph],
        WEIGHTS: weights.encode(arrays),
        interface.NAME: [strict_json.write(interface.describe(program))],
    }
    if golden is not None:
        members[golden_file.NAME] = golden_file.encode(golden)
    ready = optimized_graph.encode(graph, arrays) if optimized else {}
    members |= ready
    for name, data in (extra_members or {}).items():
        _check_extra(name)
        members[name] = [bytes(data)]
    document = Manifest(
        members={name: _digest(chunks) for name, chunks in members.items()},
        producer=_producer(),
        opsets={domain or "ai.onnx": version for domain, version in OPSETS.items()},
        operators=_operators(program),
        properties=dict(properties or {}),
        created=created,
        golden=None
        if golden is None
        else {"cases": len(golden.inputs), "rtol": float(golden.rtol), "atol": float(golden.atol)},
        optimized=fingerprint() if ready else None,
    )
    members[manifest.NAME] = [document.encode()]
    atomic.replace(path, _container(members))


def _container(members: Mapping[str, Sequence[bytes | memoryview]]) -> list[bytes | memoryview]:
    names = sorted(members)
    plan = layout([_entry(name, members[name]) for name in names])
    chunks: list[bytes | memoryview] = []
    for name, header in zip(names, plan.headers):
        chunks += [header, *members[name]]
    return [*chunks, plan.tail]


def _entry(name: str, chunks: Sequence[bytes | memoryview]) -> Entry:
    crc = 0
    for chunk in chunks:
        crc = zlib.crc32(chunk, crc)
    return Entry(name, sum(map(len, chunks)), crc)


def _digest(chunks: Sequence[bytes | memoryview]) -> Digest:
    total = sha256()
    for chunk in chunks:
        total.update(chunk)
    return Digest(sum(map(len, chunks)), total.hexdigest())


def _check_extra(name: str) -> None:
    check_name(name)
    if name not in _FREE and not _FOLDER.fullmatch(name):
        raise LoadError(
            f"member {name!r} is not allowed; allowed: {', '.join(sorted(_FREE))}, and data files under pre/ and post/"
        )


def _producer() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return f"headrace {version('headrace')}"
    except PackageNotFoundError:
        return "headrace"


def _operators(program: Program) -> list[str]:
    return sorted({node.kind for graph in program.entries.values() for node in graph.block.walk()})


def open_program(source: Any, *, optimized: bool = False, notes: Notes | None = None) -> Opened:
    """Read an archive from a path or bytes. Everything in it is checked before anything of it is used. `optimized`: where it
    has what the portable passes of this version made of it, that is answered, and the program itself read when it is needed;
    whether bytes are what was written is then for `Opened.proof()` to say. `notes`: it is noted when they are
    right, and a file that nobody has written since is then, for a day, known by its note, and its weights taken without proof.

    Raises LoadError naming the file, the member and the rule; UnsupportedOperator for a newer file's operators.
    """
    return _told(source, lambda: _open(*_mapped(source), source, optimized, notes or Notes(None)))


def _told(source: Any, read: Callable[[], T]) -> T:
    """What `read` answers; its errors name the file."""
    name = _name(source)
    try:
        return read()
    except LoadError as error:
        again = "" if isinstance(error, UnsupportedOperator) else f"; {AGAIN}"
        raise type(error)(f"{name}: {error}{again}") from error.__cause__
    except HeadraceError as error:
        raise LoadError(f"{name}: {GRAPH}: {error}") from error
    except OSError as error:
        raise LoadError(f"{name}: cannot be read: {error.strerror}") from None


def _open(data: memoryview, facts: os.stat_result | None, source: Any, optimized: bool, notes: Notes) -> Opened:
    """`facts`: of the file that `data` is mapped from; `source`: where it comes from; `optimized`: contents are read later, and
    what passes made of a graph is enough."""
    note = name_of("archive", identity(facts)) if notes.anywhere and facts is not None else ""
    leave = functools.partial(_leave, data) if facts is not None and len(data) >= _LARGE else _nothing
    known = notes.said(note, DAY_S) if note and optimized else None
    if known:  # nothing of the file is read before somebody asks for it
        return Opened(lambda: _told(source, lambda: _read_again(data, source)), known, data, leave=leave)
    members, sums, document = _listed_members(data)
    digest = sha256(members[manifest.NAME]).hexdigest()  # of the list of all other members' digests

    @functools.cache
    def proof() -> None:
        _check(members, sums, document)
        if note and facts is not None and settled(facts):
            notes.add(note, digest)

    if not optimized:
        proof()
        return Opened(_decode(members, document, source, False), digest, data, leave=leave)

    def read() -> Contents:
        try:
            return _decode(members, document, source, True)
        except BaseException:
            proof()  # damage is told before what follows from it
            raise

    return Opened(lambda: _told(source, read), digest, data, lambda: _told(source, proof), leave)


def _read_again(data: memoryview, source: Any) -> Contents:
    """The contents of a file that is known to be what was written: its large members are not read for that."""
    members, sums, document = _listed_members(data)
    _check(members, sums, document, unread=_ARRAYS)
    return _decode(members, document, source, True)


def _nothing() -> None:
    """There is nothing to do."""


def _leave(data: memoryview) -> None:
    """Unmap the pages of a mapped file until somebody reads them: checksums and packing touched all, a run touches few."""
    if isinstance(data.obj, mmap.mmap):
        data.obj.madvise(mmap.MADV_DONTNEED)


def _decode(members: Mapping[str, memoryview], document: Manifest, source: Any, optimized: bool) -> Contents:
    _require(document.operators)
    arrays, _ = weights.decode(members[WEIGHTS], WEIGHTS)

    def read() -> Program:
        program = graph_codec.decode(members[GRAPH], arrays)
        if _operators(program) != document.operators:
            raise LoadError(f"{manifest.NAME} lists other operators than {GRAPH} has")
        for graph in program.entries.values():
            check(graph)
        interface.check(strict_json.read(members[interface.NAME], interface.NAME), program)
        return program

    ready: dict[str, Optimized] = {}
    if optimized and document.optimized is not None and document.optimized == fingerprint():
        program = optimized_graph.decode(members, arrays)
        interface.check(strict_json.read(members[interface.NAME], interface.NAME), program)
        ready = optimized_graph.checked(program)
    else:
        program = read()
    golden = None
    if document.golden is not None:
        golden = golden_file.decode(members[golden_file.NAME], **document.golden)  # type: ignore[arg-type]
        golden_file.check(golden, program.main)
    properties = _properties(document, program) | {"digest": sha256(members[manifest.NAME]).hexdigest()}
    return Contents((lambda: _told(source, read)) if ready else program, properties, golden, ready)


def _checked(data: memoryview) -> tuple[dict[str, memoryview], Manifest]:
    """The members, each proven to be what was written, and the manifest."""
    members, sums, document = _listed_members(data)
    _check(members, sums, document)
    return members, document


def _check(
    members: Mapping[str, memoryview], sums: Mapping[str, int], document: Manifest, unread: Collection[str] = ()
) -> None:
    """Raise LoadError for a member that is not what was written; nothing is said of the bytes of those `unread`."""
    manifest.check_members(document, members, unread)
    check_sums(members, {name: total for name, total in sums.items() if name not in unread})


def _listed_members(data: memoryview) -> tuple[dict[str, memoryview], dict[str, int], Manifest]:
    """The members, their recorded CRC-32 and the manifest; the bytes of members are not yet proven."""
    members, sums = list_members(data)
    for name in sorted(_REQUIRED - set(members)):
        raise LoadError(f"the member {name!r} is missing")
    for name in members:
        if name not in _OWN:
            _check_extra(name)
    check_sums(members, {manifest.NAME: sums[manifest.NAME]})  # damage is told before what follows from it
    document = manifest.decode(members[manifest.NAME])
    if (document.golden is not None) != (golden_file.NAME in members):
        raise LoadError(f"{manifest.NAME} and {golden_file.NAME} do not agree on golden data")
    if len(_READY & set(members)) != (0 if document.optimized is None else len(_READY)):
        raise LoadError(f"{manifest.NAME} and {optimized_graph.GRAPH} do not agree on an optimized graph")
    return members, sums, document


def _require(operators: Sequence[str]) -> None:
    missing = sorted(set(operators) - kinds())
    if missing:
        raise UnsupportedOperator(
            f"needs {len(missing)} operators that this version of headrace does not have: {', '.join(missing)}"
        )


def _properties(document: Manifest, program: Program) -> dict[str, str]:
    found = {
        **program.metadata,
        **document.properties,
        "format_version": "{}.{}".format(*document.version),
        "producer": document.producer,
    }
    if document.created is not None:
        found["created"] = document.created
    return found


def inspect(source: Any) -> dict[str, Any]:
    """What is in an archive, as plain data for printing: members with size and digest, interface, operators,
    properties, golden data, parameters. The whole file is checked on the way."""
    data = _bytes(source)
    opened = open_program(source)
    members, document = _checked(data)
    arrays, _ = weights.decode(members[WEIGHTS], WEIGHTS)
    return {
        "file": _name(source),
        "size": len(data),
        "format_version": "{}.{}".format(*document.version),
        "producer": document.producer,
        "created": document.created,
        "members": {
            name: {"size": len(view), "sha256": _listed(document, name, view)} for name, view in members.items()
        },
        "interface": interface.describe(opened.program)["entries"],
        "operators": document.operators,
        "nodes": {key: sum(1 for _ in graph.block.walk()) for key, graph in opened.program.entries.items()},
        "weights": {"arrays": len(arrays), "bytes": sum(array.nbytes for array in arrays.values())},
        "properties": opened.properties,
        "golden": document.golden,
    }


def _listed(document: Manifest, name: str, view: memoryview) -> str:
    return document.members[name].sha256 if name in document.members else sha256(view).hexdigest()


def read_extra(source: Any) -> dict[str, bytes]:
    """The members that are not the archive's own: pre/, post/, README, LICENSE, reports."""
    members, _ = _checked(_bytes(source))
    return {name: bytes(view) for name, view in members.items() if name not in _OWN}


def read_members(source: Any, prefix: str) -> dict[str, bytes]:
    """The members whose names begin so, each proven; the rest of the file is not read."""
    members, sums, document = _listed_members(_bytes(source))
    found = {name: view for name, view in members.items() if name.startswith(prefix)}
    check_sums(found, {name: sums[name] for name in found})
    manifest.check_bytes(document, found)
    return {name: bytes(view) for name, view in found.items()}


def _name(source: Any) -> str:
    return str(source) if isinstance(source, str | os.PathLike) else "the archive"


def _bytes(source: Any) -> memoryview:
    return _mapped(source)[0]


def _mapped(source: Any) -> tuple[memoryview, os.stat_result | None]:
    """The whole file, mapped read-only where it is a path, and what the system says of it there."""
    if isinstance(source, bytes | bytearray | memoryview):
        return memoryview(bytes(source)), None
    if not isinstance(source, str | os.PathLike):
        raise LoadError(f"an archive cannot be read from {type(source).__name__}; allowed: a path or bytes")
    file = os.open(source, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        facts = os.fstat(file)
        if not stat.S_ISREG(facts.st_mode) or facts.st_size == 0:
            raise LoadError("it is empty or no regular file")
        return memoryview(mmap.mmap(file, facts.st_size, prot=mmap.PROT_READ, flags=mmap.MAP_PRIVATE)), facts
    finally:
        os.close(file)
