"""A pytest plugin: `headrace.runtime._native` comes from the build folder HEADRACE_NATIVE_DIR (see scripts/sanitize)."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import headrace.runtime

(path,) = Path(os.environ["HEADRACE_NATIVE_DIR"]).glob("_native*.so")
spec = importlib.util.spec_from_file_location("headrace.runtime._native", path)
assert spec is not None and spec.loader is not None
module = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = module
spec.loader.exec_module(module)
headrace.runtime._native = module
