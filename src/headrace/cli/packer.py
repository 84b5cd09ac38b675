"""Packing behind `headrace pack`: a model file here, or a user's Python file as the main program of a child process.

The child reads one JSON job from standard input and prints one JSON answer as its last line.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import inspect
import json
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from headrace.runtime.errors import InputError
from headrace.runtime.hints import nearest
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
    if options.get("preprocess"):
        if door is not pack:
            raise InputError(
                "--preprocess is for model files and Modules of headrace: pack first, then the .hr file again"
            )
        keywords["preprocess"] = options["preprocess"]
    if options["example"]:
        example = tuple(read_arrays(options["example"]).values())
    return dataclasses.asdict(door(model, example, options["output"], **keywords))


def load_object(file: str, name: str) -> Any:
    """Import a user's file under the name that keeps its `if __name__ == "__main__"` part asleep, and take `name`."""
    path = Path(file).resolve()
    if not path.is_file():
        raise InputError(f"no such file: {file}")
    sys.path.insert(0, str(path.parent))
    sys.argv = [file]
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    if not hasattr(module, name):
        own = [
            k for k, value in vars(module).items() if door_of(value) or getattr(value, "__module__", "") == path.stem
        ]
        raise InputError(f"{file} defines no {name!r}; {nearest(name, own)}")
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
    made = found if door_of(found) or not callable(found) else _made(found)
    model, example = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    door = door_of(model)
    if door is None:
        hint = "; a state_dict is weights alone: name the Module they belong to" if isinstance(made, dict) else ""
        raise InputError(
            "expected a Module, a torch module, an estimator, a factory of one, or of (model, inputs); got "
            f"{type(made).__name__}{hint}"
        )
    return model, example, door


def _made(factory: Any) -> Any:
    needed = [
        parameter.name
        for parameter in inspect.signature(factory).parameters.values()
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    if needed:
        raise InputError(
            f"{factory.__name__}({', '.join(needed)}) needs arguments, and pack gives none: give them defaults, or name a "
            "function without arguments that calls it"
        )
    return factory()


def main() -> int:
    job = json.load(sys.stdin)
    try:
        model, example, door = model_and_example(load_object(job["file"], job["name"]))
        if example is None and not job["options"]["example"] and not _captured(model):
            raise InputError(
                "a model is captured by running it: give --example FILE.npz with its inputs, or name a function "
                "without arguments that answers (model, inputs)"
            )
        answer = pack_file(model, job["options"], example, door)
    except (Exception, SystemExit) as error:
        answer = {"error": _told(error, job["file"])}
    print(json.dumps(answer), flush=True)
    return 1 if "error" in answer else 0


def _captured(model: Any) -> bool:
    from headrace.jit import Exported, Scripted

    return isinstance(model, Exported | Scripted)


def _told(error: BaseException, file: str) -> str:
    """The error, with the line of the user's file that it comes from."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == str(Path(file).resolve())]
    if not frames:
        return str(error)
    ended = isinstance(error, SystemExit)
    text = f"{file}:{frames[-1].lineno}: " + ("the program ends here" if ended else f"{type(error).__name__}: {error}")
    if all(frame.name != "<module>" for frame in frames):
        return text
    main = 'if __name__ == "__main__":'
    return f"{text}; pack imports the file to find its model: put what reads data, arguments or trains under `{main}`"


if __name__ == "__main__":
    sys.exit(main())
