"""A pytest plugin: `headrace.runtime._native` and `headrace.serve._native` come from the build folder HEADRACE_NATIVE_DIR (see scripts/sanitize)."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import headrace.runtime
import headrace.serve

FOLDER = Path(os.environ["HEADRACE_NATIVE_DIR"])

for package, folder in ((headrace.runtime, FOLDER), (headrace.serve, FOLDER / "serve")):
    for path in folder.glob("_native*.so"):
        spec = importlib.util.spec_from_file_location(f"{package.__name__}._native", path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
        package._native = module
