"""Makes a Llama checkpoint of any depth with seeded random weights: 16 layers are 0.85 B parameters, 1.7 GB of
bfloat16.

python benchmarks/made_up_llama.py FOLDER [--layers 16] [--tokenizer FOLDER]
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import numpy as np

HIDDEN, FFN, HEADS, KV_HEADS, VOCAB = 2048, 5632, 32, 8, 32000
SHARD_BYTES = 1 << 30


def tensors(layers: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes, in the order of the file."""
    kv = HIDDEN // HEADS * KV_HEADS
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (VOCAB, HIDDEN)}
    for i in range(layers):
        base = f"model.layers.{i}"
        found |= {
            f"{base}.input_layernorm.weight": (HIDDEN,),
            f"{base}.mlp.down_proj.weight": (HIDDEN, FFN),
            f"{base}.mlp.gate_proj.weight": (FFN, HIDDEN),
            f"{base}.mlp.up_proj.weight": (FFN, HIDDEN),
            f"{base}.post_attention_layernorm.weight": (HIDDEN,),
            f"{base}.self_attn.k_proj.weight": (kv, HIDDEN),
            f"{base}.self_attn.o_proj.weight": (HIDDEN, HIDDEN),
            f"{base}.self_attn.q_proj.weight": (HIDDEN, HIDDEN),
            f"{base}.self_attn.v_proj.weight": (kv, HIDDEN),
        }
    return found | {"model.norm.weight": (HIDDEN,), "lm_head.weight": (VOCAB, HIDDEN)}


def write(folder: Path, layers: int, tokenizer: Path | None) -> None:
    """Write the checkpoint, sharded, with its index."""
    import ml_dtypes

    folder.mkdir(parents=True, exist_ok=True)
    shards: list[dict[str, tuple[int, ...]]] = [{}]
    for name, shape in tensors(layers).items():
        held = sum(2 * int(np.prod(s)) for s in shards[-1].values())
        if held and held + 2 * int(np.prod(shape)) > SHARD_BYTES:
            shards.append({})
        shards[-1][name] = shape
    weight_map = {}
    for number, shard in enumerate(shards, 1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        header, at = {}, 0
        for name, shape in shard.items():
            size = 2 * int(np.prod(shape))
            header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [at, at + size]}
            weight_map[name] = file
            at += size
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        with (folder / file).open("wb") as out:
            out.write(len(text).to_bytes(8, "little") + text)
            for index, shape in enumerate(shard.values()):
                rng = np.random.default_rng([number, index])
                scale = np.float32(1.0 if len(shape) == 1 else 0.02)
                for start in range(0, int(np.prod(shape)), 1 << 24):
                    count = min(1 << 24, int(np.prod(shape)) - start)
                    out.write((rng.standard_normal(count, np.float32) * scale).astype(ml_dtypes.bfloat16).tobytes())
    index_text = json.dumps({"metadata": {}, "weight_map": weight_map})
    (folder / "model.safetensors.index.json").write_text(index_text)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "dtype": "bfloat16",
        "hidden_size": HIDDEN,
        "intermediate_size": FFN,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "num_hidden_layers": layers,
        "vocab_size": VOCAB,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    (folder / "config.json").write_text(json.dumps(config))
    if tokenizer is not None:
        for name in ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json"):
            if (tokenizer / name).exists():
                shutil.copyfile(tokenizer / name, folder / name)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layers", type=int, default=16)
    parser.add_argument("--tokenizer", type=Path)
    given = parser.parse_args()
    write(given.folder, given.layers, given.tokenizer)
