"""Traces: what is traced and what not, the spans of a request over both fronts, the settings over the network."""

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import grpc
import numpy as np
import pytest
import serve_call
from hypothesis import given
from hypothesis import strategies as st
from serve_packages import X, counter, package
from serve_start import FRONTS, need

from headrace.protos import inference_pb2 as pb
from headrace.serve.config import ConfigError, Drain, Listen, Log, Settings, Trace
from headrace.serve.errors import ServeError
from headrace.serve.request import InferRequest
from headrace.serve.scheduler import Execution
from headrace.serve.server import Server
from headrace.serve.tracing import MAX_RUNS, Tracer, read_traced

CALLER = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331")
RECORDS = f"00-{CALLER[0]}-{CALLER[1]}-01"
SILENT = f"00-{CALLER[0]}-{CALLER[1]}-00"
V2 = "/inference.GRPCInferenceService/"


class Kept:
    def __init__(self):
        self.traces = []

    def export(self, spans):
        self.traces.append(spans)

    def close(self):
        pass


def test_off_traces_nothing():
    assert Tracer().begin(RECORDS) is None
    assert Tracer(Trace(), Kept()).begin(RECORDS) is None
    assert not Tracer(Trace(level="timestamps")).on  # nowhere to go


def test_one_in_rate_and_those_whose_caller_records():
    tracer = Tracer(Trace(level="timestamps", rate=3), Kept())
    assert [tracer.begin(None) is not None for _ in range(6)] == [False, False, True] * 2
    assert tracer.begin(RECORDS) is not None
    assert tracer.begin(SILENT) is None
    tracer.follow(lambda model, on, every: None)  # a front draws
    assert tracer.begin(None, "1") is not None and not any(tracer.begin(None) for _ in range(6))
    tracer = Tracer(Trace(level="timestamps", rate=0), Kept())
    assert tracer.begin(None) is None and tracer.begin(RECORDS) is not None


def test_a_count_ends():
    told = []
    tracer = Tracer(Trace(level="timestamps", rate=1, count=2), Kept())
    tracer.follow(lambda model, on, every: told.append((model, on, every)))
    assert [tracer.begin(None, "1") is not None for _ in range(3)] == [True, True, False]
    assert told == [("", True, 1), ("", False, 1)]


def test_models_have_settings_of_their_own():
    told = {}
    tracer = Tracer(Trace(level="off", rate=2, count=5), Kept())
    tracer.follow(lambda model, on, every: told.update({model: (on, every)}))
    assert tracer.change({"trace_level": ["TIMESTAMPS"]}, "m")["trace_rate"] == "2"  # the rest is that of all models
    assert tracer.on and told == {"": (False, 2), "m": (True, 2)}
    assert tracer.begin(None, "1", "m") is not None and tracer.begin(None, "1", "other") is None
    assert tracer.show("m")["trace_count"] == tracer.show()["trace_count"] == "4"  # one count for both
    tracer.change({"trace_count": "1", "trace_rate": "7"}, "m")
    assert [tracer.begin(None, "1", "m") is not None for _ in range(2)] == [True, False]
    assert tracer.show("m")["trace_count"] == "0" and tracer.show()["trace_count"] == "4"
    assert told["m"] == (False, 7)
    tracer.change({"trace_level": ["TIMESTAMPS"], "trace_rate": "3"})
    assert (tracer.show("m")["trace_rate"], tracer.show("other")["trace_rate"]) == ("7", "3")
    back = tracer.change(dict.fromkeys(("trace_level", "trace_rate", "trace_count")), "m")  # as all models again
    assert back == tracer.show() and told == {"": (True, 3), "m": (True, 3)}
    tracer.change({"trace_level": None, "trace_rate": None})  # as the server was told at start
    assert tracer.show("m")["trace_level"] == ["OFF"] and not tracer.on


@given(st.text(alphabet="0123456789abcdef-ghAZ", max_size=80))
def test_any_header_is_borne(context):
    kept = Kept()
    active = Tracer(Trace(level="timestamps", rate=1), kept).begin(context)
    active.end({}, None)
    ((span, *_),) = kept.traces
    assert len(span.trace_id) == 32 and int(span.trace_id, 16)


