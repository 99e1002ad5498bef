"""scikit-learn's estimators, XGBoost's and LightGBM's boosters: what is read equals the real object, with none of them
installed.

The real objects are made here (tests/estimators.py); real old files are in ../shared/data/sklearn.
"""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import modelfmt
import other_files
from modelfmt.ir.record import Objects, Pairs, Record, Table
from modelfmt.pickles import ubjson

pytest.importorskip("sklearn")
joblib = pytest.importorskip("joblib")

import estimators  # noqa: E402  it needs scikit-learn


@pytest.mark.parametrize("name", estimators.zoo())
def test_an_estimator_is_read_as_it_is(name: str, tmp_path: Path) -> None:
    real = estimators.fitted(name)
    joblib.dump(real, tmp_path / "a.joblib")
    (tmp_path / "b.pkl").write_bytes(pickle.dumps(real, 2))
    (tmp_path / "c.pkl").write_bytes(pickle.dumps(real, 5))
    for path in sorted(tmp_path.iterdir()):
        with modelfmt.open(path) as model:
            estimators.same(real, model.content)
            assert model.content.is_estimator and model.content.version is not None
            if hasattr(real, "get_params"):
                assert set(real.get_params(deep=False)) <= set(model.content.params)


@pytest.mark.parametrize("name", list(estimators.zoo())[::3])
def test_skops_holds_the_same(name: str, tmp_path: Path) -> None:
    io = pytest.importorskip("skops.io")
    real = estimators.fitted(name)
    try:
        io.dump(real, tmp_path / "a.skops", compression=8)
    except Exception as error:  # skops refuses some objects
        pytest.skip(f"skops cannot write it: {error!r}"[:100])
    with modelfmt.open(tmp_path / "a.skops") as model:
        assert model.format == "skops"
        estimators.same(real, model.content)
        unknown = io.get_untrusted_types(file=tmp_path / "a.skops")
        assert set(unknown) <= set(model.extras["skops"]["types"])
    assert modelfmt.scan(tmp_path / "a.skops").verdict in ("safe", "unknown")


def test_steps_and_names(tmp_path: Path) -> None:
    real = estimators.fitted("Pipeline")
    joblib.dump(real, tmp_path / "a.joblib", compress=3)
    with modelfmt.open(tmp_path / "a.joblib") as model:
        names = [(name, step if isinstance(step, str) else step.name) for name, step in model.content.steps]
        assert names == [("scaler", "StandardScaler"), ("skip", "passthrough"), ("clf", "SVC")]
        assert list(model.estimators) == ["", "steps.0.scaler", "steps.2.clf"]
        assert np.array_equal(model["steps.0.scaler.mean_"].numpy(), real[0].mean_)
        assert model.estimators["steps.2.clf"].params["kernel"] == "rbf"
    report = modelfmt.convert(tmp_path / "a.joblib", tmp_path / "a.safetensors")
    assert [loss.kind for loss in report.losses] == ["dropped"]
    from safetensors.numpy import load_file

    found = load_file(tmp_path / "a.safetensors")
    assert np.array_equal(found["steps.0.scaler.mean_"], real[0].mean_)
    assert np.array_equal(found["steps.2.clf.support_vectors_"], real[2].support_vectors_)
    modelfmt.convert(tmp_path / "a.joblib", tmp_path / "a.npz")
    assert np.array_equal(np.load(tmp_path / "a.npz")["steps.2.clf.dual_coef_"], real[2].dual_coef_)


