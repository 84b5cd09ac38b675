"""System shared memory: registered with care, read and written in place of the message, on both fronts."""

import json
import os
import secrets
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import serve_call
import serve_fake
from serve_call import rest
from serve_start import FRONTS, LIMITS, need

from headrace.protos import inference_pb2 as pb
from headrace.serve.config import Drain, Listen, Settings, SharedMemory
from headrace.serve.errors import Meaning, ServeError
from headrace.serve.request import InferRequest, InputTensor, RequestedOutput
from headrace.serve.server import Server
from headrace.serve.shared_memory import Regions

MODELS = {"add": "add", "slow": "slow 0.4", "texts": "identity BYTES", "plain": "scale 2"}
pytestmark = pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="the system has no /dev/shm")


@pytest.fixture(scope="module", params=FRONTS)
def server(request, tmp_path_factory):
    need(request.param)
    settings = Settings(
        listen=Listen("127.0.0.1", 0, 0, 0, front=request.param),
        limits=LIMITS,
        drain=Drain(lame_duck_s=0, grace_s=10),
        shared_memory=SharedMemory(enabled=True, max_regions=8),
    )
    root = serve_fake.repository(tmp_path_factory.mktemp("memory"), MODELS)
    with Server(root, settings=settings, loader=serve_fake.load) as running:
        yield running


@pytest.fixture(params=serve_call.HOWS)
def how(request):
    return request.param


@pytest.fixture
def memory():
    """Makes shared memory objects of some bytes: their keys."""
    made = []

    def make(data):
        key = f"test_{os.getpid()}_{secrets.token_hex(4)}"
        (Path("/dev/shm") / key).write_bytes(data)
        made.append(key)
        return key

    yield make
    for key in made:
        (Path("/dev/shm") / key).unlink(missing_ok=True)


def register(server, how, name, key, size, offset=0):
    if how == "grpc":
        request = pb.SystemSharedMemoryRegisterRequest(name=name, key=key, offset=offset, byte_size=size)
        with serve_call.channel(server) as opened:
            serve_call.unary(opened, "SystemSharedMemoryRegister", request, pb.SystemSharedMemoryRegisterResponse)
        return
    path = f"/v2/systemsharedmemory/region/{name}/register"
    status, body = rest(server, "POST", path, {"key": key, "offset": offset, "byte_size": size})
    if status != 200:
        raise ServeError(Meaning.BAD_ARGUMENT, json.loads(body)["error"])


def unregister(server, how, name=""):
    if how == "grpc":
        request = pb.SystemSharedMemoryUnregisterRequest(name=name)
        with serve_call.channel(server) as opened:
            serve_call.unary(opened, "SystemSharedMemoryUnregister", request, pb.SystemSharedMemoryUnregisterResponse)
        return
    status, body = rest(server, "POST", f"/v2/systemsharedmemory{f'/region/{name}' if name else ''}/unregister")
    if status != 200:
        raise ServeError(Meaning.UNAVAILABLE, json.loads(body)["error"])


@pytest.fixture(autouse=True)
def clean(server):
    yield
    server._plane.regions.unregister("")


def at(region, size, offset=0):
    return {"shared_memory_region": region, "shared_memory_byte_size": size} | (
        {"shared_memory_offset": offset} if offset else {}
    )


def ask(server, how, model, inputs, outputs):
    """`inputs`: (name, datatype, shape, array or parameters). The answer, as dictionaries of outputs' parameters."""
    if how == "http":
        rows = [
            {"name": name, "datatype": datatype, "shape": shape}
            | ({"parameters": data} if isinstance(data, dict) else {"data": data.ravel().tolist()})
            for name, datatype, shape, data in inputs
        ]
        wanted = [{"name": name, "parameters": place} for name, place in outputs]
        status, body = rest(server, "POST", f"/v2/models/{model}/infer", {"inputs": rows, "outputs": wanted})
        answer = json.loads(body)
        if status != 200:
            raise ServeError(Meaning.BAD_ARGUMENT, answer["error"])
        assert not any("data" in output for output in answer["outputs"])
        return {output["name"]: output["parameters"] for output in answer["outputs"]}
    request = serve_call.message(model, {}, outputs=[{"name": name, "parameters": place} for name, place in outputs])
    for name, datatype, shape, data in inputs:
        tensor = request.inputs.add(name=name, datatype=datatype, shape=shape)
        if isinstance(data, dict):
            for key, value in serve_call.write_parameters(data).items():
                tensor.parameters[key].CopyFrom(value)
        else:
            request.raw_input_contents.append(data.tobytes())
    with serve_call.channel(server) as opened:
        answer = serve_call.unary(opened, "ModelInfer", request, pb.ModelInferResponse)
    assert list(answer.raw_output_contents) == [b""] * len(outputs)
    return {output.name: serve_call.values(output.parameters) for output in answer.outputs}


