"""Models that answer in parts: streams over gRPC, events over REST, stops, cancel between steps; on both fronts."""

import http.client
import json
import threading
import time

import numpy as np
import pytest
import serve_call
import serve_fake
from serve_call import infer, rest
from serve_packages import counter
from serve_start import FRONTS, need, start

from headrace import runtime
from headrace.serve.errors import Meaning, ServeError

MODELS = {"count": "count 0", "slow": "count 0.1", "plain": "scale 2", "texts": "identity BYTES"}
GENERATE = '[generate]\ninput = "token"\noutput = "next"\nstop = [7, 100]\nmax_steps = 50\n'


def load(path):
    return runtime.load(path, threads=1) if path.read_bytes()[:2] == b"PK" else serve_fake.load(path)


@pytest.fixture(scope="module", params=FRONTS)
def server(request, tmp_path_factory):
    need(request.param)
    root = serve_fake.repository(tmp_path_factory.mktemp("generate"), MODELS)
    counter(root / "real/1/model.hr")
    for name in ("count", "slow"):
        (root / name / "config.toml").write_text(GENERATE)
    (root / "real/config.toml").write_text(GENERATE + 'step = "step"\n')
    with start(root, request.param, loader=load) as running:
        yield running


def tokens(*values, model="count", id="", **parameters):
    name = "prompt" if model == "real" else "token"
    return serve_call.message(model, {name: np.array([values], np.int64)}, parameters, id=id)


def found(responses, name="next"):
    return [serve_call.arrays(response.infer_response)[name].ravel().tolist() for response in responses]


def finals(responses):
    return [response.infer_response.parameters["triton_final_response"].bool_param for response in responses]


@pytest.mark.parametrize("model", ["count", "real"])
def test_a_stream_of_parts(server, model):
    """A prompt of three tokens, then one token a step, until the stop."""
    parts = list(serve_call.stream(server, [tokens(1, 2, 3, model=model, id="a")]))
    assert found(parts) == [[4], [5], [6], [7]]
    assert found(parts, "length") == [[3], [4], [5], [6]]  # the state of the request, which no client sees
    assert finals(parts) == [False, False, False, True]
    assert {part.infer_response.id for part in parts} == {"a"}
    assert {output.name for output in parts[0].infer_response.outputs} == {"next", "length"}


def test_an_empty_final_response(server):
    parts = list(serve_call.stream(server, [tokens(5, triton_enable_empty_final_response=True)]))
    assert found(parts[:-1]) == [[6], [7]] and finals(parts) == [False, False, True]
    assert not parts[-1].infer_response.outputs


def test_fewer_steps(server):
    assert found(serve_call.stream(server, [tokens(20, max_tokens=3)])) == [[21], [22], [23]]
    assert len(found(serve_call.stream(server, [tokens(20)]))) == 50
    for wrong in (0, 51, "3", True):
        (answer,) = serve_call.stream(server, [tokens(20, max_tokens=wrong)])
        assert "'max_tokens' must be a whole number from 1 to 50" in answer.error_message


def test_rows_stop_together(server):
    message = serve_call.message("count", {"token": np.array([[5], [96]], np.int64)})
    assert found(serve_call.stream(server, [message])) == [[6, 97], [7, 98], [8, 99], [9, 100]]


@pytest.mark.parametrize("how", serve_call.HOWS)
def test_one_answer_cannot_be_asked_for(server, how):
    with pytest.raises(ServeError, match="answers in parts: ask by ModelStreamInfer") as caught:
        infer(server, how, "count", {"token": np.ones((1, 1), np.int64)})
    assert caught.value.meaning is Meaning.UNSUPPORTED
    assert server._plane.model_config("count", "")["model_transaction_policy"] == {"decoupled": True}


def test_parts_wait_for_nobody_and_only_answers_keep_their_order(server):
    """A long generation between two plain requests: the second plain answer does not wait for its end."""
    x = {"x": np.ones((1, 4), np.float32)}
    sent = [
        serve_call.message("plain", x, id="1"),
        tokens(1000, model="slow", id="2"),
        serve_call.message("plain", x, id="3"),
    ]
    ids = [answer.infer_response.id for answer in serve_call.stream(server, sent)]
    assert ids.index("1") < ids.index("3") < len(ids) - 1 - ids[::-1].index("2") and ids.count("2") == 50


def test_an_error_within_is_the_last_answer(server):
    *parts, last = serve_call.stream(server, [tokens(663)])
    assert found(parts) == [[664], [665], [666]] and "incident" in last.error_message


