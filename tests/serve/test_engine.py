"""The native front and engine against their oracle, the same server behind grpcio with the queue in Python.

Real models, so that requests run in the C++ queue: random and damaged requests get the same answer or the same status and
text from both; batches never change a row; a guilty row fails alone; nothing is lost while versions are swapped.
"""

import http.client
import json
import os
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from headrace.protos import inference_pb2 as pb
from headrace.serve import Client, Server, engine, version
from headrace.serve.config import Listen, Settings
from headrace.serve.errors import Meaning, ServeError
from headrace.serve.warmup import Pace

try:
    from headrace.serve.native_front import NativeFront
except ImportError:  # built without libnghttp2
    NativeFront = None

pytestmark = pytest.mark.skipif(engine._native is None, reason="built without libnghttp2: there is no native front")

INFER = "/inference.GRPCInferenceService/ModelInfer"


def save(root, name, nodes, inputs, outputs, constants=(), version=1):
    tensor = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        name,
        [tensor(*i) for i in inputs],
        [tensor(*o) for o in outputs],
        [onnx.numpy_helper.from_array(a, n) for n, a in constants],
    )
    folder = root / name / str(version)
    folder.mkdir(parents=True)
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), folder / "model.onnx"
    )


def repository(root):
    node, f, i, b = helper.make_node, TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((6, 5)).astype(np.float32)
    save(
        root,
        "dense",
        [node("MatMul", ["x", "w"], ["h"]), node("Tanh", ["h"], ["y"])],
        [("x", f, ["n", 6])],
        [("y", f, ["n", 5])],
        [("w", weight)],
    )
    save(
        root, "pair", [node("Where", ["c", "a", "b"], ["y"]), node("Not", ["c"], ["z"])],
        [("c", b, ["n", "k"]), ("a", f, ["n", "k"]), ("b", f, ["n", "k"])], [("y", f, ["n", "k"]), ("z", b, ["n", "k"])],
    )  # fmt: skip
    save(
        root,
        "single",
        [node("ReduceSum", ["x", "axes"], ["y"], keepdims=0)],
        [("x", f, [3, 4])],
        [("y", f, [3])],
        [("axes", np.array([1]))],
    )
    table = np.arange(10, dtype=np.float32)
    save(
        root, "lookup", [node("Gather", ["t", "i"], ["y"])], [("i", i, ["n", 2])], [("y", f, ["n", 2])], [("t", table)]
    )
    save(
        root, "wide", [node("Neg", ["x"], ["h"]), node("Neg", ["h"], ["y"]), node("Abs", ["k"], ["z"])],
        [("x", TensorProto.DOUBLE, ["n", "m"]), ("k", TensorProto.INT8, ["n", "m"])], [("y", TensorProto.DOUBLE, ["n", "m"]), ("z", TensorProto.INT8, ["n", "m"])],
    )  # fmt: skip
    return root


def start(root, front, **limits):
    listen = Listen(grpc_port=0, http_port=0, metrics_port=-1, front=front)
    return Server(root, settings=Settings(listen=listen, **limits))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return repository(tmp_path_factory.mktemp("engine"))


class Both(list):
    """Two callers, and the servers behind them."""

    def __init__(self, calls, servers):
        super().__init__(calls)
        self.servers = servers


