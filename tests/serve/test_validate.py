"""A request is valid exactly when the interface says so; both fronts build the same request."""

import json

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from serve_fake import DTYPES, Spec

from headrace.protos import inference_pb2 as pb
from headrace.serve import grpc_codec, rest_codec
from headrace.serve.datatypes import DATATYPES, encode_bytes
from headrace.serve.errors import Meaning, ServeError
from headrace.serve.request import InferRequest, InputTensor, RequestedOutput
from headrace.serve.validate import Interface

FIXED = sorted(name for name, row in DATATYPES.items() if row.size)
dimensions = st.one_of(st.integers(0, 3), st.sampled_from(["n", "m"]), st.none())
specs = st.lists(
    st.tuples(st.sampled_from(sorted(DTYPES)), st.one_of(st.none(), st.lists(dimensions, max_size=3).map(tuple))),
    min_size=1,
    max_size=3,
)
tensors = st.tuples(
    st.sampled_from(["x0", "x1", "x2", "y"]),
    st.sampled_from(sorted(DTYPES)),
    st.lists(st.integers(-1, 3), max_size=3),
    st.integers(-1, 1),
)


def raw(datatype, shape, extra):
    """Bytes for the shape, `extra` elements more or fewer."""
    count = max(0, int(np.prod([max(0, d) for d in shape])) + extra)
    return encode_bytes([b"ab"] * count) if datatype == "BYTES" else bytes(count * DATATYPES[datatype].size)


def fits(spec, shape, bound):
    if spec is None:
        return min(shape, default=0) >= 0
    if len(spec) != len(shape):
        return False
    for want, size in zip(spec, shape, strict=True):
        if size < 0 or (isinstance(want, int) and want != size):
            return False
        if isinstance(want, str) and bound.setdefault(want, size) != size:
            return False
    return True


def valid(interface, given_tensors, outputs):
    """The rules, written once more in the plainest form."""
    if sorted(t[0] for t in given_tensors) != [f"x{i}" for i in range(len(interface))]:
        return False
    bound = {}
    for name, datatype, shape, extra in given_tensors:
        want, spec = interface[int(name[1])]
        count = int(np.prod(shape)) if shape else 1
        if (
            datatype != want
            or not fits(spec, shape, bound)
            or (extra and count + extra != count and count + extra >= 0)
        ):
            return False
    return len(set(outputs)) == len(outputs) and set(outputs) <= {"out"}


@st.composite
def requests(draw):
    """Mostly near the interface: a valid request with some tensors exchanged for arbitrary ones."""
    interface = draw(specs)
    bound = {"n": draw(st.integers(0, 3)), "m": draw(st.integers(0, 3))}
    out = []
    for index, (datatype, spec) in enumerate(interface):
        shape = [d if isinstance(d, int) else bound[d] if d else draw(st.integers(0, 3)) for d in spec or ()]
        out.append((f"x{index}", datatype, shape, 0))
    if draw(st.booleans()):
        out[draw(st.integers(0, len(out) - 1))] = draw(tensors)
    if draw(st.integers(0, 5)) == 0:
        out.append(draw(tensors))
    outputs = draw(st.lists(st.sampled_from(["out", "other"]), max_size=2))
    return interface, draw(st.permutations(out)), outputs


@given(requests())
def test_valid_iff_the_interface_says_so(case):
    interface, given_tensors, outputs = case
    inputs = [Spec(f"x{i}", DTYPES[datatype], shape) for i, (datatype, shape) in enumerate(interface)]
    table = Interface(inputs, [Spec("out", "float32", None)])
    request = InferRequest(
        "m",
        "",
        [InputTensor(n, d, tuple(s), raw(d, s, e)) for n, d, s, e in given_tensors],
        outputs=[RequestedOutput(name) for name in outputs],
    )
    try:
        feeds, rows, ports = table.check(request)
    except ServeError as error:
        assert error.meaning is Meaning.BAD_ARGUMENT and error.text.isprintable()
        assert not valid(interface, given_tensors, outputs), error.text
    else:
        assert valid(interface, given_tensors, outputs)
        assert rows == 1 and [port.name for port in ports] == ["out"]
        for name, datatype, shape, _ in given_tensors:
            assert feeds[name].shape == tuple(shape) and feeds[name].dtype == DATATYPES[datatype].dtype


@given(st.integers(-1, 6), st.integers(-1, 6), st.integers(1, 4))
def test_batch_rule(first, second, most):
    table = Interface([Spec("a", "int8", ("n", 2)), Spec("b", "int8", (None, 1))], [], most)
    one = InputTensor("a", "INT8", (first, 2), bytes(max(0, first) * 2))
    two = InputTensor("b", "INT8", (second, 1), bytes(max(0, second)))
    try:
        assert table.check(InferRequest("m", "", [one, two]))[1] == first
        assert 1 <= first == second <= most
    except ServeError:
        assert not 1 <= first == second <= most


@given(
    st.sampled_from(FIXED),
    st.lists(st.integers(1, 3), min_size=1, max_size=3),
    st.integers(0, 2**31),
    st.text(max_size=5),
    st.sampled_from([0, 5000]),
)
def test_both_fronts_build_the_same_request(datatype, shape, seed, request_id, pad):
    """Also through the scan of large messages: `pad` rows bring the message over its threshold."""
    shape = [shape[0] + pad, *shape[1:]]
    size = int(np.prod(shape)) * DATATYPES[datatype].size
    data = np.random.default_rng(seed).bytes(size)
    message = pb.ModelInferRequest(model_name="m", id=request_id, raw_input_contents=[data])
    message.inputs.add(name="x", datatype=datatype, shape=shape)
    message.outputs.add(name="y")
    message.parameters["priority"].int64_param = 3
    document = {
        "id": request_id,
        "parameters": {"priority": 3},
        "inputs": [{"name": "x", "datatype": datatype, "shape": shape, "parameters": {"binary_data_size": size}}],
        "outputs": [{"name": "y"}],
    }
    head = json.dumps(document).encode()
    ours = grpc_codec.read_infer(message.SerializeToString())
    theirs, _ = rest_codec.read_infer("m", "", bytearray(head + data), len(head))
    for request in (ours, theirs):
        request.inputs[0].data = bytes(request.inputs[0].data)
        request.front = ""
    assert ours == theirs
    table = Interface([Spec("x", DTYPES[datatype], None)], [Spec("y", "float32", None)])
    array = table.check(ours)[0]["x"]
    assert array.flags.aligned and array.shape == tuple(shape)
    if datatype != "BOOL":
        assert array.tobytes() == data


def test_unaligned_views_are_copied():
    buffer = memoryview(bytes(33))[1:]
    table = Interface([Spec("x", "float64", (4,))], [])
    array = table.check(InferRequest("m", "", [InputTensor("x", "FP64", (4,), buffer)]))[0]["x"]
    assert array.flags.aligned


def test_any_byte_but_zero_is_true():
    table = Interface([Spec("x", "bool", (3,))], [])
    array = table.check(InferRequest("m", "", [InputTensor("x", "BOOL", (3,), b"\x00\x01\xff")]))[0]["x"]
    assert array.view(np.uint8).tolist() == [0, 1, 1]
