"""config.pbtxt: a model's configuration in the text form of the protocol's ModelConfig, as Triton repositories have it.

What it says about versions, batches, queues and instances becomes ours; names, datatypes and shapes are checked against
the model; a field that would change answers and does not exist here is an error; any other is named, without effect.
"""

from pathlib import Path
from typing import Any, Literal

from headrace.serve.config import (
    Batching,
    Cache,
    ConfigError,
    Declared,
    Ensemble,
    EnsembleStep,
    Instances,
    Metrics,
    ModelConfig,
    Postprocess,
    Queue,
    QueueLevel,
    Sequence,
    SequenceControl,
    SequenceState,
    Versions,
    Warmup,
    WarmupInput,
    WarmupSample,
)
from headrace.serve.datatypes import DATATYPES
from headrace.serve.schema import checked

NAME = "config.pbtxt"
MAX_BYTES = 1024 * 1024
MOST = 2**31 - 1
BACKENDS = ("", "onnxruntime", "onnxruntime_onnx", "headrace", "ensemble")
FILES = ("", "model.onnx", "model.hr")
_REFUSED = {
    "batch_input": "ragged batches are not supported",
    "batch_output": "ragged batches are not supported",
    "model_operations": "no code is loaded for a model",
    "model_repository_agents": "no code is loaded for a model",
}
_USED = {
    "name", "platform", "backend", "max_batch_size", "input", "output", "version_policy", "dynamic_batching",
    "instance_group", "response_cache", "default_model_filename", "model_transaction_policy", "ensemble_scheduling",
    "sequence_batching", "model_metrics", "model_warmup",
}  # fmt: skip
_DATATYPES = {row.config: row.name for row in DATATYPES.values()}


def read(path: Path, model: str) -> tuple[ModelConfig, list[str]]:
    """The settings in the file of `model`, and the fields in it that have no effect. ConfigError names field and value."""
    message = _parse(path)
    given = {field.name for field, _ in message.ListFields()}
    for name in sorted(given & _REFUSED.keys()):
        raise ConfigError(f"{NAME}: {name}: {_REFUSED[name]}")
    for name, value, allowed in (
        ("name", message.name, ("", model)),
        ("platform", message.platform, BACKENDS),
        ("backend", message.backend, BACKENDS),
        ("default_model_filename", message.default_model_filename, FILES),
    ):
        if value not in allowed:
            raise ConfigError(f"{NAME}: {name} is {value!r}; allowed are {', '.join(filter(None, allowed))}")
    if message.model_transaction_policy.decoupled:
        raise ConfigError(
            f"{NAME}: model_transaction_policy.decoupled: a model answers in parts by [generate] of a config.toml"
        )
    ignored = sorted(given - _USED)
    config = ModelConfig(
        batching=_batching(message),
        queue=_queue(message.dynamic_batching, ignored),
        cache=Cache(enabled=message.response_cache.enable),
        versions=_versions(message.version_policy),
        instances=_instances(message.instance_group, ignored),
        inputs=tuple(_declared(tensor, "input", ignored) for tensor in message.input),
        outputs=tuple(_declared(tensor, "output", ignored) for tensor in message.output),
        ensemble=_ensemble(message),
        sequence=_sequence(message, ignored),
        warmup=Warmup(samples=tuple(_warmup(sample) for sample in message.model_warmup)),
        metrics=_metrics(message.model_metrics, ignored),
        postprocess=Postprocess({row.name: row.label_filename for row in message.output if row.label_filename}),
    )
    return checked(config, NAME), list(dict.fromkeys(ignored))


def _parse(path: Path) -> Any:
    from google.protobuf import text_format

    from headrace.protos import inference_pb2

    if path.stat().st_size > MAX_BYTES:
        raise ConfigError(f"{NAME}: longer than {MAX_BYTES} bytes")
    kind: Any = inference_pb2
    try:
        return text_format.Parse(path.read_bytes(), kind.ModelConfig())
    except (text_format.ParseError, UnicodeDecodeError) as error:
        raise ConfigError(f"{NAME}: {str(error).splitlines()[0]}") from None


def _batching(message: Any) -> Batching:
    if message.max_batch_size < 0:
        raise ConfigError(f"{NAME}: max_batch_size is {message.max_batch_size}; allowed are numbers from 0")
    dynamic = message.dynamic_batching
    return Batching(
        message.max_batch_size,
        _capped(dynamic.max_queue_delay_microseconds),
        tuple(dynamic.preferred_batch_size),
        dynamic.preserve_ordering,
        strict=False,
    )


def _queue(dynamic: Any, ignored: list[str]) -> Queue:
    used = {
        "max_queue_delay_microseconds", "preserve_ordering", "preferred_batch_size", "default_queue_policy",
        "priority_levels", "default_priority_level", "priority_queue_policy",
    }  # fmt: skip
    ignored += [f"dynamic_batching.{field.name}" for field, _ in dynamic.ListFields() if field.name not in used]
    policy = dynamic.default_queue_policy
    return Queue(
        _capped(policy.max_queue_size or Queue().max_size),
        *_late(policy),
        dynamic.priority_levels,
        dynamic.default_priority_level,
        {str(n): QueueLevel(_capped(p.max_queue_size), *_late(p)) for n, p in dynamic.priority_queue_policy.items()},
    )