@pytest.fixture(scope="module")
def both(root):
    """Callers of ModelInfer on the native front, and on grpcio with the queue in Python."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "make", lambda *_: None)
        oracle = start(root, "portable").start()
    native = start(root, "native").start()
    channels = [grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") for server in (native, oracle)]
    yield Both([channel.unary_unary(INFER) for channel in channels], [native, oracle])
    for channel in channels:
        channel.close()
    native.stop()
    oracle.stop()


def request_of(model, arrays, version="", name_of=None, **fields):
    request = pb.ModelInferRequest(model_name=model, model_version=version, **fields)
    for name, array in arrays.items():
        datatype = {"f": "FP32", "i": "INT64", "b": "BOOL"}[array.dtype.kind]
        request.inputs.add(name=name, datatype=datatype, shape=list(array.shape))
        request.raw_input_contents.append(array.tobytes())
    return request


def ask(call, data):
    try:
        return pb.ModelInferResponse.FromString(call(data, timeout=20))
    except grpc.RpcError as error:
        return error.code(), error.details()


def same(both, data):
    mine, oracle = (ask(call, data) for call in both)
    assert mine == oracle
    return mine


@st.composite
def requests(draw):
    rows, width = draw(st.integers(0, 4)), draw(st.integers(0, 5))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    model = draw(st.sampled_from(["dense", "pair", "single", "lookup", "nobody"]))

    def floats(*shape):
        return rng.standard_normal(shape).astype(np.float32)

    arrays = {
        "dense": lambda: {"x": floats(rows, 6)},
        "pair": lambda: {"b": floats(rows, width), "c": rng.random((rows, width)) > 0.5, "a": floats(rows, width)},
        "single": lambda: {"x": floats(3, 4)},
        "lookup": lambda: {"i": rng.integers(-10, 10, (rows, 2))},
        "nobody": lambda: {},
    }[model]()
    request = request_of(
        model, arrays, draw(st.sampled_from(["", "", "1", "2", "01", "x y"])), id=draw(st.sampled_from(["", "7", "é"]))
    )
    for _ in range(draw(st.integers(0, 2))):
        damage = draw(
            st.sampled_from(
                [
                    "dims",
                    "rank",
                    "dtype",
                    "bytes",
                    "name",
                    "twice",
                    "surplus",
                    "output",
                    "parameter",
                    "typed",
                    "truth",
                    "huge",
                ]
            )
        )
        if damage == "output":
            request.outputs.add(name=draw(st.sampled_from(["y", "z", "nothing"])))
        elif damage == "parameter":
            request.parameters["timeout"].int64_param = draw(st.sampled_from([0, 10**7]))
        elif damage == "surplus":
            request.raw_input_contents.append(b"1234")
        elif request.inputs:
            tensor = request.inputs[draw(st.integers(0, len(request.inputs) - 1))]
            if damage == "dims" and tensor.shape:
                tensor.shape[0] = draw(st.sampled_from([0, 1, 5, 300, -1, 2**40]))
            elif damage == "huge":
                tensor.shape[:] = [2**62, 2**62]
            elif damage == "rank":
                tensor.shape.append(1)
            elif damage == "dtype":
                tensor.datatype = "FP64"
            elif damage == "name":
                tensor.name = "other"
            elif damage == "twice":
                request.inputs.add().CopyFrom(tensor)
            elif damage == "bytes" and request.raw_input_contents:
                request.raw_input_contents[0] = request.raw_input_contents[0][:-1]
            elif damage == "truth" and request.raw_input_contents:
                request.raw_input_contents[-1] = bytes([2] * len(request.raw_input_contents[-1]))
            elif damage == "typed" and tensor.datatype == "FP32":
                tensor.contents.fp32_contents.extend([1.0] * 6)
    data = request.SerializeToString()
    if draw(st.integers(0, 9)) == 0 and data:
        at = draw(st.integers(0, len(data) - 1))
        data = data[:at] + bytes([data[at] ^ draw(st.integers(1, 255))]) + data[at + 1 :]
    return data


@pytest.fixture(scope="module")
def portable(root):
    """A caller of ModelInfer on grpcio with the queue in C++."""
    with start(root, "portable") as server, grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        yield channel.unary_unary(INFER)


@settings(max_examples=200)
@given(data=requests())
def test_every_request_as_the_oracle(both, portable, data):
    """Byte-equal outputs, or the same status and text. NaNs made by damaged bytes compare by their bits."""
    oracle = ask(both[1], data)
    for mine in (ask(call, data) for call in (both[0], portable)):
        if isinstance(mine, tuple) and mine[0] is grpc.StatusCode.INTERNAL:
            assert oracle[0] is grpc.StatusCode.INTERNAL and "incident" in mine[1]
        elif isinstance(mine, tuple):
            assert mine == oracle
        else:
            assert mine.SerializeToString(deterministic=True) == oracle.SerializeToString(deterministic=True)


# ---- REST ----


@st.composite
def bodies(draw):
    """(path, headers, body) of an inference over REST: whole, odd or wrong."""
    model = draw(st.sampled_from(["dense", "pair", "single", "lookup", "wide", "nobody"]))
    rows, width = draw(st.integers(0, 3)), draw(st.integers(0, 4))
    rng = np.random.default_rng(draw(st.integers(0, 99)))

    def floats(*shape):
        scale = 10.0 ** rng.integers(-40, 30, shape)
        return np.where(rng.random(shape) < 0.3, rng.integers(-9, 9, shape), rng.standard_normal(shape) * scale)

    arrays = {
        "dense": lambda: {"x": ("FP32", floats(rows, 6))},
        "pair": lambda: {"c": ("BOOL", rng.random((rows, width)) > 0.5), "a": ("FP32", floats(rows, width)), "b": ("FP32", floats(rows, width))},
        "single": lambda: {"x": ("FP32", floats(3, 4))},
        "lookup": lambda: {"i": ("INT64", rng.integers(-10, 10, (rows, 2)))},
        "wide": lambda: {"x": ("FP64", floats(rows, width) ** 3), "k": ("INT8", rng.integers(-128, 127, (rows, width)))},
        "nobody": lambda: {"x": ("FP32", floats(1, 1))},
    }[model]()  # fmt: skip
    document, tail = {"inputs": []}, b""
    kinds = {"FP32": np.float32, "FP64": np.float64, "INT64": np.int64, "INT8": np.int8, "BOOL": bool}
    for name, (datatype, array) in arrays.items():
        item = {"name": name, "shape": list(array.shape), "datatype": datatype}
        form = draw(st.sampled_from(["flat", "nested", "binary"]))
        if form == "binary":
            data = array.astype(kinds[datatype]).tobytes()
            item["parameters"] = {"binary_data_size": len(data)}
            tail += data
        else:
            item["data"] = array.tolist() if form == "nested" else array.reshape(-1).tolist()
        if draw(st.integers(0, 5)) == 0:
            key, value = draw(st.sampled_from(ODD))
            item[key] = value
        document["inputs"].append({k: item[k] for k in draw(st.permutations(sorted(item)))})
    if draw(st.booleans()):
        document["id"] = draw(st.sampled_from(["", "7", "a b", 'q"', "é", 5]))
    if draw(st.integers(0, 2)) == 0:
        document["parameters"] = draw(
            st.sampled_from([{}, {"binary_data_output": True}, {"binary_data_output": 1}, {"k": 1}, {"priority": 1}])
        )
    if draw(st.integers(0, 2)) == 0:
        own = draw(
            st.sampled_from(
                [
                    {},
                    {"parameters": {"binary_data": True}},
                    {"parameters": {"binary_data": False}},
                    {"parameters": {"classification": 1}},
                ]
            )
        )
        document["outputs"] = [{"name": name} | own for name in draw(st.sampled_from([["y"], ["z", "y"], ["y", "y"], ["nothing"]]))]  # fmt: skip
    head = json.dumps(document, indent=draw(st.sampled_from([None, 1])), ensure_ascii=draw(st.booleans())).encode()
    if draw(st.integers(0, 6)) == 0:
        head = head.replace(*draw(st.sampled_from(DAMAGE)))
    headers = {"Inference-Header-Content-Length": str(len(head))} if tail or draw(st.integers(0, 4)) == 0 else {}
    if draw(st.integers(0, 9)) == 0:
        headers["Inference-Header-Content-Length"] = draw(st.sampled_from(["1", "0", "99999", "x", "-1"]))
    if draw(st.integers(0, 3)) == 0:
        headers["Accept-Encoding"] = draw(st.sampled_from(["gzip, deflate", "br", "deflate;q=1", "identity"]))
    version = draw(st.sampled_from(["", "", "", "/versions/1", "/versions/2", "/versions/01", "/versions/"]))
    tail += draw(st.sampled_from([b"", b"", b"", b"", b"1"]))
    return f"/v2/models/{model}{version}/infer", headers, head + tail


ODD = [
    ("data", [1, True]), ("data", [1, "1"]), ("data", [[1], 2]), ("data", 5), ("data", [1e39]), ("data", [300]), ("data", [-1e400]),
    ("data", [1.0, 2.0]), ("shape", [1, -1]), ("shape", [2.0]), ("shape", "x"), ("shape", [2**62, 2**62]), ("datatype", "FP16"), ("name", "other"),
    ("parameters", {}), ("parameters", {"binary_data_size": -1}), ("parameters", {"classification": 2}), ("more", {"x": [1]}),
]  # fmt: skip
DAMAGE = [
    (b"[", b"[["), (b"]", b""), (b",", b",,"), (b":", b" :\t"), (b"{", b"[{"), (b'"', b"'"), (b"1", b"01"), (b"0", b"-0"), (b".", b".e"), (b"e", b"E"),
    (b'"name"', b'"name": "x", "name"'), (b"true", b"True"), (b"1", b"NaN"), (b"0.", b"."), (b"}", b"} "), (b'"y"', b'"\\u0079"'),
]  # fmt: skip


@pytest.fixture(scope="module")
def rest(both):
    """Callers over HTTP of the same two servers."""
    connections = [http.client.HTTPConnection("127.0.0.1", server.http_port, timeout=20) for server in both.servers]

    def ask(connection, path, headers, body):
        connection.request("POST", path, body, headers)
        answer = connection.getresponse()
        kept = {k.lower(): v for k, v in answer.getheaders() if k.lower() != "content-length"}
        data = answer.read()
        if coding := kept.get("content-encoding"):
            data = zlib.decompress(data, 31 if coding == "gzip" else 15)
        return answer.status, kept, data

    yield lambda *request: [ask(connection, *request) for connection in connections]
    for connection in connections:
        connection.close()


@settings(max_examples=400)
@given(request=bodies())
def test_every_rest_request_as_the_oracle(rest, request):
    mine, oracle = rest(*request)
    assert mine == oracle


@pytest.mark.parametrize(
    "value",
    [0.0, -0.0, 1.0, -1.5, 0.1, 1e-4, 9.999e-5, 1e15, 1e16, 123456789012345680.0, 5e-324, 1.7976931348623157e308, 1e22, 2**-20, 100.0],
)  # fmt: skip
def test_numbers_are_written_as_python_writes_them(rest, value):
    body = {"inputs": [{"name": "x", "shape": [1, 1], "datatype": "FP64", "data": [value]}, {"name": "k", "shape": [1, 1], "datatype": "INT8", "data": [0]}]}  # fmt: skip
    mine, oracle = rest("/v2/models/wide/infer", {}, json.dumps(body).encode())
    assert mine == oracle and json.loads(mine[2])["outputs"][0]["data"] == [value]


def test_plain_inferences_over_rest_do_not_come_to_python(both, rest, monkeypatch):
    seen = []
    begin = NativeFront._begin_http
    monkeypatch.setattr(NativeFront, "_begin_http", lambda self, *event: (seen.append(event[3]), begin(self, *event)))
    body = json.dumps(
        {"inputs": [{"name": "x", "shape": [1, 6], "datatype": "FP32", "data": [1, 2.5, -3e-2, 0, 4, 5]}]}
    )
    before = both.servers[0]._plane.statistics("dense", "")["model_stats"][0]["inference_count"]
    (status, _, data), oracle = rest("/v2/models/dense/infer", {"Accept-Encoding": "gzip"}, body)
    assert status == 200 and (status, _, data) == oracle and not seen
    assert both.servers[0]._plane.statistics("dense", "")["model_stats"][0]["inference_count"] == before + 1
    assert rest("/v2/models/dense/infer?x", {}, body)[0][0] == 200 and seen == ["/v2/models/dense/infer?x"]


@pytest.mark.parametrize("seed", range(3))
def test_batches_change_no_bit(both, seed):
    """Sixty callers at once: each answer equals the one that the request gets alone."""
    rng = np.random.default_rng(seed)
    datas = [
        request_of(
            "dense", {"x": rng.standard_normal((int(rng.integers(1, 5)), 6)).astype(np.float32)}
        ).SerializeToString()
        for _ in range(60)
    ]
    alone = [both[1](data) for data in datas]
    with ThreadPoolExecutor(60) as pool:
        together = list(pool.map(both[0], datas))
    assert [pb.ModelInferResponse.FromString(a) for a in alone] == [
        pb.ModelInferResponse.FromString(t) for t in together
    ]


def test_a_guilty_row_fails_alone(root):
    """An index that no table has, in the middle of a batch that a delay forced together."""
    (root / "lookup" / "config.toml").write_text("[batching]\nmax_batch_size = 8\nmax_delay_us = 50000\n")
    try:
        with start(root, "native") as server, grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
            call = channel.unary_unary(INFER)
            indices = [np.array([[k % 10, 3]]) for k in range(7)] + [np.array([[3, 77]])]
            for _ in range(5):
                with ThreadPoolExecutor(8) as pool:
                    answers = list(
                        pool.map(lambda i: ask(call, request_of("lookup", {"i": i}).SerializeToString()), indices)
                    )
                for index, answer in zip(indices[:7], answers):
                    assert np.frombuffer(answer.raw_output_contents[0], np.float32).tolist() == index.ravel().tolist()
                assert answers[7][0] is grpc.StatusCode.INTERNAL
                assert "incident" in answers[7][1]
            rows = server._manager.versions()
            (version,) = [v for v in rows if v.name == "lookup"]
            counted = version.count()
            assert counted.releases["isolated"] >= 8
            assert counted.success.count == 35
            assert counted.fail.count == 5
    finally:
        (root / "lookup" / "config.toml").unlink()


def test_a_deadline_in_the_queue(tmp_path):
    """A request whose deadline passes behind a long run never runs."""
    node, f, n = helper.make_node, TensorProto.FLOAT, 12
    chain = [node("MatMul", [f"h{k}", "w"], [f"h{k + 1}"]) for k in range(n)]
    weight = np.eye(512, dtype=np.float32)
    save(tmp_path, "long", chain, [("h0", f, ["n", 512])], [(f"h{n}", f, ["n", 512])], [("w", weight)])
    (tmp_path / "long" / "config.toml").write_text("[batching]\nmax_batch_size = 0\n[instances]\ncount = 1\n")
    large = [("grpc.max_receive_message_length", -1)]
    with start(tmp_path, "native") as server, grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}", large) as channel:
        call = channel.unary_unary(INFER)
        first = call.future(request_of("long", {"h0": np.zeros((6000, 512), np.float32)}).SerializeToString())
        (version,) = server._manager.versions()
        until = time.monotonic() + 20
        while not (version.inflight and not version.scheduler.pending) and time.monotonic() < until:
            time.sleep(0.001)  # it runs now, for a tenth of a second at least
        with pytest.raises(grpc.RpcError) as caught:
            call(request_of("long", {"h0": np.zeros((1, 512), np.float32)}).SerializeToString(), timeout=0.05)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert first.code() is grpc.StatusCode.OK
        until = time.monotonic() + 20
        while not (counted := version.count()).expired_before_run and time.monotonic() < until:
            time.sleep(0.01)
        assert (counted.expired_before_run, counted.execution_count) == (1, 1)


@pytest.mark.parametrize("front", ["portable", "native"])
def test_priorities(root, monkeypatch, front):
    """A request's priority reaches the queue, on the way through C++ and through Python: a level refuses what is over its
    limit, and the others take theirs. (In which order they go: test_pending.py; with runs under way: test_scheduler.py.)"""
    (root / "pair" / "config.toml").write_text(
        "[batching]\nmax_batch_size = 8\nmax_delay_us = 500000\n[queue]\npriority_levels = 3\ndefault_priority = 2\n"
        "[queue.levels.3]\nmax_size = 2\n"
    )
    if front == "portable":
        monkeypatch.setattr(engine, "make", lambda *_: None)
    try:
        with start(root, front) as server, grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
            call = channel.unary_unary(INFER)
            (version,) = [v for v in server._manager.versions() if v.name == "pair"]

            def ask_with(priority, width):
                x = np.zeros((1, width), np.float32)
                request = request_of("pair", {"c": x > 0, "a": x, "b": x})
                if priority is not None:
                    request.parameters["priority"].int64_param = priority
                before = version.scheduler.pending
                future = call.future(request.SerializeToString())
                while version.scheduler.pending == before and not future.done():
                    time.sleep(0.001)
                return future

            futures = [ask_with(priority, width) for width, priority in enumerate((3, 3, None, 1), 1)]
            refused = ask_with(3, 5)
            assert refused.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert "full for priority 3 (2 requests)" in refused.details()
            assert [future.code() for future in futures] == [grpc.StatusCode.OK] * 4
    finally:
        (root / "pair" / "config.toml").unlink()


def test_queue_settings_are_shown(root):
    (root / "dense" / "config.toml").write_text(
        "[batching]\npreferred_sizes = [4, 8]\n[queue]\npriority_levels = 2\n"
        '[queue.levels.1]\nmax_size = 7\ntimeout_ms = 5\ntimeout_action = "delay"\n'
    )
    try:
        with start(root, "native") as server, Client(f"127.0.0.1:{server.grpc_port}") as client:
            shown = client.config("dense")["dynamic_batching"]
            assert shown["preferred_batch_size"] == [4, 8]
            assert (shown["priority_levels"], shown["default_priority_level"]) == (2, 2)
            first = shown["priority_queue_policy"][1]
            assert (first["timeout_action"], first["default_timeout_microseconds"], first["max_queue_size"]) == (
                "DELAY", 5000, 7,
            )  # fmt: skip
    finally:
        (root / "dense" / "config.toml").unlink()


def test_a_full_queue(root):
    (root / "dense" / "config.toml").write_text(
        "[batching]\nmax_delay_us = 300000\nmax_batch_size = 100\n[queue]\nmax_size = 4\n"
    )
    try:
        with start(root, "native") as server, grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
            data = request_of("dense", {"x": np.zeros((1, 6), np.float32)}).SerializeToString()
            with ThreadPoolExecutor(12) as pool:
                answers = list(pool.map(lambda _: ask(channel.unary_unary(INFER), data), range(12)))
            refused = [a for a in answers if isinstance(a, tuple)]
            assert len(refused) >= 6
            assert {a[0] for a in refused} == {grpc.StatusCode.RESOURCE_EXHAUSTED}
            assert "queue" in refused[0][1]
    finally:
        (root / "dense" / "config.toml").unlink()


def save_product(root, value):
    node, f = helper.make_node("Mul", ["x", "k"], ["y"]), TensorProto.FLOAT
    save(root, "m", [node], [("x", f, ["n", 4])], [("y", f, ["n", 4])], [("k", np.float32(value))])


def test_swaps_under_load(tmp_path):
    """Two versions with answers of their own, swapped for seconds: no request fails, every answer is of one of them."""
    save_product(tmp_path, 2)
    with start(tmp_path, "native") as server, grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        call, stop, wrong, count = channel.unary_unary(INFER), threading.Event(), [], [0]
        data = request_of("m", {"x": np.ones((2, 4), np.float32)}).SerializeToString()

        def load():
            while not stop.is_set():
                answer = ask(call, data)
                count[0] += 1
                if isinstance(answer, tuple) or set(np.frombuffer(answer.raw_output_contents[0], np.float32)) not in (
                    {2.0},
                    {3.0},
                ):
                    wrong.append(answer)

        threads = [threading.Thread(target=load) for _ in range(8)]
        for thread in threads:
            thread.start()
        for turn in range(6):
            value = 3 if turn % 2 == 0 else 2
            folder = tmp_path / "m" / "1"
            (folder / "model.onnx").unlink()
            folder.rmdir()
            save_product(tmp_path, value)
            server._manager.load("m")
            time.sleep(0.1)
        stop.set()
        for thread in threads:
            thread.join()
        assert not wrong
        assert count[0] > 100


@pytest.mark.parametrize(("seconds", "started"), [(1e-6, 0), (1.0, 1)])
def test_the_first_request_of_a_warm_version_waits_for_no_thread(tmp_path, monkeypatch, seconds, started):
    """What the warm-up took says whether a run holds the loop up: where it does not, the first one needs no thread either."""
    monkeypatch.setattr(version, "warm_up", lambda *_: Pace(2, seconds, 1))
    save_product(tmp_path, 2)
    with start(tmp_path, "native") as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.http_port, timeout=20)
        tensor = {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}
        before = set(os.listdir("/proc/self/task"))
        connection.request("POST", "/v2/models/m/infer", json.dumps({"inputs": [tensor]}))
        answer = json.loads(connection.getresponse().read())
        assert answer["outputs"][0]["data"] == [2, 4, 6, 8]
        assert len(set(os.listdir("/proc/self/task")) - before) == started
        connection.close()


def test_unload_lets_accepted_requests_finish(root):
    with start(root, "native") as server, grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        call = channel.unary_unary(INFER)
        data = request_of("dense", {"x": np.zeros((1, 6), np.float32)}).SerializeToString()
        futures = [call.future(data) for _ in range(200)]
        server._manager.unload("dense")
        codes = {future.code() for future in futures}
        assert codes <= {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE}
        assert ask(call, data)[0] is grpc.StatusCode.UNAVAILABLE


def test_the_engine_refuses_after_its_end(root):
    with start(root, "native") as server:
        (version,) = [v for v in server._manager.versions() if v.name == "dense"]
        scheduler = version.scheduler
        server._manager.unload("dense")
        from headrace.serve.scheduler import Job

        with pytest.raises(ServeError) as caught:
            scheduler.run(Job({"x": np.zeros((1, 6), np.float32)}, 1, None))
        assert caught.value.meaning is Meaning.UNAVAILABLE
