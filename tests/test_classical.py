"""Estimators as ONNX graphs, in ONNX Runtime, beside what scikit-learn, XGBoost and LightGBM say themselves."""

from __future__ import annotations

import copy
import json
import pickle
import re
import subprocess
import sys
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import modelfmt
from modelfmt.errors import LimitExceeded, ModelfmtError, UnsupportedError
from modelfmt.graphs.classical import table
from modelfmt.graphs.classical.build import from_record
from modelfmt.ir.record import Name, Record

pytest.importorskip("sklearn")
joblib = pytest.importorskip("joblib")

from sklearn import base, linear_model, pipeline, preprocessing, svm, tree  # noqa: E402

import classical  # noqa: E402  it needs scikit-learn
import classical_models  # noqa: E402
import classical_tables  # noqa: E402
import fuzz_classical  # noqa: E402
from classical_models import ROWS, THREE, TWO, X  # noqa: E402

MODELS = classical_tables.everything()
SINGLE = ("XGB", "init", "huber")
"""Those of whose sums float32 is a part: XGBoost's, and a first guess of boosted trees that was fitted on float32."""
CLOSE, SINGLE_CLOSE = 1e-9, 1e-6


@cache
def fit(name: str) -> Any:
    """A fitted model, once."""
    return classical_models.fit(MODELS[name][0])


@pytest.mark.parametrize("name", MODELS)
def test_as_the_library_computes(name: str, tmp_path: Path) -> None:
    """Equal labels; numbers within 1e-9, or 1e-6 where float32 is a part of the sum. 1e-5 was asked for."""
    real, rows = fit(name), MODELS[name][1]
    bound = SINGLE_CLOSE if any(word in name for word in SINGLE) else CLOSE
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert classical.compare(real, rows, classical.convert(real, tmp_path)) < bound


def test_every_row_of_the_table_is_tested() -> None:
    """Each class that is converted is one of the models above, or inside of one."""
    seen: set[int] = set()
    found = set().union(*(_names(fit(name), seen) for name in MODELS if not name.endswith("-2")))
    wanted = {*table.PREDICTORS, *table.TRANSFORMERS} - set(UNTESTED)
    assert wanted - found == set()
    assert not found & set(UNTESTED)


UNTESTED = {
    "Imputer": "of releases before 0.22",
    "HalvingGridSearchCV": "an experiment of scikit-learn; read as GridSearchCV",
    "HalvingRandomSearchCV": "an experiment of scikit-learn; read as GridSearchCV",
}


def _names(value: Any, seen: set[int]) -> set[str]:
    """Names of the classes of an object and of what it holds."""
    if id(value) in seen or (isinstance(value, np.ndarray) and value.dtype.kind != "O"):
        return set()
    seen.add(id(value))
    found = {type(value).__name__} if hasattr(value, "__dict__") else set()
    inside = list(vars(value).values()) if hasattr(value, "__dict__") else []
    inside += (
        list(value.values()) if isinstance(value, dict) else list(value) if isinstance(value, list | tuple) else []
    )
    inside += list(value.reshape(-1)) if isinstance(value, np.ndarray) else []
    return found.union(*(_names(one, seen) for one in inside))


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a pipeline of several types of columns, in every container."""
    folder = tmp_path_factory.mktemp("mixed")
    real = fit("ColumnTransformer")
    for protocol in (2, 5):
        (folder / f"{protocol}.pkl").write_bytes(pickle.dumps(real, protocol))
    joblib.dump(real, folder / "a.joblib", compress=3)
    try:
        import skops.io

        skops.io.dump(real, folder / "a.skops")
    except ImportError:
        pass
    return folder


def test_every_container_gives_the_same_bytes(mixed: Path, tmp_path: Path) -> None:
    made = {}
    for number, path in enumerate(sorted(mixed.iterdir())):
        modelfmt.convert(path, tmp_path / f"{number}.onnx")
        made[path.name] = (tmp_path / f"{number}.onnx").read_bytes()
    assert len(set(made.values())) == 1 and len(made) >= 3


BLOCKED = """
import sys
import numpy

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("sklearn", "joblib", "scipy", "skops", "xgboost", "lightgbm", "pandas", "onnx"):
            raise ImportError(name)

