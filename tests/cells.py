"""Checkpoints for every row of the matrix of docs/transcoding.md, and programs that decode them and what they become.

Sources are those of tests/schemes.py, and random words and blocks. gguf-py, compressed-tensors, MLX, torch and
bitsandbytes' table decode; where a product would round, codes and scales apart, in float64.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

import schemes
from modelfmt.routes import matrix
from schemes import SCHEMES, Arrays, Made, Scheme, Values
from test_transcode_folders import READERS, read_compressed, wide
from test_transcode_gguf import NAMES, permuted

Config = dict[str, Any]
Shape = tuple[int, int]


@dataclass(frozen=True)
class Products:
    """MatMulNBits of an ONNX graph in blocks of 32 columns. zeros: whole ones of each block, else half of the range."""

    bits: int
    zeros: bool


@dataclass(frozen=True)
class Source:
    """scheme: of a checkpoint, the name of a GGUF type, or products of a graph. group: columns whose grid a bound is
    relative to."""

    scheme: Scheme | str | Products
    group: int = 16


# The sources


def int8_rows(weights: NDArray[np.float32], rng: np.random.Generator) -> Made:
    """int-quantized, with scales that have every bit of float32."""
    scales = (np.abs(weights).max(1, keepdims=True) / 127).astype(np.float32)
    scales[4] = -scales[4]
    codes = rng.integers(-128, 128, weights.shape).astype(np.int8)
    parts = {"weight": torch.from_numpy(codes), "weight_scale": torch.from_numpy(scales)}
    return parts, codes.astype(np.float64) * scales.astype(np.float64)


def mlx(bits: int, dtype: torch.dtype) -> Scheme:
    """Any words, under scales and offsets of one type, positive, negative and subnormal."""
    config = {"group_size": 64, "bits": bits, "mode": "affine"}

    def make(weights: NDArray[np.float32], rng: np.random.Generator) -> Made:
        n, k = weights.shape
        scales = rng.uniform(0.001, 0.002, (n, k // 64)) * rng.choice([-1, 1], (n, k // 64))
        scales[2, 0] = 2.0**-24
        parts = {
            "weight": torch.from_numpy(rng.integers(0, 1 << 32, (n, k * bits // 32), np.uint32)),
            "scales": torch.from_numpy(scales).to(dtype),
            "biases": torch.from_numpy(rng.uniform(0.001, 0.02, scales.shape) * rng.choice([-1, 1], scales.shape)).to(
                dtype
            ),
        }
        return parts, READERS["mlx"](parts, {"quantization": config}, "", (n, k))

    return Scheme(config, make, key="quantization")


def nf4(weights: NDArray[np.float32], rng: np.random.Generator) -> Made:
    parts, _ = SCHEMES["bnb-nf4"].make(weights, rng)
    return parts, read_bitsandbytes(parts, {}, "", (weights.shape[0], weights.shape[1]))


SOURCES: dict[str, tuple[Source, ...]] = {
    "AWQ; GPTQ 4 bits, asymmetric": (
        Source(SCHEMES["awq-g128"], 128),
        Source(SCHEMES["awq-gemv-g64"], 64),
        Source(SCHEMES["gptq-4-v1"], 64),
    ),
    "GPTQ 4 bits, symmetric": (Source(SCHEMES["gptq-4-sym"]),),
    "GPTQ 8 bits, asymmetric": (Source(SCHEMES["gptq-8-v1"]),),
    "GPTQ 3 bits, asymmetric": (Source(SCHEMES["gptq-3-v1"]), Source(SCHEMES["ct-int3-padded"])),
    "GPTQ 2 bits, asymmetric": (Source(SCHEMES["gptq-2-v1"]),),
    "GPTQ 4 bits, act-order": (Source(SCHEMES["gptq-4-act"], 64), Source(SCHEMES["ct-int4-act"], 64)),
    "compressed-tensors int4, BF16 scales": (Source(SCHEMES["ct-int4-sym"]),),
    "compressed-tensors int4, asymmetric": (Source(schemes.compressed(4, 128, symmetric=False), 128),),
    "compressed-tensors int8, F32 scales of rows": (Source(Scheme(SCHEMES["ct-int8"].config, int8_rows)),),
    "FP8, F32 scales of blocks": (Source(SCHEMES["fp8-block"]),),
    "FP8, scales of powers of two": (Source(SCHEMES["fp8-ue8m0"]),),
    "MXFP4": (Source(SCHEMES["ct-mxfp4"]),),
    "NVFP4": (Source(SCHEMES["modelopt-nvfp4"]),),
    "bitsandbytes nf4": (Source(Scheme(SCHEMES["bnb-nf4"].config, nf4)),),
    "MLX 4 bits, F16": (Source(mlx(4, torch.float16)),),
    "MLX 4 bits, BF16": (Source(mlx(4, torch.bfloat16)),),
    "MLX 8 bits, F16": (Source(mlx(8, torch.float16), 64),),
    "ONNX MatMulNBits 4 bits": (Source(Products(4, False), 32),),
    "ONNX MatMulNBits 4 bits, asymmetric": (Source(Products(4, True), 32),),
    "ONNX MatMulNBits 8 bits": (Source(Products(8, False), 32),),
    **{row: (Source(row.removeprefix("GGUF ")),) for row in matrix.ROWS if row.startswith("GGUF ")},
}
"""Row of the matrix -> checkpoints of it."""


def base(golden: Path, folder: Path, *, hidden: int, inner: int) -> Path:
    """A Llama of one layer, random, with odd numbers of groups; its rows 2 to 5 have a group of zeros."""
    given = golden / "checkpoints/llama3-big"
    folder.mkdir()
    config = json.loads((given / "config.json").read_text())
    config |= {"hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": 1, "head_dim": inner // 4}
    (folder / "config.json").write_text(json.dumps(config))
    rng, shapes = np.random.default_rng(7), {"q": (inner, hidden), "k": (inner // 2, hidden), "v": (inner // 2, hidden)}
    attention = {f"self_attn.{name}_proj": shape for name, shape in (shapes | {"o": (hidden, inner)}).items()}
    mlp = {"gate": (inner, hidden), "up": (inner, hidden), "down": (hidden, inner)}
    norms = {"input_layernorm": (hidden,), "post_attention_layernorm": (hidden,)}
    whole = attention | {f"mlp.{name}_proj": shape for name, shape in mlp.items()} | norms
    named = {f"model.layers.0.{name}.weight": shape for name, shape in whole.items()}
    named |= {
        "model.norm.weight": (hidden,),
        "model.embed_tokens.weight": (512, hidden),
        "lm_head.weight": (512, hidden),
    }
    tensors = {}
    for name, shape in named.items():
        values = rng.standard_normal(shape, np.float32) * np.float32(0.05)
        if schemes.linear(name) and shape[1] > 128:
            values[5, :128] = 0
        tensors[name] = torch.from_numpy(values).to(torch.bfloat16)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def random_blocks(path: Path, rng: np.random.Generator) -> None:
    """Random bytes in place of the quantized blocks of a file; scales positive, negative and subnormal."""
    halves = {"Q2_K": (80, 82), "Q3_K": (108,), "Q6_K": (208,), "MXFP4": (), "NVFP4": ()}
    both = {"Q4_1", "Q5_1", "Q4_K", "Q5_K"}
    for tensor in gguf.GGUFReader(path, "r+").tensors:
        kind = tensor.tensor_type.name
        if kind in ("F32", "F16", "BF16"):
            continue
        _, n_bytes = gguf.GGML_QUANT_SIZES[tensor.tensor_type]
        blocks = rng.integers(0, 256, (tensor.data.size // n_bytes, n_bytes), np.uint8)
        for at in halves.get(kind, (0, 2) if kind in both else (0,)):
            numbers = rng.uniform(0.001, 0.002, (len(blocks), 1)) * rng.choice([-1, 1], (len(blocks), 1))
            numbers[1], numbers[2] = 0.0, 2.0**-24
            blocks[:, at : at + 2] = numbers.astype(np.float16).view(np.uint8)
        if kind == "MXFP4":
            blocks[:, 0] = rng.integers(115, 131, len(blocks))
        if kind == "NVFP4":
            blocks[:, :4] = rng.integers(1, 0x7F, (len(blocks), 4))
        tensor.data[...] = blocks.reshape(tensor.data.shape)


def products(kind: Products, source: Path, folder: Path, rng: np.random.Generator) -> dict[str, Values]:
    """model.onnx with a product for each matrix of a checkpoint, named as torch exports and ONNX Runtime quantizes, and
    config.json beside it. Values: the integers that ONNX Runtime has at scales of one, times the scales."""
    from onnx import TensorProto, helper, numpy_helper, save

    folder.mkdir(parents=True)
    shutil.copy(source / "config.json", folder)
    tensors = load_file(source / "model.safetensors")
    nodes, constants, scales, inputs, outputs = [], {}, {}, {}, {}
    for number, (name, tensor) in enumerate(tensors.items()):
        if not schemes.linear(name):
            constants[name] = tensor.float().numpy()
            nodes.append(helper.make_node("Identity", [name], [f"{number}/same"]))
            continue
        (n, k), bits, own = tensor.shape, kind.bits, f"onnx::MatMul_{number}"
        codes = rng.integers(0, 256, (n, k // 32, 4 * bits), np.uint8)
        codes[..., 0], codes[..., 1] = 0, 255  # both ends in each block, which bounds are relative to
        parts = {f"{own}_Q{bits}": codes}
        scale = rng.uniform(0.001, 0.002, (n, k // 32)).astype(np.float32) * rng.choice([-1, 1], (n, k // 32))
        scales[f"{own}_scales"] = parts[f"{own}_scales"] = scale.astype(np.float32)
        if kind.zeros:
            parts[f"{own}_zero_points"] = rng.integers(0, 256, (n, -(-k // 32 * bits // 8)), np.uint8)
        sizes = {"K": k, "N": n, "bits": bits, "block_size": 32}
        place = f"/{name.removesuffix('.weight').replace('.', '/').replace('layers/', 'layers.')}/MatMul_Q{bits}"
        nodes.append(
            helper.make_node(
                "MatMulNBits", [f"x{k}", *parts], [name], name=place, domain="com.microsoft", accuracy_level=0, **sizes
            )
        )
        constants |= parts
        inputs[f"x{k}"] = helper.make_tensor_value_info(f"x{k}", TensorProto.FLOAT, [k, k])
        outputs[name] = (f"{own}_scales", helper.make_tensor_value_info(name, TensorProto.FLOAT, [k, n]))

    def saved(path: Path, arrays: dict[str, NDArray[Any]]) -> None:
        given = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
        graph = helper.make_graph(nodes, "g", list(inputs.values()), [value for _, value in outputs.values()], given)
        opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
        save(helper.make_model(graph, opset_imports=opsets, ir_version=10, producer_name="pytorch"), path)

    def ran(path: Path) -> dict[str, Values]:
        import onnxruntime

        run = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        given = {name: np.eye(int(name[1:]), dtype=np.float32) for name in inputs}
        return {n: v.T.astype(np.float64) for n, v in zip(outputs, run.run(list(outputs), given), strict=True)}

    saved(folder / "ones.onnx", constants | {name: np.ones_like(scale) for name, scale in scales.items()})
    saved(folder / "model.onnx", constants)
    whole, rounded = ran(folder / "ones.onnx"), ran(folder / "model.onnx")
    values = {
        name: whole[name] * np.repeat(scales[own].astype(np.float64), 32, 1) for name, (own, _) in outputs.items()
    }
    assert all(np.array_equal(value.astype(np.float32), rounded[name]) for name, value in values.items())
    return values


# The oracles


def read_gguf(tensor: gguf.ReaderTensor) -> Values:
    """gguf-py's values; of a type with a minimum, scale and minimum one after the other, since their sum rounds."""
    kind, halves = tensor.tensor_type, {"Q4_1": 0, "Q5_1": 0, "Q4_K": 0, "Q5_K": 0, "Q2_K": 80}
    shape = tuple(int(n) for n in reversed(tensor.shape))
    if kind.name not in halves:
        return gguf.quants.dequantize(tensor.data, kind).astype(np.float64).reshape(shape)
    _, n_bytes = gguf.GGML_QUANT_SIZES[kind]
    found = np.zeros(shape)
    for at in (halves[kind.name], halves[kind.name] + 2):
        blocks = np.array(tensor.data).reshape(-1, n_bytes)
        blocks[:, at : at + 2] = 0
        found += gguf.quants.dequantize(blocks.reshape(tensor.data.shape), kind).astype(np.float64).reshape(shape)
    return found


