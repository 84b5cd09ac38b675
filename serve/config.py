"""Settings: headrace.toml of a server and config.toml of a model, as schemas.

A flag beats the environment, the environment the file, the file the default. An unknown key is an error that names
the nearest known one. Units end the names.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from msgspec import Meta

from headrace.serve.schema import (
    MIB,
    Bytes,
    Count,
    Port,
    Positive,
    Seconds,
    Section,
    SomeSeconds,
    Threads,
    Version,
    toml,
)
from headrace.serve.schema import ConfigError as ConfigError
from headrace.serve.schema import convert as convert
from headrace.serve.schema import read as read

MAX_WORKERS = 64
MAX_LEVELS = 64  # of priority
MAX_STEPS = 65536  # of a generation
MAX_BUCKETS = 64  # of a histogram
LABEL = "[a-z][a-z0-9_-]{0,63}"  # what points to a version

Access = Annotated[
    str,
    Meta(pattern="^(off|errors|slow|all|sampled:[1-9][0-9]{0,8})$", description="off, errors, slow, all and sampled:N"),
]
Label = Annotated[
    str, Meta(pattern=f"^{LABEL}$", description="names of a-z 0-9 _ -, a letter first, at most 64 of them")
]


class Listen(Section, frozen=True):
    """Where the server listens. Port 0 takes a free one, a negative port switches the listener off.

    `front`: the native one, or grpcio and h11 (`portable`); `auto` is the native one where it was built.
    `reflection`: the gRPC port answers which services and messages it has. `typed_answers`: a ModelInfer with typed contents
    gets typed contents back (but for FP16 and BF16), for clients that cannot read raw ones."""

    host: str = "127.0.0.1"
    grpc_port: Port = 8001
    http_port: Port = 8000
    metrics_port: Port = 8002
    front: Literal["auto", "native", "portable"] = "auto"
    reflection: bool = True
    typed_answers: bool = False


class Tls(Section, frozen=True):
    """PEM files for every port: a certificate with the chain above it and its key, and the authority whose certificates
    clients must show ("": none). They are read again when they change."""

    certificate: str = ""
    key: str = ""
    authority: str = ""


class Auth(Section, frozen=True):
    """TOML files of digests (see `guard.py`): bearer tokens with roles ("": none are needed), and groups of calls that need
    a header. They are read again when they change."""

    tokens: str = ""
    restricted: str = ""


class Limits(Section, frozen=True):
    """Bounds of the fronts; every one is explicit. `max_buffered_bytes` of requests that have not come whole, over all
    connections (native front). gRPC: a connection without calls is ended after `connection_idle_s`, any after
    `connection_age_s` with `connection_age_grace_s` for its calls; one that says nothing for `keepalive_s` is asked, and ended
    `keepalive_timeout_s` later. HTTP: `header_timeout_s`, `idle_timeout_s`."""

    max_message_bytes: Annotated[int, Meta(ge=1024, le=2**31 - 1)] = 64 * MIB
    max_buffered_bytes: Bytes = 512 * MIB
    connection_idle_s: SomeSeconds = 300.0
    connection_age_s: SomeSeconds = 3600.0
    connection_age_grace_s: Seconds = 30.0
    keepalive_s: SomeSeconds = 60.0
    keepalive_timeout_s: SomeSeconds = 20.0
    grpc_threads: Positive = 128
    http_threads: Positive = 64
    max_connections: Positive = 1024
    max_concurrent_streams: Positive = 128
    max_header_bytes: Annotated[int, Meta(ge=1024, le=MIB)] = 32 * 1024
    max_metadata_bytes: Annotated[int, Meta(ge=1024, le=MIB)] = 16 * 1024
    max_header_count: Positive = 100
    header_timeout_s: SomeSeconds = 10.0
    idle_timeout_s: SomeSeconds = 60.0


class Drain(Section, frozen=True):
    """Graceful stop: seconds of lame duck, then the grace for accepted calls."""

    lame_duck_s: Seconds = 3.0
    grace_s: Seconds = 25.0


class Workers(Section, frozen=True):
    """Models run in `count` processes each (0: in threads of the server). A process that takes more than `memory_bytes` of
    private memory fails (0: no limit); one whose heart does not beat for `heartbeat_timeout_s`, or whose batch runs for more
    than `run_timeout_s` or well past the deadlines of all its requests, is killed and replaced."""

    count: Annotated[int, Meta(ge=0, le=MAX_WORKERS)] = 0
    memory_bytes: Bytes = 0
    heartbeat_timeout_s: SomeSeconds = 4.0
    run_timeout_s: SomeSeconds = 60.0


class Log(Section, frozen=True):
    """The access log: JSON lines to `file` ("": stderr). `access` is "off"; "errors", requests that failed; "slow", these and
    those over `slow_ms`; "sampled:N", these and one in N; or "all". But for "all", at most `lines_per_s` of each meaning are
    written in a second, and of the rest their number (0: no limit)."""

    access: Access = "slow"
    slow_ms: Annotated[float, Meta(ge=0)] = 1000.0
    lines_per_s: Count = 10
    file: str = ""


class Trace(Section, frozen=True):
    """Traces of requests: to `file` as lines of OTLP's JSON, or with `otlp` by OTLP to where the standard variables
    (OTEL_EXPORTER_OTLP_ENDPOINT, ...) say. `level` "off" until a TraceSetting call changes it; of requests whose caller
    does not trace them one in `rate` (0: none); after `count` traces no more (-1: no limit)."""

    level: Literal["off", "timestamps"] = "off"
    rate: Count = 1000
    count: Annotated[int, Meta(ge=-1, le=2**31 - 1)] = -1
    file: str = ""
    otlp: bool = False


class RepositorySettings(Section, frozen=True):
    """What is served: a folder, one file, or `name=path` entries; and the name of a single file.

    `control`: changes are taken over on load and unload calls ("explicit"), by looking every `poll_s` seconds ("poll"),
    or not at all ("off").
    `readiness`: the server is ready when "all" models were ready once, "any" of them, or those that are named.
    `check`: a model is loaded, proven and does the runs of its warm-up (or one with zeros) in a process of its own first, within
    `load_timeout_s` and `load_memory_bytes` of private memory (0: 2 GiB, or four times the file where that is more). What was
    proven on this host once is not again.
    `keep_packed`: weights in the order of kernels are kept in files of the cache folder, each as large as its model and all
    together at most `packed_bytes`, which this and the next start map: the system can drop them from memory, and nothing is
    packed again. An archive that was proven to be what was written is then, for a day, not read in full again unless somebody
    writes it.
    """

    paths: tuple[str, ...] = ()
    model_name: str = ""
    device: str = "auto"
    threads: Threads = 0
    control: Literal["explicit", "poll", "off"] = "explicit"
    poll_s: SomeSeconds = 5.0
    readiness: Literal["all", "any"] | tuple[str, ...] = "all"
    check: bool = True
    load_timeout_s: SomeSeconds = 120.0
    load_memory_bytes: Bytes = 0
    keep_packed: bool = True
    packed_bytes: Bytes = 8 << 30


class SharedMemory(Section, frozen=True):
    """Whether clients on this machine may register system shared memory, and how many regions."""

    enabled: bool = False
    max_regions: Count = 256


class Settings(Section, frozen=True):
    """headrace.toml."""

    listen: Listen = Listen()
    tls: Tls = Tls()
    auth: Auth = Auth()
    limits: Limits = Limits()
    drain: Drain = Drain()
    workers: Workers = Workers()
    log: Log = Log()
    trace: Trace = Trace()
    repository: RepositorySettings = RepositorySettings()
    shared_memory: SharedMemory = SharedMemory()


class Batching(Section, frozen=True):
    """`max_batch_size` -1: the default for models whose rows are proven independent, 0: never batch.

    `preferred_sizes`: a batch of such a size goes without waiting for the delay. `preserve_ordering`: requests of a priority run
    by arrival, one batch after the other; else the one whose deadline is next goes first, and batches may run side by side.
    `strict`: a model that cannot be batched is refused where `max_batch_size` asks for it; else it is served without.
    """

    max_batch_size: Annotated[int, Meta(ge=-1, le=2**31 - 1)] = -1
    max_delay_us: Count = 0
    preferred_sizes: tuple[Positive, ...] = ()
    preserve_ordering: bool = False
    strict: bool = True

    def __post_init__(self) -> None:
        for size in self.preferred_sizes if self.max_batch_size > 0 else ():
            if size > self.max_batch_size:
                raise ConfigError(
                    f"batching.preferred_sizes has {size}; allowed are numbers from 1 to {self.max_batch_size}"
                )


class QueueLevel(Section, frozen=True):
    """What differs for one priority: `max_size` 0: no limit of its own, `timeout_ms` 0: requests may wait for ever."""

    max_size: Count = 0
    timeout_ms: Count = 0
    timeout_override: bool = True
    timeout_action: Literal["reject", "delay"] = "reject"


class Queue(Section, frozen=True):
    """The bounded queue of a model; `timeout_ms` 0: no limit of its own.

    A request's own `timeout` shortens it where `timeout_override`. Late requests are refused, or with "delay" run after
    those in time. With `priority_levels` above 0, `priority` 1 goes first; `default_priority` (0: the last) is for
    requests that name none. `levels` has what differs, by priority ("1")."""

    max_size: Positive = 1024
    timeout_ms: Count = 0
    timeout_override: bool = True
    timeout_action: Literal["reject", "delay"] = "reject"
    priority_levels: Annotated[int, Meta(ge=0, le=MAX_LEVELS)] = 0
    default_priority: Count = 0
    levels: dict[str, QueueLevel] = {}

    def __post_init__(self) -> None:
        count = self.priority_levels
        if count > MAX_LEVELS:  # also where it was not read from a file
            raise ConfigError(f"queue.priority_levels is {count}; allowed are numbers from 0 to {MAX_LEVELS}")
        if self.default_priority > count:
            raise ConfigError(f"queue.default_priority is {self.default_priority}; there are {count} priority levels")
        for name in self.levels:
            if name not in [str(number) for number in range(1, count + 1)]:
                raise ConfigError(f"queue.levels has {name!r}; there are {count} priority levels")


class Cache(Section, frozen=True):
    """Answers kept for requests that come again, up to `max_bytes` of them."""

    enabled: bool = False
    max_bytes: Bytes = 64 * MIB


class Versions(Section, frozen=True):
    """Which versions are served and the labels that point to them."""

    policy: Literal["latest", "all", "specific"] = "latest"
    keep: Version | tuple[Version, ...] = 1
    labels: dict[Label, Version] = {}

    def __post_init__(self) -> None:
        if self.policy == "latest" and not isinstance(self.keep, int):
            raise ConfigError(f"versions.keep is {list(self.keep)}; policy 'latest' takes a number from 1")


class Instances(Section, frozen=True):
    """`count` 0: one for a batching model, else one a CPU up to four. `device` is "cpu". Instance i runs on processor
    `cpus[i % len(cpus)]` (none: on any): its batches, on a thread of its own; the threads that share the work of large kernels
    belong to the process."""

    count: Threads = 0
    device: str = "cpu"
    cpus: tuple[Count, ...] = ()


class Declared(Section, frozen=True):
    """An input or output as the configuration has it: wire datatype, and dims (-1: any), without the batch where
    `max_batch_size` is above 0. It must agree with the model."""

    name: str
    datatype: str
    dims: tuple[int, ...]


class SequenceState(Section, frozen=True):
    """A state that the package does not declare: `output` of one run is `input` of the next, zeros at first. `dims` without the
    batch where `max_batch_size` is above 0; not needed where the model's are fixed."""

    input: str
    output: str
    dims: tuple[int, ...] = ()


