"""gRPC: Triton's extensions, health, reflection, and the descriptors."""

from __future__ import annotations

import threading
from typing import Any

import grpc

from headrace.protos import health_pb2 as health_pb
from headrace.protos import inference_pb2 as pb
from headrace.serve.grpc_codes import SERVICE
from headrace.serve.grpc_health import HEALTH_SERVICE
from headrace.verbs.conformance.check import NotHere, check, expect
from headrace.verbs.conformance.descriptors import differences, reflected
from headrace.verbs.conformance.target import OK, Target

STREAM = f"/{SERVICE}/ModelStreamInfer"


def _streamed(target: Target, requests: list[Any], metadata: tuple[tuple[str, str], ...] = ()) -> list[Any]:
    try:
        answers = target.stream(STREAM, [request.SerializeToString() for request in requests], metadata)
        return [pb.ModelStreamInferResponse.FromString(data) for data in answers]
    except grpc.RpcError as error:
        if error.code().name == "UNIMPLEMENTED":
            raise NotHere("ModelStreamInfer is UNIMPLEMENTED") from None
        raise


@check("grpc", "extension", "a stream answers each request, in their order where the model gives one answer")
def stream(target: Target) -> None:
    ids = [f"n{k}" for k in range(20)]
    answers = _streamed(target, [target.request(id=name) for name in ids])
    found = [answer.infer_response.id for answer in answers]
    expect(found == ids, f"{len(found)} answers, {'other ids' if len(found) == len(ids) else 'not one a request'}")


@check("grpc", "extension", "the last message of a request says triton_final_response")
def final(target: Target) -> None:
    answers = _streamed(target, [target.request()])
    final = answers[-1].infer_response.parameters["triton_final_response"].bool_param
    expect(final, "it does not")


@check("grpc", "extension", "an error in a stream names its request and leaves the stream open")
def stream_error(target: Target) -> None:
    bad = target.request(id="bad")
    bad.inputs[0].name = "no_such_input"
    answers = _streamed(target, [bad, target.request(id="good")])
    expect(len(answers) == 2, f"{len(answers)} answers to 2 requests")
    expect(answers[0].error_message, "the first has no error_message")
    expect(answers[0].infer_response.id == "bad", f"its id is {answers[0].infer_response.id!r}")
    expect(answers[1].infer_response.id == "good" and not answers[1].error_message, "the second is not answered")


@check("grpc", "extension", "with triton_grpc_error an error ends the stream with its status")
def strict_stream(target: Target) -> None:
    bad = target.request()
    bad.inputs[0].name = "no_such_input"
    try:
        _streamed(target, [bad], (("triton_grpc_error", "true"),))
    except grpc.RpcError as error:
        expect(error.code().name == "INVALID_ARGUMENT", f"the status is {error.code().name}")
        return
    expect(False, "the stream ends with OK")


@check("grpc", "extension", "ModelConfig is there, its dims without the batch that the metadata have")
def config(target: Target) -> None:
    found = target.extension("ModelConfig", pb.ModelConfigRequest(name=target.model)).config
    expect(found.name == target.model, f"the name is {found.name!r}")
    shapes = {row.name: list(row.shape) for row in target.metadata(target.model).inputs}
    for row in found.input:
        want = shapes[row.name][1:] if found.max_batch_size else shapes[row.name]
        expect(list(row.dims) == want, f"{row.name}: dims {list(row.dims)}, metadata {shapes[row.name]}")


@check("grpc", "extension", "ModelStatistics count an inference")
def statistics(target: Target) -> None:
    def counted() -> int:
        answer = target.extension("ModelStatistics", pb.ModelStatisticsRequest(name=target.model))
        return sum(int(row.inference_stats.success.count) for row in answer.model_stats)

    before = counted()
    target.call("ModelInfer", target.request())
    expect(counted() > before, "the count of successes did not grow")


@check("grpc", "extension", "ModelStatistics of an unknown model is NOT_FOUND")
def statistics_unknown(target: Target) -> None:
    target.extension("ModelStatistics", pb.ModelStatisticsRequest())
    code = target.code("ModelStatistics", pb.ModelStatisticsRequest(name="no-such-model"))
    expect(code == "NOT_FOUND", f"it is {code}")


