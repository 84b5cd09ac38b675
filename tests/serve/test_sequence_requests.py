"""Sequences: ids, begin and end, states from zero, order, merging, limits, and what ends one early; on both fronts."""

import threading
import time
from contextlib import contextmanager

import grpc
import numpy as np
import pytest
import serve_call
import serve_fake
from serve_call import infer
from serve_packages import accumulator
from serve_start import FRONTS, need, start

from headrace import runtime
from headrace.serve.config import ConfigError, ModelConfig, Sequence, SequenceState
from headrace.serve.errors import Meaning, ServeError
from headrace.serve.pbtxt import read
from headrace.serve.pending import BatchPolicy
from headrace.serve.scheduler import Job, Scheduler
from headrace.serve.sequences import SequenceQueue
from headrace.serve.states import State, Steps, states_of
from headrace.serve.validate import Port

MODELS = {
    "sums": "accumulate 0 declared",
    "slow": "accumulate 0.2 declared",
    "direct": "accumulate 0 declared",
    "single": "accumulate 0 declared one",
    "open": "accumulate 0 declared",
    "told": "controlled uint64",
    "named": "controlled string",
    "foreign": "accumulate 0 undeclared",
    "plain": "identity FP32",
}
CONTROLS = "".join(
    f'[[sequence.controls]]\ninput = "{name}"\nkind = "{name.lower()}"\n'
    for name in ("START", "END", "READY", "CORRID")
)
TOMLS = {
    "direct": '[sequence]\nstrategy = "direct"\n',
    "open": '[sequence]\nstrategy = "off"\n',
    "told": CONTROLS.replace('"end"\n', '"end"\noff = -1\non = 5\n'),
    "named": CONTROLS,
}
FOREIGN = """
max_batch_size: 8
input { name: "x" data_type: TYPE_FP32 dims: 4 }
output { name: "y" data_type: TYPE_FP32 dims: 4 }
sequence_batching {
  max_sequence_idle_microseconds: 5000000
  oldest { max_candidate_sequences: 16 }
  state [ { input_name: "total" output_name: "total_next" data_type: TYPE_FP32 dims: 4
            initial_state: { name: "none" data_type: TYPE_FP32 dims: 4 zero_data: true } } ]
}
"""


def load(path):
    return runtime.load(path, threads=1) if path.read_bytes()[:2] == b"PK" else serve_fake.load(path)


@pytest.fixture(scope="module", params=FRONTS)
def server(request, tmp_path_factory):
    need(request.param)
    root = serve_fake.repository(tmp_path_factory.mktemp("sequences"), MODELS)
    accumulator(root / "real/1/model.hr")
    for name, text in TOMLS.items():
        (root / name / "config.toml").write_text(text)
    (root / "foreign/config.pbtxt").write_text(FOREIGN)
    with start(root, request.param, loader=load) as running:
        yield running


@pytest.fixture(params=serve_call.HOWS)
def how(request):
    return request.param


def say(number, start=False, end=False):
    return {"sequence_id": number, "sequence_start": start, "sequence_end": end}


def row(value, width=4):
    return {"x": np.full((1, width), value, np.float32)}


@pytest.mark.parametrize("model", ["sums", "direct", "single", "real", "foreign"])
@pytest.mark.parametrize("number", [7, 2**63 + 5, "seven"])
def test_states_from_zero_to_the_end(server, how, model, number):
    if how == "grpc" and number == 2**63 + 5:
        number = 2**62  # int64 on this front
    width = 2 if model == "real" else 4
    for _ in range(2):  # a second sequence of that id begins at zero again
        found = []
        for i, flags in enumerate([(True, False), (False, False), (False, True)]):
            outputs, _ = infer(server, how, model, row(i + 1, width), say(number, *flags))
            assert outputs.keys() == {"y"}
            found.append(outputs["y"][0, 0])
        assert found == [1, 3, 6]
    with pytest.raises(ServeError, match="has not begun: its first request needs sequence_start") as caught:
        infer(server, how, model, row(1, width), say(number))
    assert caught.value.meaning is Meaning.BAD_ARGUMENT