def read_compressed_too(parts: Arrays, config: Config, module: str, shape: Shape) -> Values:
    """What test_transcode_folders reads, four-bit floats and columns in any order."""
    if parts.get("weight_packed", torch.empty(0)).dtype == torch.uint8:
        from compressed_tensors.compressors.nvfp4.helpers import unpack_fp4_from_uint8  # type: ignore[import-untyped]

        codes = unpack_fp4_from_uint8(parts["weight_packed"], *shape, dtype=torch.float64).numpy()
        scales = parts["weight_scale"]
        if scales.dtype == torch.uint8:
            return codes * np.repeat(np.exp2(scales.numpy().astype(np.float64) - 127), 32, 1)
        return codes * (wide(scales, 16) / float(parts["weight_global_scale"]))
    if "weight_g_idx" not in parts:
        return read_compressed(parts, config, module, shape)
    from compressed_tensors.compressors.pack_quantized.helpers import unpack_from_int32  # type: ignore[import-untyped]

    scales, index = parts["weight_scale"].double().numpy(), parts["weight_g_idx"].numpy()
    codes = unpack_from_int32(parts["weight_packed"], 4, torch.Size(shape)).double().numpy()
    zeros = unpack_from_int32(parts["weight_zero_point"], 4, torch.Size(scales.shape), packed_dim=0).double().numpy()
    return (codes - zeros[:, index]) * scales[:, index]


