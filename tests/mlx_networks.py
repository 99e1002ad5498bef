"""Prints how far the logits of MLX folders are from those of the dense network, both in mlx-lm (0.32.2) on a CPU.

python tests/mlx_networks.py CHECKPOINT          (a small Llama in float32; figures in docs/transcoding.md)
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

import modelfmt
import schemes

TOKENS = [[1, 17, 300, 44, 5, 260, 99, 480]]
SOURCES = ("awq-g64", "gptq-4-sym", "gptq-3-v1", "ct-int4-sym", "ct-int8", "ct-mxfp4")


def logits(folder: Path) -> Any:
    import mlx.core as mx  # type: ignore[import-not-found,unused-ignore]
    from mlx_lm.utils import load_model  # type: ignore[import-not-found,unused-ignore]

    mx.set_default_device(mx.cpu)
    return np.array(load_model(folder)[0](mx.array(TOKENS)).astype(mx.float32))


def dense(source: Path, like: Path, folder: Path) -> Path:
    """A folder of float32 values, with the configuration of another."""
    folder.mkdir()
    with modelfmt.open(source) as model:
        values = {name: torch.from_numpy(np.array(model[name].numpy(), np.float32)) for name in model}
    save_file(values, folder / "model.safetensors")
    config = json.loads((like / "config.json").read_text())
    for key in ("quantization", "quantization_config"):
        config.pop(key, None)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def main(source: Path) -> None:
    with tempfile.TemporaryDirectory() as place:
        here = Path(place)
        for kind in ("int2", "int3", "int4", "int6", "int8", "mxfp4"):
            modelfmt.convert(source, here / kind, to="mlx", quant=kind)
            difference = logits(here / kind) - logits(dense(here / kind, here / kind, here / f"{kind}-dense"))
            print(f"{kind:12} {np.abs(difference).max():.1e}")
        for name in SOURCES:
            schemes.write(schemes.SCHEMES[name], source, here / name, layers=2)
            modelfmt.convert(here / name, here / f"{name}-mlx", to="mlx", transcode="exact")
            twin = dense(here / name, here / f"{name}-mlx", here / f"{name}-dense")
            print(f"{name:12} {np.abs(logits(here / f'{name}-mlx') - logits(twin)).max():.1e}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
