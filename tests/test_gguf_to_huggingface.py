"""GGUF becomes a Hugging Face folder: with the original's bytes where they are carried, with its logits anyway."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import ggml
import modelfmt
from folders import contents, logits, there_and_back
from modelfmt import archs
from modelfmt.archs import hparams, rope, unrope
from modelfmt.archs.specs import joined
from modelfmt.archs.values import flat
from modelfmt.errors import CorruptFile, DestinationExists, ModelfmtError, UnsafePath, UnsupportedError, UsageError
from modelfmt.formats import gguf, safetensors
from modelfmt.ir.layout import Entry
from modelfmt.ir.ops import Constant, Dequantize, Transpose
from modelfmt.storage.files import Files
from modelfmt.tiles import Evaluator
from test_convert_golden import CHECKPOINTS

ALL = (*CHECKPOINTS, "cohere", "modernbert")
OWN_TYPE = dict.fromkeys(("bert", "gpt2", "mamba", "modernbert", "t5"), "F32")
"""The file type that holds a checkpoint's own values, where it is not "auto"."""
LOST = {
    "qwen3-moe": lambda config: config.update(norm_topk_prob=True),
    "gpt-oss": lambda config: config["rope_parameters"].pop("truncate"),
}
"""What a configuration says that the file cannot: a loss that the report of the conversion names."""
NUMPY = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}


@pytest.mark.parametrize("name", ALL)
def test_golden_folders_come_back_bit_for_bit(golden: Path, tmp_path: Path, name: str) -> None:
    source = golden / "checkpoints" / name
    back, report = there_and_back(source, tmp_path, OWN_TYPE.get(name, "auto"))
    assert contents(back) == contents(source)
    assert report.losses == ()


@pytest.mark.parametrize("name", ["stories260K", "tinyshakespeare-5M"])
def test_real_folders_come_back_bit_for_bit(shared_data: Path, tmp_path: Path, name: str) -> None:
    source = shared_data / "lm" / name
    back, _ = there_and_back(source, tmp_path, "F32" if name == "stories260K" else "auto")
    original = {
        key: value for key, value in contents(source).items() if key not in ("heldout.txt", "training-sample.txt")
    }
    assert contents(back) == original


@pytest.mark.parametrize("name", ALL)
def test_without_carried_keys_golden_checkpoints_compute_the_same(golden: Path, tmp_path: Path, name: str) -> None:
    """What llama.cpp's own converter would have made: its files have no other keys (test_convert_golden)."""
    source = golden / "checkpoints" / name
    back, _ = there_and_back(source, tmp_path, OWN_TYPE.get(name, "auto"), carry=False)
    with modelfmt.open(tmp_path / "model.gguf") as model:
        assert not [key for key in model.metadata if key.startswith("modelfmt.") or "huggingface" in key]
    if name in LOST:
        source = shutil.copytree(source, tmp_path / "without")
        config = json.loads((source / "config.json").read_text())
        LOST[name](config)
        (source / "config.json").chmod(0o644)
        (source / "config.json").write_text(json.dumps(config))
    assert (logits(back) == logits(source)).all()


