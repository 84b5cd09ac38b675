"""Packing behind `headrace pack`: a model file here, or a user's Python file as the main program of a child process.

The child reads one JSON job from standard input and prints one JSON answer as its last line.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import sys
import traceback
from pathlib import Path
from typing import Any

from headrace.runtime.errors import InputError
from headrace.verbs.pack import pack
from headrace.verbs.run import read_arrays


def pack_file(model: Any, options: dict[str, Any], example: Any = None) -> dict[str, Any]:
    """Pack with the command line's options; answers the report as plain data."""
    keywords: dict[str, Any] = {"seed": options["seed"], "rtol": options["rtol"], "atol": options["atol"]}
    golden = options["golden"]
    if golden.isdigit():
        keywords["golden"] = int(golden)
    else:
        keywords["golden"] = [read_arrays(golden)]
    if options["expect"]:
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
    return dataclasses.asdict(pack(model, example, options["output"], **keywords))


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


def module_and_example(found: Any) -> tuple[Any, Any]:
    """A Module stands for itself; any other callable is a factory of a Module or of (Module, example inputs)."""
    from headrace.nn.module import Module

    made = found if isinstance(found, Module) or not callable(found) else found()
    if isinstance(made, tuple) and len(made) == 2 and isinstance(made[0], Module):
        return made
    if not isinstance(made, Module):
        raise InputError(f"expected a Module, a factory of one, or of (Module, inputs); got {type(made).__name__}")
    return made, None


def main() -> int:
    job = json.load(sys.stdin)
    try:
        model, example = module_and_example(load_object(job["file"], job["name"]))
        answer = pack_file(model, job["options"], example)
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
