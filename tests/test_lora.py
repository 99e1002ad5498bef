"""LoRA adapters against PEFT (what merging gives) and llama.cpp (a base with an adapter, and the merged file)."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import ggml
import llama
import modelfmt
from adapters import (
    BY_NAME,
    CONV1D,
    LINEAR,
    PATTERNS,
    VARIANTS,
    Variant,
    adapted,
    cls,
    log_probabilities,
    model,
    normalized,
    save_merged,
    with_tokenizer,
)
from modelfmt.errors import CorruptFile, LossyError, UnsupportedError, UsageError
from modelfmt.kernels import kernel_types

TOKENS = list(range(7, 39))
TOKENIZERS = {"llama": "llama3-rope-scaled-tied", "gpt-oss": "gpt-oss"}


def values(path: Path) -> dict[str, NDArray[np.float32]]:
    with modelfmt.open(path) as opened:
        return {name: tensor.numpy().astype(np.float32) for name, tensor in opened.tensors.items()}


def made(variant: Variant, work: Path, golden: Path | None = None) -> Any:
    """A base and an adapter in the folders `base` and `lora`; returns PEFT's model."""
    base = model(variant)
    base.save_pretrained(work / "base")
    if golden is not None:
        with_tokenizer(work / "base", golden, TOKENIZERS.get(variant.base, "gpt2"))
    return adapted(base, work / "lora", **variant.config)


def run_by_llama(path: Path, adapter: Path | None = None) -> NDArray[np.float64]:
    with llama.Network(path) as network:
        return normalized(network.logits(TOKENS, adapter))


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
def test_merged_weights_are_those_of_peft(variant: Variant, tmp_path: Path) -> None:
    found = made(variant, tmp_path)
    before = log_probabilities(found, TOKENS)
    save_merged(found, tmp_path / "peft")
    modelfmt.convert(tmp_path / "base", tmp_path / "ours", adapter=tmp_path / "lora")
    ours, theirs = values(tmp_path / "ours"), values(tmp_path / "peft")
    assert ours.keys() == theirs.keys()
    for name, weight in theirs.items():
        np.testing.assert_allclose(ours[name], weight, rtol=0, atol=1e-6, err_msg=name)
    again = cls(variant).from_pretrained(tmp_path / "ours").eval()
    np.testing.assert_allclose(log_probabilities(again, TOKENS), before, atol=2e-5)


