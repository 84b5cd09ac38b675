"""Real models, where they are: `HEADRACE_CASES=DIR` (see benchmarks/real_models.py for what DIR holds)."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from real_models import Case, runs

FOLDER = Path(os.environ.get("HEADRACE_CASES", ""))
INDEX = (
    json.loads((FOLDER / "index.json").read_text())
    if os.environ.get("HEADRACE_CASES") and (FOLDER / "index.json").is_file()
    else []
)

pytestmark = pytest.mark.skipif(not INDEX, reason="HEADRACE_CASES does not name a folder of real models")


@pytest.mark.parametrize("path", ["onnx", "hr", "export"])
@pytest.mark.parametrize("facts", INDEX, ids=[facts["name"] for facts in INDEX])
def test_real_model(facts: dict, path: str, tmp_path: Path) -> None:
    if path == "export":
        pytest.importorskip("onnxruntime", reason="exported files are run in onnxruntime")
    case = Case(FOLDER, facts)
    for run in runs(case, path, tmp_path):
        assert case.error(run) <= 1, "in units of what the case allows"
