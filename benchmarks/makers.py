"""Parity with the makers: what torch, scikit-learn, xgboost and lightgbm answer, what onnxruntime makes of their exported
files, and what headrace does.

    python benchmarks/makers.py [--only REGEX] [--part torch|sklearn|zipmap]

Each model goes through its maker's exporter (torch.onnx.export at operator sets 18, 20 and 23; skl2onnx and onnxmltools in
float32, in float64 where DOUBLE says so) and is packed by `headrace.torch.pack` or `headrace.sklearn.pack`. Prints one Markdown row each, then one a family:
the largest difference to the maker, and to onnxruntime on the same file, relative to the largest value of the output.
Labels must be equal. Exits with 1 where one is above BOUND, or CONVERTERS is not true any more.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from headrace.runtime.errors import HeadraceError

BOUND = 1e-4
OPSETS = (18, 20, 23)
OLD = {"": 21, "ai.onnx.ml": 3}  # what skl2onnx writes
# Files that do not do what the estimator does: onnxruntime's answers differ from it too, and ours are onnxruntime's.
CONVERTERS = {
    "Normalizer, max": "divides by the largest value; scikit-learn by the largest magnitude",
    "CountVectorizer, pairs": "words of one letter are words; scikit-learn's pattern wants two",
    "TfidfVectorizer, sublinear": "log(1 + n) for 1 + log(n)",
    "KNeighborsClassifier, by distance": "all neighbors weigh the same",
    "XGBRFClassifier, 3 classes": "counts tree i for class i mod 3; a forest has them class by class",
    "XGBRegressor, reg:logistic": "gives the margin, without the logistic function",
    "TunedThresholdClassifierCV": "labels by 0.5, not by the tuned threshold",
}
# Packed in float64: five terms of up to 3500 cancel to a probability, of which float32 keeps 2e-4.
DOUBLE = frozenset({"GaussianProcessClassifier"})
Rows = tuple[str, str, Callable[[], dict[str, Any]]]  # maker, model, what runs it


def difference(ours: Any, theirs: Any) -> float:
    """Relative to the largest finite value; inf for other shapes, strings, integers or keys."""
    if isinstance(theirs, list) and isinstance(theirs[0], np.ndarray):
        return max(map(difference, ours, theirs)) if len(ours) == len(theirs) else float("inf")
    if isinstance(theirs, list):  # one map a row
        if len(ours) != len(theirs) or any(set(a) != set(b) for a, b in zip(ours, theirs)):
            return float("inf")
        ours, theirs = ([[row[key] for key in theirs[0]] for row in rows] for rows in (ours, theirs))
        ours, theirs = np.array(ours, np.float64), np.array(theirs, np.float64)
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    if ours.shape != theirs.shape:
        return float("inf")
    if theirs.dtype.kind != "f":
        return 0.0 if np.array_equal(ours, theirs) else float("inf")
    a, b = ours.astype(np.float64), theirs.astype(np.float64)
    gap = np.where((a == b) | (np.isnan(a) & np.isnan(b)), 0.0, np.abs(a - b))
    scale = float(np.abs(b[np.isfinite(b)]).max(initial=0.0))
    return float(np.where(np.isnan(gap), np.inf, gap).max(initial=0.0)) / (scale or 1.0)


def to_onnxruntime(proto: Any, cases: list[dict[str, np.ndarray]]) -> float:
    """headrace and onnxruntime on one file; nan where onnxruntime does not run it."""
    import onnxruntime

    from headrace.runtime.model import load

    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    worst = 0.0
    with load(proto) as model:
        try:
            session = onnxruntime.InferenceSession(
                proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            print(f"onnxruntime: {str(error)[:200]}", file=sys.stderr)
            return float("nan")
        names = [value.name for value in session.get_outputs()]
        for feeds in cases:
            ours, theirs = model.run(feeds), session.run(names, feeds)
            worst = max(worst, *(difference(ours[name], value) for name, value in zip(names, theirs)))
    return worst


# ---------------------------------------------------------------------------------------------------------- torch


def torch_rows() -> Iterator[Rows]:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "doors"))
    import torch
    import torch_nets as nets

    def cache(past: int) -> tuple[Any, ...]:
        return torch.randint(0, 50, (2, 3)), torch.randn(2, 4, past, 8), torch.randn(2, 4, past, 8)

    past = {"keys": {0: "batch", 2: "past"}, "values": {0: "batch", 2: "past"}}
    models: dict[str, tuple[Callable[[], Any], Callable[[], Any], Any]] = {
        "MLP": (nets.mlp, lambda: torch.randn(4, 16), None),
        "ResNet-18": (nets.resnet, lambda: torch.randn(1, 3, 64, 64), None),
        "TransformerEncoder": (nets.encoder, lambda: torch.randn(2, 5, 32), None),
        "LSTM, bidirectional, 2 layers": (lambda: nets.Recurrent("lstm"), lambda: torch.randn(2, 7, 8), None),
        "GRU": (lambda: nets.Recurrent("gru"), lambda: torch.randn(2, 7, 8), None),
        "GPT with KV cache, 1 layer": (nets.Cached, lambda: cache(5), past),
        "torch.cond": (nets.Branch, lambda: torch.randn(2, 8), None),
    }
    for name, (make, example, dynamic) in models.items():
        for opset in OPSETS:
            yield "torch", f"{name}, opset {opset}", lambda make=make, example=example, dynamic=dynamic, opset=opset: torch_row(make, example, dynamic, opset)  # type: ignore[misc]  # fmt: skip


def torch_row(make: Callable[[], Any], example: Callable[[], Any], dynamic: Any, opset: int) -> dict[str, float]:
    import torch

    import headrace.torch
    from headrace.runtime.model import load

    torch.manual_seed(0)
    module, inputs = make().eval(), example()
    protos: list[Any] = []
    read = headrace.torch.open_program

    def keep(proto: Any) -> Any:
        protos.append(proto)
        return read(proto)

    with tempfile.TemporaryDirectory() as folder:
        headrace.torch.open_program = keep  # type: ignore[assignment]
        try:
            headrace.torch.pack(module, inputs, Path(folder, "m.hr"), dynamic=dynamic, opset=opset)
        finally:
            headrace.torch.open_program = read
        return compared(load(Path(folder, "m.hr")), protos[0])


def compared(model: Any, proto: Any) -> dict[str, float]:
    """A package against its golden data, and the file that it was made from against onnxruntime."""
    with model:
        maker = max(
            difference(got[name], want)
            for feeds, wanted in zip(model.golden.inputs, model.golden.outputs)
            for got in [model.run(feeds)]
            for name, want in wanted.items()
        )
        cases = [{name: np.array(array) for name, array in feeds.items()} for feeds in model.golden.inputs]
    return {"maker": maker, "onnxruntime": to_onnxruntime(proto, cases)}


# --------------------------------------------------------------------------------------------------- scikit-learn


def sklearn_rows() -> Iterator[Rows]:
    from makers_estimators import estimators

    for family, name, make, rows, target in estimators():
        yield family, name, lambda name=name, make=make, rows=rows, target=target: sklearn_row(name, make, rows, target)  # type: ignore[misc]  # fmt: skip


def sklearn_row(name: str, make: Callable[[], Any], rows: Any, target: Any) -> dict[str, Any]:
    import headrace.sklearn as door
    from headrace.runtime.model import load

    estimator = make()
    if target is None:
        estimator.fit(rows)
    else:
        estimator.fit(rows, target)
    dtype = "float64" if name in DOUBLE else "float32"
    table = door._Table(rows, np.dtype(dtype))
    proto = door._convert(estimator, table)
    with tempfile.TemporaryDirectory() as folder:
        try:
            door.pack(estimator, rows, Path(folder, "m.hr"), golden=3, dtype=dtype)
        except HeadraceError as error:
            cases = [table.feeds(sample) for sample in door._samples(len(table), 3, 0)]
            return {"maker": reason(error), "onnxruntime": to_onnxruntime(proto, cases)}
        return compared(load(Path(folder, "m.hr")), proto)


def zipmap_rows() -> Iterator[Rows]:
    """skl2onnx as it is called without options: probabilities are maps, or one output a class."""
    from makers_estimators import NAMES, TWO, X
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression

    for make in (LogisticRegression, lambda: RandomForestClassifier(5, random_state=0)):
        for target in (NAMES, TWO):
            for zipmap in (True, "columns"):
                estimator = make().fit(X, target)  # type: ignore[operator]
                name = f"{type(estimator).__name__} of {'names' if target is NAMES else 'numbers'}, zipmap={zipmap}"
                yield "maps and lists", name, lambda estimator=estimator, zipmap=zipmap: zipmap_row(estimator, zipmap, X[:50])  # type: ignore[misc]  # fmt: skip

    yield "maps and lists", "DictVectorizer", dictionary_row
    yield "maps and lists", "MultiOutputClassifier", multi_row


def dictionary_row() -> dict[str, Any]:
    """A map in: one row a call."""
    from skl2onnx import convert_sklearn
    from skl2onnx.common.data_types import DictionaryType, FloatTensorType, StringTensorType
    from sklearn.feature_extraction import DictVectorizer

    from headrace.runtime.model import load

    rows = [{"a": 1.0, "b": 2.0}, {"a": 3.0, "c": 1.5}]
    estimator = DictVectorizer(sparse=False).fit(rows)
    kinds = [("X", DictionaryType(StringTensorType([1]), FloatTensorType([1])))]
    proto = convert_sklearn(estimator, initial_types=kinds, target_opset=OLD)
    with load(proto) as model:
        found = [next(iter(model.run({"X": row}).values())) for row in rows]
    cases: list[Any] = [{"X": row} for row in rows]
    maker = difference(np.concatenate(found), estimator.transform(rows).astype(np.float32))
    return {"maker": maker, "onnxruntime": to_onnxruntime(proto, cases)}


def multi_row() -> dict[str, Any]:
    """A list out: the probabilities of each target."""
    from makers_estimators import THREE, TWO, X
    from skl2onnx import convert_sklearn
    from skl2onnx.common.data_types import FloatTensorType
    from sklearn.linear_model import LogisticRegression
    from sklearn.multioutput import MultiOutputClassifier

    from headrace.runtime.model import load

    estimator = MultiOutputClassifier(LogisticRegression()).fit(X, np.stack([THREE, TWO], 1))
    kinds = [("X", FloatTensorType([None, X.shape[1]]))]
    proto = convert_sklearn(
        estimator, initial_types=kinds, options={id(estimator): {"zipmap": False}}, target_opset=OLD
    )
    feeds = {"X": X[:50].astype(np.float32)}
    with load(proto) as model:
        label, scores = model.run(feeds).values()
    maker = max(difference(label, estimator.predict(X[:50])), *map(difference, scores, estimator.predict_proba(X[:50])))
    return {"maker": maker, "onnxruntime": to_onnxruntime(proto, [feeds])}


def zipmap_row(estimator: Any, zipmap: Any, rows: np.ndarray) -> dict[str, Any]:
    from skl2onnx import convert_sklearn
    from skl2onnx.common.data_types import FloatTensorType

    from headrace.runtime.model import load

    kinds = [("X", FloatTensorType([None, rows.shape[1]]))]
    proto = convert_sklearn(estimator, initial_types=kinds, options={id(estimator): {"zipmap": zipmap}}, target_opset=OLD)  # fmt: skip
    feeds = {"X": rows.astype(np.float32)}
    with load(proto) as model:
        label, *scores = model.run(feeds).values()
    wanted = estimator.predict_proba(rows)
    found = (
        np.stack(scores, 1) if zipmap == "columns" else [[row[key] for key in estimator.classes_] for row in scores[0]]
    )
    maker = max(difference(label, estimator.predict(rows)), difference(np.array(found, np.float64).reshape(wanted.shape), wanted))  # fmt: skip
    return {"maker": maker, "onnxruntime": to_onnxruntime(proto, [feeds])}


def reason(error: Exception) -> str:
    return " ".join(str(error).split("; ")[0].split())[:160]


def main() -> int:
    warnings.filterwarnings("ignore")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="regular expression over names")
    parser.add_argument("--part", choices=["torch", "sklearn", "zipmap"])
    options = parser.parse_args()
    parts = {"torch": torch_rows, "sklearn": sklearn_rows, "zipmap": zipmap_rows}
    worst: dict[str, list[dict[str, Any]]] = {}
    bad = 0
    print("| family | model | to the maker | to onnxruntime |\n|---|---|--:|--:|")
    for part, make in parts.items():
        for family, name, run in make() if options.part in (None, part) else ():
            if not re.search(options.only, f"{family} {name}"):
                continue
            try:
                found = run()
            except Exception as error:
                found = {"maker": f"{type(error).__name__}: {reason(error)}", "onnxruntime": float("nan")}
            wrong = isinstance(found["maker"], str) or found["maker"] > BOUND
            if name in CONVERTERS and wrong:
                found["maker"] = f"the file: {CONVERTERS[name]}"
            bad += wrong != (name in CONVERTERS) or found["onnxruntime"] > BOUND
            worst.setdefault(family, []).append(found)
            print(f"| {family} | {name} | {_shown(found['maker'])} | {_shown(found['onnxruntime'])} |", flush=True)
    print("\n| family | models | equal to the maker | to the maker | to onnxruntime |\n|---|--:|--:|--:|--:|")
    for family, rows in worst.items():
        equal = [row["maker"] for row in rows if not isinstance(row["maker"], str)]
        peer = [row["onnxruntime"] for row in rows if row["onnxruntime"] == row["onnxruntime"]]
        print(f"| {family} | {len(rows)} | {len(equal)} | {_shown(max(equal, default=np.nan))} | {_shown(max(peer, default=np.nan))} |")  # fmt: skip
    return 1 if bad else 0


def _shown(error: Any) -> str:
    return error if isinstance(error, str) else "not run" if error != error else f"{error:.1e}"


if __name__ == "__main__":
    sys.exit(main())
