"""`headrace conformance` against both fronts, and against servers that are wrong: it must see that."""

import json
from concurrent import futures

import grpc
import pytest
import serve_fake
from click.testing import CliRunner
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from serve_start import FRONTS, MODELS, need, start

from headrace.cli.conformance import command
from headrace.protos import inference_pb2 as pb
from headrace.runtime.errors import HeadraceError
from headrace.serve.grpc_codes import SERVICE
from headrace.verbs.conformance import conformance
from headrace.verbs.conformance.check import CHECKS
from headrace.verbs.conformance.descriptors import differences


@pytest.mark.parametrize("front", FRONTS)
def test_every_front_conforms(front, tmp_path):
    """Nothing differs, and (but for a raw request, which needs a model of another shape) everything was looked at."""
    need(front)
    good = {name: text for name, text in MODELS.items() if name not in ("bad", "wrong", "poison", "slow")}
    with start(serve_fake.repository(tmp_path, good), front) as running:
        result = conformance(f"127.0.0.1:{running.grpc_port}", rest=f"127.0.0.1:{running.http_port}")
    assert not [(row["name"], row["detail"]) for row in result["checks"] if row["outcome"] == "differs"]
    assert [row["name"] for row in result["checks"] if row["outcome"] == "skip"] == [
        "a raw binary request (header length 0)"
    ]
    assert result["passed"] == len(CHECKS) - 1 > 90


class Careless:
    """A server that answers every inference with what came, whatever it was; it knows one model."""

    def __init__(self):
        self._server = grpc.server(futures.ThreadPoolExecutor(4))
        answers = {
            "ServerLive": lambda data: pb.ServerLiveResponse(live=True),
            "ServerReady": lambda data: pb.ServerReadyResponse(ready=True),
            "ServerMetadata": lambda data: pb.ServerMetadataResponse(name="careless", version="0"),
            "ModelReady": lambda data: pb.ModelReadyResponse(ready=True),
            "ModelMetadata": lambda data: _metadata(),
            "ModelInfer": _echo,
        }
        handlers = {
            name: grpc.unary_unary_rpc_method_handler(lambda data, _, answer=answer: answer(data).SerializeToString())
            for name, answer in answers.items()
        }
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"

    def __enter__(self):
        self._server.start()
        return self

    def __exit__(self, *_):
        self._server.stop(None)


def _metadata():
    answer = pb.ModelMetadataResponse(name="m", versions=["1"])
    answer.inputs.add(name="x", datatype="FP32", shape=[-1, 4])
    answer.outputs.add(name="y", datatype="FP32", shape=[-1, 4])
    return answer


def _echo(data):
    request = pb.ModelInferRequest.FromString(data)
    answer = pb.ModelInferResponse(model_name="m", id="lost", raw_output_contents=list(request.raw_input_contents))
    for tensor in request.inputs:
        answer.outputs.add(name="y", datatype="FP32", shape=tensor.shape)
    return answer


def test_a_careless_server_is_seen():
    with Careless() as server:
        result = conformance(server.address, model="m", core=True)
    outcomes = {row["name"]: row["outcome"] for row in result["checks"] if row["protocol"] == "grpc"}
    differing = {name for name, outcome in outcomes.items() if outcome == "differs"}
    assert differing >= {
        "ModelReady of an unknown model is false, not an error",
        "ModelMetadata of an unknown model is NOT_FOUND",
        "the id of a request comes back, the version is a concrete one",
        "typed contents give what raw contents give",
        "an unknown model is NOT_FOUND",
        "a version that is not there is NOT_FOUND",
    }
    refused = {name for name in outcomes if name.endswith("is INVALID_ARGUMENT")}
    assert len(refused) >= 15 and refused <= differing
    assert outcomes["FP32: an echo gives back the same bytes"] == "pass"
    assert outcomes["the descriptors are the protocol's (by reflection)"] == "skip"


def test_the_command():
    with Careless() as server:
        done = CliRunner().invoke(command, [server.address, "--model", "m", "--core"])
        assert done.exit_code == 1 and "it is answered" in done.output
        done = CliRunner().invoke(command, [server.address, "--model", "m", "--core", "--json"])
        assert done.exit_code == 1 and json.loads(done.output)["differing"] > 10


def test_a_model_that_the_server_does_not_have(server):
    with pytest.raises(HeadraceError, match=r"has no model 'nope' that is ready \(NOT_FOUND\)"):
        conformance(f"127.0.0.1:{server.grpc_port}", model="nope")


def test_nobody_listens():
    with pytest.raises(HeadraceError, match="no gRPC server at 127"):
        conformance("127.0.0.1:1")


def _file():
    file = FileDescriptorProto()
    pb.DESCRIPTOR.CopyToProto(file)
    return file, {message.name: message for message in file.message_type}


def test_descriptors():
    file, messages = _file()
    assert differences([file]) == []
    request = messages["ModelInferRequest"]
    next(f for f in request.field if f.name == "id").number = 30
    request.nested_type[0].field[0].name = "title"
    del messages["InferParameter"].field[-1]
    file.message_type.remove(messages["MemoryUsage"])
    service = file.service[0]
    next(m for m in service.method if m.name == "ModelStreamInfer").server_streaming = False
    service.method.remove(next(m for m in service.method if m.name == "LogSettings"))
    found = differences([file])
    for word in ("ModelInferRequest.id is field 30", "uint64_param is missing", "MemoryUsage is missing"):
        assert any(word in line for line in found), (word, found)
    assert any(line.startswith("GRPCInferenceService.ModelStreamInfer is rpc") for line in found)
    assert "GRPCInferenceService.LogSettings is missing" in found
    assert not any("MemoryUsage.byte_size" in line for line in found)  # said once