A, B = np.arange(8, dtype=np.float32).reshape(2, 4), np.full((2, 4), 10, np.float32)


def test_inputs_and_outputs(server, how, memory):
    """One input and both outputs in shared memory, the other input in the message; offsets of region and tensor."""
    given, taken = memory(b"#" * 16 + A.tobytes()), memory(bytes(100))
    register(server, how, "in", given, 40, 8)
    register(server, how, "out", "/" + taken, 100)
    inputs = [("a", "FP32", [2, 4], at("in", 32, 8)), ("b", "FP32", [2, 4], B)]
    outputs = [("sum", at("out", 40, 4)), ("difference", at("out", 32, 64))]
    answer = ask(server, how, "add", inputs, outputs)
    assert answer == {"sum": at("out", 32, 4), "difference": at("out", 32, 64)}
    data = (Path("/dev/shm") / taken).read_bytes()
    assert (np.frombuffer(data, np.float32, 8, 4).reshape(2, 4) == A + B).all()
    assert (np.frombuffer(data, np.float32, 8, 64).reshape(2, 4) == A - B).all() and data[:4] == bytes(4)
    rows = server._plane.shared_memory_status("in")["regions"]
    assert rows == {"in": {"name": "in", "key": given, "offset": 8, "byte_size": 40}}
    status, body = rest(server, "GET", "/v2/systemsharedmemory/status")
    assert status == 200 and {row["name"] for row in json.loads(body)} == {"in", "out"}
    assert "system_shared_memory" in server._plane.server_metadata()["extensions"]


def test_texts(server, how, memory):
    elements = b"\x03\0\0\0abc\x00\0\0\0"
    register(server, how, "in", memory(elements), len(elements))
    out = memory(bytes(32))
    register(server, how, "out", out, 32)
    answer = ask(server, how, "texts", [("x", "BYTES", [1, 2], at("in", len(elements)))], [("y", at("out", 32))])
    assert answer["y"]["shared_memory_byte_size"] == len(elements)
    assert (Path("/dev/shm") / out).read_bytes()[: len(elements)] == elements


@pytest.mark.parametrize(
    ("place", "words"),
    [
        (at("in", 31), "31 bytes, shape [2, 4] of FP32 needs 32"),
        (at("in", 41), "41 bytes at 0, the region 'in' has 40"),
        (at("in", 32, 9), "32 bytes at 9, the region 'in' has 40"),
        (at("in", 32, 2**63 - 1), "the region 'in' has 40"),
        (at("in", -1), "must be whole numbers from 0"),
        (at("in", 32, -8), "must be whole numbers from 0"),
        (at("other", 32), "region 'other' is not registered"),
        ({"shared_memory_region": "in"}, "must be whole numbers"),
        ({"shared_memory_region": "in", "shared_memory_byte_size": True}, "must be whole numbers"),
    ],
)
def test_wrong_places(server, how, memory, place, words):
    register(server, how, "in", memory(bytes(40)), 40)
    with pytest.raises(ServeError) as caught:
        ask(server, how, "add", [("a", "FP32", [2, 4], place), ("b", "FP32", [2, 4], B)], [])
    assert words in caught.value.text
    if "needs 32" in words:
        return
    with pytest.raises(ServeError) as caught:
        ask(server, how, "plain", [("x", "FP32", [2, 4], A)], [("y", place)])
    assert words in caught.value.text


def test_an_output_that_does_not_fit(server, how, memory):
    out = memory(bytes(40))
    register(server, how, "out", out, 40)
    with pytest.raises(ServeError, match="the tensor has 32 bytes, its place in shared memory 31"):
        ask(server, how, "plain", [("x", "FP32", [2, 4], A)], [("y", at("out", 31))])
    with pytest.raises(ServeError, match="exclude each other"):
        ask(server, how, "plain", [("x", "FP32", [2, 4], A)], [("y", at("out", 40) | {"classification": 1})])
    assert (Path("/dev/shm") / out).read_bytes() == bytes(40)


def test_memory_that_shrinks_is_an_error_and_kills_nobody(server, how, memory):
    key = memory(bytes(1 << 20))
    register(server, how, "in", key, 1 << 20)
    os.truncate(Path("/dev/shm") / key, 16)
    with pytest.raises(ServeError, match="has become shorter than its region"):
        ask(server, how, "plain", [("x", "FP32", [2, 4], at("in", 32))], [])
    with pytest.raises(ServeError, match="has become shorter than its region"):
        ask(server, how, "plain", [("x", "FP32", [2, 4], A)], [("y", at("in", 32))])


