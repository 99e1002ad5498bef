"""Moving codes beside dequantizing and quantizing again: what each changes, and how fast codes move beside `cp`.

    python benchmarks/transcode.py            # the table of errors, on Gaussian weights
    python benchmarks/transcode.py --speed 8  # a folder of so many layers of 202 M weights, transcoded and copied
    python benchmarks/transcode.py --quantize 16 [awq gptq ..]  # bfloat16, so many layers of 51 M weights, to schemes
    python benchmarks/transcode.py --peers    # the schemes' own programs, of a matrix in memory

The other way is llama.cpp's: what its converter does with compressed-tensors and GPTQ (values, rounded to the 16-bit
type of the file), then its reference quantizer for the same type; modelfmt's kernels write the same bytes as it
(tests/byte_identity.py).
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

import modelfmt
from modelfmt import grids
from modelfmt.ir.grid import Packing
from modelfmt.ir.ops import Coded, Constant, Param
from modelfmt.storage.files import Files
from modelfmt.tiles import Evaluator

Values = NDArray[np.float64]
Stored = tuple[str, tuple[int, ...], bytes]
"""A tensor as safetensors has it: dtype, shape, data."""


def quantized(rng: np.random.Generator, group: int, *, symmetric: bool) -> tuple[Coded, Values, Values]:
    """Weights as 4-bit codes: the expression, its values, the weights before."""
    n, k = 256, 512 if group == 32 else 1024
    weights = rng.standard_normal((n, k)) * 0.02
    blocks = weights.reshape(n, k // group, group)
    if symmetric:
        scales = (np.abs(blocks).max(-1) / 7).astype(ml_dtypes.bfloat16)
        zeros = np.full(scales.shape, 8)
    else:
        low, high = blocks.min(-1), blocks.max(-1)
        scales = ((high - low) / 15).astype(np.float16)
        zeros = np.clip(np.rint(-low / scales.astype(float)), 0, 15)
    codes = np.clip(np.rint(blocks / scales.astype(float)[..., None]) + zeros[..., None], 0, 15).astype(np.uint8)
    values = (codes - zeros[..., None]) * scales.astype(float)[..., None]
    flat = codes.reshape(n, k)
    packed = (flat[:, ::2] | flat[:, 1::2] << 4).astype(np.uint8)
    encoding = "BF16" if symmetric else "F16"
    scale = Param(Constant(scales.tobytes(), scales.shape, encoding), group=group)
    zero: float | Param = 8.0
    if not symmetric:
        zero = Param(Constant(zeros.astype(np.float32).tobytes(), zeros.shape, "F32"), group=group)
    expr = Coded(Constant(packed.tobytes(), packed.shape, "U8"), Packing(4), (n, k), "U4", group, (scale,), zero)
    return expr, values.reshape(n, k), weights


def compare(expr: Coded, values: Values, weights: Values, target: str, dense: str) -> list[str]:
    """One row: share of weights changed, added rms error in steps, mean squared error beside the source's own."""
    reader = Evaluator(Files())
    rows = reader.rows(expr, 0, len(values))
    ours = grids.doubles(grids.as_blocks(rows, expr.stored.name, target), target, values.shape[1])
    kind = ml_dtypes.bfloat16 if dense == "BF16" else np.float16
    again = modelfmt.quantize(values.astype(kind).astype(np.float32), target)
    theirs = modelfmt.dequantize(again, target).astype(np.float64)
    step = grids.records(expr, 0, len(values), np.arange(0, values.shape[1], expr.group), reader)[..., 0]
    steps = np.repeat(step, expr.group, 1)
    cells = []
    for found in (theirs, ours):
        off = found - values
        changed = np.abs(off) > 1e-3 * steps
        more = np.mean((found - weights) ** 2) / np.mean((values - weights) ** 2)
        cells += [f"{changed.mean():.1%}", f"{np.sqrt(np.mean((off / steps) ** 2)):.3f}", f"{more:.2f}"]
    return cells


