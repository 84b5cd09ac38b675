"""One request object: whatever a client says over gRPC and over REST becomes the same request, the same feeds, and the
same bytes back."""

import json

import ml_dtypes
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from serve_fake import DTYPES, Spec

from headrace.protos import inference_pb2 as pb
from headrace.serve.datatypes import DATATYPES, to_wire
from headrace.serve.grpc_codec import read_infer, write_infer
from headrace.serve.request import InferRequest, InferResponse, OutputTensor
from headrace.serve.rest_codec import read_infer as read_rest
from headrace.serve.rest_codec import write_infer as write_rest
from headrace.serve.validate import Interface

NAMES = st.sampled_from(["a", "b", "input.1", "version", "ä€"])
PARAMETERS = st.dictionaries(
    st.sampled_from(["priority", "timeout", "k", "ключ"]),
    st.one_of(st.integers(0, 2**62), st.booleans(), st.text(st.characters(exclude_categories=["Cs"]), max_size=5)),
    max_size=3,
)


@st.composite
def arrays(draw):
    """An array of any datatype, any content, empty ones as well."""
    datatype = draw(st.sampled_from(sorted(DATATYPES)))
    shape = tuple(draw(st.lists(st.integers(0, 3), min_size=1, max_size=3)))
    count, row = int(np.prod(shape)), DATATYPES[datatype]
    if row.size == 0:
        out = np.empty(count, object)
        out[:] = draw(st.lists(st.binary(max_size=6), min_size=count, max_size=count))
        return datatype, out.reshape(shape)
    data = draw(st.binary(min_size=count * row.size, max_size=count * row.size))
    if datatype == "BOOL":
        return datatype, (np.frombuffer(data, np.uint8) % 2).astype(bool).reshape(shape)
    return datatype, np.frombuffer(data, row.dtype).reshape(shape)


@st.composite
def requests(draw):
    names = draw(st.lists(NAMES, min_size=1, max_size=3, unique=True))
    return {
        "inputs": {name: draw(arrays()) for name in names},
        "outputs": draw(st.lists(st.sampled_from(["y", "z"]), max_size=2, unique=True)),
        "id": draw(st.text(st.characters(exclude_categories=["Cs"]), max_size=8)),
        "parameters": draw(PARAMETERS),
        "classes": draw(st.one_of(st.none(), st.integers(1, 9))),
    }


def over_grpc(asked, typed) -> InferRequest:
    message = pb.ModelInferRequest(model_name="m", model_version="3", id=asked["id"])
    for key, value in asked["parameters"].items():
        kind = "bool_param" if isinstance(value, bool) else "int64_param" if isinstance(value, int) else "string_param"
        setattr(message.parameters[key], kind, value)
    for name, (datatype, array) in asked["inputs"].items():
        one = message.inputs.add(name=name, datatype=datatype, shape=array.shape)
        if typed:
            one.contents.SetInParent()
            getattr(one.contents, DATATYPES[datatype].field).extend(array.reshape(-1).tolist())
        else:
            message.raw_input_contents.append(bytes(to_wire(array)))
    for name in asked["outputs"]:
        one = message.outputs.add(name=name)
        if asked["classes"]:
            one.parameters["classification"].int64_param = asked["classes"]
    return read_infer(message.SerializeToString())


def over_rest(asked, as_json=()) -> InferRequest:
    tensors, tail = [], b""
    for name, (datatype, array) in asked["inputs"].items():
        one = {"name": name, "datatype": datatype, "shape": list(array.shape)}
        if name in as_json:
            flat = array.reshape(-1).tolist()
            one["data"] = [item.decode() for item in flat] if datatype == "BYTES" else flat
        else:
            data = bytes(to_wire(array))
            one["parameters"] = {"binary_data_size": len(data)}
            tail += data
        tensors.append(one)
    own = {"classification": asked["classes"]} if asked["classes"] else {}
    document = {"id": asked["id"], "parameters": asked["parameters"], "inputs": tensors}
    document["outputs"] = [{"name": name, "parameters": own} for name in asked["outputs"]]
    head = json.dumps(document).encode()
    return read_rest("m", "3", head + tail, len(head) if tail else None)[0]


def plain(request: InferRequest):
    """Everything that the data plane may look at, except which front it was."""
    return (
        request.model, request.version, request.id, dict(request.parameters),
        [(o.name, dict(o.parameters)) for o in request.outputs], request.deadline,
        [(t.name, t.datatype, t.shape, dict(t.parameters)) for t in request.inputs],
    )  # fmt: skip


def feeds(asked, request):
    interface = Interface(
        [Spec(name, DTYPES[datatype], tuple(None for _ in a.shape)) for name, (datatype, a) in asked["inputs"].items()],
        [Spec("y", "float32", None), Spec("z", "float32", None)],
    )
    found, rows, ports = interface.check(request)
    return [(k, v.dtype, v.shape, bytes(to_wire(v))) for k, v in found.items()], rows, [p.name for p in ports]


def ready(asked):
    """Parameters that the validator lets pass (types of the known ones are tested elsewhere)."""
    known = ("priority", "timeout")
    kept = {k: v for k, v in asked["parameters"].items() if k not in known or type(v) is int}
    return asked | {"parameters": kept}


@settings(max_examples=150)
@given(requests())
def test_both_fronts_make_the_same_request_of_raw_tensors(asked):
    asked = ready(asked)
    one, other = over_grpc(asked, typed=False), over_rest(asked)
    assert plain(one) == plain(other)
    assert feeds(asked, one) == feeds(asked, other)


def sayable(datatype, array):
    """Whether JSON and typed contents can say it."""
    if DATATYPES[datatype].field is None:
        return False
    if datatype == "BYTES":
        return all(item.isascii() for item in array.reshape(-1))
    return array.dtype.kind != "f" or bool(np.isfinite(array).all())


@settings(max_examples=150)
@given(requests())
def test_typed_contents_and_json_say_the_same_as_raw(asked):
    asked = ready(asked)
    asked["inputs"] = {name: pair for name, pair in asked["inputs"].items() if sayable(*pair)}
    raw = over_grpc(asked, typed=False)
    assert feeds(asked, raw) == feeds(asked, over_rest(asked, as_json=asked["inputs"]))
    if asked["inputs"]:
        assert feeds(asked, raw) == feeds(asked, over_grpc(asked, typed=True))


@settings(max_examples=100)
@given(st.lists(arrays(), min_size=1, max_size=3))
def test_both_fronts_answer_with_the_same_bytes(outputs):
    tensors = [OutputTensor(f"y{i}", datatype, array) for i, (datatype, array) in enumerate(outputs)]
    response = InferResponse("m", "3", "id", tensors)
    message = pb.ModelInferResponse.FromString(write_infer(response))

    class AllBinary:
        def binary(self, name):
            return True

    pieces, length = write_rest(response, AllBinary())
    body = b"".join(pieces)
    document, tail = json.loads(body[:length]), body[length:]
    assert tail == b"".join(message.raw_output_contents)
    for wire, rest in zip(message.outputs, document["outputs"], strict=True):
        assert (wire.name, wire.datatype, list(wire.shape)) == (rest["name"], rest["datatype"], rest["shape"])


assert ml_dtypes  # bfloat16 of the table