def test_a_region_in_use_stays(server, how, memory):
    register(server, how, "in", memory(A.tobytes()), 32)
    register(server, how, "out", memory(bytes(32)), 32)
    inputs = [("x", "FP32", [2, 4], at("in", 32))]
    asking = threading.Thread(target=ask, args=(server, how, "slow", inputs, [("y", at("out", 32))]))
    asking.start()
    end = time.monotonic() + 20
    while not server._plane.regions._regions["out"].users and time.monotonic() < end:
        time.sleep(0.002)
    for name in ("in", "out", ""):
        with pytest.raises(ServeError, match="is in use by a request"):
            unregister(server, how, name)
    asking.join()
    unregister(server, how, "in")
    unregister(server, how, "never")
    unregister(server, how)
    assert not server._plane.shared_memory_status("")["regions"]


@pytest.mark.parametrize(
    ("key", "offset", "size", "words"),
    [
        ("../etc/passwd", 0, 1, "is not a name of"),
        ("a/b", 0, 1, "is not a name of"),
        (".hidden", 0, 1, "is not a name of"),
        ("headrace-1", 0, 1, "the server's own"),
        ("", 0, 1, "is not a name of"),
        ("k" * 201, 0, 1, "is not a name of"),
        ("no_such_object_here", 0, 1, "there is no shared memory"),
        ("KEY", 0, 65, "65 bytes at 0, the shared memory has 64"),
        ("KEY", 1, 64, "64 bytes at 1, the shared memory has 64"),
        ("KEY", 2**62, 2**62, "the shared memory has 64"),
        ("KEY", 0, 0, "allowed are 0 and more, 1 and more"),
        ("KEY", 2**63, 1, "allowed are 0 and more"),
        ("LINK", 0, 1, "there is no shared memory"),
        ("FOLDER", 0, 1, "there is no shared memory"),
    ],
)
def test_what_is_not_registered(server, how, memory, tmp_path, key, offset, size, words):
    real = memory(bytes(64))
    if key == "KEY":
        key = real
    elif key in ("LINK", "FOLDER"):
        kind, key = key, memory(b"")
        place = Path("/dev/shm") / key
        place.unlink()
        place.symlink_to(Path("/dev/shm") / real) if kind == "LINK" else place.mkdir()
    try:
        with pytest.raises(ServeError) as caught:
            register(server, how, "r", key, size, offset)
        assert words in caught.value.text
    finally:
        if words == "there is no shared memory" and (Path("/dev/shm") / key).is_dir():
            (Path("/dev/shm") / key).rmdir()
    assert not server._plane.shared_memory_status("")["regions"]


def test_names_are_unique_and_few(server, how, memory):
    key = memory(bytes(8))
    for number in range(8):
        register(server, how, f"r{number}", key, 8)
    with pytest.raises(ServeError, match="'r0' is registered already"):
        register(server, how, "r0", key, 8)
    with pytest.raises(ServeError, match="8 regions are registered"):
        register(server, how, "r8", key, 8)


def test_only_callers_that_are_trusted(server, memory):
    key = memory(bytes(8))
    for call in (
        lambda: server._plane.shared_memory_register("r", key, 0, 8, False),
        lambda: server._plane.shared_memory_unregister("r", False),
    ):
        with pytest.raises(ServeError) as caught:
            call()
        assert caught.value.meaning is Meaning.FORBIDDEN


def test_memory_of_another_user(tmp_path, monkeypatch):
    (tmp_path / "key").write_bytes(bytes(8))
    regions = Regions(SharedMemory(enabled=True), tmp_path)
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(ServeError, match="belongs to another user") as caught:
        regions.register("r", "key", 0, 8, True)
    assert caught.value.meaning is Meaning.FORBIDDEN


def test_handles_are_given_back_whatever_happens(tmp_path):
    (tmp_path / "key").write_bytes(bytes(8))
    regions = Regions(SharedMemory(enabled=True), tmp_path)
    regions.register("r", "key", 0, 8, True)
    request = InferRequest(
        "m", "", [InputTensor("x", "FP32", (2,), b"", at("r", 8))], outputs=[RequestedOutput("y", at("gone", 8))]
    )
    with pytest.raises(ServeError, match="'gone' is not registered"), regions.placed(request):
        pass
    assert not regions._regions["r"].users
    regions.close()
