"""Inferences go on while Python is busy: the loop of the native front never waits for the interpreter lock."""

import json
import subprocess
import sys

import grpc
import pytest
from benchmarks.soak import models
from benchmarks.soak.load import INFER, Lines

from headrace.protos import inference_pb2 as pb
from headrace.serve import engine

READY = INFER.replace("ModelInfer", "ServerReady")
CHILD = """
import ctypes, json, sys
from headrace.serve.server import Server
holding = ctypes.PyDLL(None)  # its functions keep the interpreter lock while they run
with Server(sys.argv[1]) as server:
    print(json.dumps(server.grpc_port), flush=True)
    sys.stdin.readline()
    sys.setswitchinterval(1000)  # nobody takes the lock between the two calls either
    holding.write(1, b"busy\\n", 5)
    holding.read(0, ctypes.create_string_buffer(1), 1)
    sys.setswitchinterval(0.005)
    sys.stdin.readline()
"""


@pytest.mark.skipif(engine._native is None, reason="the native front was not built")
def test_inferences_do_not_wait_for_the_interpreter(tmp_path):
    models.line(tmp_path / "line/1/model.hr", 2, 1)
    command = [sys.executable, "-c", CHILD, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        port = json.loads(server.stdout.readline())
        requests = Lines("line")
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            infer, ready = channel.unary_unary(INFER), channel.unary_unary(READY)
            assert requests.right(0, infer(requests.messages[0], timeout=30))
            server.stdin.write("\n")
            server.stdin.flush()
            assert server.stdout.readline() == "busy\n"
            asked = ready.future(pb.ServerReadyRequest().SerializeToString(), timeout=60)  # Python answers this
            for index in range(3):
                assert requests.right(index, infer(requests.messages[index], timeout=30))
            assert not asked.done(), "Python was not busy"
            server.stdin.write("\n")
            server.stdin.flush()
            assert pb.ServerReadyResponse.FromString(asked.result()).ready
        server.stdin.close()
        assert server.wait(60) == 0
