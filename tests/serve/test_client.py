"""The clients, sync and asyncio, over gRPC and REST, against both fronts: one behaviour."""

import asyncio
import contextlib
import threading
import time
from concurrent import futures

import grpc
import numpy as np
import pytest

from headrace.serve import AsyncClient, Client, Retry, SharedTensor
from headrace.serve.errors import Meaning, ServeError

X = np.arange(8, dtype=np.float32).reshape(2, 4)


class Waiting:
    """An `AsyncClient` that is called as a `Client`: each call runs on a loop of its own thread."""

    def __init__(self, url, **options):
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._client = AsyncClient(url, **options)

    def __getattr__(self, name):
        method = getattr(self._client, name)
        if name == "stream":
            return lambda *args, **more: self._run(self._all(method(*args, **more)))
        return lambda *args, **more: self._run(method(*args, **more))

    @staticmethod
    async def _all(answers):
        return [answer async for answer in answers]

    def _run(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(60)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._run(self._client.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


KINDS = {"sync": Client, "async": Waiting}


@pytest.fixture(params=KINDS)
def kind(request):
    return KINDS[request.param]


@pytest.fixture(params=["grpc", "rest"])
def url(request, server):
    return f"127.0.0.1:{server.grpc_port}" if request.param == "grpc" else f"http://127.0.0.1:{server.http_port}"


def test_infer(kind, url):
    with kind(url) as client:
        assert np.array_equal(client.infer("fp32", x=X)["y"], X)
        answer = client.infer("add", {"a": X, "b": X}, outputs=["sum"])
        assert list(answer) == ["sum"] and np.array_equal(answer["sum"], X + X)


def test_request(kind, url):
    with kind(url) as client:
        answer = client.request("fp32", {"x": X}, version=1, parameters={"headrace_explain": True}, id="seven")
    assert (answer.model, answer.version, answer.id) == ("fp32", "1", "seven")
    assert answer.parameters["headrace_batch_rows"] == 2
    assert np.array_equal(answer.outputs["y"], X)


@pytest.mark.parametrize("compression", ["gzip", "deflate"])
def test_compression(kind, url, compression):
    big = np.zeros((64, 1000), np.float32)
    with kind(url, compression=compression) as client:
        assert np.array_equal(client.infer("fp32", x=big)["y"], big)


def test_strings(kind, url):
    with kind(url) as client:
        found = client.infer("bytes", x=np.array([["a", "ü", ""]]))["y"]
    assert found.tolist() == [[b"a", "ü".encode(), b""]]


def test_verbs(kind, url):
    with kind(url) as client:
        assert client.ready("fp32") and not client.ready("nobody") and not client.ready()  # one model is bad
        assert client.metadata()["name"] == "headrace"
        assert client.metadata("fp32")["inputs"][0]["datatype"] == "FP32"
        assert client.config("fp32")["max_batch_size"] > 0
        assert client.statistics("fp32")[0]["name"] == "fp32"
        assert {"name": "fp32", "version": "1", "state": "READY", "reason": ""} in client.index()
        client.load("add")
        client.unload("int8")
        client.load("int8")
        assert client.shared() == []


def test_errors(kind, url):
    with kind(url) as client:
        for wrong, meaning in (("nobody", Meaning.NOT_FOUND), ("bad", Meaning.UNAVAILABLE)):
            with pytest.raises(ServeError) as caught:
                client.infer(wrong, x=X)
            assert caught.value.meaning is meaning
        with pytest.raises(ServeError, match="datatype") as caught:
            client.infer("fp32", x=X.astype(np.float64))
        assert caught.value.meaning is Meaning.BAD_ARGUMENT
        with pytest.raises(ServeError, match="complex64 has no wire form"):
            client.infer("fp32", x=X.astype(np.complex64))


def test_shared_tensors_are_asked_for(kind, url):
    """The server of these tests has shared memory switched off, and says so: the parameters arrived."""
    place = SharedTensor("region", "FP32", (2, 4), offset=64)
    assert place.parameters == {
        "shared_memory_region": "region", "shared_memory_byte_size": 32, "shared_memory_offset": 64,
    }  # fmt: skip
    with kind(url) as client:
        for inputs, outputs in (({"x": place}, None), ({"x": X}, {"y": place})):
            with pytest.raises(ServeError, match="shared memory"):
                client.request("fp32", inputs, outputs=outputs)
        with pytest.raises(ServeError, match="shared memory"):
            client.share("region", "/key", 64)


def test_a_deadline(kind, url):
    with kind(url) as client:
        started = time.monotonic()
        with pytest.raises(ServeError) as caught:
            client.request("slow", {"x": X}, timeout=0.05)
        assert caught.value.meaning is Meaning.EXPIRED
        assert time.monotonic() - started < 10  # not the 60 of the client


def test_streams(kind, server):
    with kind(f"127.0.0.1:{server.grpc_port}") as client:
        found = [answer["y"][0, 0] for answer in client.stream("fp32", ({"x": X + k} for k in range(40)))]
        assert found == list(range(40))
        with pytest.raises(ServeError) as caught:
            list(client.stream("nobody", [{"x": X}]))
        assert caught.value.meaning is Meaning.NOT_FOUND
    with kind(f"http://127.0.0.1:{server.http_port}") as client, pytest.raises(ServeError, match="no streams"):
        list(client.stream("fp32", [{"x": X}]))


def test_nobody_listens(kind):
    for url in ("127.0.0.1:1", "http://127.0.0.1:1"):
        with kind(url) as client:
            assert not client.ready()
            with pytest.raises(ServeError, match="nothing listens there"):
                client.infer("fp32", x=X)


@pytest.mark.parametrize("url", ["ftp://x", "http://", "https:///v2"])
def test_urls_that_are_none(kind, url):
    with pytest.raises(ServeError, match="expected"):
        kind_of = AsyncClient if kind is Waiting else kind
        kind_of(url)


def test_many_at_once(url):
    """A hundred requests of one asyncio client at a time, each with its own answer."""

    async def run():
        async with AsyncClient(url) as client:
            return await asyncio.gather(*(client.infer("fp32", x=X + k) for k in range(100)))

    found = asyncio.run(run())
    assert [answer["y"][0, 0] for answer in found] == list(range(100))


def test_cancelling_a_task(server):
    """A task that is cancelled while its request waits leaves nothing behind; the client goes on."""

    async def run():
        async with AsyncClient(f"http://127.0.0.1:{server.http_port}") as client:
            task = asyncio.create_task(client.infer("slow", x=X))
            await asyncio.sleep(0.05)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            return await client.infer("fp32", x=X)

    assert np.array_equal(asyncio.run(run())["y"], X)


class Flaky:
    """A gRPC server that fails the first `times` calls, with a push-back."""

    def __init__(self, times, code=grpc.StatusCode.UNAVAILABLE, pushback=None):
        self.calls, self._times, self._code, self._pushback = 0, times, code, pushback
        self._server = grpc.server(futures.ThreadPoolExecutor(4))
        handler = grpc.unary_unary_rpc_method_handler(self._answer)
        service = grpc.method_handlers_generic_handler(
            "inference.GRPCInferenceService", {"ModelInfer": handler, "RepositoryModelLoad": handler}
        )
        self._server.add_generic_rpc_handlers((service,))
        self.url = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"

    def _answer(self, data, context):
        self.calls += 1
        if self.calls <= self._times:
            if self._pushback is not None:
                context.set_trailing_metadata((("grpc-retry-pushback-ms", self._pushback),))
            context.abort(self._code, "not now")
        return b""

    def __enter__(self):
        self._server.start()
        return self

    def __exit__(self, *_):
        self._server.stop(None)


RETRY = Retry(attempts=3, first_s=0.001)


def test_retries(kind):
    with Flaky(2) as server, kind(server.url, retry=RETRY) as client:
        client.infer("m", x=X)
        assert server.calls == 3
    with Flaky(3) as server, kind(server.url, retry=RETRY) as client:
        with pytest.raises(ServeError, match="not now"):
            client.infer("m", x=X)
        assert server.calls == 3


def test_no_retries(kind):
    """Not without being asked to; not for other errors, not what may not run twice, not where the server says so."""
    sequence = {"sequence_id": 7, "sequence_start": True}
    cases = [
        ({}, {}, lambda client: client.infer("m", x=X)),
        ({"code": grpc.StatusCode.INTERNAL}, {"retry": RETRY}, lambda client: client.infer("m", x=X)),
        ({"pushback": "-1"}, {"retry": RETRY}, lambda client: client.infer("m", x=X)),
        ({}, {"retry": RETRY}, lambda client: client.request("m", {"x": X}, parameters=sequence)),
        ({}, {"retry": RETRY}, lambda client: client.load("m")),
    ]
    for failing, options, ask in cases:
        with Flaky(1, **failing) as server, kind(server.url, **options) as client:
            with pytest.raises(ServeError):
                ask(client)
            assert server.calls == 1
