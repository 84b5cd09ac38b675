"""Ensembles: checked at load, run as one request, batched in the queues of their members, on both fronts."""

import threading
import time

import grpc
import numpy as np
import pytest
import serve_call
import serve_fake
from serve_start import FRONTS, need, start

from headrace.serve import Client
from headrace.serve.config import ConfigError
from headrace.serve.errors import Meaning, ServeError
from headrace.serve.manager import Manager
from headrace.serve.pbtxt import read
from headrace.serve.repository import Repository

MODELS = {
    "add": "add",
    "double": "scale 2",
    "slow": "slow 0.3",
    "poison": "poison",
    "alone": "dependent",
    "texts": "identity BYTES 4",
    "wide": "fixed 5",
    "sums": "accumulate 0 declared",
    "parts": "count 0",
    "meet_a": "meet",
    "meet_b": "meet",
}
STEP = '[[ensemble.steps]]\nmodel = "{}"\ninputs = {{{}}}\noutputs = {{{}}}\n'


def steps(*rows):
    return "".join(STEP.format(*row) for row in rows)


# (a + b) * 2 and (a - b): steps out of order, a branch, an output that is not last
DIAMOND = steps(
    ("double", 'x = "sum"', 'y = "twice"'),
    ("add", 'a = "left", b = "right"', 'sum = "sum", difference = "rest"'),
)
CHAIN = steps(("slow", 'x = "in"', 'y = "mid"'), ("double", 'x = "mid"', 'y = "out"'))
NESTED = steps(("diamond", 'left = "p", right = "p"', 'twice = "t"'), ("double", 'x = "t"', 'y = "q"'))
PLAIN = steps(("alone", 'x = "in"', 'y = "out"'))
BAD = steps(("poison", 'x = "in"', 'y = "out"'))
PBTXT = """
platform: "ensemble" max_batch_size: 8
input [ { name: "l" data_type: TYPE_FP32 dims: 4 }, { name: "r" data_type: TYPE_FP32 dims: 4 } ]
output { name: "o" data_type: TYPE_FP32 dims: 4 }
ensemble_scheduling { step [
  { model_name: "add" model_version: -1 input_map { key: "a" value: "l" } input_map { key: "b" value: "r" }
    output_map { key: "sum" value: "s" } },
  { model_name: "double" model_version: 1 input_map { key: "x" value: "s" } output_map { key: "y" value: "o" } } ] }
"""
HELD = steps(("sums", 'x = "in"', 'y = "total"'), ("double", 'x = "total"', 'y = "out"'))
BRANCHES = steps(
    ("meet_a", 'x = "in"', 'y = "a"'),
    ("double", 'x = "a"', 'y = "a2"'),
    ("meet_b", 'x = "in"', 'y = "b"'),
    ("add", 'a = "a2", b = "b"', 'sum = "out", difference = "_"'),
)
ONE_BAD = steps(
    ("poison", 'x = "in"', 'y = "a"'), ("slow", 'x = "in"', 'y = "b"'), ("add", 'a = "a", b = "b"', 'sum = "o"')
)
# the running sum of a sequence, twice in one request: first of `in`, then of `in`
TWICE = steps(("sums", 'x = "in"', 'y = "first"'), ("sums", 'x = "in"', 'y = "second"'))
TOMLS = {
    "branches": BRANCHES,
    "one_bad": ONE_BAD,
    "twice": TWICE,
    "held": HELD,
    "diamond": DIAMOND,
    "chain": CHAIN,
    "a_nested": NESTED,
    "plain": PLAIN,
    "bad_one": BAD,
}


def repository(root, tomls=TOMLS, models=MODELS):
    serve_fake.repository(root, models)
    (root / "parts/config.toml").write_text('[generate]\ninput = "token"\noutput = "next"\n')
    for name, text in tomls.items():
        (root / name).mkdir()
        (root / name / "config.toml").write_text(text)
    return root


@pytest.fixture(scope="module", params=FRONTS)
def server(request, tmp_path_factory):
    need(request.param)
    root = repository(tmp_path_factory.mktemp("ensembles"))
    (root / "triton/1").mkdir(parents=True)
    (root / "triton/config.pbtxt").write_text(PBTXT)
    with start(root, request.param) as running:
        yield running


