"""A Llama checkpoint with its features in another order: the same function, but other weights share a block.

    python benchmarks/reorder.py FOLDER OUT SEED

Permuted are the features of the residual stream, of each layer's feed-forward and, within a head, of the values. A
file type rounds each order differently, so that the spread between orders shows how much of a result is luck.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

INTO_STREAM = ("self_attn.o_proj", "mlp.down_proj")
OUT_OF_STREAM = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.gate_proj", "mlp.up_proj")
NORMS = ("input_layernorm", "post_attention_layernorm")


def reorder(folder: Path, out: Path, seed: int) -> Path:
    """Write the checkpoint in `folder`, its features shuffled by `seed`, into the new folder `out`."""
    config = json.loads((folder / "config.json").read_text())
    weights = load_file(folder / "model.safetensors")
    shuffled = _shuffled(weights, config, np.random.default_rng(seed))
    assert shuffled.keys() == weights.keys(), "a tensor was left where it was"
    out.mkdir()
    for path in folder.iterdir():
        if path.suffix != ".safetensors":
            shutil.copyfile(path, out / path.name)
    save_file(shuffled, out / "model.safetensors", {"format": "pt"})
    return out


def _shuffled(
    weights: dict[str, torch.Tensor], config: dict[str, Any], rng: np.random.Generator
) -> dict[str, torch.Tensor]:
    stream = rng.permutation(config["hidden_size"])
    found = {name: weights[name][:, stream] for name in ("model.embed_tokens.weight", "lm_head.weight")}
    found["model.norm.weight"] = weights["model.norm.weight"][stream]
    for layer in range(config["num_hidden_layers"]):
        base = f"model.layers.{layer}."
        part = {f"{base}{name}.weight": weights[f"{base}{name}.weight"][stream] for name in (*INTO_STREAM, *NORMS)}
        part |= {f"{base}{name}.weight": weights[f"{base}{name}.weight"][:, stream] for name in OUT_OF_STREAM}
        features = rng.permutation(config["intermediate_size"])
        value, output = _values(config, rng)
        rows = {"mlp.gate_proj": features, "mlp.up_proj": features, "self_attn.v_proj": value}
        columns = {"mlp.down_proj": features, "self_attn.o_proj": output}
        part |= {f"{base}{name}.weight": part[f"{base}{name}.weight"][order] for name, order in rows.items()}
        part |= {f"{base}{name}.weight": part[f"{base}{name}.weight"][:, order] for name, order in columns.items()}
        found |= part
    return {name: tensor.contiguous() for name, tensor in found.items()}


def _values(config: dict[str, Any], rng: np.random.Generator) -> tuple[Any, Any]:
    """Orders of the value rows, and of the output columns that they feed: a key-value head feeds a group of heads."""
    heads, kv_heads, width = config["num_attention_heads"], config["num_key_value_heads"], config["head_dim"]
    inside = np.stack([rng.permutation(width) for _ in range(kv_heads)])
    feeds = np.repeat(inside, heads // kv_heads, axis=0)
    return tuple((np.arange(len(order))[:, None] * width + order).ravel() for order in (inside, feeds))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("seed", type=int)
    given = parser.parse_args()
    reorder(given.folder, given.out, given.seed)


if __name__ == "__main__":
    main()