def test_a_forest_is_a_table_for_each_tree(tmp_path: Path) -> None:
    real = estimators.fitted("RandomForestClassifier")
    joblib.dump(real, tmp_path / "a.joblib")
    with modelfmt.open(tmp_path / "a.joblib") as model:
        for ours, tree in zip(model.content["estimators_"], real.estimators_, strict=True):
            nodes = ours["tree_"]["nodes"]
            assert isinstance(nodes, Table)
            for column, wanted in (("feature", tree.tree_.feature), ("threshold", tree.tree_.threshold),
                                   ("left_child", tree.tree_.children_left)):  # fmt: skip
                assert np.array_equal(nodes[column].numpy(), wanted)
            assert np.array_equal(ours["tree_"]["values"].numpy(), tree.tree_.value)
    modelfmt.convert(tmp_path / "a.joblib", tmp_path / "a.npz")
    found = np.load(tmp_path / "a.npz")["estimators_.0.tree_.nodes.threshold"]
    assert np.array_equal(found, real.estimators_[0].tree_.threshold)


BLOCKED = """
import sys
import numpy  # imports pickle itself

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("sklearn", "joblib", "scipy", "skops", "xgboost", "lightgbm", "lz4", "pandas"):
            raise ImportError(name)

sys.meta_path.insert(0, Block())
import json, modelfmt
found = {}
for path in sys.argv[1:]:
    with modelfmt.open(path) as model:
        for tensor in model.values():
            tensor.rows(0, 1)
        found[path] = {name: record.name for name, record in model.estimators.items()}
        repr(modelfmt.inspect(path))
assert not {"sklearn", "joblib", "scipy", "skops", "lz4"} & set(sys.modules)
print(json.dumps(found))
"""