@pytest.fixture(params=["grpc", "http"])
def client(request, server):
    address = f"127.0.0.1:{server.grpc_port}" if request.param == "grpc" else f"http://127.0.0.1:{server.http_port}"
    with Client(address) as made:
        yield made


A, B = np.arange(8, dtype=np.float32).reshape(2, 4), np.full((2, 4), 10, np.float32)


def test_answers(client):
    found = client.infer("diamond", left=A, right=B)
    assert found.keys() == {"twice", "rest"}
    assert (found["twice"] == (A + B) * 2).all() and (found["rest"] == A - B).all()
    assert (client.infer("triton", l=A, r=B)["o"] == (A + B) * 2).all()
    assert (client.infer("a_nested", p=A)["q"] == A * 8).all()
    assert (client.infer("plain", **{"in": A})["out"] == A).all()


@pytest.mark.parametrize("how", serve_call.HOWS)
def test_a_member_that_is_served_in_sequences(server, how):
    """The request's sequence is the member's: a running sum, doubled."""
    found = []
    for i in range(3):
        flags = {"sequence_id": f"s-{how}", "sequence_start": not i, "sequence_end": i == 2}
        found.append(serve_call.infer(server, how, "held", {"in": np.ones((1, 4), np.float32)}, flags)[0]["out"][0, 0])
    assert found == [2, 4, 6]
    with pytest.raises(ServeError, match=r"step 1 \(model 'sums'\).*has not begun"):
        serve_call.infer(server, how, "held", {"in": np.ones((1, 4), np.float32)}, {"sequence_id": f"s-{how}"})


def test_branches_run_beside_each_other(client):
    found = client.infer("branches", **{"in": A})
    assert (found["out"] == A * 4 + A * 2).all()


def test_a_branch_that_fails_ends_the_request_and_its_other_branches(server, client):
    wrong = np.full((1, 4), 666, np.float32)
    with pytest.raises(ServeError, match="internal error, incident") as caught:
        client.infer("one_bad", **{"in": wrong})
    assert caught.value.meaning is Meaning.INTERNAL
    assert (client.infer("one_bad", **{"in": A})["o"] == A * 4).all()
    deadline = time.monotonic() + 10
    while any(version.refs for version in server._manager.versions()) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not any(version.refs for version in server._manager.versions())  # every handle came back


@pytest.mark.parametrize("how", serve_call.HOWS)
def test_steps_of_one_sequence_keep_their_order(server, how):
    found = []
    for i in range(3):  # the start of a sequence is one for both
        flags = {"sequence_id": f"t-{how}", "sequence_start": not i}
        answer, _ = serve_call.infer(server, how, "twice", {"in": np.ones((1, 4), np.float32)}, flags)
        found.append((answer["first"][0, 0], answer["second"][0, 0]))
    assert found == [(1, 1), (2, 3), (4, 5)]


def test_interface(client):
    shown = client.metadata("diamond")
    assert shown["platform"] == "headrace" and shown["properties"]["headrace.ensemble"] == "add -> double"
    assert [(t["name"], list(map(int, t["shape"]))) for t in shown["inputs"]] == [("left", [-1, 4]), ("right", [-1, 4])]
    config = client.config("triton")
    assert config["max_batch_size"] == 8 and config["platform"] == "ensemble"
    assert [step["model_name"] for step in config["ensemble_scheduling"]["step"]] == ["add", "double"]
    assert "dynamic_batching" not in config


@pytest.mark.parametrize(
    ("feeds", "words"),
    [
        ({"left": A}, "input 'right' is missing"),
        ({"left": A, "right": B[:1]}, "dimension 0 .batch. is 1"),
        ({"left": A, "right": B[:, :3]}, "dimension 1 is 3, expected 4"),
    ],
)
def test_wrong_requests_never_reach_a_step(client, server, feeds, words):
    version = next(v for v in server._manager.versions() if v.name == "add")
    before = version.count().execution_count
    with pytest.raises(ServeError, match=words) as caught:
        client.infer("diamond", **feeds)
    assert caught.value.meaning is Meaning.BAD_ARGUMENT and version.count().execution_count == before