def read_fp8(parts: Arrays, config: Config, module: str, shape: Shape) -> Values:
    high, across = config["quantization_config"]["weight_block_size"]
    scales = parts["weight_scale_inv"].double().numpy()
    return parts["weight"].double().numpy() * np.repeat(np.repeat(scales, high, 0), across, 1)[: shape[0], : shape[1]]


def read_bitsandbytes(parts: Arrays, config: Config, module: str, shape: Shape) -> Values:
    """Its own table; the first element in the high nibble, blocks over the flattened tensor."""
    from bitsandbytes.functional import get_4bit_type  # type: ignore[import-untyped,unused-ignore]

    table = get_4bit_type("nf4", device="cpu").double().numpy()
    assert np.array_equal(parts["weight.quant_map"].double().numpy(), table)
    packed = parts["weight"].numpy().reshape(-1)
    codes = np.stack([packed >> 4, packed & 15], 1).reshape(-1)
    return (table[codes].reshape(-1, 64) * parts["weight.absmax"].double().numpy()[:, None]).reshape(shape)


ORACLES: dict[str, Callable[[Arrays, Config, str, Shape], Values]] = {
    **READERS,
    "compressed-tensors": read_compressed_too,
    "fp8": read_fp8,
    "bitsandbytes": read_bitsandbytes,
}


