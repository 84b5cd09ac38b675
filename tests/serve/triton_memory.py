"""Run by the published tritonclient's Python: its shared memory utilities against our fronts (ports as arguments)."""

import sys

import numpy as np
import tritonclient.grpc as grpcclient
import tritonclient.http as httpclient
from tritonclient.utils import shared_memory as shm

for kind, port in (("grpc", sys.argv[1]), ("http", sys.argv[2])):
    module = grpcclient if kind == "grpc" else httpclient
    client = module.InferenceServerClient(f"127.0.0.1:{port}")
    a, b = np.arange(4, dtype=np.float32)[None], np.ones((1, 4), np.float32)
    given = shm.create_shared_memory_region("given", f"/triton_given_{kind}", 32)
    taken = shm.create_shared_memory_region("taken", f"/triton_taken_{kind}", 32)
    try:
        shm.set_shared_memory_region(given, [a, b])
        client.register_system_shared_memory("given", f"/triton_given_{kind}", 32)
        client.register_system_shared_memory("taken", f"/triton_taken_{kind}", 32)
        status = client.get_system_shared_memory_status()
        assert len(status.regions if kind == "grpc" else status) == 2, status
        inputs = [module.InferInput(name, [1, 4], "FP32") for name in ("a", "b")]
        outputs = [module.InferRequestedOutput(name) for name in ("sum", "difference")]
        for i in range(2):
            inputs[i].set_shared_memory("given", 16, 16 * i)
            outputs[i].set_shared_memory("taken", 16, 16 * i)
        result = client.infer("add", inputs, outputs=outputs)
        found = result.get_output("sum")
        shape = found.shape if kind == "grpc" else found["shape"]
        assert (shm.get_contents_as_numpy(taken, np.float32, shape) == a + b).all()
        assert (shm.get_contents_as_numpy(taken, np.float32, shape, 16) == a - b).all()
        client.unregister_system_shared_memory("given")
        client.unregister_system_shared_memory()
    finally:
        shm.destroy_shared_memory_region(given)
        shm.destroy_shared_memory_region(taken)
print("memory ok")