def test_the_interface_has_no_states(server, how):
    document = server._plane.model_metadata("real", "")
    assert [t["name"] for t in document["inputs"]] == ["x"] and [t["name"] for t in document["outputs"]] == ["y"]
    config = server._plane.model_config("foreign", "")
    assert config["sequence_batching"]["oldest"] == {"max_candidate_sequences": 16}
    assert config["sequence_batching"]["max_sequence_idle_microseconds"] == 5_000_000 and config["max_batch_size"] == 8
    assert (
        "dynamic_batching" not in config and "direct" in server._plane.model_config("direct", "")["sequence_batching"]
    )
    with pytest.raises(ServeError, match="input 'total' is unknown"):
        infer(server, how, "real", row(1, 2) | {"total": row(1, 2)["x"]}, say(1, True))
    outputs, _ = infer(server, how, "open", row(1) | {"total": row(5)["x"]})
    assert outputs["y"][0, 0] == 6 and "total_next" in outputs


@pytest.mark.parametrize("number", [None, 0, ""])
def test_a_request_names_its_sequence(server, how, number):
    with pytest.raises(ServeError, match="needs a sequence_id") as caught:
        infer(server, how, "sums", row(1), {} if number is None else {"sequence_id": number})
    assert caught.value.meaning is Meaning.BAD_ARGUMENT


def test_numbers_and_texts_are_different_ids(server, how):
    infer(server, how, "sums", row(1), say(9, True))
    infer(server, how, "sums", row(10), say("9", True))
    assert infer(server, how, "sums", row(1), say(9, end=True))[0]["y"][0, 0] == 2
    assert infer(server, how, "sums", row(1), say("9", end=True))[0]["y"][0, 0] == 11


def test_a_start_within_begins_again(server, how):
    infer(server, how, "sums", row(1), say(3, True))
    assert infer(server, how, "sums", row(5), say(3, True, True))[0]["y"][0, 0] == 5


def test_a_wrong_or_failing_request_changes_no_state(server, how):
    infer(server, how, "sums", row(1), say(4, True))
    with pytest.raises(ServeError, match="expected 4"):
        infer(server, how, "sums", row(1, 3), say(4))
    with pytest.raises(ServeError, match="incident"):
        infer(server, how, "sums", row(666), say(4))
    assert infer(server, how, "sums", row(2), say(4, end=True))[0]["y"][0, 0] == 3


@pytest.mark.parametrize(("model", "number"), [("told", 12), ("named", "Zoë"), ("named", 12)])
def test_controls(server, how, model, number):
    told = []
    for flags in [(True, False), (False, False), (False, True)]:
        outputs, _ = infer(server, how, model, {"x": np.zeros((2, 1), np.float32)}, say(number, *flags))
        told.append(outputs["told"].tolist())
        who = outputs["who"].ravel().tolist()
        assert who == [number] * 2 if model == "told" else [w.decode() for w in who] == [str(number)] * 2
    low, high = (-1.0, 5.0) if model == "told" else (0.0, 1.0)
    assert told == [[[1, low, 1]] * 2, [[0, low, 1]] * 2, [[0, high, 1]] * 2]


def test_an_id_that_the_model_cannot_take(server, how):
    with pytest.raises(ServeError, match="does not fit the model's input 'CORRID'"):
        infer(server, how, "told", {"x": np.zeros((1, 1), np.float32)}, say("text", True))


