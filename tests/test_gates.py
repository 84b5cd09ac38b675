"""Promises about the whole tree: no code is run from data, the parts stay apart, importing stays light."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PRODUCT = [
    path
    for folder in ("runtime", "serializer", "serve", "src/headrace")
    for path in sorted((ROOT / folder).rglob("*.py"))
    if not path.name.endswith("_pb2.py")
]
FORBIDDEN_MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "marshal", "shelve"}
FORBIDDEN_CALLS = {"eval", "exec"}


def findings(path: Path) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.split(".")[0] in FORBIDDEN_MODULES]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in FORBIDDEN_MODULES:
            found.append(node.module or "")
        elif isinstance(node, ast.Call):
            name = node.func.id if isinstance(node.func, ast.Name) else ""
            found += [name] if name in FORBIDDEN_CALLS else []
            for keyword in node.keywords:
                literal = keyword.value.value if isinstance(keyword.value, ast.Constant) else None
                found += ["allow_pickle"] if keyword.arg == "allow_pickle" and literal is not False else []
    return found


@pytest.mark.parametrize("path", PRODUCT, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_code_comes_from_data(path: Path) -> None:
    assert not findings(path)


@pytest.mark.parametrize(
    "text", ["import pickle", "from marshal import loads", "eval('1')", "load('x', allow_pickle=True)"]
)
def test_the_gate_sees_what_it_forbids(tmp_path: Path, text: str) -> None:
    (tmp_path / "bad.py").write_text(text)
    assert findings(tmp_path / "bad.py")


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout


def test_importing_headrace_imports_almost_nothing() -> None:
    loaded = run(
        "import sys, headrace; print(*[m for m in ('numpy', 'onnx', 'grpc', 'click', 'rich', 'google.protobuf') if m in sys.modules])"
    )
    assert loaded.strip() == ""


def test_the_runtime_and_its_operators_import_nothing_that_only_errors_or_profiles_need() -> None:
    rare = ("difflib", "statistics", "fractions", "decimal", "secrets", "random")
    code = f"import sys, numpy; before = set(sys.modules); import headrace.runtime, headrace.serializer.archive, headrace.runtime.feeds, headrace.runtime.profile, headrace.runtime.ops as ops; ops.registry(); print(*set({rare}) & (set(sys.modules) - before))"
    assert run(code).strip() == ""


def test_a_server_needs_no_training_core_and_no_onnx() -> None:
    loaded = run(
        "import sys, headrace.serve.server, headrace.serve.dataplane, headrace.serve.fronts, headrace.runtime.lower; print(*sys.modules)"
    ).split()
    core = {
        "headrace.nn",
        "headrace.tensors",
        "headrace.autograd",
        "headrace.functional",
        "headrace.jit",
        "onnx",
        "rich",
        "click",
    }
    assert not core & set(loaded)


def test_tritonclient_and_headrace_live_in_one_process() -> None:
    python = os.environ.get("HEADRACE_TRITON_PYTHON")
    if not python:
        pytest.skip("HEADRACE_TRITON_PYTHON names no Python that has tritonclient; scripts/test makes one")
    code = (
        "import tritonclient.grpc; import headrace.protos.inference_pb2 as pb; print(pb.ModelInferRequest().ByteSize())"
    )
    done = subprocess.run(
        [python, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
    )
    assert done.stdout.strip() == "0", done.stderr


def test_the_links_stand() -> None:
    for name in ("runtime", "serializer", "serve", "protos"):
        link = ROOT / "src/headrace" / name
        assert link.is_symlink() and link.resolve() == ROOT / name


def test_test_files_have_names_of_their_own() -> None:
    """pytest imports test files by their bare names: two of the same name cannot run in one session."""
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))
