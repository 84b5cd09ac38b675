"""`[instances]`: which processors run a model, and what is refused."""

import os

import numpy as np
import pytest
import serve_fake
from serve_packages import X, package
from serve_start import start
from test_generate import load

from headrace import runtime
from headrace.serve import Client, engine
from headrace.serve.batch import Feeds
from headrace.serve.config import ConfigError, Instances
from headrace.serve.instances import allowed_cpus, pinned
from headrace.serve.pending import BatchPolicy
from headrace.serve.scheduler import Job
from headrace.serve.validate import Interface

HERE = sorted(os.sched_getaffinity(0))


def test_what_is_allowed():
    assert allowed_cpus(Instances(cpus=tuple(HERE))) == tuple(HERE)
    assert allowed_cpus(Instances()) == ()
    with pytest.raises(ConfigError, match=r"instances\.cpus has 100000; allowed here are "):
        allowed_cpus(Instances(cpus=(HERE[0], 100000)))
    with pytest.raises(ConfigError, match=r"instances\.device is 'cuda:0'; allowed is 'cpu'"):
        allowed_cpus(Instances(device="cuda:0"))


def test_a_run_is_on_its_processor_and_the_caller_stays_free():
    seen = []

    def run(feeds: Feeds):
        seen.append(os.sched_getaffinity(0))
        if len(seen) == 3:
            raise ValueError("no")
        return {}

    on_its_cpu = pinned(run, HERE[:2], 2)
    on_its_cpu({})
    on_its_cpu({})
    with pytest.raises(ValueError, match="no"):
        on_its_cpu({})
    assert seen == [{cpu} for cpu in (HERE[:2] * 3)[:3]] if len(HERE) > 1 else seen == [{HERE[0]}] * 3
    assert sorted(os.sched_getaffinity(0)) == HERE


def test_a_model_is_loaded_by_its_configuration(tmp_path):
    """Both queues: of a fake model in Python, of a real one in C++; a processor that is none is a state of the model."""
    repository = serve_fake.repository(tmp_path, {"fake": "scale 3", "wrong": "scale 3", "device": "scale 3"})
    for name in ("fake", "real"):
        package(tmp_path / "real/1/model.hr", 2.0)
        (tmp_path / name / "config.toml").write_text(f"[instances]\ncpus = [{HERE[-1]}]\n")
    (tmp_path / "wrong/config.toml").write_text("[instances]\ncpus = [99999]\n")
    (tmp_path / "device/config.toml").write_text('[instances]\ndevice = "cuda"\n')
    with start(repository, loader=load) as server:
        with Client(f"127.0.0.1:{server.grpc_port}") as client:
            for _ in range(3):
                assert client.infer("real", x=X)["y"].tobytes() == (X * np.float32(2)).tobytes()
                x = np.ones((1, 4), np.float32)
                assert client.infer("fake", x=x)["y"].tobytes() == (x * np.float32(3)).tobytes()
        reasons = {row[0]: row[3] for row in server._manager.index()}
        assert "instances.cpus has 99999" in reasons["wrong"] and "instances.device is 'cuda'" in reasons["device"]


@pytest.mark.skipif(engine._native is None, reason="built without libnghttp2: there is no engine")
def test_the_engine_runs_on_a_thread_of_its_own(tmp_path):
    """Its batches are on the processor of the instance: the only thread that is bound to it alone."""
    package(tmp_path / "model.hr", 2.0)
    with runtime.load(tmp_path / "model.hr", threads=1) as model:
        interface = Interface(model.inputs, model.outputs, 8)
        made = engine.make("m", "1", interface, model, BatchPolicy(8, cpus=(HERE[-1],)))
        queue = engine.EngineScheduler(made, interface, BatchPolicy(8))
        before = set(os.listdir("/proc/self/task"))
        for _ in range(5):
            assert queue.run(Job({"x": X}, 2, None))["y"].tobytes() == (X * np.float32(2)).tobytes()
        fresh = {int(name) for name in os.listdir("/proc/self/task")} - {int(name) for name in before}
        assert any(os.sched_getaffinity(thread) == {HERE[-1]} for thread in fresh)
        queue.close()