def test_sequences_meet_in_runs_and_each_keeps_its_own(server, how):
    """Ten sequences of three steps of a model that takes 0.2 s a run: alone it would be 30 runs, or 6 s."""
    version = next(v for v in server._manager.versions() if v.name == "slow")
    before, found = version.count().execution_count, {}

    def run(number):
        for i in range(3):
            found[number] = infer(server, how, "slow", row(number), say(number, not i, i == 2))[0]["y"][0, 0]

    threads = [threading.Thread(target=run, args=(number,)) for number in range(1, 11)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {number: 3.0 * number for number in range(1, 11)}
    assert version.count().execution_count - before <= 15
    assert len(version.scheduler) == 0


def test_a_stream_keeps_the_order_of_each_sequence(server):
    sent = [
        serve_call.message("sums", row(1), say(number, i == 0, i == 4), id=f"{number}.{i}")
        for i in range(5)
        for number in (21, 22, 23)
    ]
    answers = list(serve_call.stream(server, sent))
    assert [a.infer_response.id for a in answers] == [message.id for message in sent]
    assert not any(a.error_message for a in answers)
    found = [serve_call.arrays(a.infer_response)["y"][0, 0] for a in answers]
    assert found == [i + 1 for i in range(5) for _ in range(3)]


def test_a_cancelled_request_ends_its_sequence(server):
    """What follows would miss a step: it is refused, and the states are gone."""
    version = next(v for v in server._manager.versions() if v.name == "slow")
    with serve_call.channel(server) as opened:
        call = opened.unary_unary(serve_call.SERVICE + "ModelInfer")
        infer(server, "grpc", "slow", row(1), say(31, True))
        running = call.future(serve_call.message("slow", row(1), say(31)).SerializeToString())
        until(lambda: version.scheduler._sequences[31].next == 2)
        waiting = call.future(serve_call.message("slow", row(1), say(31)).SerializeToString())
        until(lambda: version.scheduler._sequences[31].next == 3)
        waiting.cancel()
        until(lambda: 31 not in version.scheduler._sequences)
        running.result()
    with pytest.raises(ServeError, match="has not begun"):
        infer(server, "grpc", "slow", row(1), say(31))


def test_a_late_request_ends_its_sequence(server, how):
    version = next(v for v in server._manager.versions() if v.name == "slow")
    infer(server, how, "slow", row(1), say(41, True))
    first = threading.Thread(target=lambda: infer(server, how, "slow", row(1), say(41)))
    first.start()
    until(lambda: version.scheduler._sequences[41].next == 2)
    with pytest.raises(ServeError) as caught:
        infer(server, how, "slow", row(1), say(41) | {"timeout": 1000})
    assert caught.value.meaning is Meaning.EXPIRED
    first.join()
    assert 41 not in version.scheduler._sequences


def until(condition):
    end = time.monotonic() + 20
    while not condition() and time.monotonic() < end:
        time.sleep(0.002)
    assert condition()


# ---- the queue by itself ----


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


@contextmanager
def queue(model=None, clock=None, **settings):
    model = model or serve_fake.accumulate(0, True)
    ports = [Port.of(model.inputs[0])]
    steps = Steps(Scheduler(model.run, BatchPolicy(8)), states_of(model, ModelConfig()), ports, ["x", "total"])
    made = SequenceQueue(steps, [], Sequence(**settings), clock or time.monotonic)
    yield made
    made.close()


def step(made, number, start=False, end=False, rows=1):
    feeds = {"x": np.ones((rows, 4), np.float32)}
    return made.run(Job(feeds, rows, None, parameters=say(number, start, end)))["y"]


def test_no_more_than_so_many():
    with queue(max_sequences=3) as made:
        for number in (1, 2, 3):
            step(made, number, True)
        with pytest.raises(ServeError, match="3 sequences of the model are open") as caught:
            step(made, 4, True)
        assert caught.value.meaning is Meaning.OVERLOADED
        step(made, 2, end=True)
        assert step(made, 4, True)[0, 0] == 1


def test_no_more_bytes_of_states_than_so_many():
    with queue(max_state_bytes=64) as made:  # 16 a row
        step(made, 1, True, rows=3)
        with pytest.raises(ServeError, match="over 64 bytes"):
            step(made, 2, True, rows=2)
        assert len(made) == 1 and made._bytes == 48
        step(made, 3, True)
        step(made, 1, end=True, rows=3)
        step(made, 3, end=True)
        assert made._bytes == 0


def test_the_rows_of_a_sequence_stay_the_same():
    with queue() as made:
        step(made, 1, True, rows=2)
        with pytest.raises(ServeError, match="has 2 rows") as caught:
            step(made, 1, rows=3)
        assert caught.value.meaning is Meaning.BAD_ARGUMENT
        assert step(made, 1, rows=2)[1, 0] == 2


def test_idle_sequences_are_forgotten():
    clock = Clock()
    with queue(clock=clock, idle_timeout_ms=1000) as made:
        step(made, 1, True)
        clock.now += 0.9
        step(made, 2, True)
        clock.now += 0.2
        made.sweep(clock.now)
        assert list(made._sequences) == [2] and made._bytes == 16
        with pytest.raises(ServeError, match="idle for more than 1000 ms"):
            step(made, 1)


def test_without_traffic_the_thread_forgets_them_and_ends():
    with queue(idle_timeout_ms=20) as made:
        step(made, 1, True)
        until(lambda: not len(made) and not made._looking)
        step(made, 1, True)  # and begins again
        assert made._looking


@pytest.mark.parametrize(
    ("shape", "initial", "bound", "rows", "want"),
    [
        (("batch", 3), None, {}, 2, (2, 3)),
        ((2, "batch", 3), None, {"batch": 4}, 4, (2, 4, 3)),
        ((2, "batch", 3), np.ones((2, 1, 3)), {"batch": 4}, 4, (2, 4, 3)),
        (("batch", 3), np.ones((1, 1)), {"batch": 2}, 2, (2, 3)),
        (("batch", "past"), np.ones((1, 5)), {}, 2, (2, 5)),
        (("batch", "past"), np.ones((1, 0)), {}, 2, (2, 0)),
    ],
)
def test_first_values(shape, initial, bound, rows, want):
    found = State(Port.of(serve_fake.Spec("h", "float64", shape)), "h2", initial).first(bound, rows)
    assert found.shape == want and (found == (0 if initial is None else 1)).all()


def test_an_initial_value_of_the_package():
    model = serve_fake.accumulate(0, True)
    model.states = (serve_fake.State("total", "total_next", np.full((1, 4), 5, np.float32)),)
    with queue(model) as made:
        assert step(made, 1, True, rows=2).tolist() == [[6.0] * 4] * 2


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ('[[sequence.states]]\ninput = "z"\noutput = "y"\n', "the model has no input 'z'; it has x, total"),
        ('[[sequence.states]]\ninput = "total"\noutput = "z"\n', "the model has no output 'z'"),
        ('[[sequence.states]]\ninput = "total"\noutput = "y"\ndims = [3, 3]\n', "dims [3, 3] in the configuration"),
        ('[[sequence.controls]]\ninput = "z"\nkind = "start"\n', "the model has no input 'z'"),
        ('[[sequence.controls]]\ninput = "total"\nkind = "start"\n', "a control has one element a row"),
        ('[sequence]\nstrategy = "newest"\n', "sequence.strategy"),
    ],
)
def test_a_configuration_that_does_not_fit(tmp_path, config, words):
    serve_fake.repository(tmp_path, {"m": "accumulate 0 undeclared"})
    (tmp_path / "m/config.toml").write_text(config)
    with start(tmp_path) as server:
        ((_, _, state, reason),) = server._manager.index()
    assert state in ("UNAVAILABLE", "") and words in reason