class SequenceControl(Section, frozen=True):
    """An input that tells the model where in a sequence a row is: `on` or `off`, or the sequence's id ("corrid")."""

    input: str
    kind: Literal["start", "end", "ready", "corrid"]
    off: float = 0
    on: float = 1


class Sequence(Section, frozen=True):
    """Requests with a `sequence_id`, for which the server keeps the model's states.

    `strategy` "oldest": requests of different sequences are merged; "direct": each runs by itself at once; "off": states are
    inputs and outputs of the client; "": "oldest" for a model whose package declares states. A sequence that gets no request
    for `idle_timeout_ms` is forgotten."""

    strategy: Literal["", "direct", "oldest", "off"] = ""
    idle_timeout_ms: Count = 60_000
    max_sequences: Positive = 4096
    max_state_bytes: Bytes = 1024 * MIB
    states: tuple[SequenceState, ...] = ()
    controls: tuple[SequenceControl, ...] = ()


class Generate(Section, frozen=True):
    """One request runs the model until it stops: `output` of a step is `input` of the next, states are kept between them, and
    every step is an answer.

    `step` ("": the main one) names the entry point of the steps after the first. It ends after `max_steps`, or fewer by the
    request's `max_tokens`, or when the last element of `output` is one of `stop`."""

    input: str = ""
    output: str = ""
    step: str = ""
    stop: tuple[float, ...] = ()
    max_steps: Annotated[int, Meta(ge=1, le=MAX_STEPS)] = 256


