"""A server's descriptors, by reflection, against the protocol's."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf.descriptor_pb2 import FileDescriptorProto

from headrace.protos import inference_pb2 as pb
from headrace.protos import reflection_pb2 as reflection
from headrace.serve.grpc_codes import SERVICE
from headrace.verbs.conformance.check import NotHere
from headrace.verbs.conformance.target import Target

OURS = {  # what headrace adds to the protocol: a server without is no worse
    "ModelMetadataResponse.properties",
    "ModelMetadataResponse.PropertiesEntry",
    "RepositoryModelLoadResponse.model_name",
    "RepositoryModelLoadResponse.isLoaded",
    "RepositoryModelUnloadResponse.model_name",
    "RepositoryModelUnloadResponse.isUnloaded",
}
Facts = dict[str, tuple[Any, ...]]


@dataclass
class Reflected:
    services: list[str] = field(default_factory=list)
    files: list[FileDescriptorProto] = field(default_factory=list)


def reflected(target: Target) -> Reflected:
    """NotHere where the server has no reflection."""
    for package in ("grpc.reflection.v1", "grpc.reflection.v1alpha"):
        request: Any = reflection.ServerReflectionRequest
        asked = [request(list_services=""), request(file_containing_symbol=SERVICE)]
        path = f"/{package}.ServerReflection/ServerReflectionInfo"
        try:
            answers = [
                reflection.ServerReflectionResponse.FromString(data)
                for data in target.stream(path, [one.SerializeToString() for one in asked])
            ]
        except grpc.RpcError as error:
            if error.code().name == "UNIMPLEMENTED":
                continue
            raise
        services = [row.name for row in answers[0].list_services_response.service]
        files = [FileDescriptorProto.FromString(d) for d in answers[1].file_descriptor_response.file_descriptor_proto]
        return Reflected(services, files)
    raise NotHere("the server has no reflection")


def differences(files: list[FileDescriptorProto]) -> list[str]:
    """What a published client would meet differently; what a server adds is no difference."""
    ours = FileDescriptorProto()
    pb.DESCRIPTOR.CopyToProto(ours)
    mine = facts(ours)
    theirs: Facts = {}
    for file in files:
        if file.package == ours.package:
            theirs |= facts(file)
    found = []
    for name, wanted in mine.items():
        if name in OURS or name.startswith("ModelMetadataResponse.PropertiesEntry"):
            continue
        if name not in theirs:
            if (
                name.rpartition(".")[0] not in mine or name.rpartition(".")[0] in theirs
            ):  # not each part of what is missing
                found.append(f"{name} is missing")
        elif theirs[name] != wanted:
            found.append(f"{name} is {_words(theirs[name])}, not {_words(wanted)}")
    return found


def facts(file: FileDescriptorProto) -> Facts:
    """Everything that is on the wire, by name without the package."""
    out: Facts = {}
    for message in file.message_type:
        out.update(_message(message, "", file.package))
    for enum in file.enum_type:
        out.update(_enum(enum, ""))
    for service in file.service:
        out[service.name] = ("service",)
        for rpc in service.method:
            types = (_short(rpc.input_type, file.package), _short(rpc.output_type, file.package))
            out[f"{service.name}.{rpc.name}"] = ("rpc", *types, rpc.client_streaming, rpc.server_streaming)
    return out


def _message(message: Any, prefix: str, package: str) -> Iterator[tuple[str, tuple[Any, ...]]]:
    name = f"{prefix}{message.name}"
    yield name, ("message",)
    for one in message.field:
        member = message.oneof_decl[one.oneof_index].name if one.HasField("oneof_index") else ""
        yield f"{name}.{one.name}", (one.number, one.type, one.label, _short(one.type_name, package), member)
    for inner in message.nested_type:
        yield from _message(inner, f"{name}.", package)
    for enum in message.enum_type:
        yield from _enum(enum, f"{name}.")


def _enum(enum: Any, prefix: str) -> Iterator[tuple[str, tuple[Any, ...]]]:
    yield f"{prefix}{enum.name}", ("enum",)
    for value in enum.value:
        yield f"{prefix}{enum.name}.{value.name}", (value.number,)


def _short(name: str, package: str) -> str:
    return name.removeprefix(f".{package}.")


def _words(fact: tuple[Any, ...]) -> str:
    if len(fact) == 5 and isinstance(fact[0], int):
        return f"field {fact[0]} of type {fact[3] or fact[1]}" + (" (repeated)" if fact[2] == 3 else "")
    return " ".join(str(part) for part in fact)


__all__ = ["differences", "facts", "reflected"]
