"""Act-order: kept where a scheme has it, folded into the layer before where the network stays the same."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import llama
import modelfmt
import schemes
from schemes import Values
from test_transcode_folders import READERS, read_compressed
from test_transcode_gguf import TOKENS, _dense, rms

Made = tuple[Path, dict[str, Values]]


@pytest.fixture(params=["gptq-4-act", "ct-int4-act"])
def made(request: pytest.FixtureRequest, golden: Path, tmp_path: Path) -> Made:
    scheme = schemes.SCHEMES[request.param]
    return tmp_path / "in", schemes.write(scheme, golden / "checkpoints/llama3-big", tmp_path / "in", layers=2)


@pytest.mark.parametrize("target", ["gptq", "compressed-tensors"])
def test_index_is_kept(target: str, made: Made, tmp_path: Path) -> None:
    source, values = made
    report = modelfmt.convert(source, tmp_path / "out", to=target, transcode="exact")
    assert not report.losses
    config = json.loads((tmp_path / "out/config.json").read_text())
    section = config["quantization_config"]
    weights = section if target == "gptq" else section["config_groups"]["group_0"]["weights"]
    assert weights["desc_act"] is True if target == "gptq" else weights["actorder"] == "group"
    if target == "compressed-tensors":
        assert any("0.20.0" in note.detail for note in report.notes)
        del weights["actorder"]  # what reads the rest of it has forgotten this
    tensors = load_file(tmp_path / "out/model.safetensors")
    for name, expected in values.items():
        module = name.removesuffix(".weight")
        parts = schemes.of_module(tensors, module)
        if "weight_g_idx" not in parts:
            read = READERS[target](parts, config, module, (expected.shape[0], expected.shape[1]))
        else:  # the library reads such columns in the order of their groups, and puts them back
            index = parts.pop("weight_g_idx").numpy()
            order = np.argsort(index, kind="stable")
            from compressed_tensors.compressors.pack_quantized.helpers import (  # type: ignore[import-untyped]
                pack_to_int32,
                unpack_from_int32,
            )

            codes = unpack_from_int32(parts["weight_packed"], 4, torch.Size(expected.shape))
            parts["weight_packed"] = pack_to_int32(codes[:, torch.from_numpy(order)].contiguous(), 4)
            read = np.empty_like(expected)
            read[:, order] = read_compressed(parts, config, module, (expected.shape[0], expected.shape[1]))
        assert np.array_equal(read, expected), name


def test_down_projection_is_folded(made: Made, tmp_path: Path) -> None:
    """Codes of down go to GGUF, in the order of their groups; gate and up follow, and the network is the same."""
    source, values = made
    report = modelfmt.convert(source, tmp_path / "out.gguf")
    assert any(note.subject == "act-order" and note.detail.startswith("2 down") for note in report.notes)
    found = {tensor.name: tensor for tensor in gguf.GGUFReader(tmp_path / "out.gguf").tensors}
    stored = load_file(source / "model.safetensors")
    for layer in range(2):
        home = f"model.layers.{layer}.mlp."
        index = next(value for name, value in stored.items() if name.startswith(f"{home}down") and "g_idx" in name)
        order = np.argsort(index.numpy(), kind="stable")
        down, gate = found[f"blk.{layer}.ffn_down.weight"], found[f"blk.{layer}.ffn_gate.weight"]
        assert down.tensor_type.name == "Q5_0"
        read = gguf.quants.dequantize(down.data, down.tensor_type).astype(np.float64)
        assert np.array_equal(read, values[f"{home}down_proj.weight"][:, order])
        expected = values[f"{home}gate_proj.weight"][order]
        assert np.abs(gate.data.astype(np.float64) - expected).max() <= 2.0**-11 * np.abs(expected).max()
    with llama.Network(tmp_path / "out.gguf") as network, llama.Network(_dense(source, values, tmp_path)) as dense:
        ours, theirs = network.logits(TOKENS), dense.logits(TOKENS)
    assert rms(ours - theirs) <= 2e-2 * rms(theirs)


def test_folded_folder_is_the_same_network(made: Made, golden: Path, tmp_path: Path) -> None:
    """AWQ's text of it, in transformers: down in the order of groups, gate and up dense, logits as before."""
    from transformers import AutoModelForCausalLM

    source, values = made
    modelfmt.convert(source, tmp_path / "out", to="awq", transcode="any")
    tensors = load_file(tmp_path / "out/model.safetensors")
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert [name for name in tensors if name.endswith("qweight")] == [
        f"model.layers.{layer}.mlp.down_proj.qweight" for layer in range(2)
    ]
    networks = []
    for folded in (False, True):
        network = AutoModelForCausalLM.from_pretrained(golden / "checkpoints/llama3-big", dtype=torch.float32)
        network.model.layers = network.model.layers[:2]
        weights = dict(network.named_parameters())
        for name, value in values.items():
            module = name.removesuffix(".weight")
            if folded and "down_proj" in name:
                parts = schemes.of_module(tensors, module)
                value = READERS["awq"](parts, config, module, (value.shape[0], value.shape[1]))
            elif folded:
                value = tensors[name].double().numpy()
            with torch.no_grad():
                weights[name].copy_(torch.from_numpy(np.ascontiguousarray(value, np.float32)))
        networks.append(network)
    tokens = torch.tensor([TOKENS])
    with torch.no_grad():
        plain, ours = (network(tokens).logits for network in networks)
    assert (plain - ours).abs().max() <= 2e-2 * plain.abs().max()  # what is dense is bfloat16


def test_what_stands_between_forbids_the_fold(made: Made) -> None:
    from modelfmt.checkpoints import act_order
    from modelfmt.ir.ops import Constant

    with modelfmt.open(made[0]) as model:
        tensors = {name: tensor.expr for name, tensor in model.tensors.items()}
    assert len(act_order.folded(tensors)[1]) == 1
    between = {f"model.layers.{i}.mlp.ffn_norm.weight": Constant(b"\0" * 4, (1,), "F32") for i in range(2)}
    assert act_order.folded(tensors | between)[1] == []
