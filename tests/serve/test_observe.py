"""Every metric that is promised, readiness by setting, the OpenAPI document, `top`, and settings with their origins."""

import contextlib
import http.client
import io
import json
import re
import socket
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import serve_call
import serve_fake
from click.testing import CliRunner
from rich.console import Console
from serve_packages import X, counter, package
from serve_start import FRONTS, need

from headrace.cli.config import command as config_command
from headrace.cli.top import _picture
from headrace.cli.top import command as top_command
from headrace.serve import Client
from headrace.serve.config import Drain, Limits, Listen, Log, RepositorySettings, Settings
from headrace.serve.errors import ServeError
from headrace.serve.openapi import document
from headrace.serve.rest_front import RestFront, group_of
from headrace.serve.server import Server
from headrace.verbs.top import ModelRow, Watcher, row_of

TRITON = [
    "nv_inference_request_success",
    "nv_inference_request_failure",
    "nv_inference_count",
    "nv_inference_exec_count",
    "nv_inference_request_duration_us",
    "nv_inference_queue_duration_us",
    "nv_inference_compute_input_duration_us",
    "nv_inference_compute_infer_duration_us",
    "nv_inference_compute_output_duration_us",
    "nv_cache_num_hits_per_model",
    "nv_cache_num_misses_per_model",
    "nv_cache_hit_duration_per_model",
    "nv_cache_miss_duration_per_model",
    "nv_inference_pending_request_count",
    "nv_cpu_utilization",
    "nv_cpu_memory_total_bytes",
    "nv_cpu_memory_used_bytes",
]
OWN = [
    "headrace_request_seconds_bucket",
    "headrace_queue_seconds_bucket",
    "headrace_assemble_seconds_bucket",
    "headrace_compute_seconds_bucket",
    "headrace_scatter_seconds_bucket",
    "headrace_batch_rows_bucket",
    "headrace_batch_release_total",
    "headrace_requests_total",
    "headrace_expired_before_run_total",
    "headrace_cancelled_before_run_total",
    "headrace_load_seconds_bucket",
    "headrace_swap_seconds_bucket",
    "headrace_drain_seconds_bucket",
    "headrace_model_state",
    "headrace_model_mapped_bytes",
    "headrace_golden_error",
    "headrace_golden_bound",
    "headrace_arena_bytes",
    "headrace_inflight_requests",
    "headrace_open_connections",
    "headrace_build_info",
    "headrace_model_info",
    "headrace_busy_ratio",
    "headrace_oldest_queued_seconds",
    "headrace_limit_rejections_total",
    "headrace_access_log_lost_total",
    "headrace_workers_alive",
    "headrace_worker_restarts_total",
    "process_cpu_seconds_total",
    "process_resident_memory_bytes",
]
WITH_WORKERS = {"headrace_workers_alive", "headrace_worker_restarts_total"}  # samples only where there are some


def serve(root, front="auto", **options):
    listen = Listen("127.0.0.1", 0, 0, 0, front=front)
    settings = Settings(listen=listen, drain=Drain(lame_duck_s=0, grace_s=10), log=Log(access="off"), **options)
    return Server(root, settings=settings)


def scrape(server):
    with urllib.request.urlopen(f"http://127.0.0.1:{server.metrics_port}/metrics", timeout=20) as answer:
        return answer.read().decode()


@pytest.mark.parametrize("front", FRONTS)
def test_every_metric_exists(front, tmp_path):
    need(front)
    file = tmp_path / "double" / "1" / "model.hr"
    package(file, 2.0)
    with serve(tmp_path, front) as server, Client(f"127.0.0.1:{server.grpc_port}") as client:
        client.infer("double", x=X)
        file.unlink()
        package(file, 3.0)
        client.load("double")  # a swap, with a drain
        client.infer("double", x=X)
        page = scrape(server)
    names = set(re.findall(r"^([a-zA-Z_:]+)(?:\{| )", page, re.MULTILINE))
    assert set(TRITON + OWN) - names <= WITH_WORKERS
    described = set(re.findall(r"^# TYPE ([a-zA-Z_:]+) ", page, re.MULTILINE))
    assert {"headrace_workers_alive", "headrace_worker_restarts_total"} <= described
    value = lambda name: float(re.search(rf"^{re.escape(name)} (\S+)$", page, re.MULTILINE)[1])  # noqa: E731
    assert value('headrace_swap_seconds_count{model="double"}') == 1
    assert value('headrace_load_seconds_count{model="double"}') == 2
    assert value('headrace_inflight_requests{front="grpc"}') == 0
    assert 0 < value("nv_cpu_memory_used_bytes") < value("nv_cpu_memory_total_bytes")
    assert 0 <= value("nv_cpu_utilization") <= 1
    assert value('headrace_busy_ratio{model="double",version="1"}') > 0
    golden = 'measure="max_abs",model="double",output="y",version="1"'
    assert value(f"headrace_golden_error{{{golden}}}") <= value(f"headrace_golden_bound{{{golden}}}") == 1e-3
    known = r'device="cpu",digest="[0-9a-f]{64}",model="double",platform="headrace",precision="float32",version="1"'
    assert re.search(f"headrace_model_info{{{known}}} 1", page)
    assert value('headrace_arena_bytes{model="double",version="1"}') >= 0


