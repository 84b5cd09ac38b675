"""gRPC reflection: the services are listed, their files are whole, both package names answer."""

import grpc
import pytest
import serve_fake
from google.protobuf import descriptor_pool
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from serve_start import LIMITS

from headrace.protos import reflection_pb2 as pb
from headrace.serve.config import Listen, Settings
from headrace.serve.server import Server

ALPHA = "grpc.reflection.v1alpha.ServerReflection"
V1 = "grpc.reflection.v1.ServerReflection"


@pytest.fixture(params=[V1, ALPHA])
def ask(request, channel):
    method = channel.stream_stream(f"/{request.param}/ServerReflectionInfo")

    def answers(*questions):
        sent = (pb.ServerReflectionRequest(**question).SerializeToString() for question in questions)
        return [pb.ServerReflectionResponse.FromString(data) for data in method(sent, timeout=20)]

    return answers


def test_services_are_listed(ask):
    (answer,) = ask({"list_services": "*", "host": "h"})
    assert answer.valid_host == "h" and answer.original_request.list_services == "*"
    assert [service.name for service in answer.list_services_response.service] == [
        "grpc.health.v1.Health", V1, ALPHA,
        "inference.GRPCInferenceService", "inference.model_repository.ModelRepositoryService",
    ]  # fmt: skip


def test_every_listed_service_can_be_built_from_what_reflection_answers(ask, channel):
    """As grpcurl does it: list, ask for the file of each service, build its descriptors, find each method served."""
    (listed,) = ask({"list_services": ""})
    names = [service.name for service in listed.list_services_response.service]
    pool = descriptor_pool.DescriptorPool()
    for answer in ask(*({"file_containing_symbol": name} for name in names)):
        files = [FileDescriptorProto.FromString(d) for d in answer.file_descriptor_response.file_descriptor_proto]
        for file in reversed(files):  # imports come after the file that wants them
            pool.AddSerializedFile(file.SerializeToString())
    methods = [method for name in names for method in pool.FindServiceByName(name).methods]
    assert len(methods) == 20 + 3 + 2 + 1 + 1
    for method in methods:
        path = f"/{method.containing_service.full_name}/{method.name}"
        try:  # a message that is none: any status but "unknown method"
            list(channel.stream_stream(path)(iter([b"\xff"]), timeout=5))
        except grpc.RpcError as error:
            assert error.code() is not grpc.StatusCode.UNIMPLEMENTED or "Method not found" not in error.details(), path


def test_symbols_and_files(ask):
    symbols = (
        "inference.ModelInferRequest", "inference.ModelInferRequest.InferInputTensor", "inference.DataType",
        "inference.GRPCInferenceService.ModelInfer", "inference.ModelConfig.max_batch_size",
    )  # fmt: skip
    for answer in ask(*({"file_containing_symbol": symbol} for symbol in symbols)):
        file = FileDescriptorProto.FromString(answer.file_descriptor_response.file_descriptor_proto[0])
        assert file.package == "inference"
        (again,) = ask({"file_by_filename": file.name})
        assert again.file_descriptor_response == answer.file_descriptor_response


def test_what_does_not_exist(ask):
    answers = ask(
        {"file_containing_symbol": "inference.Nope"},
        {"file_by_filename": "../../etc/passwd"},
        {"file_containing_extension": {"containing_type": "inference.ModelInferRequest", "extension_number": 9}},
        {"all_extension_numbers_of_type": "nope"},
        {},
        {"all_extension_numbers_of_type": "inference.ModelInferRequest"},
    )
    assert [a.error_response.error_code for a in answers] == [5, 5, 5, 5, 3, 0]
    assert answers[-1].all_extension_numbers_response.base_type_name == "inference.ModelInferRequest"


def test_it_can_be_switched_off(tmp_path):
    root = serve_fake.repository(tmp_path, {"m": "scale 1"})
    settings = Settings(listen=Listen("127.0.0.1", 0, -1, -1, reflection=False), limits=LIMITS)
    server = Server(root, settings=settings, loader=serve_fake.load)
    with server, grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        with pytest.raises(grpc.RpcError) as caught:
            list(channel.stream_stream(f"/{V1}/ServerReflectionInfo")(iter([b""]), timeout=20))
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
        server.stop(0, 0)
