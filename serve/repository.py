"""What should be there: models and versions found on disk. Read-only; nothing here loads a model.

Three forms: a folder `name/version/model.hr|model.onnx` with an optional `name/config.toml`, a single file (version 1),
and `name=path` entries (a file, or one model's folder of versions).
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from headrace.runtime.errors import HeadraceError
from headrace.runtime.foreign import model_advice
from headrace.runtime.hints import nearest
from headrace.serve import pbtxt
from headrace.serve.config import ConfigError, ModelConfig, Versions, read
from headrace.serve.errors import ServeError
from headrace.serve.policy import VersionKey
from headrace.serve.validate import check_model_name

SUFFIXES = (".hr", ".onnx")
_NUMBER = re.compile(r"[1-9][0-9]{0,17}")


class RepositoryError(HeadraceError):
    """The repository itself cannot be read; the text says which entry and why."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One model as found: its configuration and the file of every version."""

    name: str
    files: dict[VersionKey, Path] = field(default_factory=dict)
    config: ModelConfig = field(default_factory=ModelConfig)
    ignored: tuple[str, ...] = ()  # parts of its configuration that have no effect

    def wanted(self) -> frozenset[VersionKey]:
        """The versions the version policy asks for. ConfigError when a specific one does not exist."""
        keys = sorted(self.files)
        policy, keep = self.config.versions.policy, self.config.versions.keep
        if policy == "all":
            return frozenset(keys)
        if policy == "latest":
            if not isinstance(keep, int) or keep < 1:
                raise ConfigError(f"versions.keep is {keep!r}, policy 'latest' takes a number from 1")
            return frozenset(keys[-keep:])
        numbers = {keep} if isinstance(keep, int) else set(keep)
        missing = numbers - {key.number for key in keys}
        if missing:
            raise ConfigError(f"the version policy names version {min(missing)}, which is not in the folder")
        return frozenset(key for key in keys if key.number in numbers)


