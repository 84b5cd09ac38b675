"""Every estimator of scikit-learn that skl2onnx converts, and the boosted trees, each with rows to fit: what
`makers.py` runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

Row = tuple[str, str, Callable[[], Any], Any, Any]

RNG = np.random.default_rng(0)
# Numbers that float32 holds exactly: what is compared is arithmetic, not the rounding of the rows.
X = RNG.normal(size=(240, 5)).astype(np.float32).astype(np.float64)
WHOLE = RNG.integers(0, 5, (240, 4)).astype(np.float64)
REAL = X @ [1.0, -2.0, 0.5, 0.0, 1.0] + np.sin(3 * X[:, 0])
POSITIVE = np.exp(REAL / 4)
THREE = np.digitize(REAL, [-1.0, 1.0])
TWO = (REAL > 0).astype(int)
NAMES = np.array(["low", "mid", "high"], object)[THREE]
WHOLE_THREE = np.digitize(WHOLE.sum(1), [6, 9])
GAPS = np.where(RNG.random(X.shape) < 0.1, np.nan, X)
CITIES = np.array(["rome", "oslo", "bern", "lima"], object)[RNG.integers(0, 4, (240, 2))]
WORDS = ["red", "green", "apple", "pear", "pie", "tart", "sky", "rain", "wind", "sun", "sea", "hill", "don't", "x2"]
TEXTS = [" ".join(RNG.choice(WORDS, RNG.integers(3, 9))) + "." for _ in range(120)]
TOPICS = np.array(["even", "odd"], object)[[len(text) % 2 for text in TEXTS]]


def estimators() -> Iterator[Row]:
    yield from _linear()
    yield from _trees()
    yield from _others()
    yield from _transformers()
    yield from _text_and_compositions()
    yield from _boosted()


def _rows(family: str, module: Any, names: str, rows: Any, target: Any, **options: Any) -> Iterator[Row]:
    for name in names.split():
        kind = getattr(module, name)
        yield family, name, lambda kind=kind: kind(**options), rows, target


def _linear() -> Iterator[Row]:
    import sklearn.discriminant_analysis as discriminant
    import sklearn.linear_model as linear
    import sklearn.svm as svm

    yield from _rows("linear", linear, "ARDRegression BayesianRidge ElasticNet ElasticNetCV HuberRegressor Lars LarsCV Lasso LassoCV LassoLars LassoLarsCV LassoLarsIC LinearRegression OrthogonalMatchingPursuit OrthogonalMatchingPursuitCV PassiveAggressiveRegressor RANSACRegressor Ridge RidgeCV SGDRegressor TheilSenRegressor", X, REAL)  # fmt: skip
    yield from _rows("linear", linear, "GammaRegressor PoissonRegressor TweedieRegressor", X, POSITIVE)
    yield from _rows("linear", linear, "QuantileRegressor", X, REAL, alpha=0.01)
    yield from _rows("linear", linear, "MultiTaskElasticNet MultiTaskElasticNetCV MultiTaskLasso MultiTaskLassoCV", X, np.stack([REAL, X[:, 0]], 1))  # fmt: skip
    for target, label in ((NAMES, "3 names"), (TWO, "2 classes")):
        for kind in [
            "LogisticRegression",
            "LogisticRegressionCV",
            "PassiveAggressiveClassifier",
            "Perceptron",
            "RidgeClassifier",
            "RidgeClassifierCV",
            "SGDClassifier",
        ]:
            make = getattr(linear, kind)
            yield "linear", f"{kind}, {label}", make, X, target
        for kind in ["SVC", "NuSVC", "LinearSVC"]:
            make = getattr(svm, kind)
            yield "SVM", f"{kind}, {label}", make, X, target
        yield "SVM", f"SVC with probabilities, {label}", lambda: svm.SVC(probability=True, random_state=0), X, target
    for kernel in ("linear", "poly", "sigmoid"):
        yield "SVM", f"SVC, {kernel}", lambda kernel=kernel: svm.SVC(kernel=kernel), X, THREE
    yield from _rows("SVM", svm, "SVR NuSVR LinearSVR", X, REAL)
    yield from _rows("SVM", svm, "OneClassSVM", X, None)
    yield from _rows("linear", linear, "SGDOneClassSVM", X, None)
    yield from _rows("discriminant analysis", discriminant, "LinearDiscriminantAnalysis QuadraticDiscriminantAnalysis", X, THREE)  # fmt: skip


def _trees() -> Iterator[Row]:
    import sklearn.ensemble as ensemble
    import sklearn.tree as tree

    for target, label in ((NAMES, "3 names"), (TWO, "2 classes")):
        for kind in ("DecisionTreeClassifier", "ExtraTreeClassifier"):
            yield "trees", f"{kind}, {label}", getattr(tree, kind), X, target
        for kind in [
            "RandomForestClassifier",
            "ExtraTreesClassifier",
            "BaggingClassifier",
            "AdaBoostClassifier",
            "GradientBoostingClassifier",
        ]:
            make = getattr(ensemble, kind)
            yield "trees", f"{kind}, {label}", lambda make=make: make(n_estimators=10, random_state=0), X, target
        yield "trees", f"HistGradientBoostingClassifier, {label}", lambda: ensemble.HistGradientBoostingClassifier(max_iter=10), X, target  # fmt: skip
    yield from _rows("trees", tree, "DecisionTreeRegressor ExtraTreeRegressor", X, REAL)
    yield from _rows("trees", ensemble, "RandomForestRegressor ExtraTreesRegressor BaggingRegressor AdaBoostRegressor GradientBoostingRegressor", X, REAL, n_estimators=10, random_state=0)  # fmt: skip
    yield "trees", "HistGradientBoostingRegressor, gaps", lambda: ensemble.HistGradientBoostingRegressor(max_iter=10), GAPS, REAL  # fmt: skip
    yield from _rows("trees", ensemble, "IsolationForest", X, None, n_estimators=10, random_state=0)
    yield from _rows(
        "trees", ensemble, "RandomTreesEmbedding", X, None, n_estimators=4, random_state=0, sparse_output=False
    )


def _others() -> Iterator[Row]:
    import sklearn.cluster as cluster
    import sklearn.cross_decomposition as cross
    import sklearn.gaussian_process as gp
    import sklearn.mixture as mixture
    import sklearn.naive_bayes as bayes
    import sklearn.neighbors as neighbors
    import sklearn.neural_network as networks

    yield from _rows("naive Bayes", bayes, "GaussianNB", X, NAMES)
    yield from _rows("naive Bayes", bayes, "MultinomialNB ComplementNB BernoulliNB CategoricalNB", WHOLE, WHOLE_THREE)
    yield from _rows("neighbors", neighbors, "KNeighborsClassifier", X, THREE)
    yield (
        "neighbors",
        "RadiusNeighborsClassifier, wide",
        lambda: neighbors.RadiusNeighborsClassifier(radius=8.0),
        X,
        THREE,
    )
    yield "neighbors", "KNeighborsClassifier, Manhattan", lambda: neighbors.KNeighborsClassifier(metric="manhattan"), X, NAMES  # fmt: skip
    yield "neighbors", "KNeighborsClassifier, by distance", lambda: neighbors.KNeighborsClassifier(weights="distance"), X, NAMES  # fmt: skip
    yield from _rows("neighbors", neighbors, "KNeighborsRegressor", X, REAL)
    yield from _rows("neighbors", neighbors, "RadiusNeighborsRegressor", X, REAL, radius=8.0)
    yield from _rows("neighbors", neighbors, "KNeighborsTransformer", X, None)
    yield from _rows("neighbors", neighbors, "NeighborhoodComponentsAnalysis", X, THREE, max_iter=5, random_state=0)
    yield from _rows("neighbors", neighbors, "LocalOutlierFactor", X, None, novelty=True)
    yield from _rows("networks", networks, "MLPClassifier", X, NAMES, max_iter=30, random_state=0)
    yield from _rows("networks", networks, "MLPRegressor", X, REAL, max_iter=30, random_state=0)
    yield from _rows("Gaussian processes", gp, "GaussianProcessRegressor", X[:60], REAL[:60], alpha=1e-2)
    yield from _rows("Gaussian processes", gp, "GaussianProcessClassifier", X[:60], TWO[:60])
    yield from _rows("clusters", cluster, "KMeans MiniBatchKMeans", X, None, n_clusters=3, n_init=1, random_state=0)
    yield from _rows(
        "mixtures", mixture, "GaussianMixture BayesianGaussianMixture", X, None, n_components=2, random_state=0
    )
    yield from _rows("cross decomposition", cross, "PLSRegression", X, REAL)


def _transformers() -> Iterator[Row]:
    import sklearn.decomposition as decomposition
    import sklearn.feature_selection as selection
    import sklearn.impute as impute
    import sklearn.preprocessing as preprocessing
    import sklearn.random_projection as projection
    from sklearn.linear_model import LogisticRegression

    yield from _rows("scalers", preprocessing, "StandardScaler MinMaxScaler MaxAbsScaler RobustScaler Normalizer Binarizer PolynomialFeatures PowerTransformer", X, None)  # fmt: skip
    yield from _rows("scalers", preprocessing, "QuantileTransformer", X, None, n_quantiles=50)
    yield from _rows("scalers", preprocessing, "FunctionTransformer", X, None)
    for norm in ("l1", "max"):
        yield "scalers", f"Normalizer, {norm}", lambda norm=norm: preprocessing.Normalizer(norm), X, None
    for encode in ("ordinal", "onehot-dense"):
        yield "scalers", f"KBinsDiscretizer, {encode}", lambda encode=encode: preprocessing.KBinsDiscretizer(4, encode=encode, quantile_method="averaged_inverted_cdf"), X, None  # fmt: skip
    yield from _rows("encoders", preprocessing, "OneHotEncoder OrdinalEncoder", CITIES, None)
    yield "encoders", "OneHotEncoder, numbers", preprocessing.OneHotEncoder, WHOLE.astype(np.int64), None
    yield "encoders", "OrdinalEncoder, numbers", preprocessing.OrdinalEncoder, WHOLE.astype(np.int64), None
    yield "encoders", "TargetEncoder", lambda: preprocessing.TargetEncoder(random_state=0), CITIES, REAL
    yield "encoders", "LabelEncoder", preprocessing.LabelEncoder, [text.split()[0] for text in TEXTS], None
    yield "encoders", "LabelBinarizer", preprocessing.LabelBinarizer, THREE.astype(np.int64)[:, None], None
    yield from _rows("imputers", impute, "SimpleImputer", GAPS, None)
    yield from _rows("imputers", impute, "KNNImputer", GAPS, None, n_neighbors=3)
    yield from _rows("decomposition", decomposition, "PCA IncrementalPCA TruncatedSVD", X, None, n_components=2)
    yield from _rows("decomposition", decomposition, "KernelPCA", X[:60], None, n_components=2, kernel="rbf")
    yield "decomposition", "KernelCenterer", preprocessing.KernelCenterer, X[:60] @ X[:60].T, None
    yield from _rows("decomposition", projection, "GaussianRandomProjection", X, None, n_components=2, random_state=0)
    yield from _rows("selection", selection, "SelectFdr SelectFpr SelectFwe SelectPercentile GenericUnivariateSelect", X, THREE)  # fmt: skip
    yield from _rows("selection", selection, "SelectKBest", X, THREE, k=2)
    yield from _rows("selection", selection, "VarianceThreshold", X, None)
    yield "selection", "SelectFromModel", lambda: selection.SelectFromModel(LogisticRegression()), X, THREE
    yield "selection", "RFE", lambda: selection.RFE(LogisticRegression(), n_features_to_select=2), X, THREE
    yield "selection", "RFECV", lambda: selection.RFECV(LogisticRegression()), X, THREE


def _text_and_compositions() -> Iterator[Row]:
    import sklearn.calibration as calibration
    import sklearn.compose as compose
    import sklearn.ensemble as ensemble
    import sklearn.multiclass as multiclass
    import sklearn.multioutput as multioutput
    import sklearn.preprocessing as preprocessing
    from sklearn.decomposition import PCA
    from sklearn.feature_extraction import FeatureHasher
    from sklearn.feature_extraction.text import CountVectorizer, TfidfTransformer, TfidfVectorizer
    from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
    from sklearn.model_selection import GridSearchCV, TunedThresholdClassifierCV
    from sklearn.naive_bayes import GaussianNB, MultinomialNB
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import FeatureUnion, make_pipeline
    from sklearn.svm import LinearSVC
    from sklearn.tree import DecisionTreeClassifier

    yield "text", "CountVectorizer", CountVectorizer, TEXTS, None
    yield "text", "CountVectorizer, pairs", lambda: CountVectorizer(ngram_range=(1, 2)), TEXTS, None
    yield "text", "TfidfVectorizer", TfidfVectorizer, TEXTS, None
    yield "text", "TfidfVectorizer, stop words", lambda: TfidfVectorizer(stop_words=["red", "sky"]), TEXTS, None
    yield "text", "TfidfVectorizer, sublinear", lambda: TfidfVectorizer(sublinear_tf=True), TEXTS, None
    yield "text", "FeatureHasher", lambda: FeatureHasher(16, input_type="string"), CITIES, None
    yield "text", "TfidfTransformer", TfidfTransformer, WHOLE, None
    yield "text", "TfidfVectorizer, own token pattern", lambda: TfidfVectorizer(token_pattern="[a-z]+"), TEXTS, None
    yield "text", "Tfidf + LinearSVC", lambda: make_pipeline(TfidfVectorizer(), LinearSVC()), TEXTS, TOPICS
    yield "text", "Tfidf + LogisticRegression", lambda: make_pipeline(TfidfVectorizer(), LogisticRegression()), TEXTS, TOPICS  # fmt: skip
    yield "text", "Count + MultinomialNB", lambda: make_pipeline(CountVectorizer(), MultinomialNB()), TEXTS, TOPICS
    scaled = preprocessing.StandardScaler
    yield "pipelines", "StandardScaler + PCA + LogisticRegression", lambda: make_pipeline(scaled(), PCA(3), LogisticRegression()), X, NAMES  # fmt: skip
    yield "pipelines", "StandardScaler + KNN", lambda: make_pipeline(scaled(), KNeighborsClassifier()), X, THREE
    yield "pipelines", "FeatureUnion", lambda: FeatureUnion([("s", scaled()), ("p", PCA(2))]), X, None
    yield "pipelines", "ColumnTransformer", lambda: compose.ColumnTransformer([("s", scaled(), [0, 1]), ("m", preprocessing.MinMaxScaler(), [2, 3, 4])]), X, None  # fmt: skip
    yield "pipelines", "ColumnTransformer of a DataFrame", _columns, _frame(), TWO
    yield "pipelines", "GridSearchCV", lambda: GridSearchCV(Ridge(), {"alpha": [0.1, 1.0]}), X, REAL
    yield "meta", "OneVsRestClassifier", lambda: multiclass.OneVsRestClassifier(LogisticRegression()), X, THREE
    yield "meta", "OneVsOneClassifier", lambda: multiclass.OneVsOneClassifier(LogisticRegression()), X, THREE
    yield "meta", "TunedThresholdClassifierCV", lambda: TunedThresholdClassifierCV(LogisticRegression()), X, TWO
    yield "meta", "CalibratedClassifierCV", lambda: calibration.CalibratedClassifierCV(GaussianNB()), X, THREE
    yield "meta", "VotingClassifier", lambda: ensemble.VotingClassifier([("a", LogisticRegression()), ("b", GaussianNB())], voting="soft", flatten_transform=False), X, THREE  # fmt: skip
    yield (
        "meta",
        "VotingRegressor",
        lambda: ensemble.VotingRegressor([("a", LinearRegression()), ("b", Ridge())]),
        X,
        REAL,
    )
    yield "meta", "StackingClassifier", lambda: ensemble.StackingClassifier([("a", LogisticRegression()), ("b", GaussianNB())]), X, THREE  # fmt: skip
    yield "meta", "StackingRegressor", lambda: ensemble.StackingRegressor([("a", LinearRegression()), ("b", Ridge())]), X, REAL  # fmt: skip
    yield "meta", "BaggingClassifier of trees", lambda: ensemble.BaggingClassifier(DecisionTreeClassifier(max_depth=3), 5), X, THREE  # fmt: skip
    yield "meta", "MultiOutputRegressor", lambda: multioutput.MultiOutputRegressor(Ridge()), X, np.stack([REAL, X[:, 0]], 1)  # fmt: skip


def _frame() -> Any:
    import pandas

    return pandas.DataFrame({"age": 40 + 10 * X[:, 0], "city": CITIES[:, 0], "visits": WHOLE[:, 0].astype(int)})


def _columns() -> Any:
    from sklearn.compose import ColumnTransformer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    parts = [("n", StandardScaler(), ["age", "visits"]), ("c", OneHotEncoder(handle_unknown="ignore"), ["city"])]
    return make_pipeline(ColumnTransformer(parts), LogisticRegression())


def _boosted() -> Iterator[Row]:
    import lightgbm
    import xgboost

    rows = [("3 names", NAMES), ("2 classes", TWO)]
    for label, target in rows:
        whole = THREE if label == "3 names" else target  # xgboost takes numbers only
        yield "xgboost", f"XGBClassifier, {label.replace('names', 'classes')}", lambda: xgboost.XGBClassifier(n_estimators=20), X, whole  # fmt: skip
        yield "xgboost", f"XGBRFClassifier, {label.replace('names', 'classes')}", lambda: xgboost.XGBRFClassifier(n_estimators=20), X, whole  # fmt: skip
        yield "lightgbm", f"LGBMClassifier, {label}", lambda: lightgbm.LGBMClassifier(n_estimators=20, verbose=-1), X, target  # fmt: skip
    for objective in ("reg:squarederror", "reg:logistic", "count:poisson", "reg:gamma"):
        target = TWO if objective == "reg:logistic" else POSITIVE
        yield "xgboost", f"XGBRegressor, {objective}", lambda objective=objective: xgboost.XGBRegressor(n_estimators=20, objective=objective), X, target  # fmt: skip
    yield "xgboost", "XGBRegressor, gaps", lambda: xgboost.XGBRegressor(n_estimators=20), GAPS, REAL
    for objective in ("regression", "poisson", "quantile"):
        yield "lightgbm", f"LGBMRegressor, {objective}", lambda objective=objective: lightgbm.LGBMRegressor(n_estimators=20, objective=objective, verbose=-1), X, POSITIVE  # fmt: skip
    yield "lightgbm", "LGBMRegressor, gaps", lambda: lightgbm.LGBMRegressor(n_estimators=20, verbose=-1), GAPS, REAL
