"""Arrays of every datatype for the tritonclient scripts."""

import ml_dtypes
import numpy as np

KINDS = {
    "INT8": np.int8, "INT16": np.int16, "INT32": np.int32, "INT64": np.int64, "UINT8": np.uint8, "UINT16": np.uint16,
    "UINT32": np.uint32, "UINT64": np.uint64, "FP16": np.float16, "FP32": np.float32, "FP64": np.float64,
    "BF16": ml_dtypes.bfloat16,
}  # fmt: skip


def samples():
    for name, kind in KINDS.items():
        size = np.dtype(kind).itemsize
        data = bytes(range(6 * size)) if np.dtype(kind).kind in "iu" else None
        if data:
            yield name, np.frombuffer(data, kind).reshape(2, 3)
        else:
            yield name, np.array([[np.nan, np.inf, -0.0], [1.5, -2.25, 3e-5]]).astype(kind)
    yield "BOOL", np.array([[True, False, True]])
    yield "BYTES", np.array([[b"", b"\x00\xff", "ä€".encode()]], dtype=np.object_)


def same(x, y):
    return x.shape == y.shape and (x.tolist() == y.tolist() if x.dtype == object else x.tobytes() == y.tobytes())