@pytest.mark.parametrize(
    ("readiness", "ready"),
    [("all", False), ("any", True), (("good",), True), (("good", "bad"), False), (("no",), False)],
)
def test_readiness(readiness, ready, tmp_path):
    root = serve_fake.repository(tmp_path, {"good": "identity FP32", "bad": "nonsense"})
    settings = Settings(
        listen=Listen("127.0.0.1", 0, 0, -1),
        drain=Drain(lame_duck_s=0, grace_s=5),
        limits=Limits(),
        log=Log(access="off"),
        repository=RepositorySettings(readiness=readiness),
    )
    running = Server(root, settings=settings, loader=serve_fake.load)
    with running as server, Client(f"127.0.0.1:{server.grpc_port}") as client:
        assert client.ready() is ready
        if ready:
            client.unload("good")
            assert client.ready()  # once ready, it stays so


def test_openapi_is_served_and_every_path_of_it_exists(server):
    with urllib.request.urlopen(f"http://127.0.0.1:{server.http_port}/v2/openapi.json", timeout=20) as answer:
        found = json.load(answer)
    assert found == json.loads(json.dumps(document(found["info"]["version"])))
    front = RestFront(server._plane, Limits())
    for path, operations in found["paths"].items():
        parts = re.sub(r"\{\w+\}", "1", path).strip("/").split("/")
        routes = front._routes(parts)
        methods = {name.upper() for name in operations if name != "parameters"}
        assert routes is not None and methods == set(routes), path
        assert group_of(parts) != "model-repository" or "repository" in path, path
        named = [p["name"] for p in operations.get("parameters", ())]
        assert named == re.findall(r"\{(\w+)\}", path)
    text = json.dumps(found)
    for name in re.findall(r"#/components/schemas/(\w+)", text):
        assert name in found["components"]["schemas"]


@pytest.mark.parametrize("width", [36, 50, 80, 120, 160])
def test_top_leaves_columns_out_rather_than_cut_them(width):
    out = io.StringIO()
    rows = [ModelRow("image", "12", "READY", 9000.0, batch=3.5, queue_ms=1.25, busy=1.0, total=123_456)]
    Console(file=out, width=width).print(_picture("host:8001", {"name": "headrace"}, rows, [], width))
    head, row = out.getvalue().splitlines()[-2:]
    assert "…" not in out.getvalue() and "req/s" in head and "9,000" in row
    assert ("123,456" in row, "failed/s" in head) == (width >= 120, width >= 50)


def test_a_look_takes_some_time():
    done = CliRunner().invoke(top_command, ["127.0.0.1:1", "--every", "0"])
    assert done.exit_code == 2 and "--every" in done.output


def test_top(server):
    url = f"127.0.0.1:{server.grpc_port}"
    now = 100.0
    watcher = Watcher(url, clock=lambda: now)
    watcher.look()
    with Client(url) as client:
        for _ in range(10):
            client.infer("fp32", x=X)
    now = 102.0
    rows = {row.model: row for row in watcher.look()}
    watcher.close()
    assert (rows["fp32"].per_second, rows["fp32"].rows_per_second, rows["fp32"].state) == (5.0, 10.0, "READY")
    assert rows["fp32"].batch == 2.0 and rows["fp32"].request_ms > 0 and 0 < rows["fp32"].busy < 1
    assert rows["bad"].state == "UNAVAILABLE" and rows["bad"].per_second == 0
    done = CliRunner().invoke(top_command, [url, "--once", "--every", "0.01"], catch_exceptions=False)
    assert done.exit_code == 0 and "requests/s" in done.output and "fp32" in done.output
    rest = f"http://127.0.0.1:{server.http_port}"
    done = CliRunner().invoke(top_command, [rest, "--json", "--every", "0.01"], catch_exceptions=False)
    assert "fp32" in {row["model"] for row in json.loads(done.output)}


def test_a_server_that_began_anew_shows_no_negative_rates():
    def look(at, count):
        return at, {("m", "1"): {"inference_stats": {"success": {"count": count, "ns": 1}}}}

    row = row_of(("m", "1"), "READY", look(1.0, 50), look(2.0, 3))
    assert (row.per_second, row.total) == (0.0, 3)


