"""What is done with outputs on their way to the client, as data: the largest elements in place of all, names of classes.

It comes from `[postprocess]` of the model's configuration, or from `post/postprocess.toml` inside the package, with the files
it names beside it there; for an output that both speak of, the configuration counts.
"""

import math
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from headrace.serve import classify
from headrace.serve.classify import Labels
from headrace.serve.config import ConfigError, convert
from headrace.serve.config import Postprocess as Declared
from headrace.serve.errors import bad_argument, quoted
from headrace.serve.validate import Port

FOLDER = "post/"
DECLARATION = FOLDER + "postprocess.toml"


@dataclass(frozen=True, slots=True)
class Postprocess:
    """By output: names of classes, and how many of the largest elements are answered in place of all."""

    labels: Mapping[str, Labels] = field(default_factory=dict)
    top_k: Mapping[str, int] = field(default_factory=dict)

    def shown(self, answer: dict[str, Any], datatype: str, shape: str, skip: int) -> dict[str, Any]:
        """The description of an output as clients see it; `skip` leading dimensions stay."""
        count = self.top_k.get(answer["name"])
        if count is None:
            return answer
        return answer | {
            datatype: "TYPE_STRING" if datatype == "data_type" else "BYTES",
            shape: [*answer[shape][:skip], count],
        }

    def check_placed(self, outputs: Collection[str]) -> None:
        """bad_argument where texts would have to go into shared memory."""
        for name in self.top_k.keys() & set(outputs):
            raise bad_argument(f"output {quoted(name)}: classification and shared memory exclude each other")


def read(settings: Declared, outputs: tuple[Port, ...], batched: bool, path: Path) -> Postprocess:
    """For the model in the file `path`; `batched`: dimension 0 counts rows. ConfigError names an output or a file that is not there."""
    names = [port.name for port in outputs]
    members = _members(path)
    inside = _declared(members)
    labels = {
        name: classify.labels_in(f"{DECLARATION}: labels: {name!r}", members.get(FOLDER + file))
        for name, file in inside.labels.items()
        if name not in settings.labels
    }
    for name in inside.labels:
        classify.check_output("labels", name, names)
    labels |= classify.labels_of(settings.labels, names, (path.parent, path.parent.parent))
    top_k = {**inside.top_k, **settings.top_k}
    for name, count in top_k.items():
        classify.check_output("top_k", name, names)
        port = next(port for port in outputs if port.name == name)
        if not port.datatype.size:
            raise ConfigError(f"postprocess.top_k: output {name!r} has texts; the largest are of numbers")
        sizes = [size for size in (port.shape or (None,))[batched:] if isinstance(size, int)]
        if port.shape is not None and len(sizes) == len(port.shape) - batched:
            top_k[name] = min(count, math.prod(sizes))
    return Postprocess(labels, top_k)


def _members(path: Path) -> dict[str, bytes]:
    """The files under post/ of a package."""
    if path.suffix != ".hr":
        return {}
    with path.open("rb") as file:
        if file.read(4) != b"PK\x03\x04":
            return {}  # what a loader of somebody else's reads
    from headrace.serializer import archive

    return archive.read_members(path, FOLDER)


def _declared(members: Mapping[str, bytes]) -> Declared:
    if DECLARATION not in members:
        return Declared()
    try:
        found = tomllib.loads(members[DECLARATION].decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{DECLARATION}: {error}") from None
    return convert(Declared, found, DECLARATION)


__all__ = ["Postprocess", "read"]
