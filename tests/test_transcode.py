"""Policies, verdicts, refusals, the page, gpt-oss' blocks: what surrounds the moving of codes."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import modelfmt
import schemes
import transcoding_page
from modelfmt import grids
from modelfmt.errors import CorruptFile, LossyError, ShapeError, UnsupportedError, UsageError
from modelfmt.graphs.builder import Form
from modelfmt.ir.grid import Packing
from modelfmt.ir.ops import Coded, Constant, Param
from modelfmt.quant import transcode
from modelfmt.routes import matrix
from modelfmt.storage.files import Files
from modelfmt.tiles import Evaluator


@pytest.fixture
def awq(golden: Path, tmp_path: Path) -> Path:
    schemes.write(schemes.SCHEMES["awq-g64"], golden / "checkpoints/llama3-big", tmp_path / "awq", layers=1)
    return tmp_path / "awq"


def test_the_page_is_of_today() -> None:
    text = transcoding_page.PAGE.read_text()
    assert transcoding_page.page(text) == text, "run `python tests/transcoding_page.py`"


def test_the_command_prints_the_matrix() -> None:
    command = [sys.executable, "-m", "modelfmt", "transcode", "--matrix", "--json"]
    rows = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)["rows"]
    found = {row["from"]: row for row in rows}
    assert found["AWQ; GPTQ 4 bits, asymmetric"]["gguf"].startswith("Q5_0 exact; Q4_1 near")
    assert found["MXFP4"]["mlx"] == "exact"
    assert found["MXFP4"]["onnx"] == "exact (8 bits)" and found["bitsandbytes nf4"]["onnx"] == "-"


@pytest.mark.parametrize("name", matrix.ROWS)
def test_what_the_matrix_says_of_onnx(name: str) -> None:
    """The examples' codes, scales and zeros, put together here, are as near as the column says."""
    reader = Evaluator(Files())
    expr = matrix.ROWS[name](np.random.default_rng(list(matrix.ROWS).index(name)))
    (cell,) = (row["onnx"] for row in _rows() if row["from"] == name)
    given = Form().apart(expr)
    assert (given is None) == (cell == "-")
    if given is None:
        return
    n, bits = expr.shape[0], given.layout.bits
    codes = reader.rows(given.codes, 0, n)
    codes = np.stack([codes & 15, codes >> 4], axis=-1).reshape(n, -1) if bits == 4 else codes
    scales = reader.values(given.scales, 0, n).astype(np.float64).repeat(given.layout.block, axis=1)
    zeros = np.full_like(scales, 1 << (bits - 1))
    if given.zeros is not None:
        zeros = reader.values(given.zeros, 0, n).astype(np.float64).repeat(given.layout.block, axis=1)
    wanted = grids.doubles(reader.rows(expr, 0, n), expr.stored.name, expr.shape[1])
    reach = np.abs(scales) * np.maximum(zeros, (1 << bits) - 1 - zeros)
    error = (np.abs((codes - zeros) * scales - wanted) / reach).max()
    exact, bound = cell.startswith("exact"), cell.split()[1]
    assert error == 0 if exact else 0 < error <= float(bound) * 1.05  # the bound is written with two digits


@pytest.mark.parametrize(("first", "last"), [(4, 12), (4, 16), (0, 12)])
def test_a_window_of_codes_is_of_whole_words(first: int, last: int) -> None:
    words = np.array([[0x76543210, 0xFEDCBA98]], np.uint32)
    scale = Param(Constant(np.float32(1).tobytes(), (1, 1), "F32"))
    expr = Coded(Constant(words.tobytes(), words.shape, "I32"), Packing(4), (1, 16), "U4", 4, (scale,))
    reader = Evaluator(Files())
    second = grids.restricted(expr, 8, 16, 4)
    assert grids.doubles(reader.rows(second, 0, 1), second.stored.name, 8).tolist() == [list(range(8, 16))]
    with pytest.raises(ShapeError, match="within a word") as caught:
        reader.rows(grids.restricted(expr, first, last, 4), 0, 1)
    assert (caught.value.code, caught.value.found) == ("packing", (first, last))


@functools.cache
def _rows() -> list[dict[str, str]]:
    return matrix.matrix()


POLICIES = {"auto": "Q5_0", "exact": "Q5_0", "near:1e-3": "Q4_1", "near:1e-5": "Q5_0"}