RUN = (
    Variant("linear", config={"target_modules": LINEAR}),
    Variant("patterns-rslora", config=PATTERNS | {"use_rslora": True}),
    Variant("embeddings", config={"target_modules": ["q_proj", "embed_tokens", "lm_head"]}),
    Variant("conv1d", "gpt2", CONV1D),
    replace(BY_NAME["experts"], model={"norm_topk_prob": True}),  # llama.cpp always does
    BY_NAME["experts-apart"],
    replace(BY_NAME["experts-transposed"], model={"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}),
)


@pytest.mark.parametrize("variant", RUN, ids=lambda variant: variant.name)
def test_a_base_with_an_adapter_and_the_merged_file_compute_the_same(
    variant: Variant, tmp_path: Path, golden: Path
) -> None:
    """And what transformers computes with PEFT. llama.cpp's gpt2 looks GELU up in a table of float16."""
    expected = log_probabilities(made(variant, tmp_path, golden), TOKENS)
    for base in ("base", "base.gguf"):
        modelfmt.convert(tmp_path / "base", tmp_path / "base.gguf", quant="F32", overwrite=True)
        modelfmt.convert(
            tmp_path / base, tmp_path / "merged.gguf", quant="F32", adapter=tmp_path / "lora", overwrite=True
        )
        if not (variant.name == "embeddings" and base == "base.gguf"):  # whose copies are compared with a folder's
            modelfmt.convert(tmp_path / "lora", tmp_path / "lora.gguf", base=tmp_path / base, overwrite=True)
        merged = run_by_llama(tmp_path / "merged.gguf")
        tolerance = 5e-3 if variant.base == "gpt2" else 2e-4
        np.testing.assert_allclose(merged, expected, atol=tolerance)
        np.testing.assert_allclose(run_by_llama(tmp_path / "base.gguf", tmp_path / "lora.gguf"), merged, atol=1e-3)


@pytest.mark.parametrize(
    "rule", [{}, {"use_rslora": True}, {"alpha_pattern": {"v_proj": 3}}, {"rank_pattern": {"k_proj": 8}}]
)
def test_one_alpha_holds_what_it_can(rule: dict[str, Any], tmp_path: Path) -> None:
    """llama.cpp's scale is alpha / rank: the rest is in the second factor."""
    config = {"target_modules": ["q_proj", "k_proj", "v_proj"]} | rule
    made(Variant("scales", config=config), tmp_path)
    report = modelfmt.convert(tmp_path / "lora", tmp_path / "lora.gguf", base=tmp_path / "base")
    pairs = values(tmp_path / "lora")
    with modelfmt.open(tmp_path / "lora.gguf") as opened:
        alpha = opened.metadata["adapter.lora.alpha"]
        assert opened.metadata["general.type"] == "adapter" and opened.metadata["adapter.type"] == "lora"
        for kind, short in (("k_proj", "attn_k"), ("v_proj", "attn_v")):
            b = opened[f"blk.0.{short}.weight.lora_b"].numpy()
            rank = rule.get("rank_pattern", {}).get(kind, 4)
            own = rule.get("alpha_pattern", {}).get(kind, 8.0)
            scale = own / (rank**0.5 if rule.get("use_rslora") else rank)
            original = pairs[f"base_model.model.model.layers.0.self_attn.{kind}.lora_B.weight"]
            np.testing.assert_allclose(
                np.sort(b * alpha / rank, 0), np.sort(original * np.float32(scale), 0), rtol=1e-6
            )
    folded = bool(rule.get("alpha_pattern"))
    assert bool(report.notes) == folded


def test_a_quantized_base_keeps_its_types(tmp_path: Path) -> None:
    """Tensors without an adapter keep their bytes; the others are the sum, quantized as llama.cpp does."""
    sizes = {"hidden_size": 256, "intermediate_size": 512}
    variant = Variant("wide", config={"target_modules": ["q_proj", "down_proj"]}, model=sizes)
    made(variant, tmp_path)
    modelfmt.convert(tmp_path / "base", tmp_path / "base.gguf", quant="Q4_K_M", rounding="ggml")
    report = modelfmt.convert(tmp_path / "base.gguf", tmp_path / "merged.gguf", adapter=tmp_path / "lora")
    modelfmt.convert(tmp_path / "base.gguf", tmp_path / "sums.gguf", adapter=tmp_path / "lora", quant="F32")
    changed = {loss.subject for loss in report.losses}
    assert {loss.kind for loss in report.losses} == {"requantized"} and len(changed) == 4
    types = set()
    with (
        modelfmt.open(tmp_path / "base.gguf") as base,
        modelfmt.open(tmp_path / "merged.gguf") as merged,
        modelfmt.open(tmp_path / "sums.gguf") as sums,
    ):
        assert list(base) == list(merged)
        for name, tensor in base.tensors.items():
            found = merged[name].numpy(dequantize=False)
            assert merged[name].encoding == tensor.encoding, name
            if name not in changed:
                assert found.tobytes() == tensor.numpy(dequantize=False).tobytes()
                continue
            types.add(tensor.encoding.name)
            whole = sums[name].numpy()
            assert found.tobytes() == ggml.quantize(kernel_types()[tensor.encoding.name].id, whole), name
            assert abs(whole - tensor.numpy()).max() > 0.1
    assert {"Q4_K", "Q6_K"} <= types


def test_types_that_need_importance_need_it_again(tmp_path: Path, golden: Path) -> None:
    import test_lora_hostile as small

    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_"
    small.write(
        tmp_path / "lora", small.CONFIG, small.arrays({f"{name}A.weight": (2, 256), f"{name}B.weight": (256, 2)})
    )
    base, matrix = golden / "checkpoints" / "llama3-big", golden / "quantized" / "llama3-big" / "imatrix.gguf"
    modelfmt.convert(base, tmp_path / "base.gguf", quant="IQ2_XXS", imatrix=matrix)
    options = {"source": tmp_path / "base.gguf", "dest": tmp_path / "merged.gguf", "adapter": tmp_path / "lora"}
    with pytest.raises(UsageError, match="importance-missing"):
        modelfmt.plan(**options)
    report = modelfmt.convert(**options, imatrix=matrix)
    assert [loss.detail for loss in report.losses] == ["IQ2_XXS to IQ2_XXS, with the adapter added"]


def test_other_types_of_a_quantized_base_have_to_be_allowed(tmp_path: Path) -> None:
    made(BY_NAME["linear"], tmp_path)
    modelfmt.convert(tmp_path / "base", tmp_path / "base.gguf", quant="Q8_0")
    with pytest.raises(LossyError):
        modelfmt.plan(tmp_path / "base.gguf", tmp_path / "m.gguf", quant="Q4_0", adapter=tmp_path / "lora")


def test_one_pass_writes_what_two_write(tmp_path: Path) -> None:
    """Merged into bfloat16 and then quantized, and both at once; the weights are rounded in between all the same."""
    import torch

    variant = Variant("half", config={"target_modules": LINEAR}, model={"hidden_size": 256, "intermediate_size": 512})
    base = model(variant).to(torch.bfloat16)
    base.save_pretrained(tmp_path / "base")
    adapted(base, tmp_path / "lora", **variant.config)
    modelfmt.convert(tmp_path / "base", tmp_path / "two", adapter=tmp_path / "lora")
    modelfmt.convert(tmp_path / "two", tmp_path / "two.gguf", quant="Q4_K_M")
    modelfmt.convert(tmp_path / "base", tmp_path / "one.gguf", quant="Q4_K_M", adapter=tmp_path / "lora")
    with modelfmt.open(tmp_path / "one.gguf") as one, modelfmt.open(tmp_path / "two.gguf") as two:
        assert list(one) == list(two)
        for name, tensor in one.tensors.items():
            assert tensor.encoding == two[name].encoding
            assert tensor.numpy(dequantize=False).tobytes() == two[name].numpy(dequantize=False).tobytes(), name


def test_tiles_and_threads_do_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor how much of a factor is held at once, or in what strips a sum is made."""
    import msgspec

    from modelfmt.ir import computed

    made(Variant("dora", config={"target_modules": LINEAR, "use_dora": True}), tmp_path)
    outputs = set()
    for elements, threads, held in ((1 << 20, 1, 1 << 20), (1000, 2, 300), (64, 3, 1)):
        monkeypatch.setattr(computed, "FACTOR_ELEMENTS", held)
        monkeypatch.setattr(computed, "STRIP_ELEMENTS", held)
        dest = tmp_path / f"{elements}.gguf"
        plan = modelfmt.plan(tmp_path / "base", dest, quant="Q8_0", adapter=tmp_path / "lora")
        modelfmt.run(msgspec.structs.replace(plan, tile_elements=elements), threads=threads)
        outputs.add(dest.read_bytes())
    assert len(outputs) == 1


def test_a_saved_plan_runs(tmp_path: Path) -> None:
    made(BY_NAME["embeddings-dora"], tmp_path)
    plan = modelfmt.plan(tmp_path / "base", tmp_path / "a.safetensors", adapter=tmp_path / "lora")
    modelfmt.run(modelfmt.Plan.from_bytes(plan.to_bytes()))
    modelfmt.convert(tmp_path / "base", tmp_path / "b.safetensors", adapter=tmp_path / "lora")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    assert any(str(tmp_path / "lora") in source.path for source in plan.sources)


@pytest.mark.parametrize("modules", [["embed_tokens"], ["q_proj", "lm_head"], ["embed_tokens", "lm_head"]])
def test_tied_tensors_part_where_an_adapter_changes_one(modules: list[str], tmp_path: Path, golden: Path) -> None:
    """As the model was that was trained; PEFT's merge changes both. A GGUF adapter is refused: llama.cpp aborts."""
    import transformers

    variant = Variant("tied", config={"target_modules": modules}, model={"tie_word_embeddings": True})
    expected = log_probabilities(made(variant, tmp_path, golden), TOKENS)
    modelfmt.convert(tmp_path / "base", tmp_path / "base.gguf", quant="F32")
    modelfmt.convert(tmp_path / "base.gguf", tmp_path / "merged.gguf", adapter=tmp_path / "lora")
    np.testing.assert_allclose(run_by_llama(tmp_path / "merged.gguf"), expected, atol=1e-4)
    modelfmt.convert(tmp_path / "base", tmp_path / "merged", adapter=tmp_path / "lora")
    assert json.loads((tmp_path / "merged" / "config.json").read_text())["tie_word_embeddings"] is False
    again = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "merged").eval()
    np.testing.assert_allclose(log_probabilities(again, TOKENS), expected, atol=2e-5)
    with pytest.raises(UnsupportedError, match="lora-adapter"):
        modelfmt.plan(tmp_path / "lora", tmp_path / "lora.gguf", base=tmp_path / "base")


def test_several_adapters_are_added_with_their_weights(tmp_path: Path) -> None:
    base = model(BY_NAME["linear"])
    base.save_pretrained(tmp_path / "base")
    adapted(model(BY_NAME["linear"]), tmp_path / "a", seed=1, target_modules=["q_proj", "v_proj"])
    adapted(base, tmp_path / "b", seed=2, target_modules=["q_proj"], r=2)
    pairs = [(tmp_path / "a", 0.25), (tmp_path / "b", -1.5)]
    modelfmt.convert(tmp_path / "base", tmp_path / "merged", adapter=pairs)
    first, second, before, found = (values(tmp_path / name) for name in ("a", "b", "base", "merged"))
    key = "base_model.model.model.layers.1.self_attn.q_proj.lora_{}.weight"
    change = 0.25 * 2 * first[key.format("B")] @ first[key.format("A")]
    change -= 1.5 * 4 * second[key.format("B")] @ second[key.format("A")]
    name = "model.layers.1.self_attn.q_proj.weight"
    np.testing.assert_allclose(found[name], before[name] + change, atol=1e-6)
    name = "model.layers.1.self_attn.k_proj.weight"
    assert (found[name] == before[name]).all()


@pytest.mark.parametrize(
    ("name", "what"), [("dora", "DoRA"), ("bias", "lora_bias"), ("saved", "whole tensors"), ("tokens", "whole tensors")]
)
def test_what_a_gguf_adapter_cannot_hold_is_refused_by_name(name: str, what: str, tmp_path: Path) -> None:
    made(BY_NAME[name], tmp_path)
    with pytest.raises(UnsupportedError, match=what) as caught:
        modelfmt.plan(tmp_path / "lora", tmp_path / "lora.gguf", base=tmp_path / "base")
    assert caught.value.code == "lora-adapter" and "--adapter" in str(caught.value.hint)


def test_what_a_merged_file_carries_is_right(tmp_path: Path, golden: Path) -> None:
    """A GGUF file made from a merge becomes the merged folder again, bit for bit."""
    made(BY_NAME["linear"], tmp_path, golden)
    modelfmt.convert(tmp_path / "base", tmp_path / "merged", adapter=tmp_path / "lora")
    modelfmt.convert(tmp_path / "base", tmp_path / "merged.gguf", quant="F32", adapter=tmp_path / "lora")
    modelfmt.convert(tmp_path / "merged.gguf", tmp_path / "back")
    first, second = values(tmp_path / "merged"), values(tmp_path / "back")
    assert first.keys() == second.keys() and all((first[name] == second[name]).all() for name in first)


def test_a_folder_becomes_another(tmp_path: Path, golden: Path) -> None:
    """In another type, in shards; transformers loads it, and config.json says the type."""
    import torch
    import transformers

    found = model(BY_NAME["linear"])
    found.save_pretrained(tmp_path / "base")
    with_tokenizer(tmp_path / "base", golden, TOKENIZERS["llama"])
    modelfmt.convert(tmp_path / "base", tmp_path / "half", quant="BF16", split_size="200K")
    again = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "half")
    assert again.dtype == torch.bfloat16 and len(list((tmp_path / "half").glob("*.safetensors"))) > 1
    for name, weight in found.to(torch.bfloat16).state_dict().items():
        assert torch.equal(again.state_dict()[name], weight), name
    for path in (tmp_path / "base").glob("token*"):
        assert (tmp_path / "half" / path.name).read_bytes() == path.read_bytes()


