"""A flood of incidents is a line a second of each kind, and a count."""

import logging

import pytest
import serve_call
import serve_fake
from serve_start import FRONTS, need, start

from headrace.protos import inference_pb2 as pb
from headrace.serve.errors import Meaning, ServeError
from headrace.serve.incidents import Incidents


class Time:
    """A clock that is set by hand, and what waits for it."""

    def __init__(self):
        self.now, self.waiting = 1000.2, []

    def __call__(self):
        return self.now

    def later(self, seconds, step):
        self.waiting.append((self.now + seconds, step))

    def pass_to(self, now):
        self.now = now
        due, self.waiting = self.waiting, []
        for at, step in due:
            assert at <= now
            step()


@pytest.fixture
def time():
    return Time()


@pytest.fixture
def lines(caplog):
    caplog.set_level(logging.ERROR, "headrace.serve")
    return lambda: [record.getMessage() for record in caplog.records]


def test_one_of_each_kind_is_a_line_and_the_rest_a_count(time, lines):
    incidents = Incidents(time, time.later)
    for number in range(5):
        incidents.tell("model a", f"a{number}", "it broke")
        incidents.tell("model b", f"b{number}", error=ValueError())
        incidents.tell("model b", f"c{number}", error=KeyError())
    told = ["incident a0, model a: it broke", "incident b0, model b", "incident c0, model b"]
    assert lines() == told
    assert len(time.waiting) == 1  # one look at the end of the second
    time.pass_to(1001.0)
    counts = [
        f"4 more incidents in the same second: {kind}"
        for kind in ("model a", "model b, KeyError", "model b, ValueError")
    ]
    assert lines() == told + counts
    incidents.tell("model a", "next")
    assert lines()[-1] == "incident next, model a" and not time.waiting


def test_single_incidents_wait_for_nothing(time, lines):
    incidents = Incidents(time, time.later)
    for number in range(3):
        incidents.tell("model a", str(number))
        time.now += 1
    assert len(lines()) == 3 and not time.waiting


def test_what_was_lost_on_the_way_is_counted(time, lines):
    incidents = Incidents(time, time.later)
    incidents.tell("model a", "1", more=40)
    time.pass_to(1001.1)
    assert lines()[1:] == ["40 more incidents in the same second: model a"]


def test_the_error_is_shown(time, caplog):
    try:
        raise ValueError("secret of the model")
    except ValueError as error:
        Incidents(time, time.later).tell("model a", "1", error=error)
    assert "ValueError: secret of the model" in caplog.text


@pytest.mark.parametrize("front", FRONTS)
def test_a_fault_of_ours_is_an_incident_on_every_front(front, tmp_path, monkeypatch, caplog):
    """The client learns its number, and nothing of the error."""
    need(front)
    error = type(f"Fault{front}", (ValueError,), {})  # a kind that no other test has in the same second

    def fail(*_):
        raise error("a secret")

    with (
        start(serve_fake.repository(tmp_path, {"m": "scale 1"}), front) as server,
        serve_call.channel(server) as channel,
    ):
        monkeypatch.setattr(server._plane, "server_metadata", fail)
        monkeypatch.setattr(server._plane, "stream", fail)
        with pytest.raises(ServeError) as caught:
            serve_call.unary(channel, "ServerMetadata", pb.ServerMetadataRequest(), pb.ServerMetadataResponse)
        assert caught.value.meaning is Meaning.INTERNAL
        status, body = serve_call.rest(server, "GET", "/v2")
        assert status == 500
        (part,) = serve_call.stream(server, [pb.ModelInferRequest(model_name="m")])
    for text in (caught.value.text, body.decode(), part.error_message):
        assert "internal error, incident " in text and "secret" not in text
    assert caplog.text.count(f"{error.__name__}: a secret") == 3
