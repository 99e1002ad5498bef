"""Fitted estimators of scikit-learn, XGBoost and LightGBM, small ones of every kind, and what a reader must find there.

`same` compares what modelfmt read with the real object, by the object's own `__reduce_ex__`: types, attributes, arrays
with their dtypes and orders, bit for bit.
"""

from __future__ import annotations

import copyreg
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from modelfmt.ir.record import Name, Objects, Pairs, Record, Table, Texts
from modelfmt.ir.tensor import Tensor

RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 4))
Y = (X[:, 0] + X[:, 1] > 0).astype(int)
Y3 = np.digitize(X[:, 0], [-0.5, 0.5])
REAL = X @ np.array([1.0, -2.0, 0.5, 0.0]) + 0.1
LABELS = np.array(["no", "yes", "maybe"])[Y3]
TEXTS = ["the cat sat", "a dog ran far", "cats and dogs", "nothing at all", "the end"] * 4
MIXED = np.array([["a", 1.0], ["b", 2.5], ["c", -1.0], ["a", 0.0]] * 5, dtype=object)


def zoo() -> dict[str, Callable[[], Any]]:
    """Name -> a function that fits an estimator."""
    from sklearn import (
        cluster,
        compose,
        decomposition,
        discriminant_analysis,
        dummy,
        ensemble,
        feature_extraction,
        feature_selection,
        gaussian_process,
        impute,
        isotonic,
        kernel_approximation,
        linear_model,
        mixture,
        multiclass,
        multioutput,
        naive_bayes,
        neighbors,
        neural_network,
        pipeline,
        preprocessing,
        random_projection,
        svm,
        tree,
    )  # fmt: skip

    text = feature_extraction.text
    linear = {
        "LogisticRegression": lambda: linear_model.LogisticRegression(C=0.5, class_weight={0: 1.0, 1: 2.0}).fit(X, Y),
        "LogisticRegression-3": lambda: linear_model.LogisticRegression().fit(X, LABELS),
        "LinearRegression": lambda: linear_model.LinearRegression().fit(X, REAL),
        "Ridge": lambda: linear_model.Ridge(alpha=0.3).fit(X, REAL),
        "Lasso": lambda: linear_model.Lasso(alpha=0.01).fit(X, REAL),
        "ElasticNet": lambda: linear_model.ElasticNet(alpha=0.01).fit(X, REAL),
        "BayesianRidge": lambda: linear_model.BayesianRidge().fit(X, REAL),
        "SGDClassifier": lambda: linear_model.SGDClassifier(random_state=np.random.RandomState(3)).fit(X, Y3),
        "RidgeClassifier": lambda: linear_model.RidgeClassifier().fit(X, Y3),
        "Perceptron": lambda: linear_model.Perceptron().fit(X, Y),
        "HuberRegressor": lambda: linear_model.HuberRegressor().fit(X, REAL),
        "PoissonRegressor": lambda: linear_model.PoissonRegressor().fit(X, np.abs(REAL)),
        "LinearSVC": lambda: svm.LinearSVC().fit(X, Y3),
        "SVC": lambda: svm.SVC().fit(X, Y3),
        "SVC-poly": lambda: svm.SVC(kernel="poly", decision_function_shape="ovo").fit(X, LABELS),
        "SVR": lambda: svm.SVR().fit(X, REAL),
        "NuSVC": lambda: svm.NuSVC().fit(X, Y),
        "OneClassSVM": lambda: svm.OneClassSVM().fit(X),
    }
    scaling = {
        "StandardScaler": lambda: preprocessing.StandardScaler().fit(X),
        "MinMaxScaler": lambda: preprocessing.MinMaxScaler((-1, 1)).fit(X),
        "MaxAbsScaler": lambda: preprocessing.MaxAbsScaler().fit(X),
        "RobustScaler": lambda: preprocessing.RobustScaler().fit(X),
        "Normalizer": lambda: preprocessing.Normalizer("l1").fit(X),
        "Binarizer": lambda: preprocessing.Binarizer().fit(X),
        "PolynomialFeatures": lambda: preprocessing.PolynomialFeatures(2).fit(X),
        "KBinsDiscretizer": lambda: preprocessing.KBinsDiscretizer(3, quantile_method="averaged_inverted_cdf").fit(X),
        "PowerTransformer": lambda: preprocessing.PowerTransformer().fit(X),
        "QuantileTransformer": lambda: preprocessing.QuantileTransformer(n_quantiles=10).fit(X),
        "SplineTransformer": lambda: preprocessing.SplineTransformer().fit(X),
        "FunctionTransformer": lambda: preprocessing.FunctionTransformer(np.log1p).fit(X),
        "LabelEncoder": lambda: preprocessing.LabelEncoder().fit(LABELS),
        "LabelBinarizer": lambda: preprocessing.LabelBinarizer().fit(LABELS),
        "OneHotEncoder": lambda: preprocessing.OneHotEncoder(handle_unknown="ignore").fit(MIXED),
        "OrdinalEncoder": lambda: preprocessing.OrdinalEncoder().fit(MIXED[:, :1]),
        "TargetEncoder": lambda: preprocessing.TargetEncoder().fit(MIXED[:, :1], Y[:20]),
        "SimpleImputer": lambda: impute.SimpleImputer().fit(np.where(X > 2, np.nan, X)),
        "KNNImputer": lambda: impute.KNNImputer().fit(np.where(X > 2, np.nan, X)),
        "SelectKBest": lambda: feature_selection.SelectKBest(k=2).fit(X, Y),
        "PCA": lambda: decomposition.PCA(2).fit(X),
        "TruncatedSVD": lambda: decomposition.TruncatedSVD(2).fit(X),
        "NMF": lambda: decomposition.NMF(2, max_iter=500).fit(np.abs(X)),
        "LDA": lambda: discriminant_analysis.LinearDiscriminantAnalysis().fit(X, Y3),
        "Nystroem": lambda: kernel_approximation.Nystroem(n_components=5).fit(X),
        "GaussianRandomProjection": lambda: random_projection.GaussianRandomProjection(2).fit(X),
        "CountVectorizer": lambda: text.CountVectorizer(ngram_range=(1, 2)).fit(TEXTS),
        "TfidfVectorizer": lambda: text.TfidfVectorizer(min_df=2).fit(TEXTS),
        "DictVectorizer": lambda: feature_extraction.DictVectorizer().fit([{"a": 1, "b": "x"}, {"a": 2, "b": "y"}]),
    }
    trees = {
        "DecisionTreeClassifier": lambda: tree.DecisionTreeClassifier(max_depth=4).fit(X, LABELS),
        "DecisionTreeRegressor": lambda: tree.DecisionTreeRegressor(max_depth=4).fit(X, REAL),
        "RandomForestClassifier": lambda: ensemble.RandomForestClassifier(4, max_depth=4).fit(X, Y3),
        "RandomForestRegressor": lambda: ensemble.RandomForestRegressor(3, max_depth=3).fit(X, REAL),
        "ExtraTreesClassifier": lambda: ensemble.ExtraTreesClassifier(3, max_depth=3).fit(X, Y),
        "GradientBoostingClassifier": lambda: ensemble.GradientBoostingClassifier(n_estimators=4).fit(X, Y3),
        "GradientBoostingRegressor": lambda: ensemble.GradientBoostingRegressor(n_estimators=4).fit(X, REAL),
        "HistGradientBoostingClassifier": lambda: ensemble.HistGradientBoostingClassifier(max_iter=4).fit(X, Y3),
        "HistGradientBoostingRegressor": lambda: ensemble.HistGradientBoostingRegressor(max_iter=4).fit(X, REAL),
        "AdaBoostClassifier": lambda: ensemble.AdaBoostClassifier(n_estimators=3).fit(X, Y),
        "BaggingClassifier": lambda: ensemble.BaggingClassifier(n_estimators=3).fit(X, Y),
        "IsolationForest": lambda: ensemble.IsolationForest(n_estimators=3).fit(X),
    }
    others = {
        "MLPClassifier": lambda: neural_network.MLPClassifier((5, 3), max_iter=20).fit(X, Y3),
        "MLPRegressor": lambda: neural_network.MLPRegressor(hidden_layer_sizes=(4,), max_iter=20, solver="lbfgs").fit(
            X, REAL
        ),
        "GaussianNB": lambda: naive_bayes.GaussianNB().fit(X, Y3),
        "MultinomialNB": lambda: naive_bayes.MultinomialNB().fit(np.abs(X), Y),
        "KNeighborsClassifier": lambda: neighbors.KNeighborsClassifier(3).fit(X, Y),
        "NearestCentroid": lambda: neighbors.NearestCentroid().fit(X, Y),
        "GaussianProcessRegressor": lambda: gaussian_process.GaussianProcessRegressor().fit(X[:10], REAL[:10]),
        "KMeans": lambda: cluster.KMeans(3, n_init=1).fit(X),
        "GaussianMixture": lambda: mixture.GaussianMixture(2).fit(X),
        "IsotonicRegression": lambda: isotonic.IsotonicRegression().fit(X[:, 0], REAL),
        "DummyClassifier": lambda: dummy.DummyClassifier().fit(X, Y),
        "OneVsRestClassifier": lambda: multiclass.OneVsRestClassifier(linear_model.LogisticRegression()).fit(X, Y3),
        "MultiOutputRegressor": lambda: multioutput.MultiOutputRegressor(linear_model.Ridge()).fit(X, X[:, :2]),
        "VotingClassifier": lambda: ensemble.VotingClassifier(
            [("a", linear_model.LogisticRegression()), ("b", naive_bayes.GaussianNB())]
        ).fit(X, Y),
        "StackingRegressor": lambda: ensemble.StackingRegressor([("r", linear_model.Ridge())]).fit(X, REAL),
        "Pipeline": lambda: pipeline.Pipeline(
            [("scaler", preprocessing.StandardScaler()), ("skip", "passthrough"), ("clf", svm.SVC())]
        ).fit(X, Y),
        "FeatureUnion": lambda: pipeline.FeatureUnion(
            [("pca", decomposition.PCA(1)), ("best", feature_selection.SelectKBest(k=1))]
        ).fit(X, Y),
        "ColumnTransformer": lambda: pipeline.make_pipeline(
            compose.ColumnTransformer(
                [("num", preprocessing.StandardScaler(), [1]), ("cat", preprocessing.OneHotEncoder(), [0])]
            ),
            linear_model.LogisticRegression(),
        ).fit(MIXED, Y[:20]),
    }
    return linear | scaling | trees | others