sys.meta_path.insert(0, Block())
import modelfmt
for path in sys.argv[1:]:
    modelfmt.convert(path, path + ".onnx", overwrite=True)
assert not {"sklearn", "joblib", "scipy", "skops", "xgboost", "lightgbm", "onnx"} & set(sys.modules)
"""


def test_nothing_of_theirs_is_imported(mixed: Path, tmp_path: Path) -> None:
    """With these packages blocked, the same bytes."""
    names = [name for name in ("SVC-probability-3", "RandomForestClassifier-2", "TfidfVectorizer") if name in MODELS]
    names += [name for name in ("XGBRFClassifier", "LGBMClassifier-ova") if name in MODELS]
    paths = []
    for name in names:
        paths.append(tmp_path / f"{name}.pkl")
        paths[-1].write_bytes(pickle.dumps(fit(name)))
    paths += [path for path in mixed.iterdir() if path.suffix != ".onnx"]
    command = [sys.executable, "-c", BLOCKED, *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    for path in paths:
        modelfmt.convert(path, tmp_path / "b.onnx", overwrite=True)
        apart = Path(f"{path}.onnx")
        assert apart.read_bytes() == (tmp_path / "b.onnx").read_bytes()
        apart.unlink()


@pytest.mark.parametrize("name", ["LogisticRegression-3", "RandomForestClassifier-2", "Ridge", "PCA", "KMeans"])
def test_float32_at_both_ends(name: str, tmp_path: Path) -> None:
    real, rows = fit(name), MODELS[name][1]
    path = classical.convert(real, tmp_path, quant="F32")
    graph = onnx.load(path).graph
    assert {one.type.tensor_type.elem_type for one in graph.input} == {onnx.TensorProto.FLOAT}
    assert onnx.TensorProto.DOUBLE not in {one.type.tensor_type.elem_type for one in graph.output}
    assert classical.compare(real, rows.astype("f4").astype("f8"), path) < 1e-5


def test_names_of_columns(tmp_path: Path) -> None:
    """With names and several types each column is an input of its own; those that are dropped are none."""
    real, rows = fit("ColumnTransformer-imputed"), MODELS["ColumnTransformer-imputed"][1]
    named = copy.copy(real)
    named.__dict__["feature_names_in_"] = np.array(["colour", "size", "cut", "count"], object)
    path = classical.convert(named, tmp_path)
    session = classical.session(path)
    assert [(one.name, one.type, one.shape) for one in session.get_inputs()] == [
        ("size", "tensor(double)", ["batch", 1]),
        ("cut", "tensor(string)", ["batch", 1]),
        ("count", "tensor(double)", ["batch", 1]),
    ]
    given = {"size": rows[:, [1]].astype("f8"), "cut": rows[:, [2]], "count": rows[:, [3]].astype("f8")}
    assert session.run(["label"], given)[0].tolist() == real.predict(rows).tolist()
    kept = {one.key: one.value for one in onnx.load(path).metadata_props}
    assert json.loads(kept["modelfmt.feature_names"]) == ["colour", "size", "cut", "count"]


def test_kinds_of_labels(tmp_path: Path) -> None:
    for labels in (TWO == 1, TWO * 3.0, np.array(["ä", "日"])[TWO], np.array(["ä", "日"])[TWO].astype(object), TWO - 5):
        real = linear_model.LogisticRegression(max_iter=2000).fit(X, labels)
        assert classical.compare(real, ROWS, classical.convert(real, tmp_path)) < CLOSE


def test_old_releases_say_the_same_otherwise(tmp_path: Path) -> None:
    """Attributes under the names that they had."""
    real = fit("GaussianNB-3")
    old = {"sigma_" if key == "var_" else key: value for key, value in vars(real).items()}
    moved = type(real).__new__(type(real))
    moved.__dict__.update(old)
    path = classical.convert(moved, tmp_path)
    assert classical.compare(real, ROWS, path) < CLOSE
    real = tree.DecisionTreeClassifier(max_depth=3, random_state=0).fit(X, THREE)
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(real))
    with modelfmt.open(tmp_path / "a.pkl") as model:
        model.content["tree_"]["nodes"].columns.pop("missing_go_to_left")
        assert from_record(model.content, "a.pkl").program.graph.nodes


def test_every_real_old_file(shared_data: Path, tmp_path: Path) -> None:
    """Files of releases from 0.19 to 0.24: each converts; two that this scikit-learn loads say the same."""
    done = []
    for path in sorted((shared_data / "sklearn").rglob("*.*")):
        if not path.is_file():
            continue
        modelfmt.convert(path, tmp_path / "a.onnx", overwrite=True)
        onnx.checker.check_model(tmp_path / "a.onnx")
        done.append(path.name)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                real = joblib.load(path)
                rows = np.random.default_rng(0).normal(size=(50, real.n_features_in_))
                real.predict(rows)
            except Exception:  # too old for this one
                continue
            assert classical.compare(real, rows, tmp_path / "a.onnx") < CLOSE
            done[-1] += " equal"
    assert [name.partition(" ")[0] for name in done] == [
        "mnist-svm.joblib", "rfmodel.pickle", "model.joblib", "model.pkl", "model.joblib", "vectorizer.joblib"
    ]  # fmt: skip


def test_a_forest_that_keeps_counts(shared_data: Path, tmp_path: Path) -> None:
    """A real one of 0.21, which this scikit-learn does not load: beside a walk from root to leaf."""
    (path,) = (shared_data / "sklearn").rglob("rfmodel.pickle")
    modelfmt.convert(path, tmp_path / "a.onnx")
    with modelfmt.open(path) as model:
        width = model.content.steps[0][1]["n_features_"]
        rows = np.random.default_rng(1).random((30, width)).astype("f4")
        shares = np.mean([_walked(one["tree_"], rows) for one in model.content.steps[0][1]["estimators_"]], axis=0)
    found = classical.run(tmp_path / "a.onnx", rows)
    assert len(found) == 20  # ten outputs, of two classes each
    for number in range(10):
        assert np.abs(found[f"probabilities_{number}"] - shares[:, number]).max() < CLOSE
        assert found[f"label_{number}"].tolist() == shares[:, number].argmax(axis=1).tolist()


def _walked(tree_: Record, rows: Any) -> Any:
    """The shares of classes in the leaf of each row, for each output."""
    keys = ("left_child", "right_child", "feature", "threshold")
    left, right, feature, threshold = (tree_["nodes"][key].numpy() for key in keys)
    counts = tree_["values"].numpy()
    found = []
    for row in rows:
        node = 0
        while left[node] >= 0:
            node = left[node] if row[feature[node]] <= threshold[node] else right[node]
        found.append(counts[node] / counts[node].sum(axis=1, keepdims=True))
    return np.array(found)


class StandardScaler(base.BaseEstimator):  # of the same name as scikit-learn's
    """Somebody's own."""

    def __init__(self) -> None:
        self.mean_ = np.zeros(4)
        self.n_features_in_ = 4


