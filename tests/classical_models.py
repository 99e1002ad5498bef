"""Estimators of every family that are given a matrix of numbers, tiny: name -> a function that makes or fits one."""

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
from threadpoolctl import threadpool_limits

__all__ = ["ROWS", "classifiers", "fit", "fitted", "others", "positive", "regressors", "several", "transformers"]

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


_LINEAR = (
    "ARDRegression",
    "BayesianRidge",
    "ElasticNet",
    "ElasticNetCV",
    "HuberRegressor",
    "Lars",
    "LarsCV",
    "Lasso",
    "LassoCV",
    "LassoLars",
    "LassoLarsCV",
    "LassoLarsIC",
    "LinearRegression",
    "OrthogonalMatchingPursuit",
    "OrthogonalMatchingPursuitCV",
    "PassiveAggressiveRegressor",
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
        "PassiveAggressiveClassifier": lambda: _scaled(linear_model.PassiveAggressiveClassifier(random_state=0)),
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
    """With targets of their own: several outputs, or two classes only."""
    both = np.stack([TWO, THREE], 1)
    return {
        "LinearRegression-several": (lambda: linear_model.LinearRegression(), BOTH),
        "MultiTaskLasso": (lambda: linear_model.MultiTaskLasso(), BOTH),
        "MultiTaskLassoCV": (lambda: linear_model.MultiTaskLassoCV(alphas=3, cv=2), BOTH),
        "MultiTaskElasticNet": (lambda: linear_model.MultiTaskElasticNet(), BOTH),
        "MultiTaskElasticNetCV": (lambda: linear_model.MultiTaskElasticNetCV(alphas=3, cv=2), BOTH),
        "FixedThresholdClassifier": (
            lambda: model_selection.FixedThresholdClassifier(naive_bayes.GaussianNB(), threshold=0.3),
            TWO,
        ),
        "TunedThresholdClassifierCV": (
            lambda: model_selection.TunedThresholdClassifierCV(_scaled(linear_model.LogisticRegression()), cv=2),
            TWO,
        ),
        "RandomizedSearchCV": (
            lambda: model_selection.RandomizedSearchCV(linear_model.Ridge(), {"alpha": [1, 2]}, n_iter=1, cv=2),
            REAL,
        ),
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
        "RFECV": lambda: feature_selection.RFECV(linear_model.RidgeClassifier(), cv=2),
        "SequentialFeatureSelector": lambda: feature_selection.SequentialFeatureSelector(
            naive_bayes.GaussianNB(), n_features_to_select=2, cv=2
        ),
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


def fitted() -> dict[str, tuple[Callable[[], Any], Any]]:
    """Name -> (a function that fits, rows to ask about)."""
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
    return found


def fit(make: Callable[[], Any]) -> Any:
    """What it makes, by one thread; warnings of the fit do not matter."""
    with warnings.catch_warnings(), threadpool_limits(1):
        warnings.simplefilter("ignore")
        return make()