class Postprocess(Section, frozen=True):
    """`labels`: files of names, one a line, by the output whose classes they name; beside the model's versions, or in one.
    `top_k`: by output, how many of its largest elements are answered in place of all, as classification has them."""

    labels: dict[str, str] = {}
    top_k: dict[str, Positive] = {}


class WarmupInput(Section, frozen=True):
    """`dims` without the batch; `data`, or the raw bytes of `file` in the folder warmup beside the model's versions."""

    dims: tuple[int, ...] = ()
    data: Literal["zero", "random"] = "zero"
    file: str = ""


class WarmupSample(Section, frozen=True):
    """`count` runs (0: two) of a batch of `batch_size` (0: one row)."""

    inputs: dict[str, WarmupInput]
    batch_size: Count = 0
    count: Count = 0
    name: str = ""


class Warmup(Section, frozen=True):
    """Runs before a version is ready: `samples`, or without any the golden inputs in the sizes of batches that are
    configured, for at most `seconds`; "off": neither."""

    mode: Literal["golden", "off"] = "golden"
    seconds: Seconds = 10.0
    samples: tuple[WarmupSample, ...] = ()


class Metrics(Section, frozen=True):
    """Upper bounds of the model's histograms, rising (none: the default): `seconds_buckets` of all headrace_*_seconds,
    `first_response_buckets_ms` of the time to the first part of an answer."""

    seconds_buckets: tuple[float, ...] = ()
    first_response_buckets_ms: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        for name in ("seconds_buckets", "first_response_buckets_ms"):
            bounds = getattr(self, name)
            if len(bounds) > MAX_BUCKETS or not all(a < b for a, b in zip((0.0, *bounds), bounds)):
                raise ConfigError(f"metrics.{name} must be rising numbers above 0, at most {MAX_BUCKETS}")