def test_steps_of_requests_meet(server):
    version = next(v for v in server._manager.versions() if v.name == "slow")
    before, answers = version.count().execution_count, {}

    def ask(first):
        answers[first] = found(serve_call.stream(server, [tokens(first, model="slow", max_tokens=5)]))

    threads = [threading.Thread(target=ask, args=(first,)) for first in (200, 300, 400, 500)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == {first: [[first + i + 1] for i in range(5)] for first in (200, 300, 400, 500)}
    assert version.count().execution_count - before <= 14


def test_a_client_that_leaves_ends_the_steps(server):
    version = next(v for v in server._manager.versions() if v.name == "slow")
    parts = serve_call.stream(server, [tokens(1000, model="slow")])
    next(parts)
    parts.close()
    until(lambda: not version.refs)
    connection = http.client.HTTPConnection("127.0.0.1", server.http_port, timeout=30)
    connection.request("POST", "/v2/models/slow/generate_stream", json.dumps({"token": [1000]}))
    response = connection.getresponse()
    assert response.read(10) and version.refs
    response.close()
    connection.close()
    until(lambda: not version.refs)
    assert version.statistics.meanings.get(("http", "cancelled"), 0) > 0


def until(condition):
    end = time.monotonic() + 20
    while not condition() and time.monotonic() < end:
        time.sleep(0.005)
    assert condition()


# ---- REST ----


def events(body):
    assert body.endswith(b"\n\n")
    return [json.loads(event.removeprefix(b"data: ")) for event in body[:-2].split(b"\n\n")]


def test_events(server):
    status, body = rest(server, "POST", "/v2/models/real/generate_stream", {"id": "x", "prompt": [1, 2, 3]})
    rows = events(body)
    assert status == 200 and [row["next"] for row in rows] == [4, 5, 6, 7] and {row["id"] for row in rows} == {"x"}
    status, body = rest(server, "POST", "/v2/models/count/versions/1/generate_stream", {"token": 20, "max_tokens": 2})
    assert [row["next"] for row in events(body)] == [21, 22]
    status, body = rest(server, "POST", "/v2/models/count/generate_stream", {"token": 664})
    assert [row.get("next") for row in events(body)] == [665, 666, None] and "incident" in events(body)[-1]["error"]


def test_one_object(server):
    status, body = rest(
        server, "POST", "/v2/models/count/generate", {"token": [1, 2, 3], "parameters": {"max_tokens": 2}}
    )
    assert status == 200
    assert json.loads(body) == {"model_name": "count", "model_version": "1", "next": [4, 5], "length": [3, 4]}


def test_a_model_that_answers_once(server):
    for path in ("generate", "generate_stream"):
        status, body = rest(server, "POST", f"/v2/models/plain/{path}", {"x": [1, 2, 3, 4]})
        answer = json.loads(body) if path == "generate" else events(body)[0]
        assert status == 200 and answer["y"] == [2, 4, 6, 8]
        status, body = rest(server, "POST", f"/v2/models/texts/{path}", {"x": [["Zoë", "b"]]})
        assert (json.loads(body) if path == "generate" else events(body)[0])["y"] == ["Zoë", "b"]
    status, body = rest(server, "POST", "/v2/models/texts/generate", {"x": {"b64": "/wA="}})
    assert json.loads(body)["y"] == {"b64": "/wA="}


@pytest.mark.parametrize(
    ("model", "document", "status", "words"),
    [
        ("count", {}, 400, "input 'token' is missing"),
        ("count", {"token": [[[1]]]}, 400, "rank 3, expected 2"),
        ("count", {"token": [[1, 2], [3]]}, 400, "data"),
        ("count", {"token": 1, "other": [1]}, 400, "'other' is no input of the model, and no parameter"),
        ("count", {"token": {"b64": "AA=="}}, 400, "for BYTES only"),
        ("texts", {"x": {"b64": "?"}}, 400, "is not base64"),
        ("nope", {"x": 1}, 404, "'nope' is unknown"),
        ("count", {"token": 1, "triton_x": 1}, 400, "reserved"),
        ("count", {"token": 1, "id": 5}, 400, "id must be a string"),
    ],
)
@pytest.mark.parametrize("path", ["generate", "generate_stream"])
def test_wrong_requests(server, path, model, document, status, words):
    code, body = rest(server, "POST", f"/v2/models/{model}/{path}", document)
    assert code == status and words in json.loads(body)["error"]


def test_an_old_client_reads_to_the_end_of_the_connection(server):
    import socket

    body = b'{"token": 5}'
    with socket.create_connection(("127.0.0.1", server.http_port), timeout=20) as sock:
        sock.sendall(
            b"POST /v2/models/count/generate_stream HTTP/1.0\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)
        )
        data = b""
        while piece := sock.recv(4096):
            data += piece
    head, _, rest_of_it = data.partition(b"\r\n\r\n")
    assert b"chunked" not in head.lower() and [row["next"] for row in events(rest_of_it)] == [6, 7]


def test_a_connection_serves_on_after_events(server):
    connection = http.client.HTTPConnection("127.0.0.1", server.http_port, timeout=20)
    for _ in range(3):
        connection.request("POST", "/v2/models/count/generate_stream", json.dumps({"token": 5}))
        response = connection.getresponse()
        assert response.getheader("transfer-encoding") == "chunked"
        assert response.getheader("content-type") == "text/event-stream; charset=utf-8"
        assert [row["next"] for row in events(response.read())] == [6, 7]
    connection.close()


def test_numbers(server):
    parts = list(serve_call.stream(server, [tokens(1, 2, 3, model="real")]))
    assert len(parts) == 4
    (row,) = server._plane.statistics("real", "")["model_stats"]
    assert row["inference_stats"]["success"]["count"] >= 1 and set(row["response_stats"]) >= {"0", "1", "2", "3"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            GENERATE.replace('"token"', '"tokens"'),
            "generate.input: the model has no input 'tokens'; it has token, seen",
        ),
        (GENERATE.replace('"next"', '"nxt"'), "generate.output: the model has no output 'nxt'"),
        (GENERATE.replace("50", "0"), "max_steps is 0; allowed: whole numbers from 1"),
        (GENERATE + 'step = "other"\n', "generate.step"),
        (GENERATE.replace('output = "next"', 'output = "text"'), "cannot go back to input 'token'"),
    ],
)
def test_checked_at_load(tmp_path, text, words):
    serve_fake.repository(tmp_path, {"m": "count 0"})
    (tmp_path / "m/config.toml").write_text(text)

    def loader(path):
        model = serve_fake.load(path)
        model.outputs = (*model.outputs, serve_fake.Spec("text", "string", ("batch", 1)))
        return model

    with start(tmp_path, loader=loader) as server:
        ((*_, reason),) = server._manager.index()
    assert words in reason, reason