def test_an_adapter_of_another_model_is_refused(tmp_path: Path) -> None:
    made(BY_NAME["linear"], tmp_path)
    wider = Variant("wider", model={"hidden_size": 128})
    model(wider).save_pretrained(tmp_path / "wider")
    with pytest.raises(CorruptFile, match="adapter-shape"):
        modelfmt.plan(tmp_path / "wider", tmp_path / "out", adapter=tmp_path / "lora")
    other = Variant("other", "gpt2")
    model(other).save_pretrained(tmp_path / "other")
    with pytest.raises(UnsupportedError, match="adapter-unmatched"):
        modelfmt.plan(tmp_path / "other", tmp_path / "out", adapter=tmp_path / "lora")


def test_wrong_calls_are_usage_errors(tmp_path: Path) -> None:
    made(BY_NAME["one-layer"], tmp_path)
    base, lora = tmp_path / "base", tmp_path / "lora"
    calls: dict[str, dict[str, Any]] = {
        "base-missing": {"source": lora, "dest": tmp_path / "a.gguf"},
        "base-unused": {"source": base, "dest": tmp_path / "a.gguf", "base": base},
        "adapter-base": {"source": lora, "dest": tmp_path / "a.gguf", "base": base, "adapter": lora},
        "quant-container": {"source": lora, "dest": tmp_path / "a.gguf", "base": base, "quant": "Q4_0"},
        "option-unused": {"source": lora, "dest": tmp_path / "a.gguf", "base": base, "pure": True},
        "adapter-weight": {"source": base, "dest": tmp_path / "a.gguf", "adapter": (lora, float("nan"))},
    }
    for code, call in calls.items():
        with pytest.raises(UsageError) as caught:
            modelfmt.plan(**call)
        assert caught.value.code == code