class EnsembleStep(Section, frozen=True):
    """One model of an ensemble: `inputs` say which tensor each of its inputs reads, `outputs` which one each output makes.
    `version` is a number or a label ("": by the model's policy)."""

    model: str
    inputs: dict[str, str]
    outputs: dict[str, str]
    version: str = ""


class Ensemble(Section, frozen=True):
    """Models that answer one request together, in the order that their tensors ask for."""

    steps: tuple[EnsembleStep, ...] = ()


class ModelConfig(Section, frozen=True):
    """name/config.toml, or what a name/config.pbtxt says."""

    batching: Batching = Batching()
    queue: Queue = Queue()
    cache: Cache = Cache()
    versions: Versions = Versions()
    instances: Instances = Instances()
    inputs: tuple[Declared, ...] = ()
    outputs: tuple[Declared, ...] = ()
    ensemble: Ensemble = Ensemble()
    sequence: Sequence = Sequence()
    generate: Generate = Generate()
    postprocess: Postprocess = Postprocess()
    metrics: Metrics = Metrics()
    warmup: Warmup = Warmup()


# flag name of `headrace serve` (dashes as underscores) -> where it is set
FLAGS = {
    "host": ("listen", "host"),
    "grpc_port": ("listen", "grpc_port"),
    "http_port": ("listen", "http_port"),
    "metrics_port": ("listen", "metrics_port"),
    "tls_certificate": ("tls", "certificate"),
    "tls_key": ("tls", "key"),
    "tls_authority": ("tls", "authority"),
    "tokens": ("auth", "tokens"),
    "restricted": ("auth", "restricted"),
    "access_log": ("log", "access"),
    "repository": ("repository", "paths"),
    "model_name": ("repository", "model_name"),
    "allow_shared_memory": ("shared_memory", "enabled"),
    "threads": ("repository", "threads"),
    "keep_packed": ("repository", "keep_packed"),
    "control": ("repository", "control"),
    "device": ("repository", "device"),
    "workers": ("workers", "count"),
}


def settings_from(flags: Mapping[str, Any], environ: Mapping[str, str] = os.environ) -> Settings:
    """The settings in force. `flags` are those given on the command line (None: not given)."""
    return with_origins(flags, environ)[0]


def with_origins(
    flags: Mapping[str, Any], environ: Mapping[str, str] = os.environ
) -> tuple[Settings, dict[tuple[str, str], str]]:
    """The settings in force, and where those come from that are not defaults."""
    data: dict[str, Any] = {}
    origins: dict[tuple[str, str], str] = {}
    where = "flags"
    file = flags.get("config") or environ.get("HEADRACE_CONFIG") or ("headrace.toml" if _here() else None)
    if file:
        data, where = toml(Path(file)), Path(file).name
        convert(Settings, data, where)
        origins = {(section, key): where for section, rows in data.items() for key in rows}
    if "HEADRACE_THREADS" in environ:
        place = ("repository", "threads")
        _put(data, place, _integer("HEADRACE_THREADS", environ["HEADRACE_THREADS"]))
        origins[place] = "HEADRACE_THREADS"
    for flag, place in FLAGS.items():
        if flags.get(flag) not in (None, ()):
            _put(data, place, flags[flag])
            origins[place] = f"--{flag.replace('_', '-')}"
    return convert(Settings, data, where), origins


def _here() -> bool:
    return Path("headrace.toml").is_file()


def _put(data: dict[str, Any], place: tuple[str, str], value: Any) -> None:
    data[place[0]] = {**data.get(place[0], {}), place[1]: value}


def _integer(name: str, text: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise ConfigError(f"{name} is {text!r}, expected a whole number")
    return int(text)
