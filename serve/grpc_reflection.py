"""gRPC server reflection, v1 and v1alpha: which services there are, and their descriptors.

The distribution `grpcio-reflection` is not used: it wants a newer protobuf than published clients of the protocol allow.
"""

from collections.abc import Iterator
from typing import Any

from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.message import DecodeError

from headrace.protos import health_pb2, inference_pb2, reflection_pb2

V1, V1ALPHA = "grpc.reflection.v1", "grpc.reflection.v1alpha"
SERVICES = tuple(f"{package}.ServerReflection" for package in (V1, V1ALPHA))
METHOD = "ServerReflectionInfo"
NOT_FOUND, INVALID_ARGUMENT = 5, 3  # google.rpc.Code, as the message carries it

_ALIAS_PACKAGE = "inference.model_repository"
_ALIAS_VERBS = ("RepositoryIndex", "RepositoryModelLoad", "RepositoryModelUnload")


class Reflection:
    """Answers reflection requests, message by message. Immutable."""

    def __init__(self) -> None:
        files = [_file(health_pb2), _file(inference_pb2), _file(reflection_pb2), _v1alpha(), _alias()]
        self._files = {file.name: file for file in files}
        self._by_symbol = {symbol: file for file in files for symbol in _symbols(file)}
        self._types = {f"{file.package}.{message.name}" for file in files for message in file.message_type}
        self.services = sorted(f"{file.package}.{service.name}" for file in files for service in file.service)

    def answer(self, data: bytes) -> bytes:
        """A ServerReflectionResponse to a ServerReflectionRequest (v1 and v1alpha have the same bytes)."""
        kinds: Any = reflection_pb2
        try:
            request = kinds.ServerReflectionRequest.FromString(data)
        except (DecodeError, ValueError):
            request = kinds.ServerReflectionRequest()
        answer = kinds.ServerReflectionResponse(valid_host=request.host, original_request=request)
        kind = request.WhichOneof("message_request")
        asked = getattr(request, kind) if kind else ""
        if kind == "list_services":
            answer.list_services_response.service.extend(kinds.ServiceResponse(name=name) for name in self.services)
        elif kind == "file_by_filename" and asked in self._files:
            self._put(answer, self._files[asked])
        elif kind == "file_containing_symbol" and asked in self._by_symbol:
            self._put(answer, self._by_symbol[asked])
        elif kind == "all_extension_numbers_of_type" and asked in self._types:
            answer.all_extension_numbers_response.base_type_name = asked  # proto3: there are no extensions
        else:
            code, text = (NOT_FOUND, "not found") if kind else (INVALID_ARGUMENT, "the request asks for nothing")
            answer.error_response.error_code, answer.error_response.error_message = code, text
        return bytes(answer.SerializeToString())

    def _put(self, answer: Any, file: FileDescriptorProto) -> None:
        """The file and what it imports."""
        wanted = [file, *(self._files[name] for name in file.dependency)]
        answer.file_descriptor_response.file_descriptor_proto.extend(one.SerializeToString() for one in wanted)


def _file(module: Any) -> FileDescriptorProto:
    return FileDescriptorProto.FromString(module.DESCRIPTOR.serialized_pb)


def _v1alpha() -> FileDescriptorProto:
    """The older package name over the same messages."""
    file = _file(reflection_pb2)
    file.name, file.package = "headrace/protos/reflection_v1alpha.proto", V1ALPHA
    for message in file.message_type:
        for field in message.field:
            if field.type_name:
                field.type_name = field.type_name.replace(f".{V1}.", f".{V1ALPHA}.")
    for service in file.service:
        for method in service.method:
            method.input_type = method.input_type.replace(f".{V1}.", f".{V1ALPHA}.")
            method.output_type = method.output_type.replace(f".{V1}.", f".{V1ALPHA}.")
    return file


def _alias() -> FileDescriptorProto:
    """The service that other servers offer for three of our verbs, over the messages of ours."""
    source = _file(inference_pb2)
    file = FileDescriptorProto(
        name="headrace/protos/model_repository.proto",
        package=_ALIAS_PACKAGE,
        syntax="proto3",
        dependency=[source.name],
    )
    verbs = [method for method in source.service[0].method if method.name in _ALIAS_VERBS]
    file.service.add(name="ModelRepositoryService", method=verbs)
    return file


def _symbols(file: FileDescriptorProto) -> Iterator[str]:
    """The full name of everything that the file defines."""
    for service in file.service:
        name = f"{file.package}.{service.name}"
        yield name
        yield from (f"{name}.{method.name}" for method in service.method)
    yield from (f"{file.package}.{kind.name}" for kind in file.enum_type)
    for message in file.message_type:
        yield from _inside(message, file.package)


def _inside(message: Any, prefix: str) -> Iterator[str]:
    name = f"{prefix}.{message.name}"
    yield name
    yield from (f"{name}.{part.name}" for part in (*message.field, *message.enum_type))
    for inner in message.nested_type:
        yield from _inside(inner, name)