@pytest.mark.parametrize(("policy", "kind"), POLICIES.items())
def test_policies_choose(awq: Path, tmp_path: Path, policy: str, kind: str) -> None:
    planned = modelfmt.plan(awq, tmp_path / "out.gguf", transcode=policy)
    rows = {row["name"]: row for row in planned.table()}
    row = rows["blk.0.ffn_down.weight"]
    assert row["to"] == kind
    assert row["verdict"] == ("exact" if kind == "Q5_0" else "near")
    assert row["from"] == "AWQ int4, group 64"
    assert (row["bound"] == 0.0) == (kind == "Q5_0")


def test_the_smallest_step_that_is_near_is_measured_within_its_bound(awq: Path, tmp_path: Path) -> None:
    report = modelfmt.convert(awq, tmp_path / "out.gguf", transcode="near:1e-3", stats=True)
    rows = [row for row in report.tensors if row.encoding == "Q4_1"]
    assert rows
    assert all(row.relative_rmse is not None and 0 < row.relative_rmse < 1e-3 for row in rows)


def test_a_type_that_takes_the_codes_needs_no_leave(awq: Path, tmp_path: Path) -> None:
    dense = {"token_embedding_type": "F16", "output_tensor_type": "F16"}
    report = modelfmt.convert(awq, tmp_path / "out.gguf", quant="Q8_0", stats=True, **dense)
    moved = [row for row in report.tensors if row.source_encoding.startswith("GRID")]
    assert {row.encoding for row in moved} == {"Q8_0"}
    assert all(row.max_error == 0.0 for row in moved)


def test_a_requantization_needs_leave(awq: Path, tmp_path: Path) -> None:
    with pytest.raises(LossyError) as caught:
        modelfmt.plan(awq, tmp_path / "out.gguf", quant="Q4_K_M")
    assert caught.value.code == "requantize"
    planned = modelfmt.plan(awq, tmp_path / "out.gguf", quant="Q4_K_M", allow_requantize=True)
    assert {loss.kind for loss in planned.losses if "ffn" in loss.subject} == {"requantized"}


def test_nothing_exact_is_an_error_that_says_so(golden: Path, tmp_path: Path) -> None:
    schemes.write(schemes.SCHEMES["bnb-nf4"], golden / "checkpoints/llama3-big", tmp_path / "nf4", layers=1)
    with pytest.raises(LossyError) as caught:
        modelfmt.plan(tmp_path / "nf4", tmp_path / "out.gguf", transcode="exact")
    assert caught.value.code == "transcode"
    with pytest.raises(LossyError):
        modelfmt.plan(tmp_path / "nf4", tmp_path / "out", to="awq")
    with pytest.raises(UsageError):
        modelfmt.plan(tmp_path / "nf4", tmp_path / "out.gguf", transcode="nearly")


@pytest.mark.parametrize(
    ("method", "code"),
    [("exl3", "quant-method"), ("eetq", "quant-method"), ("brand-new", "quant-method"), ("awq", "quant-config")],
)
def test_what_is_not_read_is_refused_by_name(awq: Path, tmp_path: Path, method: str, code: str) -> None:
    config = json.loads((awq / "config.json").read_text())
    config["quantization_config"] |= {"quant_method": method, "version": "marlin"}
    (awq / "config.json").write_text(json.dumps(config))
    with pytest.raises(UnsupportedError) as caught:
        modelfmt.plan(awq, tmp_path / "out.gguf")
    assert caught.value.code == code
    assert (method if code == "quant-method" else "marlin") in str(caught.value)
    with modelfmt.open(awq) as model:
        assert "model.layers.0.mlp.up_proj.qweight" in model


@pytest.mark.parametrize("part", ["qweight", "qzeros", "scales"])
@pytest.mark.parametrize("harm", ["gone", "short", "kind"])
def test_damaged_parts_are_named(awq: Path, tmp_path: Path, part: str, harm: str) -> None:
    tensors = load_file(awq / "model.safetensors")
    name = f"model.layers.0.mlp.up_proj.{part}"
    if harm == "gone":
        del tensors[name]
    else:
        tensors[name] = tensors[name][:-1].contiguous() if harm == "short" else tensors[name].to(torch.int64)
    save_file(tensors, awq / "model.safetensors")
    with pytest.raises((CorruptFile, UnsupportedError)) as caught:
        modelfmt.plan(awq, tmp_path / "out.gguf")
    assert caught.value.code in ("quant-part", "quant-shape", "quant-dtype", "quant-config", "unmatched-tensors")


