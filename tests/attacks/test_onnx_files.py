"""Hostile ONNX files, each refused with its reason, and the harmless ones beside them that must open.

Cases after onnx's external-data advisories (CVE-2022-25882, CVE-2024-27318, CVE-2026-27489, CVE-2026-34445,
CVE-2026-34446), onnx/test/test_external_data.py, and ONNX Runtime's in-memory locations.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from onnx import GraphProto, ModelProto, TensorProto, helper

import modelfmt
from modelfmt.errors import ModelfmtError
from modelfmt.storage import protobuf

SECRET = b"\x01\x02\x03\x04" * 64


def model_of(*tensors: TensorProto, nodes: list[object] | None = None) -> ModelProto:
    graph = helper.make_graph(nodes or [helper.make_node("Identity", ["t"], ["y"])], "g", [], [], list(tensors))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def outside(name: str = "t", shape: tuple[int, ...] = (64,), **entries: object) -> TensorProto:
    """A constant in another file. entries: the keys of its external data."""
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=shape, data_location=TensorProto.EXTERNAL)
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def inside(shape: tuple[int, ...], **fields: object) -> TensorProto:
    return TensorProto(name="t", data_type=TensorProto.FLOAT, dims=shape, **fields)  # type: ignore[arg-type]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with data beside the model, and a secret outside of it."""
    place = tmp_path / "model"
    place.mkdir()
    (tmp_path / "secret").write_bytes(SECRET)
    (place / "data").write_bytes(SECRET)
    (place / "out").symlink_to(tmp_path / "secret")
    (place / "loop").symlink_to(place / "loop")
    (place / "up").symlink_to(tmp_path)
    os.mkfifo(place / "pipe")
    return place


def opened(folder: Path, model: ModelProto | bytes) -> modelfmt.Model:
    path = folder / "m.onnx"
    path.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
    return modelfmt.open(path)


LOCATIONS = {
    "../secret": "unsafe-path",
    "data/../../secret": "unsafe-path",
    "/etc/passwd": "unsafe-path",
    "/proc/self/mem": "unsafe-path",
    "~/secret": "unsafe-path",
    "..\\secret": "unsafe-path",
    "C:secret": "unsafe-path",
    "data\0": "unsafe-path",
    "out": "unsafe-path",
    "loop": "unsafe-path",
    "up/secret": "unsafe-path",
    "pipe": "not-a-file",
    "": "tensor",
    "absent": "external-missing",
    "*/_ORT_MEM_ADDR_/*": "in-memory",
}


@pytest.mark.parametrize("location", LOCATIONS)
def test_locations_that_lead_out(location: str, folder: Path) -> None:
    with pytest.raises(ModelfmtError) as caught:
        opened(folder, model_of(outside(location=location)))
    assert caught.value.code == LOCATIONS[location]


RANGES: dict[str, tuple[dict[str, object], str]] = {
    "beyond the file": ({"offset": 257, "length": 256}, "span-past-end"),
    "half beyond": ({"offset": 128, "length": 256}, "span-past-end"),
    "negative": ({"offset": -4}, "tensor"),
    "a float": ({"offset": "1e2"}, "tensor"),
    "digits of another script": ({"offset": "\u0661"}, "tensor"),
    "2^64": ({"offset": 2**64}, "tensor"),
    "shorter than the shape": ({"length": 16}, "span-size"),
    "longer than the shape": ({"length": 2**40}, "span-size"),
    "another checksum": ({"checksum": "00" * 20}, "checksum"),
    "a folder of its own": ({"basepath": "/etc"}, "unsafe-path"),
}


@pytest.mark.parametrize("case", RANGES)
def test_ranges_that_do_not_fit(case: str, folder: Path) -> None:
    entries, code = RANGES[case]
    with pytest.raises(ModelfmtError) as caught:
        opened(folder, model_of(outside(location="data", **entries)))
    assert caught.value.code == code


def test_short_data_without_a_length(folder: Path) -> None:
    """onnx.load takes what is there."""
    with pytest.raises(ModelfmtError) as caught:
        opened(folder, model_of(outside(shape=(1 << 40,), location="data")))
    assert caught.value.code == "span-past-end"


def test_overlapping_constants(folder: Path) -> None:
    first = outside("a", (32,), location="data", offset=0)
    with pytest.raises(ModelfmtError) as caught:
        opened(folder, model_of(first, outside("b", (32,), location="data", offset=64)))
    assert caught.value.code == "overlap"
    with opened(folder, model_of(first, outside("b", (32,), location="data", offset=0))) as tied:
        assert tied["a"].expr == tied["b"].expr


def nested(depth: int) -> bytes:
    """Graphs in attributes of nodes of graphs; onnx's own classes refuse as many."""
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [], []).SerializeToString()
    for _ in range(depth):
        attribute = message((1, "then_branch"), (6, graph), (20, 5))
        graph = message((1, message((1, "c"), (2, "y"), (4, "If"), (5, attribute))), (2, "g"))
    return message((1, 10), (7, graph), (8, message((2, 21))))


def message(*rows: tuple[int, int | str | bytes]) -> bytes:
    return protobuf.message(rows)


def recursive(*calls: tuple[str, str]) -> ModelProto:
    """A model with functions that call: (who, whom)."""
    model = model_of(inside((0,)))
    for name, inner in calls:
        node = helper.make_node(inner, ["a"], ["b"], domain="own")
        model.functions.append(helper.make_function("own", name, ["a"], ["b"], [node], [helper.make_opsetid("own", 1)]))
    return model