def refused() -> dict[str, tuple[Any, str, str]]:
    """Name -> (a fitted object, the error's code, what it names)."""
    scaler = preprocessing.StandardScaler().fit(X)
    from sklearn import gaussian_process, kernel_approximation

    return {
        "a class of the same name": (pipeline.Pipeline([("a", StandardScaler()), ("b", scaler)]), "no-graph", "test_"),
        "a class that is not covered": (
            gaussian_process.GaussianProcessRegressor().fit(X[:9], X[:9, 0]), "no-graph", "GaussianProcessRegressor"
        ),
        "one inside": (
            pipeline.make_pipeline(kernel_approximation.Nystroem(n_components=2), svm.LinearSVC()).fit(X, TWO),
            "no-graph", "Nystroem",
        ),
        "a function": (preprocessing.FunctionTransformer(np.sin).fit(X), "estimator-parameter", "sin"),
        "a kernel computed before": (
            svm.SVR(kernel="precomputed").fit(X @ X.T, TWO), "estimator-parameter", "precomputed"
        ),
        "not fitted": (linear_model.LogisticRegression(), "estimator-columns", "LogisticRegression"),
        "a list": ([scaler, scaler], "source-kind", "list"),
    }  # fmt: skip


@pytest.mark.parametrize("name", refused())
def test_what_is_refused_is_named(name: str, tmp_path: Path) -> None:
    real, code, names = refused()[name]
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(real))
    with pytest.raises(UnsupportedError) as caught:
        modelfmt.convert(tmp_path / "a.pkl", tmp_path / "a.onnx")
    assert caught.value.code == code and names in str(caught.value) and caught.value.allowed
    assert not (tmp_path / "a.onnx").exists()