def test_a_weight_that_is_there_quantized_and_as_it_is_is_an_error(awq: Path, tmp_path: Path) -> None:
    tensors = load_file(awq / "model.safetensors")
    tensors["model.layers.0.mlp.up_proj.weight"] = torch.zeros(8, 8)
    save_file(tensors, awq / "model.safetensors")
    with pytest.raises(CorruptFile) as caught:
        modelfmt.plan(awq, tmp_path / "out.gguf")
    assert (caught.value.code, caught.value.place) == ("quant-part", "model.layers.0.mlp.up_proj.weight")


def test_a_packed_weight_beside_the_weight_is_an_error(golden: Path, tmp_path: Path) -> None:
    schemes.write(schemes.SCHEMES["ct-int4-sym"], golden / "checkpoints/llama3-big", tmp_path / "in", layers=1)
    tensors = load_file(tmp_path / "in/model.safetensors")
    name = "model.layers.0.mlp.up_proj.weight"
    save_file(tensors | {name: torch.zeros(8, 8)}, tmp_path / "in/model.safetensors")
    with pytest.raises(CorruptFile) as caught:
        modelfmt.plan(tmp_path / "in", tmp_path / "out.gguf")
    assert (caught.value.code, caught.value.place) == ("quant-part", name)


def test_a_scale_that_is_no_number_is_an_error(awq: Path, tmp_path: Path) -> None:
    tensors = load_file(awq / "model.safetensors")
    tensors["model.layers.0.mlp.up_proj.scales"][1, 3] = float("nan")
    save_file(tensors, awq / "model.safetensors")
    with pytest.raises(modelfmt.ModelfmtError) as caught:
        modelfmt.convert(awq, tmp_path / "out.gguf")
    assert (caught.value.code, caught.value.path) == ("scale-not-finite", "blk.0.ffn_up.weight")
    assert not (tmp_path / "out.gguf").exists()
    with pytest.raises(modelfmt.ModelfmtError) as caught:
        modelfmt.convert(awq, tmp_path / "out", to="gptq")
    assert (caught.value.code, caught.value.path) == ("scale-not-finite", "model.layers.0.mlp.up_proj.scales")


def test_a_scale_that_is_no_number_any_more_is_an_error_of_its_tensor(awq: Path, tmp_path: Path) -> None:
    path = awq / "model.safetensors"
    tensors = load_file(path)
    save_file(tensors, path)
    plan = modelfmt.plan(awq, tmp_path / "out.gguf")
    times = (path.stat().st_atime_ns, path.stat().st_mtime_ns)
    tensors["model.layers.0.mlp.up_proj.scales"][1, 3] = float("nan")
    save_file(tensors, tmp_path / "changed")
    path.write_bytes((tmp_path / "changed").read_bytes())
    os.utime(path, ns=times)
    with pytest.raises(modelfmt.BadValue) as caught:
        modelfmt.run(plan)
    assert (caught.value.code, caught.value.path) == ("scale-not-finite", "blk.0.ffn_up.weight")
    assert not (tmp_path / "out.gguf").exists()


@pytest.mark.parametrize(("scheme", "byte"), [("ct-mxfp4", 255), ("ct-mxfp8", 255), ("modelopt-nvfp4", 0x7F)])
def test_small_scales_that_are_no_number_are_errors(scheme: str, byte: int, golden: Path, tmp_path: Path) -> None:
    """E8M0's and E4M3's NaN."""
    schemes.write(schemes.SCHEMES[scheme], golden / "checkpoints/llama3-big", tmp_path / "in", layers=1)
    tensors = load_file(tmp_path / "in/model.safetensors")
    name = "model.layers.0.mlp.up_proj.weight_scale"
    whole = tensors[name].view(torch.uint8)
    whole[1, 2] = byte
    save_file(tensors, tmp_path / "in/model.safetensors")
    with pytest.raises(modelfmt.ModelfmtError) as caught:
        modelfmt.convert(tmp_path / "in", tmp_path / "out.gguf")
    assert caught.value.code == "scale-not-finite"


@pytest.mark.parametrize("whole", [float("inf"), float("nan"), 0.0])
def test_a_scale_of_the_whole_that_leaves_nothing_is_an_error(whole: float) -> None:
    """One that the others are divided by: over infinity, all weights would be zeros."""
    codes, scales = Constant(bytes(range(32)), (2, 16), "U8"), Constant(np.ones((2, 2), "f2").tobytes(), (2, 2), "F16")
    over = Param(Constant(np.array(whole, "f4").tobytes(), (1, 1), "F32"), rows=0, divide=True)
    coded = Coded(codes, Packing(4), (2, 32), "E2M1", 16, (Param(scales, group=16), over))
    with pytest.raises(modelfmt.BadValue) as caught:
        Evaluator(Files()).values(coded, 0, 2)
    assert caught.value.code == "scale-not-finite"