def test_a_context_of_zeros_is_none():
    kept = Kept()
    Tracer(Trace(level="timestamps", rate=1), kept).begin(f"00-{'0' * 32}-{CALLER[1]}-01").end({}, None)
    assert int(kept.traces[0][0].trace_id, 16) and kept.traces[0][0].parent_id == ""


def _serve(tmp_path, front, **trace):
    package(tmp_path / "double" / "1" / "model.hr", 2.0)
    settings = Settings(
        listen=Listen("127.0.0.1", 0, 0, -1, front=front), drain=Drain(lame_duck_s=0), log=Log(access="off"),
        trace=Trace(**trace),
    )  # fmt: skip
    return Server(tmp_path, settings=settings)


def _infer(channel, metadata=(), name="x", **fields):
    request = pb.ModelInferRequest(model_name="double", **fields)
    request.inputs.add(name=name, datatype="FP32", shape=X.shape)
    request.raw_input_contents.append(X.tobytes())
    data = channel.unary_unary(V2 + "ModelInfer")(request.SerializeToString(), timeout=20, metadata=metadata)
    assert np.frombuffer(pb.ModelInferResponse.FromString(data).raw_output_contents[0], np.float32)[0] == 2.0


def _rest(server, context):
    import urllib.request

    document = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [2, 2], "data": [1, 2, 3, 4]}], "id": "rest"}
    request = urllib.request.Request(
        f"http://127.0.0.1:{server.http_port}/v2/models/double/infer",
        json.dumps(document).encode(),
        {"traceparent": context},
    )
    with urllib.request.urlopen(request, timeout=20) as answer:
        assert answer.status == 200


def _traces(path):
    found = []
    for line in path.read_text().splitlines():
        (resource,) = json.loads(line)["resourceSpans"]
        found.append(resource["scopeSpans"][0]["spans"])
    return found


@pytest.mark.parametrize("front", FRONTS)
def test_spans(front, tmp_path):
    """A request whose caller records, over gRPC and REST: all phases under one span under the caller's, in order."""
    need(front)
    path = tmp_path / "traces.jsonl"
    with _serve(tmp_path, front, level="timestamps", rate=0, file=str(path)) as server:
        with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
            _infer(channel)  # nobody records this one
            _infer(channel, (("traceparent", RECORDS),), id="wire")
            with pytest.raises(grpc.RpcError):
                _infer(channel, (("traceparent", RECORDS),), name="z", id="bad")
        _rest(server, RECORDS)
    good, bad, rest = _traces(path)
    for spans, front_name, name in ((good, "grpc", "wire"), (rest, "http", "rest")):
        whole, *parts = spans
        assert (whole["traceId"], whole["parentSpanId"], whole["name"], whole["kind"]) == (*CALLER, "inference", 2)
        assert [part["name"] for part in parts] == ["receive", "queue", "assemble", "compute", "scatter", "send"]
        assert all(part["parentSpanId"] == whole["spanId"] and part["traceId"] == CALLER[0] for part in parts)
        assert len({span["spanId"] for span in spans}) == len(spans)
        times = [(int(part["startTimeUnixNano"]), int(part["endTimeUnixNano"])) for part in parts]
        assert all(start <= end for start, end in times) and times == sorted(times)
        assert int(whole["startTimeUnixNano"]) == times[0][0] and times[-1][1] <= int(whole["endTimeUnixNano"])
        facts = {row["key"]: next(iter(row["value"].values())) for row in whole["attributes"]}
        assert facts["headrace.model"] == "double" and facts["headrace.request_id"] == name
        assert facts["headrace.front"] == front_name and facts["headrace.batch_rows"] == "2"
    assert bad[0]["status"] == {"code": 2, "message": "bad_argument"}
    assert [span["name"] for span in bad] == ["inference", "receive"]


