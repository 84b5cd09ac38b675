"""The response cache: the same answer without a run, least recently used first to go, and nothing else shared."""

import http.client

import numpy as np
import pytest
import serve_fake
from hypothesis import given, settings
from hypothesis import strategies as st
from serve_packages import X, package
from serve_start import FRONTS, need, start

from headrace.serve import Client
from headrace.serve.cache import ENTRY_BYTES, ResponseCache, key_of
from headrace.serve.config import Drain, Listen, Settings
from headrace.serve.request import InferRequest, InputTensor
from headrace.serve.server import Server
from headrace.serve.validate import Interface

ON = "[cache]\nenabled = true\n"


@pytest.fixture(params=FRONTS)
def server(request, tmp_path):
    """`double` is a real package, which the native front serves by C++ where there is no cache."""
    need(request.param)
    package(tmp_path / "double" / "1" / "model.hr", 2.0)
    (tmp_path / "double" / "config.toml").write_text(ON)
    listen = Listen("127.0.0.1", 0, 0, 0, front=request.param)
    with Server(tmp_path, settings=Settings(listen=listen, drain=Drain(lame_duck_s=0))) as running:
        yield running


def cache_counts(server):
    (version,) = server._manager.versions()
    return version.statistics.cache_hit.count, version.statistics.cache_miss.count


@pytest.mark.parametrize("protocol", ["grpc", "rest"])
def test_hits_answer_without_a_run(server, protocol):
    url = f"127.0.0.1:{server.grpc_port}" if protocol == "grpc" else f"http://127.0.0.1:{server.http_port}"
    with Client(url) as client:
        for _ in range(3):
            assert client.infer("double", x=X)["y"].tobytes() == (2 * X).tobytes()
        assert cache_counts(server) == (2, 1)
        client.infer("double", x=X + 1)
        assert cache_counts(server) == (2, 2)
        (row,) = client.statistics("double")
        shown = row["inference_stats"]
        assert int(row["execution_count"]) == 2 and int(shown["success"]["count"]) == 4
        assert (int(shown["cache_hit"]["count"]), int(shown["cache_miss"]["count"])) == (2, 2)
        assert client.config("double")["response_cache"] == {"enable": True}
    connection = http.client.HTTPConnection("127.0.0.1", server.metrics_port)
    connection.request("GET", "/metrics")
    page = connection.getresponse().read().decode()
    connection.close()
    assert 'nv_cache_num_hits_per_model{model="double",version="1"} 2.0' in page
    assert f'headrace_cache_bytes{{model="double",version="1"}} {2 * (ENTRY_BYTES + X.nbytes):.1f}' in page


def test_a_new_package_answers_for_itself(server, tmp_path):
    """Load-then-switch: no answer of the old package is left."""
    with Client(f"127.0.0.1:{server.grpc_port}") as client:
        client.infer("double", x=X)
        package(tmp_path / "new.hr", 3.0)
        (tmp_path / "new.hr").rename(tmp_path / "double" / "1" / "model.hr")
        client.load("double")
        assert client.infer("double", x=X)["y"].tobytes() == (3 * X).tobytes()
        assert cache_counts(server) == (0, 1)


def test_off_by_default(tmp_path):
    with start(serve_fake.repository(tmp_path, {"fp32": "identity FP32"}), "portable") as running:
        assert running._manager.versions()[0].cache is None


def test_bytes_and_classes(tmp_path):
    """BYTES answers are kept; classes are made from kept outputs as from new ones."""
    root = serve_fake.repository(tmp_path, {"bytes": "identity BYTES"})
    (root / "bytes" / "config.toml").write_text(ON)
    with start(root, "portable") as running, Client(f"127.0.0.1:{running.grpc_port}") as client:
        for _ in range(2):
            assert client.infer("bytes", x=np.array([["a", "bc"]], object))["y"].tolist() == [[b"a", b"bc"]]
        assert cache_counts(running) == (1, 1)
        client.infer("bytes", x=np.array([["ab", "c"]], object))  # the same characters, divided otherwise
        assert cache_counts(running) == (1, 2)


def key(parameters=(), outputs=("y",), x=X):
    model = serve_fake.identity("FP32")
    interface = Interface(model.inputs, model.outputs, 8)
    request = InferRequest("m", "", [InputTensor("x", "FP32", x.shape, x.tobytes())], parameters=dict(parameters))
    ports = tuple(port for port in interface.outputs if port.name in outputs)
    return key_of(request, {"x": x}, ports)


def test_keys():
    same = [key(), key({"timeout": 5}), key({"priority": 1}), key({"headrace_explain": True})]
    assert len(set(same)) == 1
    different = [
        key(), key({"a": 1}), key({"a": True}), key({"a": "1"}), key({"b": 1}), key(outputs=()), key(x=X + 1),
        key(x=X.reshape(1, 4)), key(x=-0.0 * X), key(x=0.0 * X),
    ]  # fmt: skip
    assert len(set(different)) == len(different)
    assert key({"sequence_id": 3}) is None and key({"sequence_id": "s"}) is None and key({"sequence_id": 0}) is not None


@settings(max_examples=200)
@given(
    st.integers(0, 6 * (ENTRY_BYTES + 8)),
    st.lists(st.tuples(st.sampled_from("gp"), st.integers(0, 7), st.integers(0, 40)), max_size=60),
)
def test_least_recently_used_by_bytes(limit, steps):
    """Against a list that is searched and cut."""
    cache, kept = ResponseCache(limit), []  # (key, size in bytes), the latest used last
    for step, number, items in steps:
        name = b"%d" % number
        found = [entry for entry in kept if entry[0] == name]
        if step == "g":
            answer = cache.get(name)
            assert (answer is not None) == bool(found)
            if found:
                assert answer["y"].nbytes == found[0][1] - ENTRY_BYTES
                kept = [entry for entry in kept if entry[0] != name] + found
            continue
        cache.put(name, {"y": np.zeros(items, np.int8)})
        if ENTRY_BYTES + items > limit:
            continue
        kept = [entry for entry in kept if entry[0] != name] + [(name, ENTRY_BYTES + items)]
        while sum(size for _, size in kept) > limit:
            kept.pop(0)
        assert cache.bytes == sum(size for _, size in kept) <= limit and len(cache) == len(kept)


def test_what_is_kept_is_a_copy():
    """An output is often a view of a whole batch: neither its memory nor later writes may stay."""
    cache, batch = ResponseCache(10_000), np.zeros((100, 4), np.float32)
    cache.put(b"k", {"y": batch[3:4]})
    batch[:] = 1
    kept = cache.get(b"k")["y"]
    assert kept.tolist() == [[0, 0, 0, 0]] and kept.base is None
    with pytest.raises(ValueError, match="read-only"):
        kept[0] = 1
