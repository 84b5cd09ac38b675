"""ModelStreamInfer: several requests of one stream at a time, answers in order, errors of one request, ends of a stream."""

import threading
import time

import grpc
import numpy as np
import pytest

from headrace.protos import inference_pb2 as pb
from headrace.serve import Client
from headrace.serve.errors import Meaning, ServeError
from headrace.serve.grpc_stream import WINDOW

METHOD = "/inference.GRPCInferenceService/ModelStreamInfer"
X = np.ones((1, 4), np.float32)


def message(model="slow", number=0, **parameters):
    one = pb.ModelInferRequest(model_name=model, id=str(number), raw_input_contents=[(X * number).tobytes()])
    one.inputs.add(name="x", datatype="FP32", shape=[1, 4])
    for key, value in parameters.items():
        kind = {bool: "bool_param", int: "int64_param", str: "string_param"}[type(value)]
        setattr(one.parameters[key], kind, value)
    return one.SerializeToString()


def stream(channel, messages, **options):
    for data in channel.stream_stream(METHOD)(iter(messages), timeout=30, **options):
        yield pb.ModelStreamInferResponse.FromString(data)


def test_requests_of_one_stream_meet_in_batches(channel, server):
    """40 requests of a model that takes 0.4 s a run: one by one they would take 16 s and as many runs."""
    version = next(v for v in server._manager.versions() if v.name == "slow")
    before = version.statistics.execution_count
    answers = list(stream(channel, [message(number=i) for i in range(40)]))
    assert [a.infer_response.id for a in answers] == [str(i) for i in range(40)]
    for i, answer in enumerate(answers):
        assert np.frombuffer(answer.infer_response.raw_output_contents[0], np.float32).tolist() == [2.0 * i] * 4
        assert answer.infer_response.parameters["triton_final_response"].bool_param
    assert version.statistics.execution_count - before <= 40 // 2 and WINDOW > 2


def test_an_error_is_an_answer_in_its_place(channel):
    sent = [message("fp32", 1), message("nope", 2), b"\xff\xff", message("fp32", 3), message("fp32", 4, triton_x=1)]
    answers = list(stream(channel, sent))
    assert [bool(a.error_message) for a in answers] == [False, True, True, False, True]
    assert [a.infer_response.id for a in answers] == ["1", "2", "", "3", "4"]
    assert answers[1].infer_response.model_name == "nope" and not answers[1].infer_response.outputs


@pytest.mark.parametrize(("bad", "code"), [(message("nope", 2), "NOT_FOUND"), (b"\xff", "INVALID_ARGUMENT")])
def test_a_strict_stream_ends_with_the_first_error(channel, bad, code):
    answers = stream(channel, [message("fp32", 1), bad, message("fp32", 3)], metadata=(("triton_grpc_error", "true"),))
    assert next(answers).infer_response.id == "1"
    with pytest.raises(grpc.RpcError) as caught:
        next(answers)
    assert caught.value.code().name == code


def test_an_empty_final_response_may_be_asked_for_on_streams_only(channel):
    (answer,) = stream(channel, [message("fp32", 1, triton_enable_empty_final_response=True)])
    assert not answer.error_message and answer.infer_response.outputs
    unary = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
    with pytest.raises(grpc.RpcError, match="reserved"):
        unary(message("fp32", 1, triton_enable_empty_final_response=True))


def test_requests_of_a_sequence_keep_their_order(channel, server):
    version = next(v for v in server._manager.versions() if v.name == "slow")
    before = version.statistics.execution_count
    answers = list(stream(channel, [message(number=i, sequence_id=7) for i in range(3)]))
    assert [a.infer_response.id for a in answers] == ["0", "1", "2"]
    assert version.statistics.execution_count - before == 3  # never in one batch


def test_a_cancelled_stream_cancels_what_is_in_flight(channel, server):
    version = next(v for v in server._manager.versions() if v.name == "slow")
    before = version.statistics.meanings.get(("grpc", "cancelled"), 0)
    forever = threading.Event()

    def endless():
        for number in range(8):
            yield message(number=number)
        forever.wait(20)  # the client's side stays open

    call = channel.stream_stream(METHOD)(endless())
    next(call)
    call.cancel()
    end = time.monotonic() + 20
    counted = lambda: version.statistics.meanings.get(("grpc", "cancelled"), 0) - before  # noqa: E731
    while (server._plane.inflight or not counted()) and time.monotonic() < end:
        time.sleep(0.01)
    forever.set()
    assert not server._plane.inflight
    assert counted()


def test_a_call_without_a_deadline_may_wait(channel):
    """The transport then tells a time that no clock can wait for."""
    unary = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
    calls = [unary.future(message(number=i)) for i in range(6)]
    assert [pb.ModelInferResponse.FromString(call.result()).id for call in calls] == [str(i) for i in range(6)]


def test_client_stream(server):
    with Client(f"127.0.0.1:{server.grpc_port}") as client:
        found = list(client.stream("fp32", ({"x": X * i} for i in range(50))))
        assert [f["y"][0, 0] for f in found] == list(range(50))
        assert list(client.stream("fp32", [])) == []
        answers = client.stream("fp32", [{"x": X}, {"z": X}, {"x": X}])
        assert next(answers)["y"][0, 0] == 1
        with pytest.raises(ServeError, match="'z' is unknown") as caught:
            next(answers)
        assert caught.value.meaning is Meaning.BAD_ARGUMENT
        early = client.stream("slow", ({"x": X} for _ in range(1000)))
        next(early)
        early.close()
        assert client.infer("fp32", x=X)["y"][0, 0] == 1
    with Client(f"http://127.0.0.1:{server.http_port}") as client, pytest.raises(ServeError, match="gRPC port"):
        next(iter(client.stream("fp32", [{"x": X}])))