@pytest.mark.parametrize("front", FRONTS)
def test_settings_over_the_network(front, tmp_path):
    """Switched on, one in two for three traces, and off again, by TraceSetting."""
    need(front)
    path = tmp_path / "traces.jsonl"
    with _serve(tmp_path, front, file=str(path)) as server:
        assert "trace" in server._plane.server_metadata()["extensions"]
        with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:

            def change(**settings):
                kind = pb.TraceSettingRequest
                request = kind(settings={k: kind.SettingValue(value=[v]) for k, v in settings.items()})
                data = channel.unary_unary(V2 + "TraceSetting")(request.SerializeToString(), timeout=20)
                return {k: list(v.value) for k, v in pb.TraceSettingResponse.FromString(data).settings.items()}

            _infer(channel, (("traceparent", RECORDS),))
            assert change()["trace_level"] == ["OFF"]
            now = change(trace_level="TIMESTAMPS", trace_rate="2", trace_count="3")
            assert (now["trace_level"], now["trace_rate"], now["trace_count"]) == (["TIMESTAMPS"], ["2"], ["3"])
            for _ in range(12):
                _infer(channel)
            assert change()["trace_count"] == ["0"]
            change(trace_level="OFF", trace_count="-1")
            _infer(channel, (("traceparent", RECORDS),))
            for wrong in ({"trace_rate": "x"}, {"trace_level": "TENSORS"}, {"trace_count": "-2"}):
                with pytest.raises(grpc.RpcError) as caught:
                    change(**wrong)
                assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            with pytest.raises(grpc.RpcError) as caught:
                change(trace_file="/tmp/x")
            assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert len(_traces(path)) == 3


@pytest.mark.parametrize("front", FRONTS)
def test_settings_of_one_model_over_the_network(front, tmp_path):
    need(front)
    path = tmp_path / "traces.jsonl"
    package(tmp_path / "triple" / "1" / "model.hr", 3.0)
    with _serve(tmp_path, front, file=str(path), rate=1) as server:
        status, body = serve_call.rest(
            server, "POST", "/v2/models/triple/trace/setting", {"trace_level": ["TIMESTAMPS"]}
        )
        assert status == 200 and json.loads(body)["trace_level"] == ["TIMESTAMPS"]
        for name in ("double", "triple"):
            assert serve_call.rest(server, "GET", "/v2/models/nope/trace/setting")[0] == 404
            for how in serve_call.HOWS:
                serve_call.infer(server, how, name, {"x": X})
        shown = json.loads(serve_call.rest(server, "GET", "/v2/trace/setting")[1])
        assert shown["trace_level"] == ["OFF"]
        serve_call.rest(server, "POST", "/v2/models/triple/trace/setting", {"trace_level": None})
        serve_call.infer(server, "grpc", "triple", {"x": X})
    facts = [{row["key"]: row["value"].get("stringValue") for row in spans[0]["attributes"]} for spans in _traces(path)]
    assert [(row["headrace.model"], row["headrace.front"]) for row in facts] == [("triple", "grpc"), ("triple", "http")]


def _names(spans):
    return [span["name"] for span in spans]


def _facts(spans):
    return {row["key"]: next(iter(row["value"].values())) for row in spans[0]["attributes"]}


RUN = ["queue", "assemble", "compute", "scatter", "send"]


@pytest.mark.parametrize("front", FRONTS)
def test_requests_of_a_stream(front, tmp_path):
    """Each has a trace of its own under the stream's context; one that cannot be read has one as well."""
    need(front)
    path = tmp_path / "traces.jsonl"
    with _serve(tmp_path, front, level="timestamps", rate=0, file=str(path)) as server:
        sent = [serve_call.message("double", {"x": X}, id=str(i)) for i in range(3)]
        assert len(list(serve_call.stream(server, sent))) == 3  # whose caller does not record
        bad = serve_call.message("double", {"x": X})
        bad.raw_input_contents.append(b"?")
        answers = list(serve_call.stream(server, [*sent, bad], metadata=(("traceparent", RECORDS),)))
        assert answers[3].error_message
    traces = _traces(path)
    good = {_facts(spans)["headrace.request_id"]: spans for spans in traces if len(spans) > 2}
    assert sorted(good) == ["0", "1", "2"] and len(traces) == 4
    for spans in good.values():
        assert _names(spans) == ["inference", "receive", *RUN]
        assert (spans[0]["traceId"], spans[0]["parentSpanId"]) == CALLER and _facts(spans)["headrace.front"] == "grpc"
    (failed,) = (spans for spans in traces if len(spans) == 2)
    assert failed[0]["status"] == {"code": 2, "message": "bad_argument"}