def test_a_failing_step_is_an_incident(client):
    with pytest.raises(ServeError, match="internal error, incident") as caught:
        client.infer("bad_one", **{"in": np.full((1, 4), 666, np.float32)})
    assert caught.value.meaning is Meaning.INTERNAL


def test_requests_meet_in_the_queues_of_the_members(server):
    """A member that takes 0.3 s a run: eight requests in a few runs, each with its own rows."""
    version = next(v for v in server._manager.versions() if v.name == "slow")
    before, found = version.statistics.execution_count, {}
    with Client(f"127.0.0.1:{server.grpc_port}") as client:

        def ask(i):
            found[i] = client.infer("chain", **{"in": np.full((1, 4), i, np.float32)})["out"]

        threads = [threading.Thread(target=ask, args=(i,)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert {i: out.tolist() for i, out in found.items()} == {i: [[4.0 * i] * 4] for i in range(8)}
    assert version.statistics.execution_count - before <= 4


def test_numbers_of_the_whole_and_of_every_step(client, server):
    count = lambda name: client.statistics(name)[0]  # noqa: E731
    names = ("diamond", "add", "double")
    client.infer("diamond", left=A, right=B)
    before = {name: int(count(name)["inference_stats"]["success"]["count"]) for name in names}
    rows = int(count("diamond")["inference_count"])
    client.infer("diamond", left=A, right=B)
    for name in names:
        assert int(count(name)["inference_stats"]["success"]["count"]) == before[name] + 1
    assert int(count("diamond")["inference_count"]) == rows + 2


@pytest.mark.parametrize("how", serve_call.HOWS)
def test_one_deadline_for_the_whole(server, how):
    """It ends within the second member's wait, or before the second step: never 0.6 s later with an answer."""
    for _ in range(2):  # the first run tells the member that its runs are long
        started = time.monotonic()
        with pytest.raises(ServeError) as caught:
            serve_call.infer(server, how, "chain", {"in": A}, {"timeout": 100_000})
        assert caught.value.meaning is Meaning.EXPIRED
        assert time.monotonic() - started < 5


def test_cancel_between_steps(server):
    """The client leaves during the first step: the second is never run."""
    version = next(v for v in server._manager.versions() if v.name == "double")
    chain = next(v for v in server._manager.versions() if v.name == "chain")
    from headrace.protos import inference_pb2 as pb

    message = pb.ModelInferRequest(model_name="chain", raw_input_contents=[A.tobytes()])
    message.inputs.add(name="in", datatype="FP32", shape=[2, 4])
    before = version.count().execution_count
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer").future(message.SerializeToString())
        end = time.monotonic() + 10
        while not chain.refs and time.monotonic() < end:
            time.sleep(0.005)
        call.cancel()
        while chain.refs and time.monotonic() < end:
            time.sleep(0.005)
    assert not chain.refs and version.count().execution_count == before


ONE = '[[inputs]]\nname = "in"\ndatatype = "FP32"\ndims = [4]\n'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (steps(("nope", 'x = "in"', 'y = "o"')), "step 1: model 'nope' is unknown"),
        (steps(("double", 'z = "in"', 'y = "o"')), "step 1 (model 'double') has no input 'z'; it has x"),
        (steps(("double", 'x = "in"', 'z = "o"')), "step 1 (model 'double') has no output 'z'; it has y"),
        (steps(("add", 'a = "in"', 'sum = "o"')), "step 1 (model 'add'): its input 'b' is given no tensor"),
        (steps(("double", 'x = "in"', "")), "no output is given a tensor"),
        (steps(("double", 'x = "in"', 'y = "o"'), ("double", 'x = "in"', 'y = "o"')), "'o' is made by step 1"),
        (
            steps(("double", 'x = "b"', 'y = "a"'), ("double", 'x = "a"', 'y = "b"')),
            "these steps wait for each other: step 1 (model 'double'), step 2 (model 'double')",
        ),
        (steps(("double", 'x = "in"', 'y = "m"'), ("texts", 'x = "m"', 'y = "o"')), "'m' is FP32 in step 1"),
        (steps(("double", 'x = "in"', 'y = "m"'), ("wide", 'x = "m"', 'y = "o"')), "'m' is [-1, 4] in step 1"),
        (steps(("double", 'x = "in"', 'y = "o"'), ("wide", 'x = "in"', 'y = "p"')), "'in' is [-1, 4] in step 1"),
        (ONE + steps(("double", 'x = "other"', 'y = "o"')), "reads tensor 'other', which no step makes"),
        (
            ONE + ONE.replace('"in"', '"left over"') + steps(("double", 'x = "in"', 'y = "o"')),
            "input 'left over' is read by no step",
        ),
        (ONE.replace("inputs", "outputs") + steps(("double", 'x = "a"', 'y = "o"')), "output 'in' is made by no step"),
        (ONE.replace("4", "5") + steps(("double", 'x = "in"', 'y = "o"')), "input 'in' has dims"),
        ("[batching]\nmax_batch_size = 1000\n" + steps(("double", 'x = "in"', 'y = "o"')), "at most 256 rows"),
        ("[batching]\nmax_batch_size = 4\n" + PLAIN, "its step 'alone' is not batched"),
        (steps(("parts", 'token = "in"', 'next = "o"')), "step 1 (model 'parts') answers in parts"),
        (steps(("e", 'x = "in"', 'y = "o"')), "ensemble: e -> e: an ensemble cannot contain itself"),
        (steps(("f", 'x = "in"', 'y = "o"')), "ensemble: e -> f -> e: an ensemble cannot contain itself"),
        ('[[ensemble.steps]]\nmodel = "add"\n', "ensemble.steps[0]"),
    ],
)
def test_checked_at_load(tmp_path, text, words):
    root = repository(tmp_path, {"e": text, "f": steps(("e", 'x = "in"', 'y = "o"'))})
    made = Manager(Repository([root]), serve_fake.load, drain_seconds=0.3)
    with pytest.raises(ServeError) as caught:
        made.load("e")
    assert words in caught.value.text, caught.value.text
    made.close()


