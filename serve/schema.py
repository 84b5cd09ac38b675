"""Settings as schemas: data become structs, or an error that says which key, what was given, and what is allowed.

A range stands in the type of its field (`Count`, `Seconds`, ...), rules between fields in `__post_init__`.
"""

import re
import tomllib
import types
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import msgspec
from msgspec import Meta

from headrace.runtime.errors import HeadraceError
from headrace.runtime.hints import nearest

MIB = 1024 * 1024

Count = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Positive = Annotated[int, Meta(ge=1, le=2**31 - 1)]
Version = Annotated[int, Meta(ge=1, le=10**18 - 1)]  # 18 digits: a folder may be called by the time
Bytes = Annotated[int, Meta(ge=0, le=2**48)]
Seconds = Annotated[float, Meta(ge=0, le=10**6)]  # eleven days: neither infinite nor a NaN
SomeSeconds = Annotated[float, Meta(gt=0, le=10**6)]
Port = Annotated[int, Meta(le=65535, description="a number up to 65535, 0 for any free port, -1 for none")]
Threads = Annotated[int, Meta(ge=0, le=1024)]


class ConfigError(HeadraceError):
    """A setting is unknown or out of range; the text names file, key and what is allowed."""


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of every section."""


S = TypeVar("S", bound=Section)


def read(kind: type[S], path: Path) -> S:
    """The settings in a TOML file. ConfigError when it does not parse or does not fit the schema."""
    return convert(kind, toml(path), path.name)


def toml(path: Path) -> dict[str, Any]:
    """What a TOML file says. ConfigError when it cannot be read, or is none."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path.name}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path.name}: {error}") from None


def convert(kind: type[S], data: Mapping[str, Any], where: str, *, quote: bool = True) -> S:
    """`data` as settings of `kind`; `where` names the source in errors. quote=False: no error repeats a value (a secret)."""
    _check_keys(kind, data, where, "")
    try:
        return msgspec.convert(data, kind)
    except msgspec.ValidationError as error:
        if isinstance(error.__cause__, ConfigError):
            raise ConfigError(f"{where}: {error.__cause__}") from None
        raise ConfigError(f"{where}: {_explained(kind, data, str(error), quote)}") from None


def checked(settings: S, where: str = "settings") -> S:
    """Settings that were made in code, or read from elsewhere, as if they stood in a file."""
    return convert(type(settings), msgspec.to_builtins(settings), where)


def _check_keys(kind: Any, data: Any, where: str, place: str) -> None:
    """ConfigError for the first key, however deep, that no section has."""
    if isinstance(kind, type) and issubclass(kind, Section):
        if not isinstance(data, Mapping):
            return
        known = {field.name: field.type for field in msgspec.structs.fields(kind)}
        for key, value in data.items():
            at = f"{place}.{key}".lstrip(".")
            if key not in known:
                raise ConfigError(f"{where}: unknown key {at!r}; {nearest(key, known)}")
            _check_keys(known[key], value, where, at)
    elif get_origin(kind) is tuple and isinstance(data, list | tuple):
        for number, value in enumerate(data):
            _check_keys(get_args(kind)[0], value, where, f"{place}[{number}]")
    elif get_origin(kind) is dict and isinstance(data, Mapping):
        for key, value in data.items():
            _check_keys(get_args(kind)[1], value, where, f"{place}.{key}")


def _explained(kind: type[Section], data: Mapping[str, Any], text: str, quote: bool) -> str:
    """msgspec's words ("Expected `int` >= 0 - at `$.limits.x`") as ours: where, what is there, what is allowed."""
    words, _, path = text.partition(" - at `")
    key, _, path = path.removesuffix("`").rpartition("` in `")
    if key:  # not the value is wrong, but a key of a table
        _, wanted, place = _follow(kind, data, path)
        return f"{place} has a key that is not allowed; allowed are {allowed(get_args(wanted)[0])}"
    value, wanted, place = _follow(kind, data, path)
    if missing := re.fullmatch("Object missing required field `(.+)`", words):
        return f"{place} lacks {missing[1]!r}".lstrip()
    if wanted is None:
        return f"{place}: {words}" if place else words
    kinds: dict[type, str] = {dict: "a table", list: "an array", tuple: "an array"}
    shown = kinds.get(type(value)) or (repr(value) if quote else "wrong")
    return f"{place} is {shown}; allowed: {allowed(wanted)}"


def _follow(kind: Any, data: Any, path: str) -> tuple[Any, Any, str]:
    """(value, type, name) of what a path of msgspec leads to; the type None where it cannot be followed."""
    place = ""
    for part in re.findall(r"\.(\w+)|\[(\d+|\.\.\.)\]", path):
        name, index = part
        try:
            if name:
                kind = next(field.type for field in msgspec.structs.fields(kind) if field.name == name)
                data, place = data[name], f"{place}.{name}".lstrip(".")
            elif get_origin(kind) is dict:  # it does not say which: the first that is wrong
                inner = get_args(kind)[1]
                name = next(name for name, value in data.items() if not _fits(value, inner))
                kind, data, place = inner, data[name], f"{place}.{name}"
            else:
                arrays = [one for one in (kind, *get_args(kind)) if get_origin(one) is tuple]
                kind, data, place = get_args(arrays[0])[0], data[int(index)], f"{place}[{index}]"
        except (StopIteration, KeyError, IndexError, TypeError, ValueError):
            return data, None, place
    return data, kind, place


def _fits(value: Any, kind: Any) -> bool:
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError:
        return False
    return True


def allowed(kind: Any) -> str:
    """What a field of this type takes, in words."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Annotated:
        meta = next(one for one in inner[1:] if isinstance(one, Meta))
        return meta.description or f"{allowed(inner[0])}{_range(meta)}"
    if origin is Literal:
        return ", ".join(repr(one) for one in inner)
    if origin in (Union, types.UnionType):
        return ", or ".join(allowed(one) for one in inner if one is not types.NoneType)
    if origin is tuple:
        return f"an array of {allowed(inner[0])}"
    if origin is dict or (isinstance(kind, type) and issubclass(kind, Section)):
        return "a table"
    names = {
        int: "whole numbers",
        float: "numbers",
        bool: "true or false",
        str: "text",
        datetime: "a time with timezone",
    }
    return names.get(kind, str(kind))


def _range(meta: Meta) -> str:
    low = f" from {meta.ge}" if meta.ge is not None else f" above {meta.gt}" if meta.gt is not None else ""
    high = f" to {meta.le}" if meta.le is not None else ""
    return low + high + (f" that matches {meta.pattern}" if meta.pattern else "")