@pytest.mark.parametrize("front", FRONTS)
def test_steps_of_a_generation(front, tmp_path):
    """The phases of every step, in order, over both fronts; sampled although no front draws for it."""
    need(front)
    path = tmp_path / "traces.jsonl"
    counter(tmp_path / "count/1/model.hr")
    (tmp_path / "count/config.toml").write_text(
        '[generate]\ninput = "token"\noutput = "next"\nstop = [7]\nmax_steps = 9\nstep = "step"\n'
    )
    with _serve(tmp_path, front, level="timestamps", rate=2, file=str(path)) as server:
        prompt = {"prompt": np.array([[1, 2, 3]], np.int64)}
        for _ in range(2):
            assert len(list(serve_call.stream(server, [serve_call.message("count", prompt)]))) == 4
            status, _ = serve_call.rest(server, "POST", "/v2/models/count/generate_stream", {"prompt": [1, 2, 3]})
            assert status == 200
            status, _ = serve_call.rest(server, "POST", "/v2/models/count/generate", {"prompt": [1, 2, 3]})
            assert status == 200
    traces = _traces(path)
    assert [_facts(spans)["headrace.front"] for spans in traces] == ["http", "grpc", "http"]  # every other one
    for spans in traces:
        assert _names(spans) == ["inference", "receive", *RUN * 4]
        assert _facts(spans)["headrace.runs"] == "4"
        times = [(int(span["startTimeUnixNano"]), int(span["endTimeUnixNano"])) for span in spans[1:]]
        assert all(start <= end for start, end in times) and times == sorted(times)


def test_many_runs_are_counted_and_some_shown():
    kept = Kept()
    active = Tracer(Trace(level="timestamps", rate=1), kept).begin(None)
    for number in range(MAX_RUNS + 10):
        ran = Execution(1, "alone", *(float(number),) * 4, failed=False)
        active.ran(float(number), ran)
        active.ran(float(number), ran)  # the same one
    active.end({}, None)
    ((whole, *parts),) = kept.traces
    assert whole.attributes["headrace.runs"] == MAX_RUNS + 10 and len(parts) == 1 + 5 * MAX_RUNS


def test_a_client_that_leaves_is_told():
    kept = Kept()
    tracer = Tracer(Trace(level="timestamps", rate=1), kept)
    _, through = read_traced(tracer, {}.get, "http", lambda: InferRequest("m", "", []))
    answers = through(part for part in "ab")
    assert next(answers) == "a"
    answers.close()
    assert kept.traces[0][0].error == "cancelled"


def test_a_server_that_does_not_trace():
    tracer = Tracer()
    assert tracer.change({"trace_level": ["OFF"]})["trace_mode"] == "off"
    with pytest.raises(ServeError, match="does not trace"):
        tracer.change({"trace_level": ["TIMESTAMPS"]})


def test_places_that_exclude_each_other(tmp_path):
    with pytest.raises(ConfigError, match="exclude each other"):
        Tracer(Trace(file=str(tmp_path / "x"), otlp=True))
    with pytest.raises(ConfigError, match=r"trace\.file cannot be written"):
        Tracer(Trace(file=str(tmp_path)))


def test_otlp(monkeypatch):
    """The library sends what a collector reads as the same spans."""
    service = pytest.importorskip(
        "opentelemetry.proto.collector.trace.v1.trace_service_pb2", reason="needs the extra `otel`"
    )

    bodies = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self):
            bodies.append(self.rfile.read(int(self.headers["content-length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    collector = HTTPServer(("127.0.0.1", 0), Collector)
    thread = threading.Thread(target=collector.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{collector.server_port}")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "mill")
    tracer = Tracer(Trace(level="timestamps", rate=1, otlp=True))
    tracer.begin(RECORDS).end({"headrace.model": "m", "headrace.batch_rows": 3}, None)
    tracer.close()
    collector.shutdown()
    thread.join()
    collector.server_close()
    found = [service.ExportTraceServiceRequest.FromString(body) for body in bodies]
    (resource,) = found[0].resource_spans
    assert ("service.name", "mill") in [(a.key, a.value.string_value) for a in resource.resource.attributes]
    spans = {span.name: span for scope in resource.scope_spans for span in scope.spans}
    assert set(spans) == {"inference", "receive"}
    assert spans["inference"].trace_id.hex() == CALLER[0] and spans["inference"].parent_span_id.hex() == CALLER[1]
    assert spans["receive"].parent_span_id == spans["inference"].span_id