def test_changed_estimators(tmp_path: Path) -> None:
    found = fuzz_classical.run(500, 3, 8, tmp_path)
    assert found["graph"] > 100 and found["estimator-value"] > 30


def test_the_page_names_every_class() -> None:
    page = (Path(__file__).parent.parent / "docs" / "classical.md").read_text()
    section = page.split("## What is converted")[1].split("Also read:")[0]
    assert set(re.findall(r"`(\w+)`", section)) == {*table.PREDICTORS, *table.TRANSFORMERS}
    readme = (Path(__file__).parent.parent / "README.md").read_text()
    assert f"{len({*table.PREDICTORS, *table.TRANSFORMERS})} classes" in readme


def test_inspect_says_what_it_becomes(tmp_path: Path) -> None:
    for real, said in ((fit("Ridge"), True), ({"a": 1}, False), (StandardScaler(), False)):
        (tmp_path / "a.pkl").write_bytes(pickle.dumps(real))
        assert any("onnx" in note for note in modelfmt.inspect(tmp_path / "a.pkl").notes) == said


def _record(kind: str, **attributes: Any) -> Record:
    return Record(f"sklearn.x.{kind}", attributes)


def test_estimators_that_hold_themselves() -> None:
    own = _record("Pipeline", n_features_in_=2)
    own.attributes["steps"] = [("a", own)]
    with pytest.raises(ModelfmtError) as caught:
        from_record(own, "a.pkl")
    assert caught.value.code == "estimator-depth"


def test_estimators_that_double(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thirty unions, each of the one before twice."""
    from modelfmt.graphs.classical import nodes

    monkeypatch.setattr(nodes, "MAX_NODES", 5000)
    one = _record("Binarizer", n_features_in_=2, threshold=0.5)
    for _ in range(30):
        one = _record("FeatureUnion", n_features_in_=2, transformer_list=[("a", one), ("b", one)])
    with pytest.raises(ModelfmtError) as caught:
        from_record(one, "a.pkl")
    assert caught.value.code == "estimator-size"


def test_small_files_that_ask_for_large_tables(tmp_path: Path) -> None:
    """Many classes, and a training row for each: a table of both would not be small."""
    real = fit("KNeighborsClassifier-3")
    large = copy.copy(real)
    large.classes_ = np.arange(1 << 14)
    large._fit_X, large._y = np.zeros((1 << 14, 1)), np.arange(1 << 14)
    large.n_features_in_ = 1
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(large))
    wide = _record("ColumnTransformer", n_features_in_=1 << 20)
    wide.attributes["transformers_"] = [("a", "passthrough", list(range(1 << 20)))] * 1000
    with modelfmt.open(tmp_path / "a.pkl") as model:
        for record in (model.content, wide):
            with pytest.raises(LimitExceeded) as caught:
                from_record(record, "a.pkl")
            assert caught.value.code == "estimator-size"


def test_a_named_function_is_not_called() -> None:
    record = _record("FunctionTransformer", n_features_in_=2, func=Name("os.system"))
    with pytest.raises(UnsupportedError, match=r"os\.system"):
        from_record(record, "a.pkl")
