"""Trace and log settings over both fronts: what can be read, what can be changed, and from where."""

import http.client
import json
import logging

import grpc
import pytest

from headrace.protos import inference_pb2 as pb
from headrace.serve.errors import Meaning, ServeError

V2 = "/inference.GRPCInferenceService/"


def post(server, path, document=None):
    connection = http.client.HTTPConnection("127.0.0.1", server.http_port, timeout=20)
    connection.request("POST" if document is not None else "GET", path, json.dumps(document) if document else None)
    answer = connection.getresponse()
    status, data = answer.status, json.loads(answer.read())
    connection.close()
    return status, data


def settings(channel, method, change=None):
    kind = {"LogSettings": pb.LogSettingsRequest, "TraceSetting": pb.TraceSettingRequest}[method]
    request = kind(settings={k: kind.SettingValue(**v) for k, v in (change or {}).items()})
    data = channel.unary_unary(V2 + method)(request.SerializeToString(), timeout=20)
    return getattr(pb, method + "Response").FromString(data).settings


def test_log_settings_read_the_same_on_both_fronts(server, channel):
    status, rest = post(server, "/v2/logging")
    wire = settings(channel, "LogSettings")
    assert status == 200 and list(rest) == [
        "log_file", "log_info", "log_warning", "log_error", "log_verbose_level", "log_format",
    ]  # fmt: skip
    assert {k: getattr(v, v.WhichOneof("parameter_choice")) for k, v in wire.items()} == rest


def test_log_settings_choose_what_is_written(server, channel, caplog):
    log = logging.getLogger("headrace.serve")
    caplog.set_level(logging.DEBUG, "headrace.serve")
    try:
        assert not settings(channel, "LogSettings", {"log_info": {"bool_param": False}})["log_info"].bool_param
        log.info("not written")
        assert post(server, "/v2/logging", {"log_info": True, "log_verbose_level": 1})[1]["log_verbose_level"] == 1
        log.info("written")
        log.debug("written, too")
    finally:
        post(server, "/v2/logging", {"log_info": True, "log_verbose_level": 0})
    log.debug("not written")
    assert [record.message for record in caplog.records] == ["written", "written, too"]


@pytest.mark.parametrize(
    ("path", "change", "status"),
    [
        ("/v2/logging", {"log_file": "/tmp/x"}, 501),
        ("/v2/logging", {"log_format": "ISO8601"}, 501),
        ("/v2/logging", {"log_info": 1}, 400),
        ("/v2/logging", {"log_verbose_level": -1}, 400),
        ("/v2/logging", {"log_colour": True}, 400),
        ("/v2/logging", {"log_error": None}, 400),
        ("/v2/trace/setting", {"trace_file": "/tmp/x"}, 501),
        ("/v2/trace/setting", {"trace_level": ["TIMESTAMPS"]}, 501),
        ("/v2/trace/setting", {"trace_colour": "1"}, 400),
        ("/v2/models/add/trace/setting", {"trace_rate": "1"}, 501),
        ("/v2/models/nope/trace/setting", {}, 404),
    ],
)
def test_what_cannot_be_changed(server, path, change, status):
    found, answer = post(server, path, change)
    assert found == status and answer["error"]


def test_trace_settings_read_and_clear(server, channel):
    wire = settings(channel, "TraceSetting")
    assert list(wire["trace_level"].value) == ["OFF"]
    assert list(wire) and set(wire) == {
        "trace_file", "trace_level", "trace_rate", "trace_count", "log_frequency", "trace_mode",
    }  # fmt: skip
    assert settings(channel, "TraceSetting", {"trace_level": {"value": ["OFF"]}, "trace_rate": {}}) == wire
    with pytest.raises(grpc.RpcError) as caught:
        settings(channel, "TraceSetting", {"trace_level": {"value": ["TIMESTAMPS", "TENSORS"]}})
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert post(server, "/v2/models/add/trace/setting", {"trace_level": None})[0] == 200


def test_changes_come_from_the_own_machine_only(server):
    for call in (
        lambda: server._plane.log_settings({"log_info": False}, trusted=False),
        lambda: server._plane.trace_setting("", {"trace_rate": None}, trusted=False),
        lambda: server._plane.load("", "add", {}, trusted=False),
    ):
        with pytest.raises(ServeError) as caught:
            call()
        assert caught.value.meaning is Meaning.FORBIDDEN
    assert server._plane.log_settings({}, trusted=False)["settings"]["log_info"] is True
