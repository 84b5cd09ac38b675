"""The example programs under headrace and under torch, from equal weights: figures and time of training side by side.

    python benchmarks/beside_torch.py [--only tagger] [--steps N]

An example is loaded twice; the second time its imports of headrace find torch. Both models start from headrace's weights
and draw the same batches, so the figures differ by rounding alone. One thread each.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

EXAMPLES = Path(__file__).resolve().parents[1] / "examples" / "sequences"
NAMES = {"tagger": "words tagged right", "copy_task": "sequences without an error", "char_gpt": "nats a character"}
REPLACED = ("", ".nn", ".optim", ".nn.utils.rnn")


def load(name: str, library: str) -> ModuleType:
    """An example as a module whose imports of headrace are those of `library`."""
    before = {f"headrace{part}": importlib.import_module(f"headrace{part}") for part in REPLACED}
    for part in REPLACED:
        sys.modules[f"headrace{part}"] = importlib.import_module(f"{library}{part}")
    try:
        spec = importlib.util.spec_from_file_location(f"{name}_{library}", EXAMPLES / f"{name}.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
    finally:
        sys.modules.update(before)


def pair(name: str, library: str = "torch") -> tuple[tuple[Any, Any], tuple[Any, Any]]:
    """(module, model) of both libraries, the models with equal weights."""
    peer = importlib.import_module(library)
    ours, theirs = load(name, "headrace"), load(name, library)
    model, other = ours.build(), theirs.build()
    other.load_state_dict({k: peer.from_numpy(v.detach().numpy().copy()) for k, v in model.state_dict().items()})
    return (ours, model), (theirs, other)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=list(NAMES))
    parser.add_argument("--steps", type=int, help="training steps (default: the example's own)")
    options = parser.parse_args()
    import torch

    import headrace

    torch.set_num_threads(1)
    headrace.set_num_threads(1)
    for name in [options.only] if options.only else NAMES:
        found = []
        for module, model in pair(name):
            start = time.process_time()
            figure = module.train(model, options.steps) if options.steps else module.train(model)
            found.append((figure, time.process_time() - start))
        (ours, our_time), (theirs, their_time) = found
        print(
            f"{name:10} {NAMES[name]}: headrace {ours:.4f}, torch {theirs:.4f}; CPU seconds of training: headrace"
            f" {our_time:.1f}, torch {their_time:.1f}"
        )


if __name__ == "__main__":
    main()