class Repository:
    """A set of places to look for models."""

    def __init__(self, paths: Sequence[str | Path], model_name: str = "") -> None:
        self._roots: list[Path] = []
        self._fixed: dict[str, Path] = {}
        if not paths:
            raise RepositoryError("no repository is given: name a folder, a model file or name=file")
        for item in paths:
            name, given, path = str(item).partition("=") if not Path(item).exists() else ("", "", str(item))
            if given:
                self._add(name, Path(path))
            elif Path(item).is_dir():
                self._add_folder(Path(item), model_name)
            elif Path(item).is_file():
                self._add(model_name or Path(item).stem, Path(item))
            else:
                raise RepositoryError(f"repository {item!s}: no such file or folder{_beside(Path(item))}")

    def names(self) -> list[str]:
        """Names of all models, sorted. A folder whose name is no model name is passed over."""
        found = set(self._fixed)
        for root in self._roots:
            found |= {path.name for path in root.iterdir() if path.is_dir() and _is_name(path.name)}
        return sorted(found)

    def find(self, name: str) -> Entry | None:
        """The model's versions and configuration now on disk; None when there is no such model.

        `name` must have passed `check_model_name`. ConfigError when its config.toml is wrong.
        """
        place = self._fixed.get(name)
        if place is None:
            place = next((root / name for root in self._roots if (root / name).is_dir()), None)
        if place is None or not place.exists():
            return None
        if place.is_file():
            return Entry(name, {VersionKey(1, _fingerprint(place, "")): place})
        config, ignored = _configuration(place)
        files, mark = {}, _load_mark(config)
        if config.ensemble.steps:  # no file: the members have theirs
            numbers = [int(one.name) for one in place.iterdir() if one.is_dir() and _NUMBER.fullmatch(one.name)]
            return Entry(name, {VersionKey(n, mark): place for n in numbers or [1]}, config, tuple(ignored))
        for folder in place.iterdir():
            if folder.is_dir() and _NUMBER.fullmatch(folder.name):
                path = next((folder / f"model{s}" for s in SUFFIXES if (folder / f"model{s}").is_file()), None)
                if path is not None:
                    files[VersionKey(int(folder.name), _fingerprint(path, mark))] = path
        return Entry(name, files, config, tuple(ignored))

    def layout(self, name: str) -> str:
        """What is wrong with the folder of a model that has no version: what is expected and what is there."""
        root = next((root for root in self._roots if (root / name).is_dir()), None)
        expected = f"expected {name}/VERSION/model.hr (or model.onnx), VERSION a number from 1"
        if root is None:
            return expected
        for path in sorted((root / name).iterdir()):
            inside = sorted(one.name for one in path.iterdir()) if path.is_dir() else []
            models = [one for one in inside if Path(one).suffix in SUFFIXES]
            if path.is_file() and path.suffix in SUFFIXES:
                return f"{expected}; found {name}/{path.name}: move it to {name}/1/model{path.suffix}"
            if _NUMBER.fullmatch(path.name) and models:
                found = f"{name}/{path.name}/{models[0]}"
                return f"{expected}; found {found}: call it model{Path(models[0]).suffix}"
            if models:
                return f"{expected}; found the folder {name}/{path.name}: call it 1"
            if any(_NUMBER.fullmatch(one) for one in inside):
                return f"{expected}; found {name}/{path.name}/{inside[0]}: {name} is a repository, serve that folder"
        return expected

    def _add(self, name: str, path: Path) -> None:
        try:
            check_model_name(name)
        except ServeError as error:
            raise RepositoryError(error.text) from None
        if not path.exists():
            raise RepositoryError(f"model {name!r}: {path!s}: no such file or folder{_beside(path)}")
        if path.is_file() and path.suffix not in SUFFIXES:
            advice = model_advice(path) or f"allowed are {', '.join(SUFFIXES)}"
            raise RepositoryError(f"model {name!r}: {path.name} is no model that headrace serves; {advice}")
        if name in self._fixed:
            raise RepositoryError(f"model {name!r} is given twice")
        self._fixed[name] = path

    def _add_folder(self, folder: Path, model_name: str) -> None:
        """A repository, or the content of one package (one model file at the top, as KServe mounts it)."""
        files = [path for path in folder.iterdir() if path.is_file() and path.suffix in SUFFIXES]
        if len(files) == 1:
            self._add(model_name or files[0].stem, files[0])
        elif advice := model_advice(folder):
            raise RepositoryError(f"repository {folder!s}: a folder of another framework; {advice}")
        elif len(files) > 1:
            raise RepositoryError(f"repository {folder!s}: several model files at the top; give name=path for each")
        else:
            self._roots.append(folder)


def _beside(path: Path) -> str:
    """A folder or model file that may have been meant by a path where there is nothing."""
    around = path.parent.iterdir() if path.parent.is_dir() else ()
    near = nearest(path.name, [one.name for one in around if one.is_dir() or one.suffix in SUFFIXES])
    return f"; {near}" if near.startswith("did") else ""


def _is_name(name: str) -> bool:
    try:
        return bool(check_model_name(name)) and not name.startswith(".")
    except ServeError:
        return False


def _configuration(place: Path) -> tuple[ModelConfig, list[str]]:
    """The settings of the model in `place`, and what in them has no effect. config.toml goes before config.pbtxt."""
    if (file := place / "config.toml").is_file():
        return read(ModelConfig, file), []
    if (file := place / pbtxt.NAME).is_file():
        return pbtxt.read(file, place.name)
    return ModelConfig(), []


def _load_mark(config: ModelConfig) -> str:
    """Stands for the settings that a version is loaded with; those that choose versions may change without a load."""
    settings = msgspec.structs.replace(config, versions=Versions())
    return hashlib.sha256(msgspec.json.encode(settings)).hexdigest()[:12]


def _fingerprint(path: Path, mark: str) -> str:
    stat = path.stat()
    return f"{stat.st_ino}-{stat.st_size}-{stat.st_mtime_ns}-{mark}"