ROPES = (
    ("llama", {"rope_type": "linear", "rope_theta": 3e4, "factor": 2.5}),
    ("llama", {"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0, "original_max_position_embeddings": 64}),
    (
        "llama",
        {"rope_type": "yarn", "rope_theta": 1e4, "factor": 8.0, "original_max_position_embeddings": 32}
        | {"attention_factor": 1.5, "beta_fast": 16.0, "beta_slow": 2.0},
    ),
    *(
        (
            "llama",
            {"rope_type": "llama3", "rope_theta": theta, "factor": factor, "low_freq_factor": low}
            | {"high_freq_factor": high, "original_max_position_embeddings": context},
        )
        for theta, factor, low, high, context in (
            (5e5, 8.0, 1.0, 4.0, 8192),
            (5e5, 32.0, 1.0, 4.0, 8192),
            (1e4, 16.0, 1.0, 4.0, 2048),
            (1e6, 8.0, 1.0, 4.0, 3000),
            (1e6, 4.0, 1.0, 16.0, 6000),
        )
    ),
    (
        "llama",
        {"rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": 128}
        | {"long_factor": [1.0 + i / 7 for i in range(32)], "short_factor": [1.0] * 32},
    ),
    ("glm4", {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.75}),
)


@pytest.mark.parametrize(("name", "settings"), ROPES)
def test_rope_parameters_come_back(name: str, settings: dict[str, Any]) -> None:
    """The same factors, and settings that give transformers the same frequencies."""
    arch = archs.find(gguf=name)
    config = {"num_hidden_layers": 2, "hidden_size": 256, "intermediate_size": 64, "num_attention_heads": 4}
    config |= {"max_position_embeddings": 512, "vocab_size": 99, "head_dim": 64, "rope_parameters": settings}
    scope = hparams.read(arch, flat(config))
    assert arch.rope is not None
    made = rope.encode(arch.rope, config, scope)
    metadata = {
        f"{name}.{key}": float(np.float32(v)) if kind == "FLOAT32" else v for key, (kind, v) in made.metadata.items()
    }
    factors = {key: np.frombuffer(tensor.data, "<f4").tolist() for key, tensor in made.tensors.items()}
    found = unrope.configuration(arch, scope, metadata, factors)["rope_parameters"]
    again = rope.encode(arch.rope, config | {"rope_parameters": found}, scope)
    assert {key: tensor.data for key, tensor in again.tensors.items()} == {
        key: tensor.data for key, tensor in made.tensors.items()
    }
    assert {key: np.float32(v) if kind == "FLOAT32" else v for key, (kind, v) in again.metadata.items()} == {
        key: np.float32(v) if kind == "FLOAT32" else v for key, (kind, v) in made.metadata.items()
    }
    for key, value in settings.items():
        if not isinstance(value, list):
            assert found[key] == value, key


def test_factors_that_no_rope_has_are_refused() -> None:
    arch = archs.find(gguf="llama")
    scope = {"n_ctx": 512, "head_size": 8}
    with pytest.raises(UnsupportedError, match="no llama3 rope"):
        unrope.configuration(arch, scope, {}, {"rope_freqs.weight": [1.0, 3.0, 2.0, 8.0]})
    with pytest.raises(CorruptFile):
        unrope.configuration(arch, scope, {}, {"rope_freqs.weight": [1.0, 3.0]})


@pytest.mark.parametrize("quant", ["Q8_0", "Q4_K_M", "Q6_K", "IQ4_XS"])
@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_quantized_values_are_ggmls(golden: Path, tmp_path: Path, quant: str, dtype: str) -> None:
    """Each tensor: what ggml's to_float gives for its blocks, in the dtype asked for."""
    import gguf as reference

    modelfmt.convert(golden / "checkpoints" / "llama3-big", tmp_path / "model.gguf", quant=quant, carry=False)
    report = modelfmt.convert(tmp_path / "model.gguf", tmp_path / "back", quant=dtype)
    quantized = {loss.subject for loss in report.losses}
    with modelfmt.open(tmp_path / "model.gguf") as source, modelfmt.open(tmp_path / "back") as back:
        names = {"ffn_down.weight": "mlp.down_proj.weight", "ffn_gate.weight": "mlp.gate_proj.weight"}
        checked = 0
        for tensor in source.values():
            _, _, own = tensor.name.partition("blk.0.")
            if own not in names or tensor.encoding.dense:
                continue
            type_id = int(reference.GGMLQuantizationType[tensor.encoding.name])
            expected = ggml.dequantize(type_id, tensor.numpy(dequantize=False).tobytes()).reshape(tensor.shape)
            found = back[f"model.layers.0.{names[own]}"]
            assert found.encoding.name == dtype
            np.testing.assert_array_equal(found.numpy().view("u1"), expected.astype(NUMPY[dtype]).view("u1"))
            assert (found.name in quantized) == (dtype != "F32")
            checked += 1
    assert checked == 2


def test_transposed_matrices_come_back_from_blocks(golden: Path, tmp_path: Path) -> None:
    modelfmt.convert(golden / "checkpoints" / "gpt2", tmp_path / "model.gguf", quant="Q8_0")
    modelfmt.convert(tmp_path / "model.gguf", tmp_path / "back", quant="F32")
    with modelfmt.open(tmp_path / "model.gguf") as source, modelfmt.open(tmp_path / "back") as back:
        expected = source["blk.1.ffn_up.weight"]
        assert expected.encoding.name == "Q8_0"
        found = back["transformer.h.1.mlp.c_fc.weight"].numpy()
        np.testing.assert_array_equal(found, expected.numpy().T)


@pytest.mark.parametrize("axis", [0, 1])
def test_parts_of_several_types_become_float32(axis: int) -> None:
    """Gate and up in two types, fused in the checkpoint."""
    values = np.random.default_rng(6).normal(size=(2, 3, 64)).astype("f4")
    blocks = modelfmt.quantize(values.reshape(6, 64), "Q8_0")
    parts = (Constant(blocks.tobytes(), (2, 3, 64), "Q8_0"), Constant(values.tobytes(), (2, 3, 64), "F32"))
    expr = joined(parts, axis)
    found = Evaluator(Files()).values(expr, 0, 12).reshape(expr.shape)
    expected = [modelfmt.dequantize(blocks, "Q8_0", (2, 3, 64)), values]
    np.testing.assert_array_equal(found, np.concatenate(expected, axis))


def test_columns_of_a_wide_matrix_are_made_in_pieces() -> None:
    """The same values, however the rows of the blocks are cut."""
    values = np.random.default_rng(5).normal(size=(700, 4096)).astype("f4")
    blocks = modelfmt.quantize(values, "Q8_0")
    expr = Transpose(Dequantize(Constant(blocks.tobytes(), values.shape, "Q8_0")))
    found = Evaluator(Files()).rows(expr, 100, 120).view("f4")
    np.testing.assert_array_equal(found, modelfmt.dequantize(blocks, "Q8_0", values.shape)[:, 100:120].T)


def test_types_and_what_they_lose(golden: Path, tmp_path: Path) -> None:
    source = golden / "checkpoints" / "llama-spm"  # float16
    modelfmt.convert(source, tmp_path / "model.gguf", carry=False)
    plans = {
        quant: modelfmt.plan(tmp_path / "model.gguf", tmp_path / quant, quant=quant, to="huggingface")
        for quant in ("auto", "F16", "BF16", "F32")
    }
    types = {quant: {row["to"] for row in plan.table()} for quant, plan in plans.items()}
    assert types == {"auto": {"F16", "F32"}, "F16": {"F16"}, "BF16": {"BF16"}, "F32": {"F32"}}
    assert not plans["auto"].losses and not plans["F32"].losses
    assert {loss.kind for loss in plans["BF16"].losses} == {"narrowed"}
    for quant, name in (("auto", "float16"), ("BF16", "bfloat16"), ("F32", "float32")):
        config = next(output for output in plans[quant].outputs if output.path.endswith("/config.json"))
        assert json.loads(config.header)["dtype"] == name
    modelfmt.convert(source, tmp_path / "q.gguf", quant="Q8_0", carry=False)
    plan = modelfmt.plan(tmp_path / "q.gguf", tmp_path / "q", to="huggingface")
    assert {(row["from"], row["to"]) for row in plan.table()} == {("Q8_0", "BF16"), ("F32", "F32")}
    with pytest.raises(UsageError, match="mean nothing"):
        modelfmt.plan(tmp_path / "q.gguf", tmp_path / "q", to="huggingface", metadata={"a": 1})
    with pytest.raises(UsageError, match="dense types only"):
        modelfmt.plan(tmp_path / "q.gguf", tmp_path / "q", to="huggingface", quant="Q4_0")


def test_a_type_asked_for_is_in_the_configuration(golden: Path, tmp_path: Path) -> None:
    """With carried files as well: only the type changes in config.json, the rest is the original's."""
    source = golden / "checkpoints" / "qwen3"
    modelfmt.convert(source, tmp_path / "model.gguf")
    report = modelfmt.convert(tmp_path / "model.gguf", tmp_path / "back", quant="F32")
    ours, original = (json.loads((folder / "config.json").read_text()) for folder in (tmp_path / "back", source))
    assert ours == original | {"dtype": "float32", "torch_dtype": "float32"}
    own = modelfmt.convert(tmp_path / "model.gguf", tmp_path / "own", quant="BF16")
    assert contents(tmp_path / "own") == contents(source) and own.losses == ()
    same = contents(source).items() & contents(tmp_path / "back").items()
    assert {name for name, _ in same} == contents(source).keys() - {"config.json", "model.safetensors"}
    assert report.losses == ()


def test_rounded_values_are_named(golden: Path, tmp_path: Path) -> None:
    """BERT is float32, and "auto" makes float16 of it, as llama.cpp's converter does: no loss on the way back."""
    _, report = there_and_back(golden / "checkpoints" / "bert", tmp_path)
    assert report.losses == ()
    assert any("rounded 13 tensors" in note.detail for note in report.notes)


def test_quantized_files_come_back_in_the_originals_types(golden: Path, tmp_path: Path) -> None:
    source = golden / "checkpoints" / "llama3-big"
    back, report = there_and_back(source, tmp_path, "Q4_K_M")
    ours, original = contents(back), contents(source)
    assert ours.keys() == original.keys()
    assert {name for name in ours if ours[name] != original[name]} == {
        name for name in ours if name.endswith(".safetensors")
    }
    assert {loss.kind for loss in report.losses} == {"narrowed"}
    assert any("not the original's" in note.detail for note in report.notes)
    with modelfmt.open(back) as model:
        assert {tensor.encoding.name for tensor in model.values()} == {"BF16"}


def test_shards_and_names(golden: Path, tmp_path: Path) -> None:
    modelfmt.convert(golden / "checkpoints" / "qwen2", tmp_path / "model.gguf")
    modelfmt.convert(tmp_path / "model.gguf", tmp_path / "back", split_size=40_000)
    names = sorted(path.name for path in (tmp_path / "back").glob("*.safetensors"))
    assert len(names) > 2 and names[0] == f"model-00001-of-{len(names):05}.safetensors"
    assert (logits(tmp_path / "back") == logits(golden / "checkpoints" / "qwen2")).all()


def test_a_folder_with_other_weights_is_left_alone(golden: Path, tmp_path: Path) -> None:
    modelfmt.convert(golden / "checkpoints" / "qwen2", tmp_path / "model.gguf")
    folder = tmp_path / "back"
    folder.mkdir()
    (folder / "model-00001-of-00002.safetensors").write_bytes(b"x")
    with pytest.raises(DestinationExists, match="files of another model"):
        modelfmt.convert(tmp_path / "model.gguf", folder, overwrite=True)
    assert [path.name for path in folder.iterdir()] == ["model-00001-of-00002.safetensors"]


def test_names_say_what_is_made(golden: Path, tmp_path: Path) -> None:
    modelfmt.convert(golden / "checkpoints" / "qwen2", tmp_path / "model.gguf")
    (tmp_path / "there.d").mkdir()
    for dest in (f"{tmp_path}/new.folder/", tmp_path / "plain", tmp_path / "there.d"):
        assert modelfmt.plan(tmp_path / "model.gguf", dest).recipe["to"] == "huggingface"
    with pytest.raises(UsageError, match="cannot tell"):
        modelfmt.plan(tmp_path / "model.gguf", tmp_path / "new.folder")
    with pytest.raises(UsageError, match="that of a file"):
        modelfmt.plan(tmp_path / "model.gguf", tmp_path / "new.safetensors", to="huggingface")
    with pytest.raises(UnsupportedError, match="only a GGUF file or a checkpoint's folder"):
        modelfmt.plan(golden / "checkpoints" / "qwen2" / "model.safetensors", tmp_path / "plain", to="huggingface")


def write(path: Path, source: Path, **changes: Any) -> Path:
    """A copy of a GGUF file with other metadata; None removes a key."""
    with modelfmt.open(source) as model:
        types = model.extras["gguf"]["types"]
        rows = {key: (types[key], value) for key, value in model.metadata.items()}
        for key, value in changes.items():
            rows.pop(key, None)
            if value is not None:
                rows[key] = ({str: "STRING", int: "UINT32", bytes: "ARRAY:UINT8"}[type(value)], value)
        entries = [Entry(tensor.name, tensor.encoding.name, tensor.shape) for tensor in model.values()]
        (layout,) = gguf.layout(entries, metadata=[(key, *row) for key, row in rows.items()], stem="m")
        data = bytearray(layout.size)
        data[: len(layout.header)] = layout.header
        for placed in layout.tensors:
            data[placed.offset : placed.offset + placed.size] = model[placed.name].numpy(dequantize=False).tobytes()
    path.write_bytes(data)
    return path


@pytest.fixture
def carried(golden: Path, tmp_path: Path) -> Path:
    modelfmt.convert(golden / "checkpoints" / "gemma3", tmp_path / "carried.gguf")
    return tmp_path / "carried.gguf"


def test_changed_keys_win_over_carried_files(carried: Path, golden: Path, tmp_path: Path) -> None:
    original = contents(golden / "checkpoints" / "gemma3")
    template = write(tmp_path / "a.gguf", carried, **{"tokenizer.chat_template": "{{ changed }}"})
    report = modelfmt.convert(template, tmp_path / "a")
    assert (tmp_path / "a" / "chat_template.jinja").read_text() == "{{ changed }}"
    assert contents(tmp_path / "a")["config.json"] == original["config.json"]
    assert any("keys of the tokenizer were changed" in note.detail for note in report.notes)
    context = write(tmp_path / "b.gguf", carried, **{"gemma3.context_length": 512})
    report = modelfmt.convert(context, tmp_path / "b")
    assert json.loads((tmp_path / "b" / "config.json").read_text())["max_position_embeddings"] == 512
    assert contents(tmp_path / "b")["tokenizer.model"] == original["tokenizer.model"]
    assert contents(tmp_path / "b")["model.safetensors"] == original["model.safetensors"]
    assert any("keys of the architecture were changed" in note.detail for note in report.notes)


HOSTILE: tuple[tuple[dict[str, Any], type[ModelfmtError]], ...] = (
    ({"modelfmt.file.../config.json": "{}"}, UnsafePath),
    ({"modelfmt.file./etc/config.json": "{}"}, UnsafePath),
    ({"modelfmt.file.a/../../config.json": "{}"}, UnsafePath),
    ({"modelfmt.file.a\\config.json": "{}"}, UnsafePath),
    ({"modelfmt.file.modeling.py": "print()"}, UnsafePath),
    ({"modelfmt.file.model.safetensors": "x"}, UnsafePath),
    ({"modelfmt.file.a/b/c/d/e.json": "{}"}, UnsafePath),
    ({"modelfmt.safetensors.../m.safetensors": "{}"}, UnsafePath),
    ({"modelfmt.safetensors.model.json": "{}"}, UnsafePath),
    ({"modelfmt.safetensors.model.safetensors": "{"}, CorruptFile),
    (
        {"modelfmt.safetensors.other.safetensors": '{"a":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}'},
        CorruptFile,
    ),
    ({"modelfmt.file.config.json": "[]"}, CorruptFile),
    ({"modelfmt.file.config.json": "{"}, CorruptFile),
    ({"modelfmt.file.config.json": 7}, CorruptFile),
    ({"modelfmt.file.config.json": '{"architectures": ["NoSuchForCausalLM"]}'}, UnsupportedError),
    ({"modelfmt.file.config.json": '{"architectures": [[1]], "model_type": [2]}'}, UsageError),
    ({"modelfmt.tensor.model.norm.weight": b"123"}, CorruptFile),
    ({"modelfmt.tensor.model.norm.weight": b"0" * 9999}, CorruptFile),
)


@pytest.mark.parametrize(
    ("change", "kind"), HOSTILE, ids=lambda value: next(iter(value)) if isinstance(value, dict) else ""
)
def test_hostile_keys_are_refused(carried: Path, tmp_path: Path, change: dict[str, Any], kind: type[Exception]) -> None:
    with pytest.raises(kind):
        modelfmt.convert(write(tmp_path / "h.gguf", carried, **change), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_values_that_sums_round_are_carried(golden: Path, tmp_path: Path) -> None:
    """Gemma's norms are stored plus one, which takes the last bits of small numbers, and the sign of zero."""
    source = shutil.copytree(golden / "checkpoints" / "gemma3", tmp_path / "hf")
    (source / "model.safetensors").chmod(0o644)
    data = bytearray((source / "model.safetensors").read_bytes())
    layout = safetensors.laid_out("x", safetensors.header(str(source / "model.safetensors"), Files()))
    norm = next(tensor for tensor in layout.tensors if tensor.name == "model.norm.weight")
    values = np.frombuffer(bytes(data[norm.offset : norm.offset + norm.size]), ml_dtypes.bfloat16).copy()
    values[:3] = [3e-8, -0.0, 1e-30]
    data[norm.offset : norm.offset + norm.size] = values.tobytes()
    (source / "model.safetensors").write_bytes(data)
    back, _ = there_and_back(source, tmp_path)
    assert contents(back) == contents(source)
    with modelfmt.open(tmp_path / "model.gguf") as model:
        assert [key for key in model.metadata if key.startswith("modelfmt.tensor.")] == [
            "modelfmt.tensor.model.norm.weight"
        ]
    modelfmt.convert(
        tmp_path / "model.gguf", tmp_path / "without.gguf", metadata={"modelfmt.tensor.model.norm.weight": None}
    )
    modelfmt.convert(tmp_path / "without.gguf", tmp_path / "without")
    assert contents(tmp_path / "without") != contents(source)


def test_what_the_file_does_not_hold_is_a_loss(golden: Path, tmp_path: Path) -> None:
    """A pooler too large to be carried."""
    import torch
    import transformers

    config = transformers.BertConfig(
        vocab_size=512, hidden_size=528, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4
    )
    torch.manual_seed(1)
    transformers.BertModel(config).save_pretrained(tmp_path / "hf")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(golden / "checkpoints" / "bert" / name, tmp_path / "hf")
    back, report = there_and_back(tmp_path / "hf", tmp_path, "F32")
    assert [(loss.kind, loss.subject) for loss in report.losses] == [("dropped", "pooler.dense.weight")]
    with modelfmt.open(tmp_path / "hf") as first, modelfmt.open(back) as second:
        assert first.tensors.keys() - second.tensors.keys() == {"pooler.dense.weight"}
        for tensor in second.values():
            np.testing.assert_array_equal(tensor.numpy(), first[tensor.name].numpy())


def test_pooling_comes_back(golden: Path, tmp_path: Path) -> None:
    source = shutil.copytree(golden / "checkpoints" / "bert", tmp_path / "hf")
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    ]
    (source / "modules.json").write_text(json.dumps(modules))
    (source / "1_Pooling").mkdir()
    settings = {"word_embedding_dimension": 64, "pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}
    (source / "1_Pooling" / "config.json").write_text(json.dumps(settings))
    back, _ = there_and_back(source, tmp_path, "F32")
    assert contents(back) == contents(source)
    (tmp_path / "bare").mkdir()
    bare, _ = there_and_back(source, tmp_path / "bare", "F32", carry=False)
    assert json.loads((bare / "modules.json").read_text()) == modules
    assert json.loads((bare / "1_Pooling" / "config.json").read_text()).items() >= settings.items()


def test_weights_in_a_folder_of_their_own(golden: Path, tmp_path: Path) -> None:
    """An older sentence-transformers folder."""
    source = tmp_path / "hf"
    shutil.copytree(golden / "checkpoints" / "bert", source / "0_Transformer")
    kinds = (("0_Transformer", "Transformer"), ("1_Pooling", "Pooling"))
    modules = [{"path": path, "type": f"sentence_transformers.models.{kind}"} for path, kind in kinds]
    (source / "modules.json").write_text(json.dumps(modules))
    (source / "1_Pooling").mkdir()
    (source / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_mean_tokens": True}))
    back, _ = there_and_back(source, tmp_path, "F32")
    assert contents(back) == contents(source)
    modelfmt.convert(tmp_path / "model.gguf", tmp_path / "half", quant="F16", split_size=50_000)
    with modelfmt.open(tmp_path / "half") as model:
        assert len(model.extras["huggingface"]["shards"]) > 1
        assert model.config["torch_dtype"] == "float16"


def test_tokenizer_json_alone_is_taken_as_it_is(golden: Path, tmp_path: Path) -> None:
    """The key of the GGUF specification, in a file that carries nothing else."""
    source = golden / "checkpoints" / "qwen2"
    text = (source / "tokenizer.json").read_text()
    modelfmt.convert(source, tmp_path / "m.gguf", carry=False, metadata={"tokenizer.huggingface.json": text})
    modelfmt.convert(tmp_path / "m.gguf", tmp_path / "back")
    assert (tmp_path / "back" / "tokenizer.json").read_text() == text
    assert json.loads((tmp_path / "back" / "tokenizer_config.json").read_text())["eos_token"] == "<|im_end|>"


def test_transformers_loads_the_rebuilt_tokenizer(golden: Path, tmp_path: Path) -> None:
    import transformers

    source = golden / "checkpoints" / "llama3-big"
    back, _ = there_and_back(source, tmp_path, carry=False)
    ours, original = (transformers.AutoTokenizer.from_pretrained(folder) for folder in (back, source))
    assert ours.special_tokens_map == original.special_tokens_map
    assert ours.chat_template == original.chat_template
    for text in ("Hello world", "", " a  b", "<|eot_id|>\n"):
        assert ours(text).input_ids == original(text).input_ids


@pytest.mark.parametrize(("quant", "exact"), [("F32", True), ("BF16", False)])
def test_scaled_matrices_of_16_bits_come_back_from_float32(
    golden: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quant: str, exact: bool
) -> None:
    """Falcon-H1's multipliers, on matrices too large to be carried: a file of float32 loses nothing of them."""
    from modelfmt.checkpoints import carried
    from test_arch_models import MODELS, make

    monkeypatch.setattr(carried, "_TENSOR_LIMIT", 1024)
    model = make(next(case for case in MODELS if case.name == "falcon-h1-scaled"), golden, tmp_path / "hf")
    model.bfloat16().save_pretrained(tmp_path / "hf")
    modelfmt.convert(tmp_path / "hf", tmp_path / "model.gguf", quant=quant)
    report = modelfmt.convert(tmp_path / "model.gguf", tmp_path / "back")
    assert bool(report.losses) != exact
    assert (contents(tmp_path / "back") == contents(tmp_path / "hf")) == exact