def _capped(number: int) -> int:
    """A limit that is written as the largest number of its type means none."""
    return min(number, MOST)


def _late(policy: Any) -> tuple[int, bool, Literal["reject", "delay"]]:
    """(milliseconds, override, action). Where no time is set, requests may always set their own."""
    time = _capped(-(-policy.default_timeout_microseconds // 1000))
    return time, policy.allow_timeout_override or not time, "delay" if policy.timeout_action else "reject"


def _ensemble(message: Any) -> Ensemble:
    steps = message.ensemble_scheduling.step
    if bool(steps) != (message.WhichOneof("scheduling_choice") == "ensemble_scheduling" or "ensemble" in (
        message.platform, message.backend
    )):  # fmt: skip
        raise ConfigError(f"{NAME}: an ensemble needs ensemble_scheduling with at least one step")
    return Ensemble(
        tuple(
            EnsembleStep(
                step.model_name,
                dict(step.input_map),
                dict(step.output_map),
                str(step.model_version) if step.model_version > 0 else "",
            )
            for step in steps
        )
    )


_CONTROLS: dict[int, Literal["start", "ready", "end", "corrid"]] = {0: "start", 1: "ready", 2: "end", 3: "corrid"}


def _sequence(message: Any, ignored: list[str]) -> Sequence:
    """`iterative_sequence`, and slots and delays of a strategy, have no effect: states travel with the requests."""
    if message.WhichOneof("scheduling_choice") != "sequence_batching":
        return Sequence()
    batching = message.sequence_batching
    used = ("max_sequence_idle_microseconds", "control_input", "state", "direct", "oldest")
    ignored += [f"sequence_batching.{field.name}" for field, _ in batching.ListFields() if field.name not in used]
    states = []
    for state in batching.state:
        where = f"sequence_batching.state {state.input_name!r}"
        if any(first.WhichOneof("state_data") == "data_file" for first in state.initial_state):
            raise ConfigError(
                f"{NAME}: {where}: a state begins with zeros, or with what the package says; no data_file"
            )
        dims = tuple(state.dims) if all(size >= 0 for size in state.dims) else ()
        for first in state.initial_state if not dims else ():
            dims = tuple(first.dims)
        states.append(SequenceState(state.input_name, state.output_name, dims))
    controls = [_control(row.name, one) for row in batching.control_input for one in row.control]
    return Sequence(
        batching.WhichOneof("strategy_choice") or "direct",
        _capped(max(1, round((batching.max_sequence_idle_microseconds or 1_000_000) / 1000))),
        batching.oldest.max_candidate_sequences or Sequence().max_sequences,
        states=tuple(states),
        controls=tuple(controls),
    )


def _control(name: str, one: Any) -> SequenceControl:
    pairs = [tuple(pair) for pair in (one.int32_false_true, one.fp32_false_true, one.bool_false_true) if pair]
    if one.kind != 3 and (len(pairs) != 1 or len(pairs[0]) != 2):
        raise ConfigError(f"{NAME}: sequence_batching.control_input {name!r} needs one pair of values, false and true")
    off, on = pairs[0] if pairs else (0, 1)
    return SequenceControl(name, _CONTROLS[one.kind], off, on)


def _metrics(message: Any, ignored: list[str]) -> Metrics:
    first: tuple[float, ...] = ()
    for row in message.metric_control:
        if row.metric_identifier.family == "nv_inference_first_response_histogram_ms":
            first = tuple(row.histogram_options.buckets)
        else:
            ignored.append(f"model_metrics {row.metric_identifier.family!r}")
    return Metrics(first_response_buckets_ms=first)


def _warmup(sample: Any) -> WarmupSample:
    inputs = {
        name: WarmupInput(tuple(row.dims), "random" if row.random_data else "zero", row.input_data_file)
        for name, row in sample.inputs.items()
    }
    return WarmupSample(inputs, sample.batch_size, sample.count, sample.name)


def _versions(policy: Any) -> Versions:
    match policy.WhichOneof("policy_choice"):
        case "all":
            return Versions("all")
        case "specific":
            return Versions("specific", tuple(policy.specific.versions))
        case "latest":
            return Versions("latest", policy.latest.num_versions or 1)
    return Versions()


def _instances(groups: Any, ignored: list[str]) -> Instances:
    used = {"name", "count", "kind"}
    ignored += [f"instance_group.{field.name}" for g in groups for field, _ in g.ListFields() if field.name not in used]
    ignored += ["instance_group.kind (KIND_GPU)" for group in groups if group.kind == group.KIND_GPU]
    return Instances(sum(max(1, group.count) for group in groups))


def _declared(tensor: Any, kind: str, ignored: list[str]) -> Declared:
    where = f"{kind} {tensor.name!r}"
    if tensor.HasField("reshape"):
        raise ConfigError(f"{NAME}: {where}: reshape is not supported; give the model's own dims")
    number = tensor.DESCRIPTOR.fields_by_name["data_type"].enum_type.values_by_number[tensor.data_type].name
    if number not in _DATATYPES:
        raise ConfigError(f"{NAME}: {where}: data_type is {number}; allowed are {', '.join(_DATATYPES)}")
    ignored += [
        f"{kind}.{field.name}"
        for field, _ in tensor.ListFields()
        if field.name not in ("name", "data_type", "dims", "label_filename")
    ]
    return Declared(tensor.name, _DATATYPES[number], tuple(tensor.dims))
