"""What is there: loads and unloads versions as `policy` says, and hands out handles that keep a version alive.

Publishing is one swap of a dictionary entry under the lock. A load runs on its caller's thread, one at a time in the
process; loads of one model that come together are one load.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from headrace.runtime.background import giving_way
from headrace.runtime.errors import HeadraceError
from headrace.runtime.hints import nearest
from headrace.serve.access import AccessLog
from headrace.serve.config import ConfigError
from headrace.serve.ensemble import Ensemble, members_of
from headrace.serve.errors import Meaning, ServeError, not_found, quoted, unavailable
from headrace.serve.model import Loader
from headrace.serve.policy import Load, State, VersionKey, next_action
from headrace.serve.rejections import Rejections
from headrace.serve.repository import Entry, Repository
from headrace.serve.statistics import SECONDS_BUCKETS, Histogram
from headrace.serve.validate import check_model_name, parse_version
from headrace.serve.version import ModelVersion

log = logging.getLogger("headrace.serve")

ENGINE_POLL_SECONDS = 0.005


@dataclass(slots=True)
class _Record:
    """Everything known about one model name."""

    busy: threading.Lock = field(default_factory=threading.Lock)  # one load or unload at a time
    versions: dict[VersionKey, ModelVersion] = field(default_factory=dict)
    desired: frozenset[VersionKey] = frozenset()
    entry: Entry | None = None
    error: str = ""
    loads: int = 0  # finished loads, to join those that waited
    failure: ServeError | None = None  # of the latest load


@dataclass(frozen=True, slots=True)
class _Served:
    """The published versions of one model."""

    versions: dict[int, ModelVersion]
    default: int
    labels: dict[str, int]


@dataclass(frozen=True, slots=True)
class Published:
    """What takes requests of one model now: versions by number and by label, and the key of the one that requests without
    a version get ("": none)."""

    versions: dict[str, ModelVersion]
    preferred: str


Subscriber = Callable[[str, Published], None]


class Manager:
    """Owns every loaded version. All methods may be called from any thread."""

    def __init__(
        self,
        repository: Repository,
        loader: Loader,
        *,
        drain_seconds: float = 30.0,
        access: AccessLog | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._repository = repository
        self._loader = loader
        self._drain_seconds = drain_seconds
        self._access = access
        self.rejections = Rejections()
        self.timings: dict[str, dict[str, Histogram]] = {"load": {}, "swap": {}, "drain": {}}  # by model
        self._clock = clock
        self._lock = threading.Lock()
        self._released = threading.Condition(self._lock)
        self._one_load = threading.Lock()
        self._records: dict[str, _Record] = {}
        self._served: dict[str, _Served] = {}
        self._subscribers: list[Subscriber] = []

    def subscribe(self, told: Subscriber) -> None:
        """Call `told` with what takes requests of a model at every change (and now). It must not call back."""
        with self._lock:
            self._subscribers.append(told)
            for name in self._served:
                told(name, self._published(name))

    def _published(self, name: str) -> Published:
        served = self._served.get(name)
        if served is None:
            return Published({}, "")
        keyed = {str(number): version for number, version in served.versions.items()}
        labels = {label: served.versions[n] for label, n in served.labels.items() if n in served.versions}
        return Published({**labels, **keyed}, str(served.default))

    # ---- handles ----

    def acquire(self, name: str, version: str) -> ModelVersion:
        """A ready version with a handle on it; `release` must follow. `version` is "", a number or a label."""
        with self._lock:
            served = self._served.get(name)
            if served is not None:
                found = served.versions.get(served.default) if not version else self._pick(name, served, version)
                if found is not None:
                    found.refs += 1
                    return found
        raise self._why_not(name, version)

    def release(self, version: ModelVersion) -> None:
        """Give a handle back."""
        with self._lock:
            version.refs -= 1
            if not version.refs and version.state is not State.READY:
                self._released.notify_all()

    @staticmethod
    def _pick(name: str, served: _Served, version: str) -> ModelVersion | None:
        wanted = parse_version(version)
        if isinstance(wanted, str):
            if wanted not in served.labels:
                labels = ", ".join(served.labels) or "none"
                raise not_found(f"model {quoted(name)} has no label {quoted(wanted)}; it has {labels}")
            wanted = served.labels[wanted]
        return served.versions.get(wanted) if wanted is not None else None

    def _why_not(self, name: str, version: str) -> ServeError:
        check_model_name(name)
        wanted = parse_version(version)
        with self._lock:
            record = self._records.get(name)
            if record is None:
                return not_found(f"model {quoted(name)} is unknown; {nearest(name, self._records)}")
            known = [v for k, v in record.versions.items() if wanted is None or k.number == wanted]
            if wanted is not None and not known:
                has = ", ".join(str(number) for number in sorted({key.number for key in record.versions}))
                return not_found(f"model {quoted(name)} has no version {quoted(version)}; it has {has or 'none'}")
            reason = next((v.reason for v in reversed(known) if v.reason), record.error) or "loading"
            return unavailable(f"model {quoted(name)} is not ready: {reason}")

    # ---- verbs ----

    def start(self) -> None:
        """Load every model of the repository; a failure is recorded and logged, the others go on."""
        for name in self._repository.names():
            if name in self._records:
                continue  # loaded as the member of an ensemble
            try:
                self.load(name)
            except ServeError:
                continue  # logged there

    def load(self, name: str) -> None:
        """Bring the wanted versions of `name` up; returns when they are ready. Joins a load that is under way. An ensemble's
        members that are not ready are loaded first."""
        check_model_name(name)
        for member in self._members(name):
            if not self.ready(member):
                with contextlib.suppress(ServeError):  # logged there, and the reason why the ensemble is not ready
                    self._load_one(member)
        self._load_one(name)

    def _members(self, name: str) -> list[str]:
        with contextlib.suppress(ConfigError, OSError):  # told by the load of the ensemble
            return members_of(name, self._repository.find)
        return []

    def _load_one(self, name: str) -> None:
        with self._lock:
            record = self._records.get(name)
            before = record.loads if record else 0
        if record is None:
            if name not in (names := self._repository.names()):
                raise not_found(f"model {quoted(name)} is not in the repository; {nearest(name, names)}")
            with self._lock:
                record = self._records.setdefault(name, _Record())
        joined = record.busy.locked()
        with record.busy:
            if not joined or record.loads == before:
                record.failure = self._load(name, record)
                record.loads += 1
                if record.failure is not None:
                    log.error("%s", record.failure.text)
            if record.failure is not None:
                raise record.failure

    def unload(self, name: str, dependents: bool = False) -> None:
        """Take all versions of `name` down; returns when the last handle is gone and the memory is free. `dependents`: and
        then the members of an ensemble that no other one has."""
        check_model_name(name)
        members = self._members(name) if dependents else []
        self._unload_one(name)
        others = {member for other in {v.name for v in self.versions()} for member in self._members(other)}
        for member in reversed(members):
            if member not in others and self.ready(member):
                self._unload_one(member)

    def _unload_one(self, name: str) -> None:
        with self._lock:
            record = self._records.get(name)
        if record is None:
            raise not_found(f"model {quoted(name)} is unknown; {nearest(name, self._records)}")
        with record.busy:
            record.desired = frozenset()
            self._reconcile(name, record)

    def close(self) -> None:
        """Unload everything; for the end of the server."""
        for name in list(self._records):
            try:
                self.unload(name)
            except ServeError as error:
                log.warning("model %s: %s", name, error.text)

    # ---- views ----

    def index(self) -> list[tuple[str, str, str, str]]:
        """(name, version, state as shown, reason) of every version, and of models without one."""
        rows = []
        with self._lock:
            for name, record in sorted(self._records.items()):
                shown: dict[int, tuple[str, str, str, str]] = {}
                for version in sorted(record.versions.values(), key=lambda v: v.state is State.READY):
                    number = version.key.number
                    failed = shown[number][3] if number in shown and version.state is State.READY else ""
                    reason = version.reason or (f"replacement failed: {failed}" if failed else "")
                    shown[number] = (name, version.number, version.state.shown, reason)
                rows += [shown[number] for number in sorted(shown)]
                if not shown:
                    rows.append((name, "", "UNAVAILABLE", record.error))
        known = {row[0] for row in rows}
        return rows + [(name, "", "", "") for name in self._repository.names() if name not in known]

    def ready(self, name: str, version: str = "") -> bool:
        """True when a request for it would find a ready version."""
        try:
            found = self.acquire(name, version)
            self.release(found)
            return found.alive
        except ServeError as error:
            if error.meaning is Meaning.BAD_ARGUMENT:
                raise
            return False

    def all_ready(self, readiness: str | Sequence[str] = "all") -> bool:
        """True when the models that `readiness` means have a ready version: "all" that are wanted, "any" of these (or
        there is none), or the named ones."""
        with self._lock:
            wanted = [name for name, r in self._records.items() if r.desired or r.error]
            if readiness == "any":
                return not wanted or any(name in self._served for name in wanted)
            return all(name in self._served for name in (wanted if readiness == "all" else readiness))

    def all_alive(self) -> bool:
        """True when every ready version has something to run it: a worker process, where it runs in some."""
        return all(version.alive for version in self.versions())

    def versions(self) -> list[ModelVersion]:
        """Every version that is ready now."""
        with self._lock:
            return [version for served in self._served.values() for version in served.versions.values()]

    # ---- effects ----

    def _load(self, name: str, record: _Record) -> ServeError | None:
        try:
            entry = self._repository.find(name)
            wanted = entry.wanted() if entry else frozenset()
            if entry is not None and entry.config.ensemble.steps:
                members_of(name, self._repository.find)  # not itself among them
        except (ConfigError, OSError) as error:
            record.error = str(error) if isinstance(error, ConfigError) else "its folder cannot be read"
            return unavailable(f"model {quoted(name)}: {record.error}")
        if entry is None or not wanted:
            record.error = self._repository.layout(name)
            return not_found(f"model {quoted(name)}: {record.error}")
        record.entry, record.desired, record.error = entry, wanted, ""
        if entry.ignored:
            log.warning("model %s: without effect in its configuration: %s", name, ", ".join(entry.ignored))
        with self._lock:  # asked again: failed ones get another try, gone ones are forgotten
            for key, version in list(record.versions.items()):
                if version.state is State.ERROR or (version.state is State.DISABLED and key not in wanted):
                    del record.versions[key]
        self._reconcile(name, record)
        with self._lock:  # the labels may have moved
            self._publish(name, record)
        failed = [v for k, v in record.versions.items() if k in wanted and v.state is State.ERROR]
        return unavailable(f"model {quoted(name)} version {failed[0].number}: {failed[0].reason}") if failed else None

    def _time(self, kind: str, name: str, started: float) -> None:
        self.timings[kind].setdefault(name, Histogram(SECONDS_BUCKETS)).add(self._clock() - started)

    def _reconcile(self, name: str, record: _Record) -> None:
        loaded: float | None = None
        while action := next_action(record.desired, {k: v.state for k, v in record.versions.items()}):
            if isinstance(action, Load):
                self._bring_up(name, record, action.key)
                loaded = self._clock()
            else:
                started = self._clock()
                self._take_down(name, record, record.versions[action.key])
                self._time("drain", name, started)
                if loaded is not None:
                    self._time("swap", name, loaded)

    def _bring_up(self, name: str, record: _Record, key: VersionKey) -> None:
        assert record.entry is not None
        version = ModelVersion(name, key, self._access, self.rejections)
        version.state = State.LOAD_REQUESTED
        record.versions[key] = version
        started = self._clock()
        with self._one_load:
            version.state = State.LOADING
            try:
                config = record.entry.config
                own: Loader = getattr(self._loader, "for_config", lambda _: self._loader)(config)
                loader = (lambda _: Ensemble(config, self)) if config.ensemble.steps else own
                with giving_way(bool(self._served)):
                    version.bring_up(record.entry.files[key], config, loader)
            except Exception as error:
                version.reason = _reason(error, record.entry.files[key])
                version.state = State.ERROR
                if not isinstance(error, HeadraceError):
                    log.error("model %s version %s", name, version.number, exc_info=True)
                return
        with self._lock:
            version.state = State.READY
            self._publish(name, record)
        self._time("load", name, started)
        if version.workers is not None:
            version.workers.when_given_up(lambda reason: self._give_up(name, record, version, reason))
        log.info(
            "model %s version %s ready in %.3f s, batching %s",
            name,
            version.number,
            self._clock() - started,
            version.properties["headrace.batching"],
        )

    def _give_up(self, name: str, record: _Record, version: ModelVersion, reason: str) -> None:
        """Its workers keep dying: nothing else is touched by that."""
        with self._lock:
            if version.state is not State.READY:
                return
            version.state, version.reason = State.ERROR, reason
            self._publish(name, record)
        log.error("model %s version %s: given up: %s", name, version.number, reason)
        version.give_up()

    def _take_down(self, name: str, record: _Record, version: ModelVersion) -> None:
        with self._lock:
            version.state, version.reason = State.QUIESCING, "unloading"
            self._publish(name, record)
            if not self._wait_until_free(version):
                version.state, version.reason = State.READY, ""
                self._publish(name, record)
                raise unavailable(f"model {quoted(name)} version {version.number} still has requests; not unloaded")
            version.state = State.UNLOADING
        with giving_way(bool(self._served)):
            version.take_down()
        version.reason = "unloaded"
        version.state = State.DISABLED
        log.info("model %s version %s unloaded", name, version.number)

    def _wait_until_free(self, version: ModelVersion) -> bool:
        """Wait (lock held) for the last handle, and for the requests that its engine took by itself."""
        end = self._clock() + self._drain_seconds
        while version.refs or version.inflight:
            left = end - self._clock()
            if left <= 0:
                return False
            self._released.wait(min(left, ENGINE_POLL_SECONDS) if version.inflight else left)
        return True

    def _publish(self, name: str, record: _Record) -> None:
        """Swap in what is ready (lock held), and say so to who takes requests."""
        self._swap(name, record)
        for told in self._subscribers:
            told(name, self._published(name))

    def _swap(self, name: str, record: _Record) -> None:
        """A wanted version beats an unwanted one of the same number."""
        ready: dict[int, ModelVersion] = {}
        for key, version in sorted(record.versions.items(), key=lambda item: item[0] in record.desired):
            if version.state is State.READY:
                ready[key.number] = version
        if not ready:
            self._served.pop(name, None)
            return
        labels = dict(record.entry.config.versions.labels) if record.entry else {}
        before = self._served.get(name)
        for label, number in labels.items():  # a label moves when the version that it will point to is ready
            if number not in ready and before is not None and before.labels.get(label) in ready:
                labels[label] = before.labels[label]
        self._served[name] = _Served(ready, max(ready), labels)


def _reason(error: Exception, path: Path) -> str:
    """One line for clients, without the path: our own errors speak for themselves, others only by kind."""
    if isinstance(error, HeadraceError) and str(error):
        return str(error).splitlines()[0].replace(str(path), path.name)
    return f"the model could not be loaded ({type(error).__name__})"