def test_members_come_and_go(tmp_path):
    """A member that is switched is used in its new version; one that is gone, or does not fit any more, is told."""
    root = repository(tmp_path, {"e": DIAMOND})
    with start(root) as server, Client(f"127.0.0.1:{server.grpc_port}") as client:
        assert (client.infer("e", left=A, right=B)["twice"] == (A + B) * 2).all()
        serve_fake.repository(root, {"double/2": "scale 5"})
        client.load("double")
        assert (client.infer("e", left=A, right=B)["twice"] == (A + B) * 5).all()
        client.unload("double")
        with pytest.raises(ServeError, match="model 'double' is not ready") as caught:
            client.infer("e", left=A, right=B)
        assert caught.value.meaning is Meaning.UNAVAILABLE
        serve_fake.repository(root, {"double/3": "fixed 7"})
        client.load("double")
        with pytest.raises(ServeError, match=r"step 1 \(model 'double'\).*expected 7"):
            client.infer("e", left=A, right=B)
        assert all(not version.refs for version in server._manager.versions())


def test_loading_brings_members_and_unloading_may_take_them(tmp_path):
    root = repository(tmp_path, {"e": DIAMOND, "f": CHAIN})
    made = Manager(Repository([root]), serve_fake.load, drain_seconds=0.3)
    made.load("e")
    assert {v.name for v in made.versions()} == {"e", "add", "double"}
    made.load("f")
    made.unload("e", dependents=True)
    assert {v.name for v in made.versions()} == {"f", "slow", "double"}  # the other ensemble has it as well
    made.unload("f")
    assert {v.name for v in made.versions()} == {"slow", "double"}
    made.close()


def test_an_ensemble_of_a_configuration_needs_steps(tmp_path):
    for text in ("ensemble_scheduling {}", 'platform: "ensemble"'):
        (tmp_path / "config.pbtxt").write_text(text)
        with pytest.raises(ConfigError, match="at least one step"):
            read(tmp_path / "config.pbtxt", "e")