def errors() -> None:
    """The table of the README."""
    print("| source | to | changed | added error | MSE | changed | added error | MSE |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for name, group, symmetric, targets, dense in (
        ("symmetric int4, groups of 32", 32, True, ("Q4_0",), "BF16"),
        ("AWQ, groups of 128", 128, False, ("Q4_1", "Q5_0", "Q8_0"), "F16"),
    ):
        expr, values, weights = quantized(np.random.default_rng(7), group, symmetric=symmetric)
        for target in targets:
            print(f"| {name} | {target} | {' | '.join(compare(expr, values, weights, target, dense))} |")


def checkpoint(folder: Path, layers: int, kind: str) -> int:
    """A Llama of random codes, written without holding it; bytes of its weights."""
    hidden, inner, vocab, group = 4096, 11008, 512, 32 if kind == "compressed-tensors" else 128
    shapes = {f"self_attn.{part}_proj": (hidden, hidden) for part in "qkvo"}
    shapes |= {"mlp.gate_proj": (inner, hidden), "mlp.up_proj": (inner, hidden), "mlp.down_proj": (hidden, inner)}
    rng = np.random.default_rng(0)
    entries: dict[str, Stored] = {}
    for module, (n, k) in shapes.items():
        scales = rng.uniform(0.001, 0.002, (n, k // group))
        if kind == "awq":
            entries[f"{module}.qweight"] = ("I32", (k, n // 8), rng.bytes(k * n // 2))
            entries[f"{module}.qzeros"] = ("I32", (k // group, n // 8), rng.bytes(k // group * n // 2))
            turned = np.ascontiguousarray(scales.T.astype(np.float16))
            entries[f"{module}.scales"] = ("F16", (k // group, n), turned.tobytes())
        else:
            entries[f"{module}.weight_packed"] = ("I32", (n, k // 8), rng.bytes(n * k // 2))
            bf16 = scales.astype(ml_dtypes.bfloat16)
            entries[f"{module}.weight_scale"] = ("BF16", (n, k // group), bf16.tobytes())
            entries[f"{module}.weight_shape"] = ("I64", (2,), struct.pack("<qq", n, k))
    for norm in ("input_layernorm", "post_attention_layernorm"):
        entries[f"{norm}.weight"] = ("F32", (hidden,), np.ones(hidden, np.float32).tobytes())
    outer = {
        name: ("F16", (vocab, hidden), bytes(vocab * hidden * 2))
        for name in ("model.embed_tokens.weight", "lm_head.weight")
    }
    outer["model.norm.weight"] = ("F32", (hidden,), np.ones(hidden, np.float32).tobytes())
    order = [(f"model.layers.{i}.{name}", row) for i in range(layers) for name, row in entries.items()]
    order += list(outer.items())
    section: dict[str, object] = {"quant_method": "awq", "bits": 4, "group_size": group, "version": "gemm"}
    if kind != "awq":
        weights = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": group}
        section = {
            "quant_method": kind,
            "format": "pack-quantized",
            "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}},
        }
    config = llama(hidden, inner, layers, vocab) | {"torch_dtype": "float16", "quantization_config": section}
    return write(folder, order, config)


def write(folder: Path, tensors: list[tuple[str, Stored]], config: dict[str, object]) -> int:
    """A folder of one safetensors file, tensors in this order; bytes of their data."""
    header, at = {}, 0
    for name, (dtype, shape, data) in tensors:
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + len(data)]}
        at += len(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    folder.mkdir(parents=True)
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _, (_, _, data) in tensors:
            file.write(data)
    (folder / "config.json").write_text(json.dumps(config))
    return at


def llama(hidden: int, inner: int, layers: int, vocab: int) -> dict[str, object]:
    """config.json of a Llama."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "vocab_size": vocab,
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 4096,
        "tie_word_embeddings": False,
    }


CASES = (("compressed-tensors", "out.gguf"), ("awq", "out.gguf"), ("awq", "gptq"), ("compressed-tensors", "awq"))
"""Scheme of the source, and what becomes of it."""


def speed(layers: int, where: str | None) -> None:
    """Seconds and peak memory of each transcoding, and of `cp` of the same folder, from the page cache; of `cp` also
    until the disk has it, which is what a transcoding waits for."""
    place = Path(tempfile.mkdtemp(dir=where))
    ours = [sys.executable, "-m", "modelfmt"]
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # as installed: modules are compiled once
    os.environ["PYTHONPYCACHEPREFIX"] = str(place / "compiled")
    try:
        for kind, target in CASES:
            folder, dest = place / f"{kind}-{target}", place / target
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as apart:
                # a process begins with the peak of the one that starts it, so that this one has to stay small
                size = apart.submit(checkpoint, folder, layers, kind).result()
            options = [] if target.endswith(".gguf") else ["--to", target]
            copy = f"cp -r {folder} {place / 'copy'}"
            copied, copied_cpu, _ = timed(["sh", "-c", copy], place / "copy")
            synced, *_ = timed(["sh", "-c", f"{copy}; sync {place / 'copy'}/*"], place / "copy")
            planned, *_ = timed([*ours, "plan", str(folder), str(dest), "--summary", *options], place / "none")
            made, made_cpu, peak = timed([*ours, "convert", str(folder), str(dest), "-q", *options], dest)
            print(
                f"{kind} to {target}: {size / 1e9:.2f} GB, cp {copied:.2f} s ({copied_cpu:.2f} s of processor), "
                f"to the disk {synced:.2f} s; "
                f"modelfmt {made:.2f} s ({made_cpu:.2f}; planning alone {planned:.2f} s), "
                f"{made / copied:.1f} of cp, {made / synced:.1f} of cp to the disk, peak {peak:.0f} MiB"
            )
            shutil.rmtree(folder)
    finally:
        shutil.rmtree(place, ignore_errors=True)


ROWS = {
    "awq": ("int4",),
    "gptq": ("int4", "int8"),
    "compressed-tensors": ("int4", "int4-asymmetric", "int8", "fp8", "fp8-block", "mxfp4", "mxfp8", "nvfp4"),
    "fp8": ("fp8",),
    "mlx": ("int4", "int8", "int6", "int5", "int3", "int2", "mxfp4", "mxfp8", "nvfp4"),
    "bitsandbytes": ("nf4", "nf4-nested", "int8"),
}
"""Scheme -> its types, for weights that are not quantized."""


def dense(folder: Path, layers: int) -> int:
    """A Llama of bfloat16 weights; bytes of them. Layers hold the same numbers."""
    hidden, inner, vocab = 2048, 5632, 512
    shapes = {f"self_attn.{part}_proj": (hidden, hidden) for part in "qkvo"}
    shapes |= {"mlp.gate_proj": (inner, hidden), "mlp.up_proj": (inner, hidden), "mlp.down_proj": (hidden, inner)}
    shapes |= dict.fromkeys(("input_layernorm", "post_attention_layernorm"), (hidden,))
    rng = np.random.default_rng(0)
    data = {
        name: (rng.standard_normal(shape, np.float32) * np.float32(0.02)).astype(ml_dtypes.bfloat16).tobytes()
        for name, shape in shapes.items()
    }
    order: list[tuple[str, Stored]] = [
        (f"model.layers.{i}.{name}.weight", ("BF16", shape, data[name]))
        for i in range(layers)
        for name, shape in shapes.items()
    ]
    outer = ("model.embed_tokens.weight", "lm_head.weight")
    order += [(name, ("BF16", (vocab, hidden), bytes(2 * vocab * hidden))) for name in outer]
    order.append(("model.norm.weight", ("BF16", (hidden,), bytes(2 * hidden))))
    return write(folder, order, llama(hidden, inner, layers, vocab) | {"torch_dtype": "bfloat16"})


def quantize(layers: int, schemes: list[str], where: str | None) -> None:
    """Seconds of each row of docs/transcoding.md from bfloat16, start and plan included, from the page cache to the
    disk; SCHEME or SCHEME:TYPE."""
    place = Path(tempfile.mkdtemp(dir=where))
    try:
        size = dense(place / "dense", layers)
        for name in schemes or list(ROWS):
            target, _, only = name.partition(":")
            for kind in (only,) if only else ROWS[target]:
                command = [sys.executable, "-m", "modelfmt", "convert", str(place / "dense"), str(place / "out")]
                made, cpu, _ = timed([*command, "-q", "--to", target, "-t", kind], place / "out", tries=2)
                print(
                    f"{target} {kind}: {made:.2f} s ({cpu:.2f} s of processor), {size / made / 1e6:.0f} MB/s",
                    flush=True,
                )
    finally:
        shutil.rmtree(place, ignore_errors=True)


def peers() -> None:
    """MB/s of bfloat16 of the schemes' own programs, of one matrix in memory: no file is read or written."""
    import mlx.core as mx  # type: ignore[import-not-found,unused-ignore]
    import torch
    from bitsandbytes import functional as bnb  # type: ignore[import-untyped,unused-ignore]
    from compressed_tensors.compressors import BaseCompressor  # type: ignore[import-untyped]
    from compressed_tensors.quantization import preset_name_to_scheme  # type: ignore[import-untyped]
    from compressed_tensors.quantization.utils import calculate_qparams, generate_gparam  # type: ignore[import-untyped]

    weights = torch.randn(5632, 2048, generator=torch.Generator().manual_seed(0)).mul(0.02).bfloat16()
    given = mx.array(weights.float().numpy()).astype(mx.bfloat16)

    def compressed(preset: str, kind: str) -> None:
        scheme = preset_name_to_scheme(preset, ["Linear"])
        pieces = weights.unflatten(-1, (-1, scheme.weights.group_size or weights.shape[1]))
        whole = generate_gparam(weights.min(), weights.max()) if preset.startswith("NV") else None
        scale, zero = calculate_qparams(pieces.amin(-1), pieces.amax(-1), scheme.weights, whole)
        state = {"weight": weights, "weight_scale": scale, "weight_zero_point": zero.to(torch.int8)}
        state |= {} if whole is None else {"weight_global_scale": whole}
        BaseCompressor.get_value_from_registry(kind).compress(state, scheme)

    calls = {
        **{f"mx.quantize int{bits}": lambda bits=bits: mx.eval(mx.quantize(given, 64, bits)) for bits in (4, 8, 3)},
        **{f"mx.quantize {m}": lambda m=m: mx.eval(mx.quantize(given, mode=m)) for m in ("mxfp4", "mxfp8", "nvfp4")},
        "compressed-tensors int4": lambda: compressed("W4A16", "pack-quantized"),
        "compressed-tensors mxfp8": lambda: compressed("MXFP8A16", "mxfp8-quantized"),
        "compressed-tensors nvfp4": lambda: compressed("NVFP4A16", "nvfp4-pack-quantized"),
        "bitsandbytes nf4": lambda: bnb.quantize_4bit(weights, quant_type="nf4"),
        "bitsandbytes int8": lambda: bnb.int8_vectorwise_quant(weights.half()),
    }
    for name, call in calls.items():
        best = float("inf")
        for _ in range(3):
            begin = time.perf_counter()
            call()
            best = min(best, time.perf_counter() - begin)
        print(f"{name}: {2 * weights.numel() / best / 1e6:.0f} MB/s", flush=True)


def timed(command: list[str], made: Path, tries: int = 5) -> tuple[float, float, float]:
    """The best of some tries, each to a destination that is not there: seconds, seconds of processor, and the most
    that was held, in MiB as Linux counts them."""
    seconds, cpu, peak = float("inf"), float("inf"), 0.0
    for _ in range(tries):
        remove(made)
        begin = time.perf_counter()
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            _, status, used = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0, command
        seconds, cpu = min(seconds, time.perf_counter() - begin), min(cpu, used.ru_utime + used.ru_stime)
        peak = max(peak, used.ru_maxrss / 1024)
    remove(made)
    return seconds, cpu, peak


def remove(made: Path) -> None:
    """A file or a folder, if it is there."""
    if made.is_dir():
        shutil.rmtree(made)
    made.unlink(missing_ok=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--speed", type=int, metavar="LAYERS", help="measure speed with so many layers")
    parser.add_argument("--quantize", type=int, metavar="LAYERS", help="measure quantizing with so many layers")
    parser.add_argument("--peers", action="store_true", help="measure the schemes' own programs")
    parser.add_argument("schemes", nargs="*", help="with --quantize: these alone, SCHEME or SCHEME:TYPE")
    parser.add_argument("--where", help="a folder for the files of the measurement")
    given = parser.parse_args()
    if given.speed:
        speed(given.speed, given.where)
    elif given.peers:
        peers()
    elif given.quantize:
        quantize(given.quantize, given.schemes, given.where)
    else:
        errors()


if __name__ == "__main__":
    main()