def test_the_weights_of_an_adapter_may_be_a_pickle(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    made(BY_NAME["one-layer"], tmp_path)
    modelfmt.convert(tmp_path / "base", tmp_path / "first", adapter=tmp_path / "lora")
    weights = tmp_path / "lora" / "adapter_model.safetensors"
    torch.save(load_file(weights), tmp_path / "lora" / "adapter_model.bin")
    weights.unlink()
    modelfmt.convert(tmp_path / "base", tmp_path / "second", adapter=tmp_path / "lora")
    first, second = values(tmp_path / "first"), values(tmp_path / "second")
    assert all((first[name] == second[name]).all() for name in first)


def test_the_command_line(tmp_path: Path) -> None:
    from test_cli import run

    made(BY_NAME["one-layer"], tmp_path)
    done = run("convert", tmp_path / "base", tmp_path / "m.gguf", "--adapter", f"{tmp_path / 'lora'}=0.5", "-t", "F32")
    assert done.returncode == 0, done.stderr
    done = run("convert", tmp_path / "lora", tmp_path / "lora.gguf", "--base", tmp_path / "base")
    assert done.returncode == 0, done.stderr
    done = run("inspect", tmp_path / "lora", "--json")
    assert json.loads(done.stdout)["format"] == "peft"
    done = run("convert", tmp_path / "lora", tmp_path / "other.gguf")
    assert done.returncode == 2 and "--base" in done.stderr