def test_nothing_of_theirs_is_imported(tmp_path: Path) -> None:
    """With these packages blocked, everything opens; inspect works too."""
    paths = []
    for number, compress in enumerate((0, 3, ("lz4", 3), ("xz", 3))):
        if compress == ("lz4", 3):
            pytest.importorskip("lz4")
        paths.append(tmp_path / f"{number}.joblib")
        joblib.dump(estimators.fitted("Pipeline"), paths[-1], compress=compress)
    command = [sys.executable, "-c", BLOCKED, *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    wanted = {"": "Pipeline", "steps.0.scaler": "StandardScaler", "steps.2.clf": "SVC"}
    assert json.loads(done.stdout) == {str(path): wanted for path in paths}


def test_inspect_names_estimators(tmp_path: Path) -> None:
    joblib.dump(estimators.fitted("ColumnTransformer"), tmp_path / "a.joblib")
    info = modelfmt.inspect(tmp_path / "a.joblib")
    rows = {row.name: row for row in info.estimators}
    assert rows["steps.0.columntransformer.transformers_.0.num"].type.endswith(".StandardScaler")
    assert rows["steps.1.logisticregression"].params["C"] == "1.0"
    assert "coef_" in rows["steps.1.logisticregression"].fitted
    command = [sys.executable, "-m", "modelfmt", "inspect", str(tmp_path / "a.joblib")]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "steps.1.logisticregression: sklearn.linear_model._logistic.LogisticRegression(" in shown


def old(name: str, shared_data: Path) -> Path:
    (path,) = (path for path in (shared_data / "sklearn").rglob(name.rpartition("/")[2]) if str(path).endswith(name))
    return path


def test_every_real_old_file_opens(shared_data: Path) -> None:
    found = {}
    for path in sorted((shared_data / "sklearn").rglob("*.*")):
        if path.is_file():
            with modelfmt.open(path) as model:
                for tensor in model.values():
                    tensor.numpy()
                found[path.name, model.content.name] = len(model)
    assert found == {
        ("mnist-svm.joblib", "SVC"): 11,
        ("rfmodel.pickle", "Pipeline"): 210,
        ("model.joblib", "SVC"): 13,
        ("model.pkl", "SVC"): 11,
        ("model.joblib", "CalibratedClassifierCV"): 31,
        ("vectorizer.joblib", "CountVectorizer"): 0,
    }


def test_real_old_files_say_what_scikit_learn_says(shared_data: Path) -> None:
    """Iris classifiers that this scikit-learn can still load, with a warning of their age."""
    path = old("joblib/model/model.joblib", shared_data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            real = joblib.load(path)
        except Exception as error:  # a newer scikit-learn may have moved its modules
            pytest.skip(repr(error)[:100])
    with modelfmt.open(path) as model:
        estimators.same(dict(real.__dict__) | {"_sklearn_version": model.content.version}, _sorted(model, real))
    with modelfmt.open(old("vectorizer.joblib", shared_data)) as model:
        assert len(model.content["vocabulary_"]) > 10_000 and model.content.params["analyzer"] == "word"


def _sorted(model: modelfmt.Model, real: Any) -> dict[str, Any]:
    return {key: model.content[key] for key in [*real.__dict__, "_sklearn_version"] if key in model.content}


def test_xgboost(tmp_path: Path) -> None:
    xgboost = pytest.importorskip("xgboost")
    real = xgboost.XGBClassifier(n_estimators=3, max_depth=3).fit(estimators.X, estimators.Y3)
    wanted = json.loads(bytes(real.get_booster().save_raw("json")))
    for protocol in (2, 4, 5):
        (tmp_path / "a.pkl").write_bytes(pickle.dumps(real, protocol))
        with modelfmt.open(tmp_path / "a.pkl") as model:
            assert model.content.is_estimator and model.content.params["max_depth"] == 3
            found = model.content["_Booster"]["handle"]["Model"]
            assert_json(found, wanted)
    modelfmt.convert(tmp_path / "a.pkl", tmp_path / "a.npz")
    trees = wanted["learner"]["gradient_booster"]["model"]["trees"]
    name = "_Booster.handle.Model.learner.gradient_booster.model.trees.1.split_conditions"
    assert np.allclose(np.load(tmp_path / "a.npz")[name], trees[1]["split_conditions"])


def assert_json(ours: Any, wanted: Any) -> None:
    """What UBJSON gave is what JSON of the same booster says."""
    if isinstance(wanted, dict):
        assert list(ours) == list(wanted)
        for key, value in wanted.items():
            assert_json(ours[key], value)
    elif isinstance(ours, modelfmt.ir.tensor.Tensor):
        assert np.allclose(ours.numpy(), wanted, rtol=1e-6, equal_nan=True)
    elif isinstance(wanted, list):
        assert len(ours) == len(wanted)
        for a, b in zip(ours, wanted, strict=True):
            assert_json(a, b)
    else:
        assert ours == wanted or ours == pytest.approx(wanted)


def test_lightgbm(tmp_path: Path) -> None:
    lightgbm = pytest.importorskip("lightgbm")
    real = lightgbm.LGBMClassifier(n_estimators=3, min_child_samples=2, verbose=-1).fit(estimators.X, estimators.Y3)
    joblib.dump(real, tmp_path / "a.joblib", compress=3)
    dump = real.booster_.dump_model()
    with modelfmt.open(tmp_path / "a.joblib") as model:
        found = model.content["_Booster"]["_handle"]
        assert len(found["trees"]) == len(dump["tree_info"])
        for ours, tree in zip(found["trees"], dump["tree_info"], strict=True):
            leaves: dict[int, float] = {}
            waiting = [tree["tree_structure"]]
            while waiting:
                node = waiting.pop()
                if "leaf_index" in node:
                    leaves[node["leaf_index"]] = node["leaf_value"]
                elif "split_index" in node:
                    index = node["split_index"]
                    assert ours["split_feature"].numpy()[index] == node["split_feature"]
                    assert ours["threshold"].numpy()[index] == pytest.approx(node["threshold"], rel=1e-12)
                    waiting += [node["left_child"], node["right_child"]]
            assert ours["num_leaves"] == tree["num_leaves"]
            values = ours["leaf_value"].numpy()
            assert all(values[index] == pytest.approx(value) for index, value in leaves.items())


def test_boosters_by_hand(tmp_path: Path) -> None:
    for name, data in other_files.everything().items():
        (tmp_path / name).write_bytes(data)
    with modelfmt.open(tmp_path / "x.pkl") as model:
        tree = model.content["handle"]["Model"]["trees"][0]
        assert tree["w"].numpy().tolist() == [0.5, -1] and tree["left"].numpy().tolist() == [1, -1]
        assert tree["id"] == 0 and tree["deep"] == [1, True, "x"]
    with modelfmt.open(tmp_path / "l.pkl") as model:
        assert model.content["_handle"]["trees"][0]["leaf_value"].numpy().tolist() == [0.5, -1.25e-3]
        assert model.content["_handle"]["parameters"] == {"boosting": "gbdt"}
    with modelfmt.open(tmp_path / "a.skops") as model:
        record = model.content
        assert isinstance(record, Record) and record.params["weights"] == {0: 0.5, 1: 2}
        assert record["again_"] is record["mean_"] and record["names_"].tolist() == ["a", "bc"]
        assert isinstance(record["o"], Objects) and record["o"].items == ["x", None]


UBJSON_LIES = {
    "deep": b"[" * 5000,
    "a huge array": b"[$d#L" + (2**62).to_bytes(8, "big"),
    "a huge text": b"SL" + (2**62).to_bytes(8, "big"),
    "a negative length": b"SL" + b"\xff" * 8,
    "a count of values": b"[#L" + (2**40).to_bytes(8, "big") + b"T" * 100,
    "a key twice": b"{" + 2 * (b"U\x01a" + b"T") + b"}",
    "an unknown marker": b"{U\x01aq}",
    "a typed array of texts": b"[$S#U\x01U\x01a",
    "more behind": b"{}T",
    "values without end": b"{U\x01a[" + b"T" * 20_000,
}


@pytest.mark.parametrize("name", UBJSON_LIES)
def test_ubjson_that_lies(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ubjson, "MAX_VALUES", 10_000)
    data = UBJSON_LIES[name]
    data = data if data[:1] == b"{" else b"{U\x01a" + data
    (tmp_path / "a.pkl").write_bytes(other_files.booster("xgboost.core", {"handle": bytearray(data)}))
    with pytest.raises(modelfmt.ModelfmtError) as caught:
        modelfmt.open(tmp_path / "a.pkl")
    assert caught.value.path


SKOPS_LIES = {
    "no root": [],
    "another protocol": other_files.SCHEMA | {"protocol": 99},
    "a member that is not there": other_files.dict_node({"a": other_files.array_node(9)}),
    "a path": other_files.dict_node({"a": other_files.array_node(1) | {"file": "../1.npy"}}),
    "a reference to nothing": other_files.dict_node({"a": other_files.node("CachedNode", "x", __id__=5)}),
    "keys without types": other_files.node("DictNode", "dict", content={"a": other_files.json_node(1)}, key_types=None),
    "a number that is none": other_files.dict_node({"x": other_files.json_node(1)}, "int"),
    "JSON that is none": other_files.node("JsonNode", "str", content="[1,"),
    "a slice of texts": other_files.node("SliceNode", "slice", content={"start": "a"}),
    "objects that do not fit": other_files.node(
        "NdArrayNode", "ndarray", type="json", content=[], shape=other_files.node("TupleNode", "tuple", content=[3])
    ),
}


@pytest.mark.parametrize("name", SKOPS_LIES)
def test_schemas_that_lie(name: str, tmp_path: Path) -> None:
    (tmp_path / "a.skops").write_bytes(other_files.skops(SKOPS_LIES[name]))
    with pytest.raises(modelfmt.ModelfmtError) as caught:
        modelfmt.open(tmp_path / "a.skops")
    assert caught.value.path


def test_pairs_keep_keys_of_any_kind(tmp_path: Path) -> None:
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({2**80: "a", 1.5: "b"}))
    with modelfmt.open(tmp_path / "a.pkl") as model:
        assert isinstance(model.content, Pairs) and model.content == [(2**80, "a"), (1.5, "b")]
