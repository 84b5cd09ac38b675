"""torch's operator data against headrace, with every entry called as torch's own tests call it.

    python benchmarks/opinfo.py HARNESS.py --list NAMES.txt --suite ops [other options of the harness]

Needs torch 2.13 and expecttest. The harness takes the entry's name as the function to call. Some entries are not that
function but a wrapper around it (other argument order, a clone before an in-place call, a result picked from several), and
some samples hold objects of torch that are no tensors. Here a wrapper is run itself, with headrace under the name `torch`,
and layouts, memory formats, functions and layers are replaced by headrace's of the same name. Tolerances and everything
else are the harness's.
"""

from __future__ import annotations

import importlib.util
import sys
import types
from typing import Any


def load(path: str) -> Any:
    """The harness as a module."""
    spec = importlib.util.spec_from_file_location("opinfo_harness", path)
    if spec is None or spec.loader is None:
        sys.exit(f"no harness at {path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules["opinfo_harness"] = module
    spec.loader.exec_module(module)
    return module


def wrapped(function: Any, library: Any) -> Any:
    """The entry's wrapper over another library; None where the entry is torch's function itself."""
    if not isinstance(function, types.FunctionType) or not function.__module__.startswith("torch.testing."):
        return None
    if function.__closure__:
        return None
    names = {**function.__globals__, "torch": library}
    found = types.FunctionType(function.__code__, names, function.__name__, function.__defaults__)
    found.__kwdefaults__ = function.__kwdefaults__
    return found


def adapt(harness: Any) -> None:
    """Replace how the harness finds functions and carries over what is no tensor."""
    import torch

    resolve, carry = harness.resolve_op, harness.Bridge.to

    def resolve_op(bridge: Any, op: Any) -> Any:
        if bridge.is_torch:
            return resolve(bridge, op)
        return wrapped(op.op, bridge.lib) or bridge.find(op.name) or resolve(bridge, op)

    def to(self: Any, value: Any, leaves: dict[int, Any] | None = None) -> Any:
        if not self.is_torch:
            if isinstance(value, torch.layout | torch.memory_format):
                return getattr(self.lib, str(value).removeprefix("torch."))
            if callable(value) and not isinstance(value, type | torch.nn.Module | torch.Tensor | torch.dtype):
                return self.find(f"nn.functional.{value.__name__}") or value
            if isinstance(value, torch.nn.TransformerEncoderLayer):
                return self.lib.nn.TransformerEncoderLayer(
                    value.linear1.in_features, value.self_attn.num_heads, value.linear1.out_features, value.dropout.p,
                    to(self, value.activation), value.norm1.eps, value.self_attn.batch_first, value.norm_first,
                    value.linear1.bias is not None,
                )  # fmt: skip
        return carry(self, value, leaves)

    harness.resolve_op, harness.Bridge.to = resolve_op, to


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    harness = load(sys.argv[1])
    adapt(harness)
    sys.exit(harness.main(sys.argv[2:]))
