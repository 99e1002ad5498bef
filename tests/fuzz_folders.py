"""Mutates quantized folders: configurations, headers, bytes. Whatever comes of it, only ModelfmtError is raised.

python tests/fuzz_folders.py 20000          (a longer run; tests/test_fuzz_folders.py is a short one)
"""

from __future__ import annotations

import json
import random
import shutil
import struct
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import save_file

import modelfmt
import schemes

DATA = Path(__file__).parent / "data" / "schemes"
NAME = "model.layers.0.mlp.up_proj"
VALUES = (None, -1, 0, 1, 3, 7, 1 << 31, 1 << 62, True, 1.5, "", "x", "int4", [], [0], [1, 1 << 40], {}, {"a": 1})
TYPES = ("F32", "F16", "BF16", "U8", "I8", "I32", "U32", "I64", "F8_E4M3", "F8_E5M2", "BOOL", "F64")
TARGETS = ("mlx", "compressed-tensors", "gptq", "awq", "fp8", "bitsandbytes")
MADE = (
    *(
        "awq-g64",
        "awq-gemv-g64",
        "gptq-4-v1",
        "gptq-3-v1",
        "gptq-4-act",
        "ct-int4-asym",
        "ct-int4-act",
        "ct-int3-padded",
    ),
    *("ct-int8-asym", "ct-nvfp4", "ct-mxfp4", "ct-mxfp8", "fp8-block", "modelopt-nvfp4", "bnb-nf4-nested", "bnb-int8"),
    *("mlx-4", "mlx-3", "mlx-mxfp8", "mlx-nvfp4", "fbgemm-fp8", "deepseek4-fp8", "deepseek4-fp4"),
)


def write_sources(place: Path) -> list[Path]:
    """A folder of one small matrix of each scheme, besides those of other programs."""
    found = sorted(path.parent for path in DATA.glob("*/config.json"))
    rng = np.random.default_rng(1)
    for name in MADE:
        scheme = schemes.SCHEMES[name]
        parts, _ = scheme.make(rng.standard_normal((64, 128)).astype(np.float32), rng)
        (place / name).mkdir()
        tensors = {f"{NAME}.{part}": value.contiguous() for part, value in parts.items()}
        save_file(tensors, place / name / "model.safetensors", metadata={"format": "pt"})
        (place / name / "config.json").write_text(json.dumps({"model_type": "llama", scheme.key: scheme.config}))
        found.append(place / name)
    return found


def mutated(value: Any, rng: random.Random) -> Any:
    """The same JSON with one place changed, dropped or doubled."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(list(value))
        if rng.random() < 0.1:
            return {k: v for k, v in value.items() if k != key}
        return {**value, key: mutated(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.7:
        i = rng.randrange(len(value))
        return [*value[:i], mutated(value[i], rng), *value[i + 1 :]]
    if isinstance(value, int) and not isinstance(value, bool) and rng.random() < 0.5:
        return value + rng.choice((-1, 1, 8, -8, value, 1 << 20))
    return rng.choice((*VALUES, *TYPES))


WIDTHS = (
    ("U8", "I8", "F8_E4M3", "F8_E5M2", "BOOL"),
    ("F16", "BF16", "I16", "U16"),
    ("F32", "I32", "U32"),
    ("I64", "F64"),
)


def reshaped(header: Any, rng: random.Random) -> Any:
    """A header of the same bytes: a tensor with another name, type or shape."""
    names = [name for name in header if name != "__metadata__"]
    name = rng.choice(names)
    row = dict(header[name])
    kind = rng.randrange(4)
    if kind == 0:
        return {(rng.choice(names) + rng.choice(("", "x")) if key == name else key): v for key, v in header.items()}
    if kind == 1:
        row["dtype"] = rng.choice(next((kinds for kinds in WIDTHS if row["dtype"] in kinds), TYPES))
    elif kind == 2:
        row["shape"] = rng.choice((row["shape"][::-1], [1, *row["shape"]], [*row["shape"], 1]))
    elif row["shape"] and row["shape"][-1] % 2 == 0:
        row["shape"] = [*row["shape"][:-1], row["shape"][-1] // 2, 2][:: rng.choice((1, -1))]
    return {**header, name: row}


def mutate(folder: Path, rng: random.Random) -> None:
    """One to three changes of a folder."""
    for _ in range(rng.randint(1, 3)):
        kind = rng.random()
        path = folder / "model.safetensors"
        if kind < 0.45:
            beside = folder / "quanto_qmap.json"
            place = beside if beside.exists() else folder / "config.json"
            config = json.loads(place.read_text())
            key = next((key for key in config if key.startswith("quant")), None) if isinstance(config, dict) else None
            config = mutated(config, rng) if key is None else config | {key: mutated(config[key], rng)}
            place.write_text(json.dumps(config))
            continue
        data = path.read_bytes()
        (size,) = struct.unpack_from("<Q", data)
        if kind < 0.85:
            try:
                change = reshaped if rng.random() < 0.7 else mutated
                header = json.dumps(change(json.loads(data[8 : 8 + size]), rng)).encode()
            except (ValueError, LookupError, TypeError):  # what an earlier change has broken
                continue
            path.write_bytes(struct.pack("<Q", len(header)) + header + data[8 + size :])
        elif len(data) > 8 + size:
            i = rng.randrange(8 + size, len(data))
            path.write_bytes(data[:i] + bytes([rng.randrange(256)]) + data[i + 1 :])


def attempt(folder: Path, rng: random.Random) -> str:
    """What became of a folder: the code of the error, or "read"."""
    out = folder.parent / "out"
    shutil.rmtree(out, ignore_errors=True)
    try:
        with modelfmt.open(folder) as model:
            for name in model:
                if np.prod(model[name].shape, dtype=float) < 1e6:
                    model[name].numpy()
        target = rng.choice(TARGETS)
        modelfmt.convert(folder, out, to=target, transcode=rng.choice(("auto", "exact", "any")), threads=1)
    except modelfmt.ModelfmtError as error:
        return error.code
    return "read"


def run(count: int, seed: int) -> Counter[str]:
    """So many mutated folders; how many ended how. Raises what should not be raised."""
    rng, found = random.Random(seed), Counter[str]()
    with tempfile.TemporaryDirectory() as place:
        sources = write_sources(Path(place))
        folder = Path(place) / "mutant"
        for number in range(count):
            source = rng.choice(sources)
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(source, folder)
            mutate(folder, rng)
            try:
                found[attempt(folder, rng)] += 1
            except Exception as error:
                error.add_note(f"mutant {number} of seed {seed}, from {source.name}")
                raise
    return found


if __name__ == "__main__":
    for code, n in run(int(sys.argv[1]), random.randrange(1 << 30)).most_common():
        print(f"{n:7} {code}")