def twice() -> bytes:
    model = model_of(inside((0,)))
    return model.SerializeToString() + ModelProto(graph=GraphProto(name="another")).SerializeToString()


def two_attributes() -> ModelProto:
    model = model_of(inside((0,)))
    model.graph.node[0].attribute.extend([helper.make_attribute("a", 1), helper.make_attribute("a", 2)])
    return model


GRAPHS: dict[str, tuple[Callable[[], ModelProto | bytes], str]] = {
    "a shape beyond its bytes": (lambda: model_of(inside((2**30, 2**20), raw_data=b"1234")), "span-size"),
    "a shape whose product wraps": (lambda: model_of(inside((2**33, 2**33), raw_data=b"")), "tensor"),
    "a negative size": (lambda: model_of(inside((-1,), raw_data=b"1234")), "tensor"),
    "too many dimensions": (lambda: model_of(inside((1,) * 65, raw_data=b"1234")), "dimensions"),
    "elements twice": (lambda: model_of(inside((1,), raw_data=b"1234", float_data=[1.0])), "tensor"),
    "elements of another type": (lambda: model_of(inside((1,), int64_data=[1])), "tensor"),
    "no elements": (lambda: model_of(inside((1,))), "span-size"),
    "inside and outside": (lambda: model_of(inside((1,), raw_data=b"1234", data_location=1)), "tensor"),
    "an unknown type": (lambda: model_of(TensorProto(name="t", data_type=99, dims=[1])), "dtype"),
    "a constant twice": (lambda: model_of(inside((0,)), inside((0,))), "duplicate-key"),
    "an attribute twice": (two_attributes, "duplicate-key"),
    "two graphs": (twice, "protobuf"),
    "graphs in graphs": (lambda: nested(60), "depth"),
    "a function that calls itself": (lambda: recursive(("f", "f")), "recursion"),
    "functions that call each other": (lambda: recursive(("f", "g"), ("g", "h"), ("h", "f")), "recursion"),
    "a function twice": (lambda: recursive(("f", "Abs"), ("f", "Neg")), "duplicate-key"),
    "no graph": (lambda: b"\x08\x0a\x12\x01a", "no-graph"),
    "a length beyond the file": (lambda: b"\x08\x0a\x3a\xff\xff\xff\xff\xff\x7f", "protobuf"),
    "a group": (lambda: b"\x08\x0a\x3b\x3c", "protobuf"),
}


@pytest.mark.parametrize("case", GRAPHS)
def test_graphs_that_contradict_themselves(case: str, folder: Path) -> None:
    make, code = GRAPHS[case]
    with pytest.raises(ModelfmtError) as caught:
        opened(folder, make())
    assert caught.value.code == code
    assert caught.value.path


def test_what_is_harmless_opens(folder: Path, tmp_path: Path) -> None:
    digest = hashlib.sha1((folder / "data").read_bytes()).hexdigest()
    (folder / "link").symlink_to("data")
    for entries in ({}, {"offset": 0, "length": 256}, {"checksum": digest}, {"location": "link"}):
        with opened(folder, model_of(outside(**{"location": "data", **entries}))) as model:
            assert bytes(model["t"].numpy()) == SECRET
    opened(folder, nested(20)).close()


def test_hard_links_and_unknown_keys_are_named(folder: Path, tmp_path: Path) -> None:
    os.link(folder / "data", tmp_path / "another name")
    with opened(folder, model_of(outside(location="data", colour="red"))) as model:
        notes = " ".join(model.extras["notes"])
    assert "hard links" in notes
    assert "colour" in notes


def test_links_of_a_hub_cache_open(tmp_path: Path) -> None:
    """onnx.load and onnx-ir refuse these; ONNX Runtime opens them."""
    blobs = tmp_path / "models--a--b" / "blobs"
    snapshot = tmp_path / "models--a--b" / "snapshots" / "1"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    (blobs / "1").write_bytes(model_of(outside(location="m.onnx_data")).SerializeToString())
    (blobs / "2").write_bytes(SECRET)
    (snapshot / "m.onnx").symlink_to("../../blobs/1")
    (snapshot / "m.onnx_data").symlink_to("../../blobs/2")
    with modelfmt.open(snapshot / "m.onnx") as model:
        assert bytes(model["t"].numpy()) == SECRET


def test_a_link_to_a_model_whose_data_lies_beside_the_target(folder: Path, tmp_path: Path) -> None:
    opened(folder, model_of(outside(location="data"))).close()
    (tmp_path / "link.onnx").symlink_to(folder / "m.onnx")
    with modelfmt.open(tmp_path / "link.onnx") as model:
        assert np.asarray(model["t"]).shape == (64,)


BOMBS: dict[str, Callable[[], bytes]] = {
    "unknown fields": lambda: b"\x08\x0a" + b"\xc0\x3e\x00" * 100_000,
    "empty nodes": lambda: message((1, 10), (7, b"\x0a\x00" * 30_000), (8, message((2, 21)))),
    "elements of six bits": lambda: model_of(
        TensorProto(name="t", data_type=TensorProto.FLOAT6E2M3, dims=[60_000], int32_data=[1] * 60_000)
    ).SerializeToString(),
    "texts": lambda: message((1, 10), (7, b"\x0a\x02\x0a\x00" * 20_000), (8, message((2, 21)))),
}


@pytest.mark.parametrize("case", BOMBS)
def test_many_small_things_are_read_in_linear_time(case: str, folder: Path) -> None:
    data = BOMBS[case]()
    began = time.process_time()
    with contextlib.suppress(ModelfmtError):
        opened(folder, data).close()
    assert time.process_time() - began < 5
