"""The door from scikit-learn, xgboost and lightgbm: `headrace.sklearn.pack(estimator, X, "model.hr")`.

skl2onnx (with onnxmltools for the boosted trees) converts the fitted estimator, the file is imported, and packed with
what the estimator itself answers as its golden data. Nothing of these libraries is imported before `pack` is called.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from headrace.runtime import dtypes
from headrace.runtime.builder import Builder
from headrace.runtime.errors import HeadraceError, InputError
from headrace.runtime.graph import Graph, Program, Value
from headrace.runtime.shapes import Expr
from headrace.runtime.types import TensorType
from headrace.serializer.onnx.load import open_program
from headrace.serializer.rename import rename
from headrace.verbs.pack import ABSOLUTE_FLOOR, RELATIVE_FLOOR, PackError, PackReport
from headrace.verbs.pack import pack as pack_program

__all__ = ["pack"]

Arrays = Mapping[str, np.ndarray]
BATCH = "batch"
INPUT = "X"  # the input of an estimator that takes one array
SIZES = (1, 3, 5, 2)  # rows of the golden cases after the first
MOST_ROWS = 256  # of the first golden case
OPSETS = {"": 21, "ai.onnx.ml": 3}  # what skl2onnx writes at most for every estimator that it knows


def pack(
    estimator: Any,
    example_inputs: Any,
    path: str | Path = "model.hr",
    *,
    dtype: str = "float32",
    golden: int = 4,
    seed: int = 0,
    rtol: float = RELATIVE_FLOOR,
    atol: float = ABSOLUTE_FLOOR,
    evaluate: tuple[Arrays, np.ndarray] | None = None,
    properties: Mapping[str, str] | None = None,
    members: Mapping[str, bytes] | None = None,
    created: str | None = None,
) -> PackReport:
    """Convert a fitted estimator or pipeline and write it as a `.hr` package at `path`, proven against the estimator.

    estimator: of scikit-learn, xgboost (XGBClassifier, ...) or lightgbm (LGBMClassifier, ...), also inside pipelines.
    example_inputs: rows as the estimator takes them: a 2-D array of numbers or strings, a list of texts, or a DataFrame.
        The input is called "X" ([batch, columns]; texts: [batch, 1]); a DataFrame becomes one input a column, [batch, 1].
    dtype: element type of real numbers in the package, "float32" or "float64".
    golden: how many golden cases to draw from the rows by `seed`. Their expected outputs are the estimator's own: "label"
        and "probabilities" (or "scores": its decision function) of a classifier, "output" of what predicts or transforms.
    rtol, atol: an output may be atol + rtol * (its largest magnitude) from the estimator's; labels must be equal.
    evaluate, properties, members, created: as for `headrace.pack`. The classes, in the order of the probabilities, are
        stored as post/labels.txt.

    Raises HeadraceError where a library is missing or skl2onnx cannot convert the estimator; PackError where an answer is
    beyond the bound, naming the first node that deviates.
    """
    if dtype not in ("float32", "float64"):
        raise InputError(f"dtype is {dtype!r}; allowed: 'float32', 'float64'")
    table = _Table(example_inputs, np.dtype(dtype))
    proto = _convert(estimator, table)
    program = _tidied(open_program(proto).program, estimator)
    outputs = program.main.outputs
    cases, expect = [], []
    for rows in _samples(len(table), golden, seed):
        cases.append(table.feeds(rows))
        expect.append(_answers(estimator, table.rows(rows), outputs))
    classes = np.asarray(getattr(estimator, "classes_", 0))
    labels = {"post/labels.txt": "".join(f"{name}\n" for name in classes).encode()} if classes.ndim == 1 else {}
    try:
        return pack_program(
            program, None, path, golden=cases, expect=expect, rtol=rtol, atol=atol, evaluate=evaluate,
            properties={"source": _source(estimator), **(properties or {})}, members={**labels, **(members or {})},
            created=created, maker=type(estimator).__name__,
        )  # fmt: skip
    except PackError as error:
        if dtype == "float64":
            raise
        hint = "estimators compute in float64: dtype='float64' keeps more of it, where the converter can"
        raise PackError(f"{error}; {hint}") from None


class _Table:
    """Example rows: what the graph is fed, and what the estimator is given for the same rows."""

    def __init__(self, rows: Any, real: np.dtype) -> None:
        if hasattr(rows, "toarray"):
            rows = rows.toarray()
        self.real, self.frame = real, rows if hasattr(rows, "columns") else None
        if self.frame is not None:
            self.columns = {str(name): self._typed(rows[name].to_numpy()).reshape(-1, 1) for name in rows.columns}
        else:
            array = self._typed(np.asarray(rows, object if _is_text(rows) else None))
            if array.ndim not in (1, 2) or (array.ndim == 1 and array.dtype != object):
                raise InputError(f"example_inputs has shape {list(array.shape)}; allowed: [rows, columns], a list of texts, a DataFrame")  # fmt: skip
            self.texts = array.ndim == 1
            self.columns = {INPUT: array.reshape(len(array), -1)}
        if not len(self):
            raise InputError("example_inputs has no rows")

    def _typed(self, array: np.ndarray) -> np.ndarray:
        """Real numbers in the package's type, whole numbers as int64, everything else as strings."""
        if array.dtype.kind == "f" or array.dtype.kind == "b":
            return array.astype(self.real)
        if array.dtype.kind in "iu":
            return array.astype(np.int64)
        if array.dtype.kind in "OUST" and all(isinstance(item, str) for item in array.reshape(-1)):
            return array.astype(object)
        raise InputError(f"a column of {array.dtype} cannot be an input; allowed: numbers, or strings throughout")

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()))) if self.columns else 0

    def feeds(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        return {name: np.ascontiguousarray(column[rows]) for name, column in self.columns.items()}

    def rows(self, rows: np.ndarray) -> Any:
        """The same values as the estimator takes them: real numbers in float64, as the package rounds them."""
        if self.frame is None:
            array = _wide(self.columns[INPUT][rows])
            return list(array.reshape(-1)) if self.texts else array
        frame = self.frame.iloc[rows].copy()
        for name in frame.columns:
            column = self.columns[str(name)]
            if column.dtype.kind == "f":
                frame[name] = _wide(column[rows].reshape(-1))
        return frame


def _wide(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float64) if array.dtype.kind == "f" else array


def _is_text(rows: Any) -> bool:
    return isinstance(rows, list | tuple) and bool(rows) and all(isinstance(row, str) for row in rows)


def _samples(count: int, golden: int, seed: int) -> list[np.ndarray]:
    """Row numbers of each golden case: many rows first, then few."""
    rng = np.random.default_rng(seed)
    sizes = [min(count, MOST_ROWS), *(SIZES[i % len(SIZES)] for i in range(golden - 1))][:golden]
    return [rng.choice(count, min(size, count), replace=False) for size in sizes]


def _convert(estimator: Any, table: _Table) -> Any:
    """The estimator as a ModelProto. Raises HeadraceError with the converter's own reason."""
    skl2onnx = _library("skl2onnx")
    _register(skl2onnx)
    types = importlib.import_module("skl2onnx.common.data_types")
    kinds = {"float32": types.FloatTensorType, "float64": types.DoubleTensorType, "int64": types.Int64TensorType}
    inputs = [
        (name, kinds.get(column.dtype.name, types.StringTensorType)([None, column.shape[1]]))
        for name, column in table.columns.items()
    ]
    # Tensors, not maps: "zipmap" where the last step has that option; LinearSVC has not, and refuses the one that
    # skl2onnx 1.20 gives it at the end of a pipeline unless it has another.
    key = id(_last(estimator))
    for options in ({key: {"zipmap": False}}, {key: {"nocl": False}}, None):
        try:
            with _whole_numbers():
                return skl2onnx.convert_sklearn(estimator, initial_types=inputs, options=options, target_opset=OPSETS)
        except Exception as error:
            if options and isinstance(error, NameError | RuntimeError) and str(error).startswith("Option"):
                continue
            reason = " ".join(str(error).split())[:400] or type(error).__name__
            raise HeadraceError(f"skl2onnx cannot convert {type(estimator).__name__}: {reason}") from error
    raise AssertionError("unreachable")


@contextmanager
def _whole_numbers() -> Iterator[None]:
    """skl2onnx 1.20 puts booleans among the integers of histogram boosting's trees, which onnx no longer takes."""
    container: Any = importlib.import_module("skl2onnx.common._container")
    make = container.make_node

    def plain(value: Any) -> Any:
        return [int(item) if isinstance(item, bool | np.bool_) else item for item in value] if isinstance(value, list) else value  # fmt: skip

    container.make_node = lambda *args, **attributes: make(*args, **{key: plain(value) for key, value in attributes.items()})  # fmt: skip
    try:
        yield
    finally:
        container.make_node = make


def _last(estimator: Any) -> Any:
    """The step of a pipeline that gives its answer."""
    return _last(estimator.steps[-1][1]) if hasattr(estimator, "steps") else estimator


def _register(skl2onnx: Any) -> None:
    """Teach skl2onnx the boosted trees whose libraries the caller has imported."""
    options = {"zipmap": [True, False, "columns"], "nocl": [True, False]}
    shapes = importlib.import_module("skl2onnx.common.shape_calculator")
    classifier = shapes.calculate_linear_classifier_output_shapes
    regressor = shapes.calculate_linear_regressor_output_shapes
    for library, converter, kinds in (
        ("xgboost", "operator_converters.XGBoost.convert_xgboost", {"XGBClassifier": classifier, "XGBRFClassifier": classifier, "XGBRegressor": regressor, "XGBRFRegressor": regressor, "XGBRanker": regressor}),
        ("lightgbm", "operator_converters.LightGbm.convert_lightgbm", {"LGBMClassifier": classifier, "LGBMRegressor": regressor, "LGBMRanker": regressor}),
    ):  # fmt: skip
        if library not in sys.modules:
            continue
        _library("onnxmltools")
        place, _, function = f"onnxmltools.convert.{library}.{converter}".rpartition(".")
        convert = getattr(importlib.import_module(place), function)
        for name, shape in kinds.items():
            kind = getattr(sys.modules[library], name, None)
            if kind is not None:
                skl2onnx.update_registered_converter(kind, name, shape, convert, options=options if shape is classifier else None)  # fmt: skip


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise HeadraceError(f"headrace.sklearn needs {error.name}: pip install 'headrace[sklearn]'") from None


def _tidied(program: Program, estimator: Any) -> Program:
    """Outputs under names that say what they are, and one batch dimension that all inputs share."""
    graph: Graph = program.main
    for value in graph.outputs:
        if not isinstance(value.type, TensorType):
            raise HeadraceError(f"{type(estimator).__name__} answers {value.name!r} as {value.type}, which has no wire form; allowed are tensors")  # fmt: skip
    names = [value.name for value in graph.outputs]
    if len(names) == 1:
        names = ["output"]
    elif len(names) == 2:
        names = ["label", "probabilities" if hasattr(estimator, "predict_proba") else "scores"]
        _keep_decision(graph, estimator)
        _flatten_label(graph)
    wanted = {value.name: name for value, name in zip(graph.outputs, names) if value.name != name}
    inside = graph.names() & set(wanted.values()) - set(wanted)
    wanted |= {name: graph.fresh(f"{name}_inside") for name in inside}
    shapes = [value.type.shape for value in graph.inputs if isinstance(value.type, TensorType)]
    rows = {shape[0].name: BATCH for shape in shapes if shape and isinstance(shape[0], Expr) and shape[0].name}
    graph = rename(graph, wanted, rows)
    return Program({graph.name: graph}, program.metadata)


def _keep_decision(graph: Graph, estimator: Any) -> None:
    """The converter gives an SVC's decision between two classes as (d, -d), the wrong way round for the classes: keep d,
    which is the estimator's decision function."""
    last = _last(estimator)
    svm = importlib.import_module("sklearn.svm")
    if isinstance(last, svm.SVC | svm.NuSVC) and not hasattr(last, "predict_proba") and len(last.classes_) == 2:
        builder = Builder(graph)
        graph.outputs[1:] = builder.node("Gather", [graph.outputs[1], builder.constant(np.array([0]))], {"axis": 1}, outputs=["scores"])  # fmt: skip


def _flatten_label(graph: Graph) -> None:
    """One label a row: converters write [batch], [batch, 1] or [1, batch]."""
    shape = graph.outputs[0].type.shape if isinstance(graph.outputs[0].type, TensorType) else None
    if shape is not None and len(shape) == 2 and 1 in shape:
        builder = Builder(graph)
        axis = builder.constant(np.array([0 if shape[0] == 1 else 1]))
        graph.outputs[:1] = builder.node("Squeeze", [graph.outputs[0], axis], outputs=["label"])


def _answers(estimator: Any, rows: Any, outputs: Sequence[Value]) -> dict[str, np.ndarray]:
    """What the estimator answers for each output of the graph, in its type and rank."""
    if len(outputs) == 1:
        found = [_single(estimator, rows)]
    elif len(outputs) != 2 or not hasattr(estimator, "predict"):
        raise InputError(f"{type(estimator).__name__} gives {', '.join(value.name for value in outputs)}; packed is what predicts or transforms")  # fmt: skip
    else:
        shape = outputs[1].type.shape if isinstance(outputs[1].type, TensorType) else None
        two_columns = shape is not None and len(shape) == 2 and shape[1] == 2
        found = [estimator.predict(rows), _scores(estimator, rows, two_columns)]
    return {value.name: _as(array, value) for value, array in zip(outputs, found)}


def _single(estimator: Any, rows: Any) -> Any:
    """The answer of an estimator with one: a transformer's, a regressor's or an outlier detector's."""
    # A selector may predict with the estimator inside it; what it is converted to is its choice of columns.
    methods = ("transform", "predict") if hasattr(estimator, "get_support") else ("predict", "transform")
    for method in methods:
        if hasattr(estimator, method):
            answer = getattr(estimator, method)(rows)
            return answer.toarray() if hasattr(answer, "toarray") else answer
    raise InputError(f"{type(estimator).__name__} has neither transform nor predict")


def _scores(estimator: Any, rows: Any, two_columns: bool) -> Any:
    """Probabilities; else the decision function (of two classes d, or -d and d); else distances to clusters."""
    if hasattr(estimator, "predict_proba"):
        return estimator.predict_proba(rows)
    if not hasattr(estimator, "decision_function"):
        return estimator.transform(rows)
    scores = np.asarray(estimator.decision_function(rows))
    return np.stack([-scores, scores], 1) if scores.ndim == 1 and two_columns else scores


def _as(answer: Any, value: Value) -> np.ndarray:
    """In the element type of the output, and with its rank where only a dimension of size 1 is missing."""
    assert isinstance(value.type, TensorType)
    array = np.asarray(answer)
    wanted = dtypes.BY_NAME[value.type.dtype]
    array = np.vectorize(str, otypes=[object])(array) if wanted.kind == "s" else array.astype(wanted.numpy)
    rank = array.ndim if value.type.shape is None else len(value.type.shape)
    return array.reshape(-1, 1) if array.ndim == 1 and rank == 2 else array


def _source(estimator: Any) -> str:
    library = type(estimator).__module__.partition(".")[0]
    return f"{library} {getattr(sys.modules.get(library), '__version__', '')} {type(estimator).__name__}"
