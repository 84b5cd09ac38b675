"""Run by test_tritonclient.py in tritonclient's environment: compares descriptors."""

import importlib.util
import sys
from pathlib import Path

from tritonclient.grpc import model_config_pb2, service_pb2

spec = importlib.util.spec_from_file_location("ours", Path(sys.argv[1], "headrace/protos/inference_pb2.py"))
ours = importlib.util.module_from_spec(spec)
spec.loader.exec_module(ours)

ADDITIONS = {
    ("inference.ModelMetadataResponse", "properties"),
    ("inference.RepositoryModelLoadResponse", "model_name"),
    ("inference.RepositoryModelLoadResponse", "isLoaded"),
    ("inference.RepositoryModelUnloadResponse", "model_name"),
    ("inference.RepositoryModelUnloadResponse", "isUnloaded"),
    ("inference.ModelMetadataResponse.PropertiesEntry", "key"),
    ("inference.ModelMetadataResponse.PropertiesEntry", "value"),
}


def walk(file):
    out = {}

    def message(kind):
        out[kind.full_name, None] = kind.GetOptions().map_entry
        for field in kind.fields:
            of = field.message_type or field.enum_type
            oneof = field.containing_oneof.name if field.containing_oneof else None
            out[kind.full_name, field.name] = (
                field.number, field.type, field.is_repeated, of.full_name if of else None, oneof,
            )  # fmt: skip
        for inner in kind.nested_types:
            message(inner)
        for inner in kind.enum_types:
            out[inner.full_name, None] = {value.name: value.number for value in inner.values}

    for kind in file.message_types_by_name.values():
        message(kind)
    for kind in file.enum_types_by_name.values():
        out[kind.full_name, None] = {value.name: value.number for value in kind.values}
    for service in file.services_by_name.values():
        for method in service.methods:
            out[service.full_name, method.name] = (
                method.input_type.full_name, method.output_type.full_name, method.client_streaming, method.server_streaming,
            )  # fmt: skip
    return out


mine = walk(ours.DESCRIPTOR)
theirs = walk(service_pb2.DESCRIPTOR) | walk(model_config_pb2.DESCRIPTOR)
different = {key for key in mine.keys() | theirs.keys() if mine.get(key) != theirs.get(key)}
assert different - {("inference.ModelMetadataResponse.PropertiesEntry", None)} == ADDITIONS, different
assert sum(key[0] == "inference.GRPCInferenceService" for key in mine) == 20
print("descriptors ok")
