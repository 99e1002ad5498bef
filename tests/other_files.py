"""Small files of NumPy, joblib, skops and the boosters, made by hand or NumPy: to be changed and broken."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import pickle
import struct
import zipfile
import zlib
from typing import Any

import numpy as np

TYPE = np.dtype([("a", "<i2"), ("b", ">f4", (2,)), ("t", "<U2")])
TABLE = np.array([(1, (0.5, -1.0), "xy"), (2, (1.5, 2.0), "z")], dtype=TYPE)


def npy(array: Any = None) -> bytes:
    """An `.npy` in Fortran's order."""
    held = io.BytesIO()
    np.save(held, np.asfortranarray(np.arange(6, dtype=">f4").reshape(2, 3)) if array is None else array)
    return held.getvalue()


def npz(*, compressed: bool = False) -> bytes:
    """An `.npz` of numbers, a table and texts."""
    held = io.BytesIO()
    save = np.savez_compressed if compressed else np.savez
    save(held, a=np.arange(3.0), t=TABLE, s=np.array(["ab", "c"]))
    return held.getvalue()


def small_npz() -> bytes:
    """An `.npz` of two small arrays, one of them deflated."""
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as archive:
        archive.writestr("a.npy", npy())
        archive.writestr("t.npy", npy(TABLE), zipfile.ZIP_DEFLATED)
    return held.getvalue()


def joblib(array: np.ndarray[Any, Any] | None = None, order: str = "C", padding: int | None = 3) -> bytes:
    """A pickle of joblib's kind, by hand: protocol 2 of {"x": array, "n": 1}, the array's bytes in the middle."""
    array = np.arange(6, dtype="f4").reshape(2, 3) if array is None else array
    state: dict[str, Any] = {
        "subclass": np.ndarray, "shape": array.shape, "order": order, "dtype": array.dtype, "allow_mmap": True,
    }  # fmt: skip
    if padding is not None:
        state["numpy_array_alignment_bytes"] = 16
    inner = pickle.dumps(state, 2)[2:-1]
    raw = pickle.dumps(array, 2) if array.dtype.hasobject else array.tobytes(order)
    pad = b"" if padding is None or array.dtype.hasobject else bytes([padding]) + b"\xff" * padding
    head = b"\x80\x02}(U\x01xcjoblib.numpy_pickle\nNumpyArrayWrapper\n)\x81" + inner + b"b"
    return head + pad + raw + b"U\x01nK\x01u."


COMPRESSIONS = {
    "zlib": zlib.compress,
    "gzip": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "lzma": lambda data: lzma.compress(data, lzma.FORMAT_ALONE),
    "lz4": lambda data: lz4(data),
    "old zlib": lambda data: b"ZF" + hex(len(data)).ljust(19).encode() + zlib.compress(data),
}


def lz4(data: bytes) -> bytes:
    """A frame of stored blocks, without a checksum of the content; written after the frame's description."""
    from modelfmt._kernels import xxh32

    head = bytes([0x60, 0x40])
    blocks = b"".join(
        struct.pack("<I", len(data[at : at + 65536]) | 1 << 31) + data[at : at + 65536]
        for at in range(0, len(data), 65536)
    )
    return b"\x04\x22\x4d\x18" + head + bytes([xxh32(head) >> 8 & 255]) + blocks + bytes(4)


def skops(schema: Any = None, arrays: tuple[str, ...] = ("1.npy", "2.npy")) -> bytes:
    """A `.skops` of an estimator with an array, texts, a dict of keys that are numbers, and an array of objects."""
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as archive:
        for name in arrays:
            archive.writestr(name, npy(np.arange(3.0) if name == "1.npy" else np.array(["a", "bc"])))
        archive.writestr("schema.json", json.dumps(SCHEMA if schema is None else schema, separators=(",", ":")))
    return held.getvalue()


def node(loader: str, kind: str, module: str = "builtins", **more: Any) -> dict[str, Any]:
    """A node of a skops schema."""
    return {"__class__": kind, "__module__": module, "__loader__": loader} | more


