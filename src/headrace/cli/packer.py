"""Packing behind `headrace pack`: a model file here, or a user's Python file as the main program of a child process.

The child reads one JSON job from standard input and prints one JSON answer as its last line.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from headrace.runtime.errors import InputError
from headrace.verbs.pack import PackReport, pack
from headrace.verbs.run import read_arrays

Door = Callable[..., PackReport]


def pack_file(model: Any, options: dict[str, Any], example: Any = None, door: Door = pack) -> dict[str, Any]:
    """Pack with the command line's options, through `door`; answers the report as plain data."""
    keywords: dict[str, Any] = {"seed": options["seed"], "rtol": options["rtol"], "atol": options["atol"]}
    golden = options["golden"]
    if golden.isdigit():
        keywords["golden"] = int(golden)
    else:
        keywords["golden"] = [read_arrays(golden)]
    if options["expect"]:
        if door is not pack:
            raise InputError("--expect is for models that cannot be asked: this one's own outputs are recorded")
        if golden.isdigit():
            raise InputError("--expect needs the inputs that its outputs belong to: give them with --golden FILE.npz")
        keywords["expect"] = [read_arrays(options["expect"])]
    if options["evaluate"]:
        data = read_arrays(options["evaluate"])
        if "labels" not in data:
            raise InputError(f"{options['evaluate']} has no array 'labels'; it has {', '.join(data)}")
        keywords["evaluate"] = (data, data.pop("labels"))
    if options["example"]:
        example = tuple(read_arrays(options["example"]).values())
    return dataclasses.asdict(door(model, example, options["output"], **keywords))


def load_object(file: str, name: str) -> Any:
    """Import a user's file under the name that keeps its `if __name__ == "__main__"` part asleep, and take `name`."""
    path = Path(file).resolve()
    if not path.is_file():
        raise InputError(f"no such file: {file}")
    sys.path.insert(0, str(path.parent))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    if not hasattr(module, name):
        public = [key for key, value in vars(module).items() if not key.startswith("_") and callable(value)]
        raise InputError(f"{file} defines no {name!r}; it has {', '.join(public) or 'nothing public'}")
    return getattr(module, name)


def door_of(made: Any) -> Door | None:
    """What packs an object: the door for Modules, torch's modules, or estimators; None for anything else."""
    from headrace.jit import Exported, Scripted
    from headrace.nn.module import Module

    if isinstance(made, Module | Exported | Scripted):
        return pack
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(made, torch.nn.Module):
        import headrace.torch

        return headrace.torch.pack
    if not isinstance(made, type) and hasattr(made, "get_params") and (hasattr(made, "predict") or hasattr(made, "transform")):  # fmt: skip
        import headrace.sklearn

        return headrace.sklearn.pack
    return None


def model_and_example(found: Any) -> tuple[Any, Any, Door]:
    """A model stands for itself; any other callable is a factory of a model or of (model, example inputs)."""
    made = found if door_of(found) or not callable(found) else found()
    model, example = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    door = door_of(model)
    if door is None:
        raise InputError(
            f"expected a Module, a torch module, an estimator, a factory of one, or of (model, inputs); got {type(made).__name__}"
        )
    return model, example, door


def main() -> int:
    job = json.load(sys.stdin)
    try:
        model, example, door = model_and_example(load_object(job["file"], job["name"]))
        answer = pack_file(model, job["options"], example, door)
    except Exception as error:
        frames = [
            f for f in traceback.extract_tb(error.__traceback__) if f.filename == str(Path(job["file"]).resolve())
        ]
        where = f"{job['file']}:{frames[-1].lineno}: " if frames else ""
        answer = {"error": f"{where}{type(error).__name__ if frames else ''}{': ' if frames else ''}{error}"}
    print(json.dumps(answer), flush=True)
    return 1 if "error" in answer else 0


if __name__ == "__main__":
    sys.exit(main())
