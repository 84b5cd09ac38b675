"""ONNX's backend suite (2033 CPU cases, inside the onnx package), counted honestly: a case passes only where values, shapes
and element types are right; an exception, a skip and "not supported" count as failures.

    python tests/ops/conformance.py [--via directly|onnx|archive] [--only REGEX]

`--via` sends every model through export and re-import, or through the archive, before it runs.
"""

from __future__ import annotations

import argparse
import re
import tempfile
import unittest
import warnings
import zlib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from headrace.runtime.model import load
from headrace.serializer import archive
from headrace.serializer.onnx.load import open_program
from headrace.serializer.onnx.save import to_model

# Cases that do not pass, by the beginning of their names, and why.
FAILING = {
    "test_bernoulli": "the expected values are draws of a generator whose state the file does not hold",
    "test_loop16_seq_none": "the runner cannot compare an absent sequence; onnx.reference fails it too",
}
FAILING_VIA_ONNX = {
    "test_scan_sum_cpu": "Scan of operator set 8 has a batch axis, for which later sets have no form: refused"
}


def directly(model: Any) -> Any:
    return load(model, device="cpu")


def via_onnx(model: Any, opset: int | None = None) -> Any:
    """Imported, exported at the newest operator set, imported again from the bytes."""
    from headrace.runtime.graph import OPSETS

    return load(to_model(open_program(model).program, opset=opset or OPSETS[""]).SerializeToString(), device="cpu")


def via_archive(model: Any) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "case.hr"
        archive.save(open_program(model).program, path)
        return load(path, device="cpu")


WAYS: dict[str, tuple[Callable[[Any], Any], dict[str, str]]] = {
    "directly": (directly, FAILING),
    "onnx": (via_onnx, {**FAILING, **FAILING_VIA_ONNX}),
    "archive": (via_archive, FAILING),
}


def reason(name: str, failing: dict[str, str]) -> str:
    """Why a case fails, or "" where it must pass."""
    return next((why for prefix, why in failing.items() if name.startswith(prefix)), "")


@cache
def _suite() -> dict[str, type[unittest.TestCase]]:
    """The runner's cases, by name. Made once in a process: 20 s."""
    import onnx.backend.test
    from onnx.backend.base import Backend, BackendRep
    from onnx.backend.test.runner import BackendIsNotSupposedToImplementIt

    class Loaded(BackendRep):
        def __init__(self, model: Any) -> None:
            weights = {tensor.name for tensor in model.graph.initializer}
            self.inputs = [value.name for value in model.graph.input if value.name not in weights]
            self.outputs = [value.name for value in model.graph.output]
            self.model = _way(model)

        def run(self, inputs: Any, **_: Any) -> Any:
            given = inputs if isinstance(inputs, list | tuple) else [inputs]
            found = self.model.run({name: _plain(x) for name, x in zip(self.inputs, given)})
            return tuple(found[name] for name in self.outputs)

    class Tested(Backend):
        @classmethod
        def supports_device(cls, device: str) -> bool:
            return device == "CPU"

        @classmethod
        def is_compatible(cls, model: Any, device: str = "CPU", **_: Any) -> bool:
            return True

        @classmethod
        def prepare(cls, model: Any, device: str = "CPU", **_: Any) -> Any:
            try:
                return Loaded(model)
            except BackendIsNotSupposedToImplementIt as error:  # onnx's runner would count it as passed
                raise RuntimeError(str(error)) from error

    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        groups = onnx.backend.test.BackendTest(Tested, __name__).test_cases
    return {
        f"{kind}.{name}": group
        for kind, group in groups.items()
        for name in dir(group)
        if name.startswith("test_") and not name.endswith("_cuda")
    }


_way: Callable[[Any], Any] = directly


def _plain(value: Any) -> Any:
    return value if value is None or isinstance(value, list | tuple | np.ndarray) else np.asarray(value)


def names(shard: int = 0, shards: int = 1) -> list[str]:
    """The cases of one shard, chosen by the hash of their names."""
    return [name for name in sorted(_suite()) if zlib.crc32(name.encode()) % shards == shard]


def run(name: str, way: Callable[[Any], Any] = directly) -> str:
    """Run one case; "" where it passes, else the last line of what went wrong."""
    global _way
    _way, method = way, name.split(".")[1]
    result = unittest.TestResult()
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _suite()[name](method).run(result)
    for texts in (result.errors, result.failures, result.skipped):
        if texts:
            return next((line for line in reversed(texts[0][1].splitlines()) if line.strip()), "no message")[:300]
    return ""


def failures(chosen: list[str], way: str) -> Iterator[tuple[str, str]]:
    for name in chosen:
        message = run(name, WAYS[way][0])
        if message:
            yield name, message


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--via", default="directly", choices=sorted(WAYS))
    parser.add_argument("--only", default="", help="regular expression on the names of cases")
    options = parser.parse_args()
    chosen = [name for name in names() if re.search(options.only, name)]
    failed = dict(failures(chosen, options.via))
    for name, message in failed.items():
        why = reason(name.split(".")[1], WAYS[options.via][1])
        print(f"{name}: {why or 'NOT LISTED: ' + message}")
    print(f"{len(chosen) - len(failed)} of {len(chosen)} passed")
    return any(not reason(name.split(".")[1], WAYS[options.via][1]) for name in failed)


if __name__ == "__main__":
    raise SystemExit(main())
