"""Fitted estimators of every family, tiny, with the rows that they are asked about: name -> (function, rows)."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn import (
    calibration,
    cluster,
    compose,
    covariance,
    decomposition,
    discriminant_analysis,
    dummy,
    ensemble,
    feature_selection,
    impute,
    isotonic,
    linear_model,
    mixture,
    model_selection,
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
)
from sklearn.feature_extraction import text

__all__ = ["ROWS", "classifiers", "fitted", "others", "regressors", "tables", "transformers"]

RNG = np.random.default_rng(3)
X = RNG.normal(size=(90, 4)) * [1, 3, 0.2, 10] + [0, 5, 1, -20]
Z = (X - X.mean(axis=0)) / X.std(axis=0)
TWO = (Z[:, 0] + Z[:, 1] + RNG.normal(size=90) / 3 > 0).astype(int)
THREE = np.digitize(Z[:, 0] + RNG.normal(size=90) / 3, [-0.5, 0.5])
LABELS = np.array(["no", "yes", "maybe"])[THREE]
REAL = Z @ np.array([1.0, -2.0, 0.5, 0.1]) + np.sin(3 * Z[:, 0])
BOTH = np.stack([REAL, Z[:, 1] ** 2], 1)
HOLES = np.where(RNG.random(X.shape) < 0.1, np.nan, X)
ROWS = RNG.normal(size=(200, 4)) * [1, 3, 0.2, 10] + [0, 5, 1, -20]
ROWS_HOLES = np.where(RNG.random(ROWS.shape) < 0.1, np.nan, ROWS)


TALK = (
    ("Win a free prize now, win NOW", "spam"),
    ("are we still on for lunch today", "fine"),
    ("free free money, call now", "spam"),
    ("see you at the end of the day", "fine"),
    ("naïve words über alles, 日本", "fine"),
)
_LINEAR = (
    "ARDRegression",
    "BayesianRidge",
    "ElasticNet",
    "HuberRegressor",
    "Lars",
    "Lasso",
    "LassoLars",
    "LassoLarsIC",
    "LinearRegression",
    "OrthogonalMatchingPursuit",
    "QuantileRegressor",
    "Ridge",
    "RidgeCV",
    "TheilSenRegressor",
)


def _scaled(model: Any) -> Any:
    return pipeline.make_pipeline(preprocessing.StandardScaler(), model)


def classifiers() -> dict[str, Callable[[], Any]]:
    """Name -> a new classifier, for two or three classes of any kind of label."""
    logistic, trees = linear_model.LogisticRegression, tree.DecisionTreeClassifier
    base = [("a", _scaled(logistic())), ("b", naive_bayes.GaussianNB()), ("c", trees(max_depth=3, random_state=0))]
    return {
        "LogisticRegression": lambda: _scaled(logistic()),
        "LogisticRegressionCV": lambda: _scaled(
            linear_model.LogisticRegressionCV(
                Cs=2, cv=2, use_legacy_attributes=False, scoring="neg_log_loss", l1_ratios=(0,)
            )
        ),
        "SGDClassifier": lambda: _scaled(linear_model.SGDClassifier(random_state=0)),
        "SGDClassifier-log": lambda: _scaled(linear_model.SGDClassifier(loss="log_loss", random_state=0)),
        "SGDClassifier-huber": lambda: _scaled(linear_model.SGDClassifier(loss="modified_huber", random_state=0)),
        "Perceptron": lambda: _scaled(linear_model.Perceptron()),
        "RidgeClassifier": lambda: linear_model.RidgeClassifier(),
        "RidgeClassifierCV": lambda: linear_model.RidgeClassifierCV(),
        "LinearSVC": lambda: _scaled(svm.LinearSVC()),
        "SVC": lambda: _scaled(svm.SVC()),
        "SVC-poly": lambda: _scaled(svm.SVC(kernel="poly", degree=2, coef0=1.0, break_ties=True)),
        "SVC-linear-ovo": lambda: svm.SVC(kernel="linear", decision_function_shape="ovo"),
        "SVC-sigmoid": lambda: _scaled(svm.SVC(kernel="sigmoid")),
        "SVC-probability": lambda: _scaled(svm.SVC(probability=True, random_state=0)),
        "NuSVC": lambda: _scaled(svm.NuSVC(nu=0.2)),
        "DecisionTreeClassifier": lambda: trees(random_state=0),
        "ExtraTreeClassifier": lambda: tree.ExtraTreeClassifier(max_depth=5, random_state=0),
        "RandomForestClassifier": lambda: ensemble.RandomForestClassifier(9, random_state=0),
        "ExtraTreesClassifier": lambda: ensemble.ExtraTreesClassifier(9, max_depth=4, random_state=0),
        "GradientBoostingClassifier": lambda: ensemble.GradientBoostingClassifier(n_estimators=5, random_state=0),
        "GradientBoostingClassifier-init": lambda: ensemble.GradientBoostingClassifier(
            n_estimators=3, init=logistic(max_iter=2000), random_state=0
        ),
        "HistGradientBoostingClassifier": lambda: ensemble.HistGradientBoostingClassifier(
            max_iter=5, min_samples_leaf=3
        ),
        "AdaBoostClassifier": lambda: ensemble.AdaBoostClassifier(n_estimators=5, random_state=0),
        "BaggingClassifier": lambda: ensemble.BaggingClassifier(n_estimators=4, max_features=0.5, random_state=0),
        "BaggingClassifier-votes": lambda: ensemble.BaggingClassifier(svm.LinearSVC(), n_estimators=4, random_state=0),
        "VotingClassifier-hard": lambda: ensemble.VotingClassifier(base, weights=[1, 2, 1.5]),
        "VotingClassifier-soft": lambda: ensemble.VotingClassifier(base, voting="soft", weights=[1, 2, 1]),
        "StackingClassifier": lambda: ensemble.StackingClassifier(base, cv=2, passthrough=True),
        "KNeighborsClassifier": lambda: neighbors.KNeighborsClassifier(3),
        "KNeighborsClassifier-distance": lambda: neighbors.KNeighborsClassifier(4, weights="distance", p=1),
        "KNeighborsClassifier-cosine": lambda: neighbors.KNeighborsClassifier(3, metric="cosine"),
        "NearestCentroid": lambda: neighbors.NearestCentroid(),
        "NearestCentroid-manhattan": lambda: neighbors.NearestCentroid(metric="manhattan"),
        "GaussianNB": lambda: naive_bayes.GaussianNB(),
        "BernoulliNB": lambda: naive_bayes.BernoulliNB(binarize=1.0),
        "MultinomialNB": lambda: pipeline.make_pipeline(
            preprocessing.MinMaxScaler(clip=True), naive_bayes.MultinomialNB()
        ),
        "ComplementNB": lambda: pipeline.make_pipeline(
            preprocessing.MinMaxScaler(clip=True), naive_bayes.ComplementNB(norm=True)
        ),
        "LinearDiscriminantAnalysis": lambda: discriminant_analysis.LinearDiscriminantAnalysis(),
        "QuadraticDiscriminantAnalysis": lambda: discriminant_analysis.QuadraticDiscriminantAnalysis(),
        "MLPClassifier": lambda: _scaled(neural_network.MLPClassifier((6, 5), max_iter=30, random_state=0)),
        "MLPClassifier-tanh": lambda: _scaled(
            neural_network.MLPClassifier((4,), activation="tanh", max_iter=9, random_state=0)
        ),
        "CalibratedClassifierCV": lambda: calibration.CalibratedClassifierCV(_scaled(svm.LinearSVC()), cv=2),
        "CalibratedClassifierCV-isotonic": lambda: calibration.CalibratedClassifierCV(
            naive_bayes.GaussianNB(), cv=2, method="isotonic"
        ),
        "OneVsRestClassifier": lambda: multiclass.OneVsRestClassifier(_scaled(logistic())),
        "OneVsRestClassifier-trees": lambda: multiclass.OneVsRestClassifier(trees(max_depth=3, random_state=0)),
        "OneVsOneClassifier": lambda: multiclass.OneVsOneClassifier(_scaled(svm.LinearSVC())),
        "DummyClassifier": lambda: dummy.DummyClassifier(),
        "GridSearchCV": lambda: model_selection.GridSearchCV(
            _scaled(logistic()), {"logisticregression__C": [1, 9]}, cv=2
        ),
        "PassiveAggressive": lambda: _scaled(
            linear_model.SGDClassifier(penalty=None, loss="hinge", learning_rate="pa1", eta0=1.0, random_state=0)
        ),
    }


def regressors() -> dict[str, Callable[[], Any]]:
    """Name -> a new regressor."""
    return {
        **{
            name: (lambda one: lambda: one(**({"random_state": 0} if "random_state" in one().get_params() else {})))(
                getattr(linear_model, name)
            )
            for name in _LINEAR
        },
        "SGDRegressor": lambda: _scaled(linear_model.SGDRegressor(random_state=0)),
        "LinearSVR": lambda: _scaled(svm.LinearSVR(random_state=0)),
        "RANSACRegressor": lambda: linear_model.RANSACRegressor(random_state=0),
        "SVR": lambda: _scaled(svm.SVR()),
        "NuSVR": lambda: _scaled(svm.NuSVR(kernel="linear")),
        "DecisionTreeRegressor": lambda: tree.DecisionTreeRegressor(random_state=0),
        "ExtraTreeRegressor": lambda: tree.ExtraTreeRegressor(random_state=0),
        "RandomForestRegressor": lambda: ensemble.RandomForestRegressor(9, random_state=0),
        "ExtraTreesRegressor": lambda: ensemble.ExtraTreesRegressor(9, max_depth=4, random_state=0),
        "GradientBoostingRegressor": lambda: ensemble.GradientBoostingRegressor(n_estimators=9, random_state=0),
        "GradientBoostingRegressor-huber": lambda: ensemble.GradientBoostingRegressor(
            loss="huber", n_estimators=9, init=linear_model.Ridge(), random_state=0
        ),
        "HistGradientBoostingRegressor": lambda: ensemble.HistGradientBoostingRegressor(max_iter=9),
        "HistGradientBoostingRegressor-median": lambda: ensemble.HistGradientBoostingRegressor(
            "absolute_error", max_iter=5
        ),
        "AdaBoostRegressor": lambda: ensemble.AdaBoostRegressor(n_estimators=6, random_state=0),
        "BaggingRegressor": lambda: ensemble.BaggingRegressor(n_estimators=4, max_features=3, random_state=0),
        "VotingRegressor": lambda: ensemble.VotingRegressor(
            [("a", linear_model.Ridge()), ("b", tree.DecisionTreeRegressor(max_depth=3))], weights=[1, 3]
        ),
        "StackingRegressor": lambda: ensemble.StackingRegressor(
            [("a", linear_model.Ridge()), ("b", tree.DecisionTreeRegressor(max_depth=3))], cv=2
        ),
        "KNeighborsRegressor": lambda: neighbors.KNeighborsRegressor(3, weights="distance"),
        "KNeighborsRegressor-chebyshev": lambda: neighbors.KNeighborsRegressor(3, metric="chebyshev"),
        "MLPRegressor": lambda: _scaled(
            neural_network.MLPRegressor(hidden_layer_sizes=(5,), activation="logistic", max_iter=9, random_state=0)
        ),
        "DummyRegressor": lambda: dummy.DummyRegressor(),
        "TransformedTargetRegressor": lambda: compose.TransformedTargetRegressor(
            linear_model.Ridge(), transformer=preprocessing.StandardScaler()
        ),
    }


def positive() -> dict[str, Callable[[], Any]]:
    """Regressors of numbers above zero."""
    return {
        "PoissonRegressor": lambda: _scaled(linear_model.PoissonRegressor()),
        "GammaRegressor": lambda: _scaled(linear_model.GammaRegressor()),
        "TweedieRegressor": lambda: _scaled(linear_model.TweedieRegressor(power=1.5)),
        "TweedieRegressor-normal": lambda: _scaled(linear_model.TweedieRegressor(power=0)),
        "HistGradientBoostingRegressor-poisson": lambda: ensemble.HistGradientBoostingRegressor("poisson", max_iter=5),
        "HistGradientBoostingRegressor-gamma": lambda: ensemble.HistGradientBoostingRegressor("gamma", max_iter=5),
        "MLPRegressor-poisson": lambda: _scaled(
            neural_network.MLPRegressor(hidden_layer_sizes=(5,), loss="poisson", max_iter=9, random_state=0)
        ),
        "TransformedTargetRegressor-log": lambda: compose.TransformedTargetRegressor(
            linear_model.Ridge(), func=np.log1p, inverse_func=np.expm1
        ),
    }


def several() -> dict[str, tuple[Callable[[], Any], Any]]:
    """Several outputs, with their targets."""
    both = np.stack([TWO, THREE], 1)
    return {
        "LinearRegression-several": (lambda: linear_model.LinearRegression(), BOTH),
        "MultiTaskLasso": (lambda: linear_model.MultiTaskLasso(), BOTH),
        "DecisionTreeRegressor-several": (lambda: tree.DecisionTreeRegressor(random_state=0), BOTH),
        "RandomForestRegressor-several": (lambda: ensemble.RandomForestRegressor(5, random_state=0), BOTH),
        "KNeighborsRegressor-several": (lambda: neighbors.KNeighborsRegressor(3), BOTH),
        "MLPRegressor-several": (
            lambda: _scaled(neural_network.MLPRegressor(hidden_layer_sizes=(5,), max_iter=9, random_state=0)),
            BOTH,
        ),
        "MultiOutputRegressor": (lambda: multioutput.MultiOutputRegressor(linear_model.Ridge()), BOTH),
        "RegressorChain": (lambda: multioutput.RegressorChain(linear_model.Ridge(), order=[1, 0]), BOTH),
        "RandomForestClassifier-several": (lambda: ensemble.RandomForestClassifier(5, random_state=0), both),
        "KNeighborsClassifier-several": (lambda: neighbors.KNeighborsClassifier(3), both),
        "MultiOutputClassifier": (lambda: multioutput.MultiOutputClassifier(naive_bayes.GaussianNB()), both),
    }


def transformers() -> dict[str, Callable[[], Any]]:
    """Name -> a new transformer of numbers."""
    return {
        "StandardScaler": lambda: preprocessing.StandardScaler(),
        "MinMaxScaler": lambda: preprocessing.MinMaxScaler((-1, 2), clip=True),
        "MaxAbsScaler": lambda: preprocessing.MaxAbsScaler(),
        "RobustScaler": lambda: preprocessing.RobustScaler(),
        "RobustScaler-center": lambda: preprocessing.RobustScaler(with_scaling=False),
        "Normalizer-l1": lambda: preprocessing.Normalizer("l1"),
        "Normalizer-l2": lambda: preprocessing.Normalizer(),
        "Normalizer-max": lambda: preprocessing.Normalizer("max"),
        "Binarizer": lambda: preprocessing.Binarizer(threshold=0.5),
        "PolynomialFeatures": lambda: preprocessing.PolynomialFeatures(3),
        "PolynomialFeatures-interactions": lambda: preprocessing.PolynomialFeatures(
            (2, 3), interaction_only=True, include_bias=False
        ),
        "KBinsDiscretizer": lambda: preprocessing.KBinsDiscretizer(3, quantile_method="averaged_inverted_cdf"),
        "KBinsDiscretizer-ordinal": lambda: preprocessing.KBinsDiscretizer(4, encode="ordinal", strategy="uniform"),
        "PowerTransformer": lambda: preprocessing.PowerTransformer(),
        "FunctionTransformer": lambda: preprocessing.FunctionTransformer(),
        "FunctionTransformer-numpy": lambda: preprocessing.FunctionTransformer(np.exp),
        "SimpleImputer": lambda: impute.SimpleImputer(),
        "SelectKBest": lambda: feature_selection.SelectKBest(k=2),
        "SelectPercentile": lambda: feature_selection.SelectPercentile(percentile=50),
        "SelectFpr": lambda: feature_selection.SelectFpr(),
        "SelectFdr": lambda: feature_selection.SelectFdr(),
        "SelectFwe": lambda: feature_selection.SelectFwe(),
        "GenericUnivariateSelect": lambda: feature_selection.GenericUnivariateSelect(mode="k_best", param=3),
        "VarianceThreshold": lambda: feature_selection.VarianceThreshold(0.5),
        "RFE": lambda: feature_selection.RFE(linear_model.LogisticRegression(max_iter=2000), n_features_to_select=2),
        "SelectFromModel": lambda: feature_selection.SelectFromModel(linear_model.LogisticRegression(max_iter=2000)),
        "SelectFromModel-median": lambda: feature_selection.SelectFromModel(
            linear_model.Ridge(), threshold="1.1*median"
        ),
        "SelectFromModel-forest": lambda: feature_selection.SelectFromModel(
            ensemble.RandomForestClassifier(5, random_state=0)
        ),
        "PCA": lambda: decomposition.PCA(2, whiten=True),
        "IncrementalPCA": lambda: decomposition.IncrementalPCA(3),
        "TruncatedSVD": lambda: decomposition.TruncatedSVD(2),
        "FastICA": lambda: decomposition.FastICA(2, random_state=0),
        "GaussianRandomProjection": lambda: random_projection.GaussianRandomProjection(2, random_state=0),
        "SparseRandomProjection": lambda: random_projection.SparseRandomProjection(2, random_state=0),
        "FeatureUnion": lambda: pipeline.FeatureUnion(
            [("pca", decomposition.PCA(1)), ("best", feature_selection.SelectKBest(k=1)), ("all", "passthrough")],
            transformer_weights={"pca": 2.0},
        ),
        "Pipeline": lambda: pipeline.make_pipeline(preprocessing.StandardScaler(), "passthrough", decomposition.PCA(2)),
    }


def others() -> dict[str, Callable[[], Any]]:
    """What makes labels of its own."""
    return {
        "KMeans": lambda: cluster.KMeans(3, n_init=1, random_state=0),
        "MiniBatchKMeans": lambda: cluster.MiniBatchKMeans(3, n_init=1, random_state=0),
        "GaussianMixture": lambda: mixture.GaussianMixture(3, random_state=0),
        "GaussianMixture-tied": lambda: mixture.GaussianMixture(2, covariance_type="tied", random_state=0),
        "GaussianMixture-diag": lambda: mixture.GaussianMixture(2, covariance_type="diag", random_state=0),
        "GaussianMixture-spherical": lambda: mixture.GaussianMixture(2, covariance_type="spherical", random_state=0),
        "IsolationForest": lambda: ensemble.IsolationForest(n_estimators=9, random_state=0),
        "IsolationForest-columns": lambda: ensemble.IsolationForest(
            n_estimators=9, max_features=2, contamination=0.1, random_state=0
        ),
        "OneClassSVM": lambda: _scaled(svm.OneClassSVM(nu=0.2)),
        "SGDOneClassSVM": lambda: _scaled(linear_model.SGDOneClassSVM(random_state=0)),
        "EllipticEnvelope": lambda: covariance.EllipticEnvelope(random_state=0),
    }


def _mixed(seed: int, n: int, *, unknown: bool) -> Any:
    rng = np.random.default_rng(seed)
    words = ["red", "green", "blue", *(["pink"] if unknown else [])]
    columns = [rng.choice(words, n), rng.normal(size=n), rng.choice(["s", "m", ""], n), rng.integers(0, 4, n)]
    return np.array(columns, dtype=object).T


def tables() -> dict[str, tuple[Callable[[], Any], Any]]:
    """Name -> (a fitted estimator of texts, missing values or columns of several types, rows to ask about)."""
    train, rows = _mixed(0, 60, unknown=False), _mixed(1, 100, unknown=True)
    texts, text_rows = train[:, [0, 2]], rows[:, [0, 2]]
    y = THREE[:60]
    encoder = preprocessing.OneHotEncoder
    columns = compose.ColumnTransformer
    coded, coded_rows = X.copy(), ROWS.copy()
    coded[:, 0], coded_rows[:, 0] = RNG.integers(0, 40, 90), RNG.integers(-2, 43, 200)
    coded[:, 2], coded_rows[:, 2] = RNG.choice([2, 100, 70], 90), RNG.choice([2, 100, 70, 71], 200)
    coded_rows[::9, 0] = np.nan
    holes = [["num", impute.SimpleImputer(strategy="median", add_indicator=True)], preprocessing.RobustScaler()]
    return {
        "OneHotEncoder": (lambda: encoder(handle_unknown="ignore").fit(texts), text_rows),
        "OneHotEncoder-drop": (lambda: encoder(drop="first").fit(texts), texts),
        "OneHotEncoder-infrequent": (
            lambda: encoder(handle_unknown="infrequent_if_exist", max_categories=2).fit(texts),
            text_rows,
        ),
        "OneHotEncoder-numbers": (
            lambda: encoder(handle_unknown="ignore").fit(coded[:, [0, 2]]),
            coded_rows[:, [0, 2]],
        ),
        "OrdinalEncoder": (
            lambda: preprocessing.OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1).fit(texts),
            text_rows,
        ),
        "OrdinalEncoder-nan": (
            lambda: preprocessing.OrdinalEncoder(
                handle_unknown="use_encoded_value", unknown_value=np.nan, encoded_missing_value=-2
            ).fit(np.where(coded > 90, np.nan, coded)[:, [0, 2]]),
            coded_rows[:, [0, 2]],
        ),
        "TargetEncoder": (lambda: preprocessing.TargetEncoder(random_state=0).fit(texts, y), text_rows),
        "LabelEncoder": (lambda: preprocessing.LabelEncoder().fit(texts[:, 0]), texts[:, 0]),
        "LabelBinarizer": (lambda: preprocessing.LabelBinarizer(neg_label=-1).fit(THREE), THREE[:9]),
        "SimpleImputer-texts": (
            lambda: impute.SimpleImputer(missing_values="", strategy="most_frequent").fit(texts),
            text_rows,
        ),
        "SimpleImputer-indicator": (lambda: impute.SimpleImputer(add_indicator=True).fit(HOLES), ROWS_HOLES),
        "SimpleImputer-number": (
            lambda: impute.SimpleImputer(missing_values=2, strategy="constant", fill_value=-1.0).fit(coded),
            ROWS,
        ),
        "ColumnTransformer": (
            lambda: pipeline.make_pipeline(
                columns(
                    [("num", preprocessing.StandardScaler(), [1]), ("cat", encoder(handle_unknown="ignore"), [0, 2])],
                    remainder="passthrough",
                ),
                linear_model.LogisticRegression(),
            ).fit(train, y),
            rows,
        ),
        "ColumnTransformer-numbers": (
            lambda: columns(
                [
                    ("a", preprocessing.StandardScaler(), slice(0, 2)),
                    ("b", "drop", [2]),
                    ("c", preprocessing.MinMaxScaler(), [False, False, False, True]),
                ]
            ).fit(X),
            ROWS,
        ),
        "ColumnTransformer-imputed": (
            lambda: pipeline.make_pipeline(
                columns(
                    [
                        ("num", pipeline.make_pipeline(holes[0][1], holes[1]), [1, 3]),
                        (
                            "cat",
                            pipeline.make_pipeline(
                                impute.SimpleImputer(missing_values="", strategy="constant", fill_value="none"),
                                encoder(handle_unknown="ignore"),
                            ),
                            [2],
                        ),
                    ]
                ),
                ensemble.HistGradientBoostingClassifier(max_iter=3, min_samples_leaf=3),
            ).fit(train, y),
            rows,
        ),
        "missing-tree": (lambda: tree.DecisionTreeClassifier(random_state=0).fit(HOLES, THREE), ROWS_HOLES),
        "missing-forest": (lambda: ensemble.RandomForestRegressor(5, random_state=0).fit(HOLES, REAL), ROWS_HOLES),
        "missing-histograms": (
            lambda: ensemble.HistGradientBoostingClassifier(max_iter=5, min_samples_leaf=3).fit(HOLES, LABELS),
            ROWS_HOLES,
        ),
        "categories-histograms": (
            lambda: ensemble.HistGradientBoostingRegressor(
                max_iter=9, min_samples_leaf=2, categorical_features=[0, 2]
            ).fit(coded, coded[:, 0] % 5 + coded[:, 2]),
            coded_rows,
        ),
        "PowerTransformer-box-cox": (
            lambda: preprocessing.PowerTransformer("box-cox").fit(np.exp(Z)),
            np.exp(ROWS / 20),
        ),
        "IsotonicRegression": (
            lambda: isotonic.IsotonicRegression(out_of_bounds="clip").fit(X[:, 0], REAL),
            ROWS[:, 0],
        ),
        "LinearDiscriminantAnalysis-transform": (
            lambda: pipeline.make_pipeline(
                discriminant_analysis.LinearDiscriminantAnalysis(), neighbors.KNeighborsClassifier(3)
            ).fit(X, THREE),
            ROWS,
        ),
        "KMeans-transform": (
            lambda: pipeline.make_pipeline(cluster.KMeans(3, n_init=1, random_state=0), linear_model.Ridge()).fit(
                X, REAL
            ),
            ROWS,
        ),
        "SVR-sparse": (lambda: _sparse(svm.SVR(), X, REAL), ROWS),
    }


def texts() -> dict[str, tuple[Callable[[], Any], Any]]:
    """Vectorizers of texts."""
    make, count, idf = pipeline.make_pipeline, text.CountVectorizer, text.TfidfVectorizer
    spam = [line for line, _ in TALK for _ in (0, 1)]
    y = [label for _, label in TALK for _ in (0, 1)]
    asked = np.array([*spam[::2], "", "a", "The end, is near", "xyz_1 can't stop-it", "WIN win naïve 日本 words 日本"])
    return {
        "CountVectorizer": (lambda: count().fit(spam), asked),
        "CountVectorizer-ngrams": (lambda: count(ngram_range=(1, 3), binary=True).fit(spam), asked),
        "CountVectorizer-single": (lambda: count(token_pattern=r"(?u)\b\w+\b", lowercase=False).fit(spam), asked),
        "CountVectorizer-stop": (lambda: count(stop_words="english").fit(spam), asked),
        "TfidfVectorizer": (lambda: idf(ngram_range=(2, 2)).fit(spam), asked),
        "TfidfVectorizer-sublinear": (lambda: idf(sublinear_tf=True, norm="l1").fit(spam), asked),
        "TfidfVectorizer-logistic": (lambda: make(idf(), linear_model.LogisticRegression()).fit(spam, y), asked),
        "TfidfTransformer": (lambda: make(count(), text.TfidfTransformer(norm=None)).fit(spam), asked),
    }


def boosters() -> dict[str, tuple[Callable[[], Any], Any]]:
    """XGBoost's and LightGBM's, where they are installed."""
    try:
        import lightgbm
        import xgboost
    except ImportError:
        return {}
    x, g = xgboost, lightgbm
    few = {"n_estimators": 6, "max_depth": 3}
    some = {"n_estimators": 6, "min_child_samples": 3, "verbose": -1}
    grown = np.exp(REAL / 3)
    coded, rows = X.copy(), ROWS.copy()
    coded[:, 0], rows[:, 0] = RNG.integers(0, 9, 90), RNG.integers(0, 12, 200)
    rows[::9, 0] = np.nan
    zeros, zero_rows = np.nan_to_num(HOLES), np.nan_to_num(ROWS_HOLES)
    kinds = {"feature_types": ["c", "q", "q", "q"], "enable_categorical": True}
    early = {"n_estimators": 40, "early_stopping_rounds": 2}
    held = {"eval_set": [(X[:30], TWO[::-1][:30])], "verbose": False}
    groups = {"min_data_per_group": 1, "cat_smooth": 0.1}
    found: dict[str, tuple[Callable[[], Any], Any]] = {
        "XGBClassifier-early": (lambda: x.XGBClassifier(**early).fit(X, TWO, **held), ROWS),
        "XGBClassifier-dart": (lambda: x.XGBClassifier(booster="dart", rate_drop=0.5, **few).fit(X, THREE), ROWS),
        "XGBRFClassifier": (lambda: x.XGBRFClassifier(**few).fit(X, THREE), ROWS),
        "XGBRegressor-several": (lambda: x.XGBRegressor(**few).fit(X, BOTH), ROWS),
        "XGBRegressor-categories": (
            lambda: x.XGBRegressor(max_cat_to_onehot=1, **kinds, **few).fit(coded, coded[:, 0] % 4), rows
        ),
        "XGBRegressor-onehot": (
            lambda: x.XGBRegressor(max_cat_to_onehot=99, **kinds, **few).fit(coded, coded[:, 0] % 4), rows
        ),
        "LGBMClassifier-rf": (
            lambda: g.LGBMClassifier(boosting_type="rf", subsample=0.5, subsample_freq=1, **some).fit(X, THREE), ROWS
        ),
        "LGBMClassifier-later": (lambda: g.LGBMClassifier(**some).fit(X, LABELS), ROWS_HOLES),
        "LGBMClassifier-zero": (lambda: g.LGBMClassifier(zero_as_missing=True, **some).fit(zeros, TWO), zero_rows),
        "LGBMClassifier-ova": (lambda: g.LGBMClassifier("gbdt", objective="multiclassova", **some).fit(X, LABELS), ROWS),
        "LGBMRegressor-sqrt": (lambda: g.LGBMRegressor(reg_sqrt=True, **some).fit(X, REAL), ROWS),
        "LGBMRegressor-categories": (
            lambda: g.LGBMRegressor(max_cat_to_onehot=1, **groups, **some).fit(
                coded, coded[:, 0] % 4, categorical_feature=[0]
            ),
            rows,
        ),
        "LGBMRegressor-constant": (lambda: g.LGBMRegressor(**some).fit(X, np.zeros(90)), ROWS),
    }  # fmt: skip
    for number, y in (("2", TWO), ("3", THREE)):
        found[f"XGBClassifier-{number}"] = (lambda y=y: x.XGBClassifier(**few).fit(X, y), ROWS)  # type: ignore[misc]
        found[f"XGBClassifier-holes-{number}"] = (lambda y=y: x.XGBClassifier(**few).fit(HOLES, y), ROWS_HOLES)  # type: ignore[misc]
        found[f"LGBMClassifier-holes-{number}"] = (lambda y=y: g.LGBMClassifier(**some).fit(HOLES, y), ROWS_HOLES)  # type: ignore[misc]
    for name in ("reg:squarederror", "count:poisson", "reg:gamma", "reg:absoluteerror"):
        found[f"XGBRegressor-{name}"] = (lambda name=name: x.XGBRegressor(objective=name, **few).fit(X, grown), ROWS)  # type: ignore[misc]
    found["XGBRegressor-reg:logistic"] = (lambda: x.XGBRegressor(objective="reg:logistic", **few).fit(X, TWO), ROWS)
    for name in ("regression", "huber", "poisson", "tweedie", "quantile"):
        found[f"LGBMRegressor-{name}"] = (lambda name=name: g.LGBMRegressor(objective=name, **some).fit(X, grown), ROWS)  # type: ignore[misc]
    return found


def _sparse(model: Any, x: Any, y: Any) -> Any:
    from scipy.sparse import csr_matrix

    return model.fit(csr_matrix(x), y)


def fitted() -> dict[str, tuple[Callable[[], Any], Any]]:
    """All of them, by name: (a function that fits, rows to ask about)."""
    found: dict[str, tuple[Callable[[], Any], Any]] = {}
    for name, make in classifiers().items():
        for kind, y in (("2", TWO), ("3", LABELS)):
            found[f"{name}-{kind}"] = (lambda make=make, y=y: make().fit(X, y), ROWS)  # type: ignore[misc]
    for name, make in regressors().items():
        found[name] = (lambda make=make: make().fit(X, REAL), ROWS)  # type: ignore[misc]
    for name, make in positive().items():
        found[name] = (lambda make=make: make().fit(X, np.exp(REAL / 3)), ROWS)  # type: ignore[misc]
    for name, (make, y) in several().items():
        found[name] = (lambda make=make, y=y: make().fit(X, y), ROWS)  # type: ignore[misc]
    for name, make in (transformers() | others()).items():
        found[name] = (lambda make=make: make().fit(X, TWO), ROWS)  # type: ignore[misc]
    return found | tables() | texts() | boosters()


def fit(make: Callable[[], Any]) -> Any:
    """What it makes; warnings of the fit do not matter."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return make()
