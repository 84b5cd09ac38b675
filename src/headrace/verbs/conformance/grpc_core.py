"""gRPC: what every server of the protocol does."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import grpc
import numpy as np

from headrace.protos import inference_pb2 as pb
from headrace.serve.datatypes import DATATYPES, encode_bytes
from headrace.serve.grpc_codes import SERVICE
from headrace.verbs.conformance.check import NotHere, check, expect
from headrace.verbs.conformance.target import OK, Target

Damage = Callable[[Any], None]
SPECIAL = np.array([0x7FC12345, 0xFF800000, 0x7F800000, 0x80000000, 0x00000001], np.uint32).view(np.float32)


@check("grpc", "core", "ServerLive and ServerReady answer with their flags")
def health(target: Target) -> None:
    expect(target.call("ServerLive", pb.ServerLiveRequest()).live, "live is false")
    target.call("ServerReady", pb.ServerReadyRequest())


@check("grpc", "core", "ServerMetadata has a name and a version")
def server_metadata(target: Target) -> None:
    answer = target.call("ServerMetadata", pb.ServerMetadataRequest())
    expect(answer.name and answer.version, f"name is {answer.name!r}, version {answer.version!r}")


@check("grpc", "core", "ModelReady is true for a model that is ready")
def model_ready(target: Target) -> None:
    expect(target.call("ModelReady", pb.ModelReadyRequest(name=target.model)).ready, "ready is false")


@check("grpc", "core", "ModelReady of an unknown model is false, not an error")
def model_ready_unknown(target: Target) -> None:
    code = target.code("ModelReady", pb.ModelReadyRequest(name="no-such-model"))
    expect(code == OK, f"the status is {code}")
    expect(not target.call("ModelReady", pb.ModelReadyRequest(name="no-such-model")).ready, "ready is true")


@check("grpc", "core", "ModelMetadata names inputs and outputs with known datatypes")
def model_metadata(target: Target) -> None:
    facts = target.metadata(target.model)
    expect(facts.name == target.model, f"the name is {facts.name!r}")
    expect(facts.inputs and facts.outputs, "no inputs, or no outputs")
    odd = [row.datatype for row in (*facts.inputs, *facts.outputs) if row.datatype not in DATATYPES]
    expect(not odd, f"datatypes {', '.join(odd)}")


@check("grpc", "core", "ModelMetadata of an unknown model is NOT_FOUND")
def metadata_unknown(target: Target) -> None:
    _refused(target, "ModelMetadata", pb.ModelMetadataRequest(name="no-such-model"), "NOT_FOUND")


@check("grpc", "core", "ModelInfer answers every output, its bytes those of its shape")
def infer(target: Target) -> None:
    answer, facts = target.call("ModelInfer", target.request()), target.metadata(target.model)
    expect({o.name for o in answer.outputs} == {o.name for o in facts.outputs}, "other outputs than the metadata has")
    wanted = {o.name: o.datatype for o in facts.outputs}
    for output, data in zip(answer.outputs, _raw(answer)):
        expect(output.datatype == wanted[output.name], f"{output.name} is {output.datatype}")
        size = DATATYPES[output.datatype].size
        if size:
            expect(
                len(data) == size * math.prod(output.shape), f"{output.name}: {len(data)} bytes, {list(output.shape)}"
            )


@check("grpc", "core", "the id of a request comes back, the version is a concrete one")
def identity(target: Target) -> None:
    answer = target.call("ModelInfer", target.request(id="check 7"))
    expect(answer.id == "check 7", f"the id is {answer.id!r}")
    expect(answer.model_name == target.model, f"the model is {answer.model_name!r}")
    expect(answer.model_version, "the version is empty")


@check("grpc", "core", "the same request twice gives the same bytes")
def repeatable(target: Target) -> None:
    first, second = (target.call("ModelInfer", target.request()) for _ in range(2))
    expect(_raw(first) == _raw(second), "they differ")


@check("grpc", "core", "only the outputs asked for come back")
def requested(target: Target) -> None:
    request = target.request()
    name = target.metadata(target.model).outputs[-1].name
    request.outputs.add(name=name)
    answer = target.call("ModelInfer", request)
    expect([o.name for o in answer.outputs] == [name], f"outputs {[o.name for o in answer.outputs]}")


@check("grpc", "core", "typed contents give what raw contents give")
def typed(target: Target) -> None:
    request = target.request()
    plain = target.call("ModelInfer", request)
    for row, data in zip(request.inputs, request.raw_input_contents):
        known = DATATYPES[row.datatype]
        if known.field is None or not known.size:
            raise NotHere(f"{row.datatype} has no typed form here")
        getattr(row.contents, known.field).extend(np.frombuffer(data, known.dtype).tolist())
    del request.raw_input_contents[:]
    expect(_raw(target.call("ModelInfer", request)) == _raw(plain), "other bytes")


@check("grpc", "core", "a shape that is not packed is read")
def unpacked(target: Target) -> None:
    request = target.request()
    data = request.SerializeToString()
    for row in request.inputs:
        packed = bytes(row.SerializeToString())
        if not len(row.shape) > 0 or max(row.shape) > 127 or len(packed) > 120:
            raise NotHere("the model's shape is too large for this check")
        loose = pb.ModelInferRequest.InferInputTensor(name=row.name, datatype=row.datatype).SerializeToString()
        loose += b"".join(bytes([0x18, size]) for size in row.shape)
        data = data.replace(bytes([0x2A, len(packed)]) + packed, bytes([0x2A, len(loose)]) + loose)
    target.raw(f"/{SERVICE}/ModelInfer", data)


@check("grpc", "core", "custom parameters do no harm, a number as int64 or uint64")
def parameters(target: Target) -> None:
    request = target.request()
    request.parameters["my_key"].string_param = "value"
    request.parameters["my_number"].int64_param = -3
    target.call("ModelInfer", request)
    request.parameters["priority"].uint64_param = 0
    target.call("ModelInfer", request)


def _compressed(name: str, kind: Any) -> None:
    @check("grpc", "core", f"a message in {name} is read")
    def compressed(target: Target) -> None:
        target.call("ModelInfer", target.request(), kind)


_compressed("gzip", grpc.Compression.Gzip)
_compressed("deflate", grpc.Compression.Deflate)


@check("grpc", "core", "an unknown model is NOT_FOUND")
def unknown_model(target: Target) -> None:
    request = target.request()
    request.model_name = "no-such-model"
    _refused(target, "ModelInfer", request, "NOT_FOUND")


@check("grpc", "core", "a version that is not there is NOT_FOUND")
def unknown_version(target: Target) -> None:
    _refused(target, "ModelInfer", target.request(model_version="987654321"), "NOT_FOUND")


def _broken(sentence: str) -> Callable[[Damage], Damage]:
    """A check that a request, damaged so, is INVALID_ARGUMENT."""

    def add(damage: Damage) -> Damage:
        @check("grpc", "core", f"{sentence} is INVALID_ARGUMENT")
        def broken(target: Target) -> None:
            request = target.request()
            damage(request)
            _refused(target, "ModelInfer", request, "INVALID_ARGUMENT")

        return damage

    return add


@_broken("a version that is no number")
def _(request: Any) -> None:
    request.model_version = "Not A Version"


@_broken("an unknown input")
def _(request: Any) -> None:
    request.inputs[0].name = "no_such_input"


@_broken("a missing input")
def _(request: Any) -> None:
    del request.inputs[-1:]
    del request.raw_input_contents[-1:]


@_broken("an input that comes twice")
def _(request: Any) -> None:
    request.inputs.add().CopyFrom(request.inputs[0])
    request.raw_input_contents.append(request.raw_input_contents[0])


@_broken("another datatype")
def _(request: Any) -> None:
    request.inputs[0].datatype = "UINT8" if request.inputs[0].datatype != "UINT8" else "FP64"


@_broken("a datatype that is none")
def _(request: Any) -> None:
    request.inputs[0].datatype = "FLOAT"


@_broken("another rank")
def _(request: Any) -> None:
    request.inputs[0].shape.append(1)


@_broken("a negative dimension")
def _(request: Any) -> None:
    request.inputs[0].shape[0] = -1


@_broken("a shape whose product is over 64 bits")
def _(request: Any) -> None:
    request.inputs[0].shape[:] = [2**62] * max(2, len(request.inputs[0].shape))


@_broken("too few bytes")
def _(request: Any) -> None:
    request.raw_input_contents[0] = request.raw_input_contents[0][:-1]


@_broken("too many bytes")
def _(request: Any) -> None:
    request.raw_input_contents[0] += b"\0"


@_broken("a raw entry too many")
def _(request: Any) -> None:
    request.raw_input_contents.append(b"1234")


@_broken("raw and typed contents together")
def _(request: Any) -> None:
    request.inputs[0].contents.fp32_contents.append(1.0)


@_broken("an unknown output")
def _(request: Any) -> None:
    request.outputs.add(name="no_such_output")


@_broken("an output that is asked for twice")
def _(request: Any) -> None:
    request.outputs.add(name="no_such_output")
    request.outputs.add(name="no_such_output")


@_broken("a name with a zero byte after it")
def _(request: Any) -> None:
    request.inputs[0].name += "\0x"


@_broken("a parameter without a value")
def _(request: Any) -> None:
    request.parameters["empty"].SetInParent()


def _datatype(name: str) -> None:
    @check("grpc", "core", f"{name}: an echo gives back the same bytes")
    def datatype(target: Target) -> None:
        model = target.echoes.get(name)
        if model is None:
            raise NotHere(f"no model echoes {name}")
        request = target.request(model, seed=1)
        if name == "BYTES":
            count = math.prod(request.inputs[0].shape)
            request.raw_input_contents[0] = encode_bytes(["a\0ü".encode(), *([b""] * (count - 1))][:count])
        elif name == "FP32" and target.metadata(model).inputs[0].shape[-1] < 0:
            request.inputs[0].shape[-1] = len(SPECIAL)
            request.raw_input_contents[0] = SPECIAL.tobytes() * math.prod(request.inputs[0].shape[:-1])
        answer = target.call("ModelInfer", request)
        expect(_raw(answer) == list(request.raw_input_contents), "other bytes")


for _name in DATATYPES:
    _datatype(_name)


def _raw(answer: Any) -> list[bytes]:
    expect(len(answer.raw_output_contents) == len(answer.outputs), "the answer has no raw contents")
    return list(answer.raw_output_contents)


def _refused(target: Target, method: str, request: Any, wanted: str) -> None:
    code = target.code(method, request)
    expect(code == wanted, "it is answered" if code == OK else f"it is {code}")
