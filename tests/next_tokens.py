"""Tiny checkpoints with a layer that predicts the token after the next, as DeepSeek 3, GLM and Qwen publish them:
transformers leaves such layers out, so that one is made of the last layer of a model that has one more.

What the layer computes is said once more, by transformers' own modules: h and the embedding of the next token, each
normalised, go through a matrix and a decoder layer; its norm and the head give the logits.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from folders import computed, tokens

NAMES = {
    "qwen": ("fc", "pre_fc_norm_embedding", "pre_fc_norm_hidden", "norm"),
    "hy_v3": ("eh_proj", "enorm", "hnorm", "final_layernorm"),
    "": ("eh_proj", "enorm", "hnorm", "shared_head.norm"),
}
"""By the beginning of a model type: the matrix, the norms of embedding and hidden state, the last norm."""


@dataclass(frozen=True)
class Drafting:
    """What a checkpoint computes. logits: of the model. hidden: what its layer reads of each token. draft: its logits
    from there and the token that follows."""

    logits: NDArray[np.float32]
    hidden: NDArray[np.float32]
    draft: NDArray[np.float32]


def with_next(model: Any, folder: Path, *, extra: bool = False) -> Drafting:
    """Turns a checkpoint in `folder`, of a model of transformers, into one whose last layer predicts a further token.

    extra: with an embedding and a head of its own, as DeepSeek 3 has them.
    """
    import torch
    from safetensors.torch import load_file, save_file

    torch.manual_seed(11)
    config = json.loads((folder / "config.json").read_text())
    own = config.get("text_config", config)
    number = own["num_hidden_layers"] - 1
    width, qwen = own["hidden_size"], own["model_type"].startswith("qwen")
    project = torch.randn(width, 2 * width) * 0.1
    norms = [torch.randn(width) * 0.2 + (0.0 if qwen else 1.0) for _ in range(3)]
    tensors = load_file(folder / "model.safetensors")
    names = next(names for begin, names in NAMES.items() if own["model_type"].startswith(begin))
    behind, at = ("mtp.", "mtp.layers.0.") if qwen else (f"model.layers.{number}.",) * 2
    begin = next(name.partition("layers.")[0] for name in tensors if f"layers.{number}." in name)
    last = f"{begin}layers.{number}."
    tensors = {name.replace(last, at): tensor for name, tensor in tensors.items()}
    made = zip(names, (project, *norms), strict=True)
    tensors |= {f"{behind}{name}.weight": tensor.contiguous() for name, tensor in made}
    body = model.model.language_model if hasattr(model.model, "language_model") else model.model
    if extra:
        tensors |= {f"{behind}embed_tokens.weight": body.embed_tokens.weight.detach().clone()}
        tensors |= {f"{behind}shared_head.head.weight": model.lm_head.weight.detach().clone()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    own["num_hidden_layers"] = number
    for name in ("layer_types", "mlp_layer_types"):
        if own.get(name):
            own[name] = own[name][:number]
    own["mtp_num_hidden_layers" if qwen else "num_nextn_predict_layers"] = 1
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    return _computed(model, body, project, norms, after_norm=qwen)


def _computed(model: Any, body: Any, project: Any, norms: list[Any], *, after_norm: bool) -> Drafting:
    import torch

    *layers, last = body.layers
    body.layers, seen = torch.nn.ModuleList(layers), []
    handle = body.norm.register_forward_hook(lambda _, given, found: seen.append(found if after_norm else given[0]))
    logits = computed(model)
    handle.remove()
    (hidden,) = seen
    with torch.no_grad():
        embedded = body.embed_tokens(torch.tensor([tokens()[1:]]))
        parts = []
        for weight, values in zip(norms[:2], (embedded, hidden[:, :-1]), strict=True):
            body.norm.weight.copy_(weight)
            parts.append(body.norm(values))
        body.norm.weight.copy_(norms[2])
        last.layer_idx = last.self_attn.layer_idx = 0
        body.layers = torch.nn.ModuleList([last])
        body.config.num_hidden_layers = 1
        if getattr(body.config, "layer_types", None):
            body.config.layer_types = body.config.layer_types[-1:]
        inputs = torch.cat(parts, -1) @ project.T
        draft = model(inputs_embeds=inputs, use_cache=False).logits[0]
    return Drafting(logits, hidden[0].numpy(), draft.numpy())