def test_an_index_out_of_range_is_an_error(golden: Path, tmp_path: Path) -> None:
    schemes.write(schemes.SCHEMES["gptq-4-act"], golden / "checkpoints/llama3-big", tmp_path / "g", layers=1)
    tensors = load_file(tmp_path / "g/model.safetensors")
    tensors["model.layers.0.mlp.up_proj.g_idx"][0] = 99
    save_file(tensors, tmp_path / "g/model.safetensors")
    with pytest.raises(CorruptFile) as caught:
        modelfmt.plan(tmp_path / "g", tmp_path / "out.gguf")
    assert caught.value.code == "group-index"


def test_released_gpt_oss_blocks(golden: Path, tmp_path: Path) -> None:
    """MLX quantizes the experts; gguf-py reads them in the file, gate and up apart."""
    import mlx.core as mx  # type: ignore[import-not-found,unused-ignore]

    shutil.copytree(golden / "checkpoints/gpt-oss", tmp_path / "m")
    path = next((tmp_path / "m").glob("*.safetensors"))
    tensors = load_file(path)
    expected = {}
    for name in [name for name in tensors if name.endswith(("gate_up_proj", "down_proj"))]:
        turned = tensors.pop(name).float().numpy().swapaxes(1, 2).copy()
        codes, scales = mx.quantize(mx.array(turned), group_size=32, bits=4, mode="mxfp4")
        values = mx.dequantize(codes, scales, group_size=32, bits=4, mode="mxfp4")
        expected[name] = np.array(values.astype(mx.float32))
        blocks = np.array(codes).view(np.uint8).reshape(*turned.shape[:2], -1, 16)
        tensors[f"{name}_blocks"] = torch.from_numpy(blocks.copy())
        tensors[f"{name}_scales"] = torch.from_numpy(np.array(scales))
    save_file(tensors, path, metadata={"format": "pt"})
    config = json.loads((tmp_path / "m/config.json").read_text())
    config["quantization_config"] = {"quant_method": "mxfp4", "modules_to_not_convert": []}
    (tmp_path / "m/config.json").write_text(json.dumps(config))
    modelfmt.convert(tmp_path / "m", tmp_path / "out.gguf")
    found = {tensor.name: tensor for tensor in gguf.GGUFReader(tmp_path / "out.gguf").tensors}
    for name, values in expected.items():
        layer = name.split(".")[2]
        parts = {"gate": values[:, ::2], "up": values[:, 1::2]} if "gate_up" in name else {"down": values}
        for part, value in parts.items():
            tensor = found[f"blk.{layer}.ffn_{part}_exps.weight"]
            assert tensor.tensor_type.name == "MXFP4"
            assert np.array_equal(gguf.quants.dequantize(tensor.data, tensor.tensor_type).reshape(value.shape), value)


def test_tile_size_and_threads_change_no_byte(awq: Path, tmp_path: Path) -> None:
    import msgspec

    from modelfmt.executor import run

    found = []
    for number, (tile, threads) in enumerate(((1 << 20, 2), (3000, 1), (70000, 2))):
        path = tmp_path / f"{number}.gguf"
        planned = modelfmt.plan(awq, path, metadata={"general.name": "x"})
        run(msgspec.structs.replace(planned, tile_elements=tile), threads=threads)
        found.append(path.read_bytes())
        folder = tmp_path / f"folder{number}"
        planned = modelfmt.plan(awq, folder, to="gptq")
        run(msgspec.structs.replace(planned, tile_elements=tile), threads=threads)
        found.append((folder / "model.safetensors").read_bytes())
    assert found[0] == found[2] == found[4]
    assert found[1] == found[3] == found[5]


def test_plans_of_transcodings_serialise(awq: Path, tmp_path: Path) -> None:
    from modelfmt.plans import Plan

    planned = modelfmt.plan(awq, tmp_path / "out", to="mlx")
    again = Plan.from_bytes(planned.to_bytes())
    assert again.hash == planned.hash
    modelfmt.run(again)
    assert (tmp_path / "out/model.safetensors").exists()


def test_verdicts_read() -> None:
    assert str(transcode.verdict(0.0)) == "exact"
    assert transcode.policy("exact").bound == 0.0
