"""Real configurations: each plans, from config.json and made-up headers alone, or is refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from made_up import headers
from modelfmt import archs
from modelfmt.archs.bind import to_gguf
from modelfmt.errors import ModelfmtError

FOLDER = "configs/ai-dynamo+aiconfigurator/aic-core/src/aiconfigurator_core/model_configs"
EXPECTED = {
    "MiniMaxAI--MiniMax-M2.5": "minimax-m2",
    "MiniMaxAI--MiniMax-M3": "minimax-m3",
    "Qwen--Qwen3-1.7B": "qwen3",
    "Qwen--Qwen3-235B-A22B-FP8": "qwen3moe",
    "Qwen--Qwen3-30B-A3B-FP8": "qwen3moe",
    "Qwen--Qwen3-32B-FP8": "qwen3",
    "Qwen--Qwen3-8B": "qwen3",
    "Qwen--Qwen3-VL-235B-A22B-Instruct": "qwen3vlmoe",
    "Qwen--Qwen3-VL-30B-A3B-Instruct": "qwen3vlmoe",
    "Qwen--Qwen3-VL-32B-Thinking": "qwen3vl",
    "Qwen--Qwen3-VL-8B-Instruct": "qwen3vl",
    "Qwen--Qwen3.5-27B": "qwen35",
    "Qwen--Qwen3.5-397B-A17B": "qwen35moe",
    "XiaomiMiMo--MiMo-V2-Flash": "mimo2",
    "deepseek-ai--DeepSeek-V3": "deepseek2",
    "deepseek-ai--DeepSeek-V4-Flash": "deepseek4",
    "google--gemma-4-26B-A4B": "gemma4",
    "meta-llama--Llama-4-Scout-17B-16E-Instruct": "llama4",
    "meta-llama--Meta-Llama-3.1-70B": "llama",
    "mistralai--Mixtral-8x22B-v0.1": "llama",
    "moonshotai--Kimi-K2-Instruct": "deepseek2",
    "moonshotai--Kimi-K3": "unsupported-architecture",
    "nvidia--DeepSeek-V3.2-NVFP4": "deepseek32",
    "nvidia--DeepSeek-V4-Pro-NVFP4": "deepseek4",
    "nvidia--GLM-5.1-NVFP4": "glm-dsa",
    "nvidia--Gemma-4-26B-A4B-NVFP4": "gemma4",
    "nvidia--Kimi-K2.5-NVFP4": "deepseek2",
    "nvidia--Kimi-K2.7-Code-NVFP4": "deepseek2",
    "nvidia--Llama-3_3-Nemotron-Super-49B-v1": "unsupported-architecture",
    "nvidia--MiniMax-M2.7-NVFP4": "minimax-m2",
    "nvidia--NVIDIA-Nemotron-3-Nano-30B-A3B-BF16": "nemotron_h_moe",
    "nvidia--NVIDIA-Nemotron-3-Super-120B-A12B-FP8": "nemotron_h_moe",
    "nvidia--NVIDIA-Nemotron-3-Ultra-550B-A55B-BF16": "nemotron_h_moe",
    "nvidia--NVIDIA-Nemotron-3-Ultra-550B-A55B-NVFP4": "nemotron_h_moe",
    "nvidia--Nemotron-H-56B-Base-8K": "nemotron_h",
    "nvidia--Qwen3.5-122B-A10B-NVFP4": "qwen35moe",
    "nvidia--Qwen3.6-27B-NVFP4": "qwen35",
    "openai--gpt-oss-120b": "gpt-oss",
    "sgl-project--DeepSeek-V4-Flash-FP8": "deepseek4",
    "stepfun-ai--Step-3.7-Flash": "unsupported-architecture",
    "zai-org--GLM-5.1": "glm-dsa",
    "zai-org--GLM-5.2": "glm-dsa",
    "zai-org--GLM-5": "glm-dsa",
}
"""The name in GGUF, or the code of the error. A table more turns "unsupported-architecture" into a name."""


def outcome(config: dict[str, Any]) -> str:
    try:
        arch = archs.find(config["architectures"][0], config=config)
        tensors = headers(arch, config)
        bound = to_gguf(arch, tensors=tensors, config=config, assets={})
    except ModelfmtError as error:
        return error.code
    assert {source for tensor in bound.tensors for source in tensor.source_names} == set(tensors)
    text = config.get("text_config", config)
    assert bound.hparams["n_layer"] == text.get("num_hidden_layers", len(text.get("layers_block_type", ())))
    return bound.architecture.gguf


@pytest.mark.parametrize("name", EXPECTED)
def test_real_configurations(shared_data: Path, name: str) -> None:
    assert outcome(json.loads((shared_data / FOLDER / f"{name}_config.json").read_text())) == EXPECTED[name]


def test_every_real_configuration_is_expected(shared_data: Path) -> None:
    files = {path.name.removesuffix("_config.json") for path in (shared_data / FOLDER).glob("*_config.json")}
    assert {name for name in files if not name.endswith("_hf_quant")} == set(EXPECTED)
