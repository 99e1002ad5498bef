"""Estimators of texts, categories, missing values and columns of several types, and boosters: name -> (a function that
fits, rows to ask about)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn import (
    cluster,
    compose,
    discriminant_analysis,
    ensemble,
    impute,
    isotonic,
    linear_model,
    neighbors,
    pipeline,
    preprocessing,
    svm,
    tree,
)
from sklearn.feature_extraction import text

import classical_models
from classical_models import BOTH, HOLES, LABELS, REAL, ROWS, ROWS_HOLES, THREE, TWO, X, Z

__all__ = ["everything", "tables", "texts"]

RNG = np.random.default_rng(8)
TALK = (
    ("Win a free prize now, win NOW", "spam"),
    ("are we still on for lunch today", "fine"),
    ("free free money, call now", "spam"),
    ("see you at the end of the day", "fine"),
    ("naïve words über alles, 日本", "fine"),
)


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
    few = {"n_estimators": 6, "max_depth": 3, "n_jobs": 1}
    some = {"n_estimators": 6, "min_child_samples": 3, "verbose": -1, "n_jobs": 1}
    grown = np.exp(REAL / 3)
    coded, rows = X.copy(), ROWS.copy()
    coded[:, 0], rows[:, 0] = RNG.integers(0, 9, 90), RNG.integers(0, 12, 200)
    rows[::9, 0] = np.nan
    zeros, zero_rows = np.nan_to_num(HOLES), np.nan_to_num(ROWS_HOLES)
    kinds = {"feature_types": ["c", "q", "q", "q"], "enable_categorical": True}
    early = {"n_estimators": 40, "early_stopping_rounds": 2, "n_jobs": 1}
    held = {"eval_set": [(X[:30], TWO[::-1][:30])], "verbose": False}
    groups = {"min_data_per_group": 1, "cat_smooth": 0.1}
    found: dict[str, tuple[Callable[[], Any], Any]] = {
        "XGBClassifier-early": (lambda: x.XGBClassifier(**early).fit(X, TWO, **held), ROWS),
        "XGBClassifier-dart": (lambda: x.XGBClassifier(booster="dart", rate_drop=0.5, **few).fit(X, THREE), ROWS),
        "XGBRFRegressor": (lambda: x.XGBRFRegressor(**few).fit(X, REAL), ROWS),
        "XGBRanker": (lambda: x.XGBRanker(**few).fit(X, THREE, group=[45, 45]), ROWS),
        "LGBMRanker": (lambda: g.LGBMRanker(**some).fit(X, THREE, group=[45, 45]), ROWS),
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
        "LGBMClassifier-ova": (lambda: g.LGBMClassifier(objective="multiclassova", **some).fit(X, LABELS), ROWS),
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


def everything() -> dict[str, tuple[Callable[[], Any], Any]]:
    """These and those of classical_models."""
    return classical_models.fitted() | tables() | texts() | boosters()
