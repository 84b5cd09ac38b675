"""What the data plane answers about models and with results: dictionaries with the field names of the protocol."""

from collections.abc import Mapping
from typing import Any

from headrace.serve import classify, sequences
from headrace.serve.config import EnsembleStep, Versions, WarmupSample
from headrace.serve.pending import Level
from headrace.serve.records import micros
from headrace.serve.request import NO_PARAMETERS, InferRequest, InferResponse, OutputTensor, Parameter, Parameters
from headrace.serve.scheduler import Job
from headrace.serve.validate import Port
from headrace.serve.version import ModelVersion

Answer = dict[str, Any]


def metadata(version: ModelVersion, numbers: list[str]) -> Answer:
    """ModelMetadataResponse; `numbers` are the versions of the model that are ready."""
    batched = version.interface.max_batch_size > 0
    return {
        "name": version.name,
        "versions": sorted(numbers, key=int),
        "platform": version.platform,
        "inputs": [_tensor(port) for port in version.interface.inputs],
        "outputs": [
            version.post.shown(_tensor(port), "datatype", "shape", batched) for port in version.interface.outputs
        ],
        "properties": dict(version.properties),
    }


def config(version: ModelVersion) -> Answer:
    """ModelConfig: `dims` are without the batch dimension where the model is batched."""
    policy, batching = version.scheduler.policy, version.interface.max_batch_size
    answer: Answer = {
        "name": version.name,
        "platform": version.platform,
        "backend": "headrace",
        "version_policy": _version_policy(version.config.versions),
        "max_batch_size": batching,
        "input": [_config_tensor(port, batching) for port in version.interface.inputs],
        "output": [
            version.post.shown(_config_tensor(port, batching), "data_type", "dims", 0)
            for port in version.interface.outputs
        ],
        "instance_group": [{"name": f"{version.name}_0", "count": policy.instances, "kind": "KIND_CPU"}],
        "model_transaction_policy": {"decoupled": version.decoupled},
    }
    if version.decoupled:
        batching = 0
    elif version.stateful:
        answer["sequence_batching"] = sequences.shown(version.config.sequence)
        batching = 0
    if steps := version.config.ensemble.steps:
        answer["platform"] = "ensemble"
        answer["ensemble_scheduling"] = {"step": [_step(step) for step in steps]}
        del answer["instance_group"]
        batching = 0  # answered by the members
    if samples := version.config.warmup.samples:
        kinds = {port.name: port.datatype.config for port in version.interface.inputs}
        answer["model_warmup"] = [_warmup(sample, kinds) for sample in samples]
    if version.cache is not None:
        answer["response_cache"] = {"enable": True}
    if batching:
        answer["dynamic_batching"] = {
            "max_queue_delay_microseconds": round(policy.max_delay * 1e6),
            "preserve_ordering": version.config.batching.preserve_ordering,
            "preferred_batch_size": list(policy.preferred),
            "default_queue_policy": _queue_policy(policy.levels[policy.default_level - 1])
            | {"max_queue_size": policy.max_queue},
        }
        if version.config.queue.priority_levels:
            answer["dynamic_batching"] |= {
                "priority_levels": len(policy.levels),
                "default_priority_level": policy.default_level,
                "priority_queue_policy": {n: _queue_policy(level) for n, level in enumerate(policy.levels, 1)},
            }
    return answer


def _warmup(sample: WarmupSample, kinds: Mapping[str, str]) -> Answer:
    inputs = {}
    for name, row in sample.inputs.items():
        data = {"input_data_file": row.file} if row.file else {f"{row.data}_data": True}
        inputs[name] = {"data_type": kinds[name], "dims": list(row.dims), **data}
    return {"name": sample.name, "batch_size": sample.batch_size, "count": sample.count, "inputs": inputs}


def _step(step: EnsembleStep) -> Answer:
    number = int(step.version) if step.version.isdigit() else -1
    return {
        "model_name": step.model,
        "model_version": number,
        "input_map": step.inputs,
        "output_map": step.outputs,
    }


def _queue_policy(level: Level) -> Answer:
    return {
        "timeout_action": "DELAY" if level.delay else "REJECT",
        "default_timeout_microseconds": round(level.timeout * 1e6),
        "allow_timeout_override": level.override,
        "max_queue_size": level.max_queue,
    }


def _version_policy(versions: Versions) -> Answer:
    keep = versions.keep
    if versions.policy == "all":
        return {"all": {}}
    if versions.policy == "latest":
        return {"latest": {"num_versions": keep}}
    return {"specific": {"versions": [keep] if isinstance(keep, int) else list(keep)}}


def _tensor(port: Port) -> Answer:
    return {"name": port.name, "datatype": port.datatype.name, "shape": port.wire_shape}


def _config_tensor(port: Port, batching: int) -> Answer:
    dims = port.wire_shape[1:] if batching else port.wire_shape
    return {"name": port.name, "data_type": port.datatype.config, "dims": dims}


def inference(
    request: InferRequest, version: ModelVersion, ports: tuple[Port, ...], outputs: Mapping[str, Any], job: Job
) -> InferResponse:
    """The answer to a request. TypeError when an output is not what the interface says: a defect of the runtime."""
    classes: dict[str, Any] = dict(version.post.top_k)
    classes |= {o.name: o.parameters["classification"] for o in request.outputs if "classification" in o.parameters}
    tensors = []
    for port in ports:
        array, datatype = outputs[port.name], port.datatype
        if datatype.size and array.dtype != datatype.dtype:
            raise TypeError(f"output {port.name!r} came as {array.dtype}, the interface says {datatype.name}")
        if port.name in classes:
            batched = version.interface.max_batch_size > 0
            tensors.append(
                OutputTensor(
                    port.name,
                    "BYTES",
                    classify.top(array, int(classes[port.name]), batched, version.post.labels.get(port.name, ())),
                )
            )
        else:
            tensors.append(OutputTensor(port.name, datatype.name, array))
    parameters = _explain(job, version) if request.parameters.get("headrace_explain") else NO_PARAMETERS
    return InferResponse(request.model, version.number, request.id, tensors, parameters)


def _explain(job: Job, version: ModelVersion) -> Parameters:
    """What became of a request: its times, its batch, what computed it."""
    ran = job.execution
    if ran is None:
        return {"headrace_cache_hit": True}
    explained: dict[str, Parameter] = {
        "headrace_cache_hit": False,
        "headrace_queue_us": micros(ran.started - job.enqueued),
        "headrace_assemble_us": micros(ran.assembled - ran.started),
        "headrace_compute_us": micros(ran.computed - ran.assembled),
        "headrace_scatter_us": micros(ran.finished - ran.computed),
        "headrace_batch_id": ran.number,
        "headrace_batch_rows": ran.rows,
        "headrace_batch_release": ran.reason,
        "headrace_device": version.properties.get("device", "cpu"),
    }
    if version.kernels:
        explained["headrace_kernels"] = version.kernels
    return explained