def test_settings_of_a_foreign_configuration(tmp_path):
    (tmp_path / "config.pbtxt").write_text(
        """sequence_batching { direct { minimum_slot_utilization: 0.5 } iterative_sequence: true
        control_input [ { name: "S" control { kind: CONTROL_SEQUENCE_START fp32_false_true: [ -1, 2 ] } },
                        { name: "C" control { kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_UINT64 } } ]
        state { input_name: "h" output_name: "k" data_type: TYPE_FP32 dims: [ -1, 3 ]
                initial_state { dims: [ 2, 3 ] zero_data: true } } }"""
    )
    config, ignored = read(tmp_path / "config.pbtxt", "m")
    assert config.sequence.strategy == "direct" and config.sequence.idle_timeout_ms == 1000
    assert [(c.input, c.kind, c.off, c.on) for c in config.sequence.controls] == [
        ("S", "start", -1, 2), ("C", "corrid", 0, 1),
    ]  # fmt: skip
    assert config.sequence.states == (SequenceState("h", "k", (2, 3)),)
    assert ignored == ["sequence_batching.iterative_sequence"]
    for text in (
        'control_input { name: "S" control { kind: CONTROL_SEQUENCE_START } }',
        'state { input_name: "h" output_name: "k" initial_state { data_file: "f" } }',
    ):
        (tmp_path / "config.pbtxt").write_text(f"sequence_batching {{ {text} }}")
        with pytest.raises(ConfigError, match="sequence_batching"):
            read(tmp_path / "config.pbtxt", "m")


def test_grpc_refuses_what_is_no_id(server):
    with serve_call.channel(server) as opened, pytest.raises(grpc.RpcError) as caught:
        message = serve_call.message("sums", row(1), {"sequence_id": True, "sequence_start": True})
        opened.unary_unary(serve_call.SERVICE + "ModelInfer")(message.SerializeToString())
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
