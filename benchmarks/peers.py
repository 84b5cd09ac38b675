"""Other servers of the same protocol beside ours, where they are installed: an identity over FP32 tensors on each.

MLSERVER=COMMAND        MLServer's command (pip install mlserver, in an environment of its own)
TRITONSERVER=PROGRAM    the tritonserver of the nvidia-pytriton wheel, whose Python backend needs the wheel's stub for this Python beside it
                        (cp tritonserver/python_backend_stubs/3.X/* tritonserver/backends/python/) and NumPy < 2 in the wheel's environment
"""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

import grpc

from headrace.protos import inference_pb2 as pb

START_SECONDS = 60.0
VARIABLES = {"mlserver": "MLSERVER", "triton": "TRITONSERVER"}

MLSERVER_MODEL = """
from mlserver import MLModel
from mlserver.types import InferenceResponse, ResponseOutput

class Identity(MLModel):
    async def load(self):
        return True

    async def predict(self, request):
        x = request.inputs[0]
        output = ResponseOutput(name="y", shape=x.shape, datatype=x.datatype, data=x.data, parameters=x.parameters)
        return InferenceResponse(model_name=self.name, outputs=[output])
"""

TRITON_MODEL = """
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        tensors = [pb_utils.get_input_tensor_by_name(request, "x").as_numpy() for request in requests]
        return [pb_utils.InferenceResponse([pb_utils.Tensor("y", tensor)]) for tensor in tensors]
"""

TRITON_CONFIG = """
backend: "python"
max_batch_size: 0
input [{name: "x" data_type: TYPE_FP32 dims: [-1, -1]}]
output [{name: "y" data_type: TYPE_FP32 dims: [-1, -1]}]
"""


class Unusable(Exception):
    """A peer that does not start, or does not answer as it should."""


def why_not(kind):
    """Why a peer cannot be measured here; "": it can."""
    variable = VARIABLES[kind]
    command = os.environ.get(variable, "")
    if not command:
        return f"{variable} names no command"
    return "" if shutil.which(command) else f"{variable} is {command}, which is no command"


def _free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def _mlserver(folder, ports):
    folder.mkdir(exist_ok=True)
    (folder / "identity.py").write_text(MLSERVER_MODEL)
    named = dict(zip(("grpc_port", "http_port", "metrics_port"), ports))
    (folder / "settings.json").write_text(
        json.dumps({"host": "127.0.0.1", "parallel_workers": 0, "debug": False, **named})
    )
    (folder / "model-settings.json").write_text(json.dumps({"name": "identity", "implementation": "identity.Identity"}))
    return [os.environ["MLSERVER"], "start", str(folder)], {}


def _triton(folder, ports):
    program = Path(shutil.which(os.environ["TRITONSERVER"])).resolve()
    place = folder / "identity" / "1"
    place.mkdir(parents=True, exist_ok=True)
    (place / "model.py").write_text(TRITON_MODEL)
    (place.parent / "config.pbtxt").write_text(TRITON_CONFIG)
    packages = program.parents[3]
    tools = packages.parents[2] / "bin"  # the Python that is found first says which NumPy the model gets
    flags = [f"--{name}-port={port}" for name, port in zip(("grpc", "http", "metrics"), ports)]
    command = [program, "--model-repository", folder, "--backend-directory", program.parents[1] / "backends", *flags]
    return [*map(str, command)], {
        "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(packages),
        "LD_LIBRARY_PATH": str(packages / "nvidia_pytriton.libs"),
    }


@contextlib.contextmanager
def serving(kind, folder, core):
    """A peer on one core, when it is ready: (process, port of gRPC)."""
    ports = [_free_port() for _ in range(3)]
    command, places = {"mlserver": _mlserver, "triton": _triton}[kind](Path(folder, kind), ports)
    nothing = subprocess.DEVNULL
    process = subprocess.Popen(
        ["taskset", "-c", str(core), *command], stdout=nothing, stderr=nothing, env={**os.environ, **places}
    )
    try:
        _wait(process, ports[0])
        yield process, ports[0]
    finally:
        process.terminate()
        try:
            process.wait(40)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(process, port):
    ready = pb.ModelReadyRequest(name="identity").SerializeToString()
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and process.poll() is None:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel, contextlib.suppress(grpc.RpcError):
            answer = channel.unary_unary("/inference.GRPCInferenceService/ModelReady")(ready, timeout=2)
            if pb.ModelReadyResponse.FromString(answer).ready:
                return
        time.sleep(0.2)
    raise Unusable(f"{process.args[3]} was not ready after {START_SECONDS:g} s")