def array_node(number: int) -> dict[str, Any]:
    return node("NdArrayNode", "ndarray", "numpy", type="numpy", file=f"{number}.npy", __id__=number)


def json_node(value: Any) -> dict[str, Any]:
    return node("JsonNode", "str", content=json.dumps(value), is_json=True)


def dict_node(rows: dict[str, Any], kind: str = "str") -> dict[str, Any]:
    types = node("ListNode", "list", content=[node("TypeNode", kind) for _ in rows])
    return node("DictNode", "dict", content=rows, key_types=types)


SCHEMA = node(
    "ObjectNode", "Scaler", "sklearn.x", __id__=7, protocol=2, _skops_version="0.16.0",
    content=dict_node({
        "mean_": array_node(1), "names_": array_node(2), "again_": array_node(1), "with_mean": json_node(True),
        "weights": dict_node({"0": json_node(0.5), "1": json_node(2)}, "int"),
        "o": node("NdArrayNode", "ndarray", "numpy", type="json", content=[json_node("x"), json_node(None)],
                  shape=node("TupleNode", "tuple", content=[json_node(2)])),
    }),
)  # fmt: skip


def ubjson(value: Any) -> bytes:
    """UBJSON as XGBoost writes it."""
    if isinstance(value, dict):
        return b"{" + b"".join(_length(key.encode()) + ubjson(item) for key, item in value.items()) + b"}"
    if isinstance(value, np.ndarray):
        kind = {"f4": b"d", "i4": b"l", "u1": b"U"}[value.dtype.str[1:]]
        return (
            b"[$" + kind + b"#L" + struct.pack(">q", value.size) + value.astype(value.dtype.newbyteorder(">")).tobytes()
        )
    if isinstance(value, list):
        return b"[" + b"".join(map(ubjson, value)) + b"]"
    if isinstance(value, str):
        return b"S" + _length(value.encode())
    return (b"T" if value else b"F") if isinstance(value, bool) else b"L" + struct.pack(">q", value)


def _length(raw: bytes) -> bytes:
    return b"L" + struct.pack(">q", len(raw)) + raw


BOOSTER = {"Config": {"a": "1"}, "Model": {"trees": [{"id": 0, "w": np.array([0.5, -1.0], "f4"),
           "left": np.array([1, -1], "i4"), "kind": np.zeros(2, "u1"), "deep": [1, True, "x"]}]}}  # fmt: skip
LIGHTGBM = (
    "tree\nversion=v4\nnum_class=1\n\nTree=0\nnum_leaves=2\nsplit_feature=0\nthreshold=-0.5\nleaf_value=0.5 -1.25e-3\n"
    "shrinkage=0.1\n\n\nend of trees\n\nfeature_importances:\nColumn_0=1\n\nparameters:\n[boosting: gbdt]\n"
    "end of parameters\n\npandas_categorical:null\n"
)


def booster(module: str, state: dict[str, Any]) -> bytes:
    """A pickle of an instance of `module.Booster`."""
    return b"\x80\x02c" + module.encode() + b"\nBooster\n)\x81" + pickle.dumps(state, 2)[2:-1] + b"b."


def everything() -> dict[str, bytes]:
    """Name -> file, of every kind."""
    plain = joblib()
    return {
        "a.npy": npy(),
        "b.npy": npy(TABLE),
        "a.npz": npz(),
        "b.npz": npz(compressed=True),
        "a.joblib": plain,
        "f.joblib": joblib(np.arange(6.0).reshape(2, 3), "F", None),
        "o.joblib": joblib(np.array(["a", None, 2], dtype=object)),
        "t.joblib": joblib(TABLE),
        **{f"{name}.joblib": pack(plain) for name, pack in COMPRESSIONS.items()},
        "a.skops": skops(),
        "x.pkl": booster("xgboost.core", {"handle": bytearray(ubjson(BOOSTER))}),
        "l.pkl": booster("lightgbm.basic", {"_handle": LIGHTGBM, "params": {}}),
        "t.pkl": pickle.dumps({"t": TABLE, "s": np.float32(1.5), "u": np.array(["a"]), "d": {1: (2, {3})}}, 4),
    }
