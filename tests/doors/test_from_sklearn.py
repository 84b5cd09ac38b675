"""`headrace.sklearn.pack`: the estimator's own answers are the golden data."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import headrace.sklearn
from headrace.runtime.errors import HeadraceError, InputError
from headrace.runtime.model import load
from headrace.verbs.pack import PackError, PackReport

pytest.importorskip("sklearn", reason="the door from scikit-learn is tested where it is installed")
pytest.importorskip("skl2onnx", reason="scikit-learn's converter")
from sklearn.cluster import KMeans
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import RandomForestClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.gaussian_process import GaussianProcessClassifier
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, PolynomialFeatures, StandardScaler
from sklearn.svm import SVC, LinearSVC

pytestmark = pytest.mark.peer

RNG = np.random.default_rng(0)
X = RNG.normal(size=(200, 4))
CLASS = np.digitize(X @ [1, 1, -1, 0.5], [-1, 1])
NAMES = np.array(["high", "low", "mid"], object)[CLASS]
TEXTS = [
    "red apple pie",
    "green pear tart",
    "blue sky today",
    "rain and wind today",
    "an apple tart",
    "a sky of rain",
] * 4
TOPICS = ["food", "food", "weather", "weather", "food", "weather"] * 4


def packed(estimator: Any, rows: Any, target: Any, path: Path, **options: Any) -> PackReport:
    estimator.fit(rows, target)
    report = headrace.sklearn.pack(estimator, rows, path, **options)
    assert report.golden == 4
    with load(path) as model:
        assert model.verify().ok
    return report


def test_a_scaled_logistic_regression_with_names_as_classes(tmp_path: Path) -> None:
    pipeline = make_pipeline(StandardScaler(), LogisticRegression())
    report = packed(pipeline, X, NAMES, tmp_path / "m.hr")
    assert report.inputs == {"X": "float32[batch, 4]"}
    assert report.outputs == {"label": "string[batch]", "probabilities": "float32[batch, 3]"}
    assert report.deviation < 1e-6
    got = load(tmp_path / "m.hr").run({"X": X[:7].astype(np.float32)})
    assert list(got["label"]) == list(pipeline.predict(X[:7]))
    np.testing.assert_allclose(got["probabilities"], pipeline.predict_proba(X[:7]), atol=1e-6)


def test_a_random_forest(tmp_path: Path) -> None:
    report = packed(RandomForestClassifier(20, random_state=0), X, CLASS, tmp_path / "m.hr")
    assert report.outputs["label"] == "int64[batch]" and report.deviation < 1e-6


def test_texts_through_tfidf_and_a_linear_machine(tmp_path: Path) -> None:
    report = packed(make_pipeline(TfidfVectorizer(), LinearSVC()), TEXTS, TOPICS, tmp_path / "m.hr")
    assert report.inputs == {"X": "string[batch, 1]"} and report.outputs["scores"] == "float32[batch, 1]"
    assert report.deviation < 1e-6


def test_a_data_frame_becomes_one_input_a_column(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas", reason="a DataFrame needs pandas")
    frame = pandas.DataFrame({"age": 40 + 10 * X[:, 0], "city": np.array(["rome", "oslo", "bern"], object)[CLASS], "visits": CLASS + 1})  # fmt: skip
    columns = ColumnTransformer([("n", StandardScaler(), ["age", "visits"]), ("c", OneHotEncoder(), ["city"])])
    report = packed(make_pipeline(columns, LogisticRegression()), frame, X[:, 0] > 0, tmp_path / "m.hr")
    assert report.inputs == {"age": "float32[batch, 1]", "city": "string[batch, 1]", "visits": "int64[batch, 1]"}
    assert report.deviation < 1e-6


def test_what_is_no_classifier_has_outputs_of_its_own(tmp_path: Path) -> None:
    assert packed(Ridge(), X, X[:, 0], tmp_path / "m.hr").outputs == {"output": "float32[batch, 1]"}
    assert packed(StandardScaler(), X, None, tmp_path / "m.hr").outputs == {"output": "float32[batch, 4]"}
    assert set(packed(KMeans(3, n_init=1, random_state=0), X, None, tmp_path / "m.hr").outputs) == {"label", "scores"}
    assert packed(SVC(), X, X[:, 0] > 0, tmp_path / "m.hr").outputs["scores"] == "float32[batch, 1]"


def test_xgboost(tmp_path: Path) -> None:
    xgboost = pytest.importorskip("xgboost", reason="xgboost is not installed")
    pytest.importorskip("onnxmltools", reason="the converter of xgboost")
    assert packed(xgboost.XGBClassifier(n_estimators=10), X, CLASS, tmp_path / "m.hr").deviation < 1e-6
    assert packed(xgboost.XGBRegressor(n_estimators=10), X, X[:, 0], tmp_path / "m.hr").deviation < 1e-5


def test_lightgbm(tmp_path: Path) -> None:
    lightgbm = pytest.importorskip("lightgbm", reason="lightgbm is not installed")
    pytest.importorskip("onnxmltools", reason="the converter of lightgbm")
    assert packed(lightgbm.LGBMClassifier(n_estimators=10, verbose=-1), X, NAMES, tmp_path / "m.hr").deviation < 1e-6
    assert packed(lightgbm.LGBMRegressor(n_estimators=10, verbose=-1), X, X[:, 0], tmp_path / "m.hr").deviation < 1e-5


def test_a_deviation_says_what_may_help(tmp_path: Path) -> None:
    """Squares of large numbers: float32 keeps seven digits of them."""
    rows = 3e4 + X
    model = make_pipeline(PolynomialFeatures(2), Ridge(alpha=1e-3)).fit(rows, X[:, 0])
    with pytest.raises(
        PackError,
        match=r"output 'output' of golden case 0 deviates by .*dtype='float64' keeps more",
    ):
        headrace.sklearn.pack(model, rows, tmp_path / "m.hr")
    assert not (tmp_path / "m.hr").exists()


def test_double_precision_where_the_converter_can(tmp_path: Path) -> None:
    report = packed(StandardScaler(), 1e4 + X, None, tmp_path / "m.hr", dtype="float64")
    assert report.inputs == {"X": "float64[batch, 4]"} and report.deviation < 1e-10


def test_a_gaussian_process_classifier_solves_equations(tmp_path: Path) -> None:
    """skl2onnx writes com.microsoft.Solve, which onnxruntime does not have. Terms of thousands cancel, so in float64."""
    report = packed(GaussianProcessClassifier(), X[:60], X[:60, 0] > 0, tmp_path / "m.hr", dtype="float64")
    assert report.deviation < 1e-10
    graph = load(tmp_path / "m.hr").graph
    assert "headrace.Solve" in {node.kind for node in graph.block.walk()}


def test_what_cannot_be_packed_says_so(tmp_path: Path) -> None:
    from sklearn.base import BaseEstimator, TransformerMixin

    class Own(TransformerMixin, BaseEstimator):
        def fit(self, x: Any, y: Any = None) -> Any:
            return self

        def transform(self, x: Any) -> Any:
            return x

    with pytest.raises(HeadraceError, match="skl2onnx cannot convert Own: "):
        headrace.sklearn.pack(Own(), X, tmp_path / "m.hr")
    with pytest.raises(InputError, match=r"has shape \[4\]"):
        headrace.sklearn.pack(Ridge().fit(X, X[:, 0]), X[0], tmp_path / "m.hr")
    with pytest.raises(InputError, match="dtype is 'int8'; allowed"):
        headrace.sklearn.pack(Ridge(), X, tmp_path / "m.hr", dtype="int8")