def test_config_show(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HEADRACE_THREADS", "3")
    file = tmp_path / "headrace.toml"
    file.write_text("[listen]\ngrpc_port = 9000\n")
    done = CliRunner().invoke(config_command, ["show", "--json"], catch_exceptions=False)
    found = json.loads(done.output)
    assert found["listen.grpc_port"] == {"value": 9000, "from": "headrace.toml"}
    assert found["repository.threads"] == {"value": 3, "from": "HEADRACE_THREADS"}
    assert found["listen.http_port"] == {"value": 8000, "from": "default"}
    assert "listen.grpc_port" in CliRunner().invoke(config_command, ["show"]).output


def test_config_check(tmp_path):
    good, bad = tmp_path / "headrace.toml", tmp_path / "config.toml"
    good.write_text("[log]\naccess = 'all'\n")
    bad.write_text("[batching]\nmax_batch = 8\n")
    done = CliRunner().invoke(config_command, ["check", str(good)])
    assert (done.exit_code, done.output) == (0, f"{good}: ok\n")
    done = CliRunner().invoke(config_command, ["check", str(good), str(bad), "--json"])
    assert done.exit_code == 1 and "did you mean 'max_batch_size'" in json.loads(done.output)[str(bad)]


@pytest.mark.parametrize("front", FRONTS)
def test_the_first_part_of_an_answer_is_timed(front, tmp_path):
    need(front)
    counter(tmp_path / "count/1/model.hr")
    (tmp_path / "count/config.toml").write_text(
        '[generate]\ninput = "token"\noutput = "next"\nstep = "step"\nmax_steps = 3\n'
        "[metrics]\nfirst_response_buckets_ms = [0.001, 60000]\nseconds_buckets = [0.5, 1]\n"
    )
    package(tmp_path / "plain/1/model.hr", 2.0)
    with serve(tmp_path, front) as server, Client(f"127.0.0.1:{server.grpc_port}") as client:
        asked = serve_call.message("count", {"prompt": np.array([[1, 2]], np.int64)})
        parts = list(serve_call.stream(server, [asked]))
        client.infer("plain", x=X)
        page = scrape(server)
    assert len(parts) == 3
    first = 'nv_inference_first_response_histogram_ms_bucket{le="%s",model="count",version="1"} %d'
    for bound, count in (("0.001", 0), ("60000.0", 1), ("+Inf", 1)):
        assert first % (bound, count) in page
    assert "first_response_histogram_ms_count{" in page and 'histogram_ms_count{model="plain"' not in page
    found = re.findall(r'headrace_compute_seconds_bucket{le="(.*?)",model="count",version="1"}', page)
    assert found == ["0.5", "1.0", "+Inf"]


@pytest.mark.parametrize("bounds", ["[2, 1]", "[0]", "[-1, 1]", "[1, 1]"])
def test_buckets_rise(bounds, tmp_path):
    package(tmp_path / "m/1/model.hr", 2.0)
    (tmp_path / "m/config.toml").write_text(f"[metrics]\nseconds_buckets = {bounds}\n")
    with serve(tmp_path) as server:
        (row,) = server._manager.index()
    assert row[2] == "UNAVAILABLE" and "metrics.seconds_buckets must be rising numbers above 0" in row[3]


def rejections(server):
    return {
        k: int(float(v)) for k, v in re.findall(r'headrace_limit_rejections_total{limit="(\w+)"} (\S+)', scrape(server))
    }


@pytest.mark.parametrize("front", FRONTS)
def test_what_a_limit_refuses_is_counted_by_limit(front, tmp_path):
    need(front)
    root = serve_fake.repository(tmp_path, {"slow": "slow 0.5", "x": "identity FP32"})
    (root / "slow/config.toml").write_text(
        "[queue]\nmax_size = 1\n[batching]\nmax_batch_size = 0\n[instances]\ncount = 1\n"
    )
    limits = Limits(max_message_bytes=4096, max_connections=6, grpc_threads=18)
    settings = Settings(
        listen=Listen("127.0.0.1", 0, 0, 0, front=front),
        limits=limits,
        drain=Drain(lame_duck_s=0),
        log=Log(access="off"),
    )
    with Server(root, settings=settings, loader=serve_fake.load) as server:
        one = np.zeros((1, 4), np.float32)
        before = rejections(server)
        assert before["queue"] == before["inflight"] == 0

        def refused(_):
            try:
                serve_call.infer(server, "http", "slow", {"x": one})
            except ServeError:
                return True
            return False

        with ThreadPoolExecutor(4) as pool:
            many = sum(pool.map(refused, range(4)))  # one runs, one waits
        status, _ = serve_call.rest(server, "POST", "/v2/models/x/infer", {"inputs": [0] * 4096})
        assert status == 413
        got = rejections(server)
        assert got["queue"] == many >= 2 and got["message"] == 1, (got, many)
        for target in ("/" + "a" * 9000, "/v2"):
            with contextlib.closing(http.client.HTTPConnection("127.0.0.1", server.http_port, timeout=10)) as plain:
                plain.request("GET", target, headers={"x": "y" * 40000} if target == "/v2" else {})
                assert plain.getresponse().status in (414, 431)
        assert rejections(server)["headers"] == 2
        socks = [socket.create_connection(("127.0.0.1", server.http_port)) for _ in range(8)]
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline and server._plane.rejections.show().get("connections", 0) < 2:
            time.sleep(0.01)
        assert server._plane.rejections.show()["connections"] >= 2
        for sock in socks:
            sock.close()