@check("grpc", "extension", "RepositoryIndex has the model, with a state that the protocol knows")
def index(target: Target) -> None:
    rows = target.extension("RepositoryIndex", pb.RepositoryIndexRequest()).models
    mine = [row for row in rows if row.name == target.model]
    expect(mine, "the model is missing")
    known = {"", "UNKNOWN", "READY", "UNAVAILABLE", "LOADING", "UNLOADING"}
    odd = {row.state for row in rows} - known
    expect(not odd, f"states {sorted(odd)}")
    ready = target.call("RepositoryIndex", pb.RepositoryIndexRequest(ready=True)).models
    expect(all(row.state == "READY" for row in ready), "with ready = true others are listed, too")


@check("grpc", "extension", "unloading an unknown model is refused")
def unload_unknown(target: Target) -> None:
    code = target.code("RepositoryModelUnload", pb.RepositoryModelUnloadRequest(model_name="no-such-model"))
    if code in ("UNIMPLEMENTED", "PERMISSION_DENIED", "UNAUTHENTICATED"):
        raise NotHere(f"it is {code}")
    expect(code in ("NOT_FOUND", "INVALID_ARGUMENT"), f"it is {code}")


@check("grpc", "extension", "a name of the server's own (triton_...) is refused as a parameter")
def reserved(target: Target) -> None:
    request = target.request()
    request.parameters["triton_no_such"].bool_param = True
    code = target.code("ModelInfer", request)
    expect(code == "INVALID_ARGUMENT", "it is answered" if code == OK else f"it is {code}")


@check("grpc", "extension", "classification gives BYTES of value:index, the largest first")
def classification(target: Target) -> None:
    metadata = target.extension("ServerMetadata", pb.ServerMetadataRequest())
    if "classification" not in metadata.extensions:
        raise NotHere("the extension is not listed")
    model = target.echoes.get("FP32")
    if model is None:
        raise NotHere("no model echoes FP32")
    request = target.request(model)
    request.outputs.add(name=target.metadata(model).outputs[0].name).parameters["classification"].int64_param = 1
    answer = target.call("ModelInfer", request)
    expect(answer.outputs[0].datatype == "BYTES", f"the datatype is {answer.outputs[0].datatype}")
    expect(b":" in answer.raw_output_contents[0], "no value:index")


def _readable(method: str) -> None:
    @check("grpc", "extension", f"{method} can be read")
    def readable(target: Target) -> None:
        target.extension(method, getattr(pb, f"{method}Request")())


for _name in ("TraceSetting", "LogSettings", "SystemSharedMemoryStatus", "CudaSharedMemoryStatus"):
    _readable(_name)


def _healthy(target: Target, service: str) -> str:
    request = health_pb.HealthCheckRequest(service=service)
    try:
        data = target.raw(f"/{HEALTH_SERVICE}/Check", request.SerializeToString())
    except grpc.RpcError as error:
        if error.code().name == "UNIMPLEMENTED":
            raise NotHere("grpc.health.v1.Health is UNIMPLEMENTED") from None
        return str(error.code().name)
    answer: Any = health_pb.HealthCheckResponse.FromString(data)
    return str(health_pb.HealthCheckResponse.ServingStatus.Name(answer.status))


@check("grpc", "extension", "grpc.health.v1 Check follows ServerReady, and knows the model")
def health(target: Target) -> None:
    ready = target.call("ServerReady", pb.ServerReadyRequest()).ready
    expect(_healthy(target, "") == ("SERVING" if ready else "NOT_SERVING"), f"it is {_healthy(target, '')}")
    expect(_healthy(target, target.model) == "SERVING", f"the model is {_healthy(target, target.model)}")
    expect(_healthy(target, "no-such-service") == "NOT_FOUND", f"a stranger is {_healthy(target, 'no-such-service')}")


@check("grpc", "extension", "grpc.health.v1 Watch answers at once")
def watch(target: Target) -> None:
    _healthy(target, "")
    open_end = threading.Event()

    def messages() -> Any:
        yield health_pb.HealthCheckRequest().SerializeToString()
        open_end.wait(5)

    try:
        data = next(target.stream(f"/{HEALTH_SERVICE}/Watch", messages()))
    finally:
        open_end.set()
    expect(health_pb.HealthCheckResponse.FromString(data).status in (1, 2), "neither SERVING nor NOT_SERVING")


@check("grpc", "extension", "reflection lists the service")
def reflection(target: Target) -> None:
    expect(SERVICE in reflected(target).services, "the service is not listed")


@check("grpc", "core", "the descriptors are the protocol's (by reflection)")
def descriptors(target: Target) -> None:
    found = differences(reflected(target).files)
    expect(not found, "; ".join(found[:12]) + (f"; and {len(found) - 12} more" if len(found) > 12 else ""))