def fitted(name: str) -> Any:
    """One of the zoo. Warnings of the fit (few iterations) do not matter."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return zoo()[name]()


def same(real: Any, ours: Any, path: str = "", seen: set[int] | None = None) -> None:
    """Assert that a value that was read is the real one."""
    seen = set() if seen is None else seen
    if id(real) in seen and not isinstance(real, int | float | str | bool | type(None)):
        return
    seen.add(id(real))
    for kinds, check in _CHECKS:
        if isinstance(real, kinds):
            check(real, ours, path, seen)
            return
    _object(real, ours, path, seen)


def _plain(real: Any, ours: Any, path: str, seen: set[int]) -> None:
    if isinstance(ours, Texts):  # bytes too long to be held
        ours = ours.tolist()
        real = bytes(real)
    both_nan = isinstance(real, float | np.floating) and real != real and ours != ours
    assert both_nan or (real == ours and isinstance(ours, int | float | complex | str | bytes | bool | type(None))), (
        path,
        real,
        ours,
    )


def _array(real: Any, ours: Any, path: str, seen: set[int]) -> None:
    if real.dtype.names:
        assert isinstance(ours, Table) and ours.shape == real.shape, (path, ours)
        assert set(ours.columns) == set(real.dtype.names), path
        for name in real.dtype.names:
            _array(real[name], ours[name], f"{path}.{name}", seen)
    elif real.dtype.kind in "US":
        assert isinstance(ours, Texts) and ours.shape == real.shape and ours.tolist() == real.tolist(), path
    elif real.dtype.hasobject:
        assert isinstance(ours, Objects) and ours.shape == real.shape, (path, ours)
        for index, (a, b) in enumerate(zip(real.reshape(-1), ours.items, strict=True)):
            same(a, b, f"{path}[{index}]", seen)
    else:
        assert isinstance(ours, Tensor), (path, real.dtype, ours)
        found = ours.numpy()
        assert found.dtype == real.dtype.newbyteorder("=") and found.shape == real.shape, (path, found.dtype)
        assert np.ascontiguousarray(real.astype(found.dtype)).tobytes() == np.ascontiguousarray(found).tobytes(), path


def _dict(real: Any, ours: Any, path: str, seen: set[int]) -> None:
    rows = ours if isinstance(ours, Pairs) else list(ours.items())
    assert len(rows) == len(real), (path, real, ours)
    for (key, value), (our_key, our_value) in zip(real.items(), rows, strict=True):
        same(key, our_key, f"{path}.key", set())
        same(value, our_value, f"{path}.{key}", seen)


def _sequence(real: Any, ours: Any, path: str, seen: set[int]) -> None:
    assert type(ours) is (tuple if isinstance(real, tuple) else list) and len(ours) == len(real), (path, real, ours)
    for index, (a, b) in enumerate(zip(real, ours, strict=True)):
        same(a, b, f"{path}[{index}]", seen)


def _set(real: Any, ours: Any, path: str, seen: set[int]) -> None:
    assert isinstance(ours, Record) and set(ours.items or ()) == real, path


def _name(real: Any, ours: Any, path: str, seen: set[int]) -> None:
    """Types and functions: pickles name them (their public module may be another one)."""
    assert isinstance(ours, Name) and ours.rpartition(".")[2] == real.__qualname__.rpartition(".")[2], (path, ours)


def _dtype(real: Any, ours: Any, path: str, seen: set[int]) -> None:
    assert isinstance(ours, Name) and ours == real.name, (path, ours)


def _equal(real: Any, ours: Any, path: str, seen: set[int]) -> None:
    assert real == ours, path


_CHECKS: tuple[tuple[Any, Callable[..., None]], ...] = (
    (np.generic, lambda real, ours, path, seen: _plain(real.item(), ours, path, seen)),
    ((type(None), bool, int, float, complex, str, bytes, bytearray), _plain),
    (np.ndarray, _array),
    ((list, tuple), lambda real, ours, path, seen: _sequence(real, ours, path, seen)),
    ((set, frozenset), _set),
    ((slice, range), _equal),
    (np.dtype, _dtype),
    ((type, type(len), type(same), np.ufunc), _name),
)


def _object(real: Any, ours: Any, path: str, seen: set[int]) -> None:
    """Any other object: what `__reduce_ex__` says of it."""
    if type(real) is dict or isinstance(ours, dict | Pairs):
        _dict(real, ours, path, seen)
        return
    assert isinstance(ours, Record), (path, type(real), ours)
    function, args, state, items, pairs = (*real.__reduce_ex__(4), None, None, None)[:5]
    kind = args[0] if function is copyreg.__newobj__ else function  # type: ignore[attr-defined]
    if kind is not type(real) and ours.name == type(real).__name__:
        return  # skops describes what Cython made, and random states, in words of its own
    assert ours.name == kind.__qualname__.rpartition(".")[2], (path, ours, kind)
    if function is not copyreg.__newobj__:  # type: ignore[attr-defined]
        _sequence(args, ours.args, f"{path}.args", seen)
    if isinstance(state, tuple) and len(state) == 2 and all(part is None or isinstance(part, dict) for part in state):
        state = {key: value for part in state if part for key, value in part.items()}
    if isinstance(state, dict):
        assert list(ours.attributes) == list(state), (path, list(ours.attributes), list(state))
        for key, value in state.items():
            same(value, ours[key], f"{path}.{key}", seen)
    elif state is not None:
        same(state, ours["state"], f"{path}.state", seen)
    for got, held in ((items, ours.items), (None if pairs is None else pairs, ours.pairs)):
        if got is not None:
            rows = list(got)
            assert len(rows) == len(held or ()), path
            for index, (a, b) in enumerate(zip(rows, held or (), strict=True)):
                same(a, b, f"{path}#{index}", seen)