def read_folder(folder: Path, target: str, shapes: dict[str, Shape]) -> dict[str, Values]:
    """The values of the quantized tensors of a folder."""
    tensors = load_file(folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    found = {}
    for name, shape in shapes.items():
        module = name.removesuffix(".weight")
        parts = schemes.of_module(tensors, module)
        found[name] = ORACLES[target](parts, config, module, shape)
    return found


def read_file(path: Path) -> tuple[dict[str, Values], dict[str, str]]:
    """The values and the types of the matrices of a GGUF file, by their names in a checkpoint; rows of q and k as GGUF
    has them."""
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    found, kinds = {}, {}
    for module, (short, _) in NAMES.items():
        name, tensor = f"model.layers.0.{module}.weight", tensors[f"blk.0.{short}.weight"]
        whole = tensors.get(f"blk.0.{short}.scale")
        found[name] = read_gguf(tensor) * (1.0 if whole is None else float(whole.data[0]))
        kinds[name] = tensor.tensor_type.name
    return found, kinds


def turned(values: dict[str, Values]) -> dict[str, Values]:
    """Rows of q and k as GGUF has them."""
    heads = {f"model.layers.0.{module}.weight": count for module, (_, count) in NAMES.items()}
    return {name: permuted(value, heads[name]) for name, value in values.items()}


def folded(values: dict[str, Values], source: Path) -> dict[str, Values]:
    """Down's columns in the order of their groups, gate's and up's rows in the same: see test_act_order.py."""
    home = "model.layers.0.mlp"
    stored = {} if source.suffix else load_file(source / "model.safetensors")
    index = next(
        (part for name, part in stored.items() if name.startswith(f"{home}.down_proj") and "g_idx" in name), None
    )
    if index is None or not np.any(np.diff(index.numpy()) < 0):
        return values
    order = np.argsort(index.numpy(), kind="stable")
    rows = {name: values[name][order] for name in (f"{home}.gate_proj.weight", f"{home}.up_proj.weight")}
    return values | rows | {f"{home}.down_proj.weight": values[f"{home}.down_proj.weight"][:, order]}


def experts(golden: Path, folder: Path) -> dict[str, Values]:
    """gpt-oss with random blocks in its experts, under scales from 2^-126 to 2^123; MLX's values by name."""
    shutil.copytree(golden / "checkpoints/gpt-oss", folder, copy_function=shutil.copyfile)
    path, rng = next(folder.glob("*.safetensors")), np.random.default_rng(3)
    tensors = load_file(path)
    names = [name for name in tensors if name.endswith(("gate_up_proj", "down_proj"))]
    for name in names:
        count, columns, rows = tensors.pop(name).shape
        tensors[f"{name}_blocks"] = torch.from_numpy(rng.integers(0, 256, (count, rows, columns // 32, 16), np.uint8))
        scales = rng.integers(100, 140, (count, rows, columns // 32), np.uint8)
        scales[0, :2, 0] = 1, 250
        tensors[f"{name}_scales"] = torch.from_numpy(scales)
    save_file(tensors, path, metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "mxfp4", "modules_to_not_convert": []}
    (folder / "config.json").write_text(json.dumps(config))
    return read_experts(folder)


def read_experts(folder: Path) -> dict[str, Values]:
    import mlx.core as mx  # type: ignore[import-not-found,unused-ignore]

    tensors = load_file(next(folder.glob("*.safetensors")))
    found = {}
    for name in [name.removesuffix("_blocks") for name in tensors if name.endswith("_blocks")]:
        blocks = tensors[f"{name}_blocks"].numpy()
        codes = np.ascontiguousarray(blocks.reshape(*blocks.shape[:2], -1)).view(np.uint32)
        scales = mx.array(tensors[f"{name}_scales"].numpy())
        values = mx.dequantize(mx.array(codes), scales, group_size=32, bits=4, mode="mxfp4", dtype=mx.float32)
        found[name] = np.array(values).astype(np.float64)
    return found
