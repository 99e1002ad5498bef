"""Quantized tensors as other programs lay them out, with what those programs (or the formats' own text) say they mean.

Each scheme takes float32 weights [out, in] and gives the parts by suffix and the values in float64. Packing and values
come from compressed-tensors, bitsandbytes, MLX and ml_dtypes where these can do it on a CPU; AWQ and GPTQ are written
out from their packers, element by element (autoawq 0.2.9 modules/linear/gemm.py, gemv.py; gptqmodel 7.7.0
nn_modules/qlinear, pack_original), with zeros that llama.cpp's and ONNX Runtime's readers get wrong.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

Arrays = dict[str, torch.Tensor]
Values = NDArray[np.float64]
Made = tuple[Arrays, Values]


@dataclass(frozen=True)
class Scheme:
    """config: the quantization section. make: weights and a generator -> parts and values."""

    config: dict[str, Any]
    make: Callable[[NDArray[np.float32], np.random.Generator], Made]
    key: str = "quantization_config"
    exact: bool = True
    to: dict[str, str] = field(default_factory=dict)


AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


def affine_codes(weights: NDArray[np.float32], group: int, bits: int, rng: np.random.Generator, *, symmetric: bool):
    """Codes, zeros and float16 scales of groups along the rows; zeros at both ends, subnormal and negative scales."""
    n, k = weights.shape
    blocks = weights.reshape(n, k // group, group)
    top = (1 << bits) - 1
    if symmetric:
        zeros = np.full(blocks.shape[:2], 1 << (bits - 1))
        scales = np.abs(blocks).max(-1) / max((1 << (bits - 1)) - 1, 1)
    else:
        low, high = np.minimum(blocks.min(-1), 0), np.maximum(blocks.max(-1), 0)
        scales = (high - low) / top
        with np.errstate(divide="ignore", invalid="ignore"):
            zeros = np.clip(np.rint(np.where(scales > 0, -low / scales, 0)), 0, top).astype(int)
        zeros[0, 0], zeros[1, 0], zeros[-1, -1] = 0, top, 0
    scales = scales.astype(np.float16)
    scales[2, 0] = np.float16(6e-8)
    safe = np.where(scales > 0, scales, 1).astype(np.float32)
    codes = np.clip(np.rint(blocks / safe[..., None]) + zeros[..., None], 0, top).astype(np.int64)
    codes[:, :, 0] = np.where(rng.random((n, k // group)) < 0.1, top, codes[:, :, 0])
    codes[0, 0, 1:3] = codes[1, 0, 1:3] = codes[-1, -1, 1:3] = 0, top  # zeros at an end: both ends are there
    scales[4, 0] = -scales[4, 0]
    values = (codes - zeros[..., None]).astype(np.float64) * scales.astype(np.float64)[..., None]
    return codes.reshape(n, k), zeros, scales, values.reshape(n, k)


def words(fields: NDArray[np.int64], bits: int, order: tuple[int, ...] = ()) -> NDArray[np.int32]:
    """Fields along the last axis in 32-bit words, one bit at a time, lowest first. order: where field i of eight comes
    from."""
    if order:
        n = fields.shape[-1]
        fields = fields[..., [8 * (i // 8) + order[i % 8] for i in range(n)]]
    stream = (fields[..., None].astype(np.int64) >> np.arange(bits) & 1).astype(np.uint8)
    flat = np.ascontiguousarray(stream).reshape(*fields.shape[:-1], -1)
    return np.packbits(flat, axis=-1, bitorder="little").view(np.int32)


def awq(group: int, version: str = "gemm") -> Scheme:
    def make(weights: NDArray[np.float32], rng: np.random.Generator) -> Made:
        codes, zeros, scales, values = affine_codes(weights, group, 4, rng, symmetric=False)
        if version == "gemm":
            parts = {
                "qweight": words(codes.T, 4, AWQ_ORDER),
                "qzeros": words(zeros.T, 4, AWQ_ORDER),
                "scales": np.ascontiguousarray(scales.T),
            }
        else:
            width = -(-zeros.shape[1] // 8)
            width = -(-width // 2) * 2 if group == 64 else -(-width // 4) * 4 if group == 32 else width
            pad = ((0, 0), (0, 8 * width - zeros.shape[1]))
            parts = {
                "qweight": words(codes, 4),
                "qzeros": words(np.pad(zeros, pad), 4),
                "scales": np.pad(scales, pad),
            }
        return _tensors(parts), values

    config = {"quant_method": "awq", "bits": 4, "group_size": group, "zero_point": True, "version": version}
    return Scheme(config, make)


ONES = {2: 0x55555555, 4: 0x11111111, 8: 0x01010101}


def gptq(bits: int, group: int, *, v2: bool = False, act_order: bool = False, symmetric: bool = False) -> Scheme:
    def make(weights: NDArray[np.float32], rng: np.random.Generator) -> Made:
        k = weights.shape[1]
        order = rng.permutation(k) if act_order else np.arange(k)
        codes, zeros, scales, values = affine_codes(weights[:, order], group, bits, rng, symmetric=symmetric)
        back = np.argsort(order)
        index = (np.arange(k) // group)[back]
        stored = words(zeros.T, bits)
        if not v2:
            if bits == 3:
                stored = words((zeros.T - 1) % 8, bits)
            else:
                stored = (stored.view(np.uint32) - np.uint32(ONES[bits])).view(
                    np.int32
                )  # borrows run, as they do there
        parts = {
            "qweight": np.ascontiguousarray(words(codes[:, back], bits).T),
            "qzeros": stored,
            "scales": np.ascontiguousarray(scales.T),
            "g_idx": index.astype(np.int32),
        }
        return _tensors(parts), values[:, back]

    config = {
        "quant_method": "gptq",
        "bits": bits,
        "group_size": group,
        "desc_act": act_order,
        "sym": symmetric,
        "checkpoint_format": "gptq_v2" if v2 else "gptq",
    }
    return Scheme(config, make, exact=not act_order)


def compressed(bits: int, group: int | None, *, symmetric: bool, scale: torch.dtype = torch.bfloat16) -> Scheme:
    """pack-quantized, packed by compressed-tensors itself."""

    def make(weights: NDArray[np.float32], rng: np.random.Generator) -> Made:
        from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32  # type: ignore[import-untyped]

        size = group or weights.shape[1]
        codes, zeros, scales, _ = affine_codes(weights, size, bits, rng, symmetric=symmetric)
        half = 1 << (bits - 1)
        numbers = torch.from_numpy(scales.astype(np.float32)).to(scale)
        numbers[2, 0] = -numbers[3, 0]
        signed, points = codes - half, zeros - half
        parts: Arrays = {
            "weight_packed": pack_to_int32(torch.from_numpy(signed.astype(np.int8)), bits),
            "weight_scale": numbers,
            "weight_shape": torch.tensor(weights.shape),
        }
        if not symmetric:
            parts["weight_zero_point"] = pack_to_int32(
                torch.from_numpy(points.astype(np.int8)), bits, packed_dim=0
            ).contiguous()
        steps = np.repeat(numbers.double().numpy(), size, axis=1)
        return parts, (signed - np.repeat(points, size, axis=1)) * steps

    return Scheme(_ct("pack-quantized", bits, "int", symmetric, "group" if group else "channel", group), make)


def compressed_act_order(weights: NDArray[np.float32], rng: np.random.Generator) -> Made:
    """weight_g_idx, as compressed-tensors had it until August 2026: the columns as they were, a group for each."""
    from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32  # type: ignore[import-untyped]

    order = rng.permutation(weights.shape[1])
    codes, zeros, scales, values = affine_codes(weights[:, order], 64, 4, rng, symmetric=False)
    back = np.argsort(order)
    parts: Arrays = {
        "weight_packed": pack_to_int32(torch.from_numpy((codes[:, back] - 8).astype(np.int8)), 4),
        "weight_scale": torch.from_numpy(scales),
        "weight_zero_point": pack_to_int32(torch.from_numpy((zeros - 8).astype(np.int8)), 4, packed_dim=0).contiguous(),
        "weight_shape": torch.tensor(weights.shape),
        "weight_g_idx": torch.from_numpy((np.arange(len(order)) // 64)[back].astype(np.int32)),
    }
    return parts, values[:, back]


def padded(bits: int) -> Scheme:
    """As compressed-tensors 0.9.4 packed it: floor(32 / bits) codes in a word (pack_quantized.py, pack_to_int32)."""

    def make(weights: NDArray[np.float32], rng: np.random.Generator) -> Made:
        codes, zeros, scales, values = affine_codes(weights, 64, bits, rng, symmetric=False)
        per_word = 32 // bits

        def pack(fields: NDArray[np.int64]) -> NDArray[np.int32]:
            n = -(-fields.shape[1] // per_word) * per_word
            wide = np.pad(fields, ((0, 0), (0, n - fields.shape[1]))).reshape(len(fields), -1, per_word)
            words = np.zeros(wide.shape[:2], np.uint32)
            for i in range(per_word):
                words |= wide[..., i].astype(np.uint32) << np.uint32(bits * i)
            return words.view(np.int32)

        parts = {
            "weight_packed": pack(codes),
            "weight_scale": scales,
            "weight_zero_point": np.ascontiguousarray(pack(zeros.T).T),
            "weight_shape": np.array(weights.shape),
        }
        return _tensors(parts), values

    return Scheme(_ct("pack-quantized", bits, "int", False, "group", 64), make)


def _ct(
    form: str, bits: int, kind: str, symmetric: bool, strategy: str, group: int | None = None, **more: Any
) -> dict[str, Any]:
    weights = {
        "num_bits": bits,
        "type": kind,
        "symmetric": symmetric,
        "strategy": strategy,
        "group_size": group,
        **more,
    }
    own = {"targets": ["Linear"], "weights": weights, "input_activations": None, "output_activations": None}
    return {
        "quant_method": "compressed-tensors",
        "format": form,
        "quantization_status": "compressed",
        "ignore": ["lm_head"],
        "config_groups": {"group_0": own},
    }


def compressed_int8(weights: NDArray[np.float32], rng: np.random.Generator) -> Made:
    scales = (np.abs(weights).max(1, keepdims=True) / 127).astype(np.float16).astype(np.float32)
    codes = np.clip(np.rint(weights / scales), -128, 127).astype(np.int8)
    codes[0, 0] = -128
    parts = {"weight": torch.from_numpy(codes), "weight_scale": torch.from_numpy(scales)}
    return parts, codes.astype(np.float64) * scales.astype(np.float64)


def compressed_int8_asymmetric(weights: NDArray[np.float32], rng: np.random.Generator) -> Made:
    """int-quantized with zero points: plain bytes, one for each row."""
    low, high = np.minimum(weights.min(1), 0), np.maximum(weights.max(1), 0)
    scales = ((high - low) / 255).astype(np.float16).astype(np.float32)[:, None]
    zeros = np.clip(np.rint(-128 - low[:, None] / scales), -128, 127).astype(np.int8)
    zeros[0], zeros[1] = -128, 127
    codes = np.clip(np.rint(weights / scales) + zeros, -128, 127).astype(np.int8)
    parts = {"weight": codes, "weight_scale": scales, "weight_zero_point": zeros}
    return _tensors(parts), (codes.astype(np.float64) - zeros) * scales.astype(np.float64)


def float8(block: tuple[int, int] | None, name: str, *, power: bool = False, channel: bool = False):
    """F8_E4M3 by torch, under a scale for the tensor, the row or a block (ragged at the edges)."""

    def make(weights: NDArray[np.float32], rng: np.random.Generator) -> Made:
        n, k = weights.shape
        high, wide = block or ((1, k) if channel else (n, k))
        rows, cols = -(-n // high), -(-k // wide)
        scales = np.empty((rows, cols), np.float32)
        for i in range(rows):
            for j in range(cols):
                scales[i, j] = np.abs(weights[i * high : (i + 1) * high, j * wide : (j + 1) * wide]).max() / 448
        if power:
            scales = np.exp2(np.ceil(np.log2(scales))).astype(np.float32)
        whole = np.repeat(np.repeat(scales, high, 0), wide, 1)[:n, :k]
        codes = torch.from_numpy(weights / whole).to(torch.float8_e4m3fn)
        stored = scales.reshape(()) if not block and not channel else scales
        parts = {"weight": codes, name: torch.from_numpy(np.ascontiguousarray(stored))}
        return parts, codes.double().numpy() * whole.astype(np.float64)

    return make


def deepseek_eight(weights: NDArray[np.float32], rng: np.random.Generator) -> Made:
    """F8_E4M3 in blocks of 128 x 128 under powers of two of one byte, as DeepSeek V4 is released."""
    parts, values = float8((128, 128), "scale", power=True)(weights, rng)
    return parts | {"scale": parts["scale"].to(torch.float8_e8m0fnu)}, values


def deepseek_four(weights: NDArray[np.float32], rng: np.random.Generator) -> Made:
    """E2M1 by ml_dtypes, two a byte of I8, low nibble first, under a power of two for each 32 of a row: its experts."""
    import ml_dtypes

    groups = weights.reshape(len(weights), -1, 32)
    scales = np.exp2(np.ceil(np.log2(np.maximum(np.abs(groups).max(-1), 1e-4) / 6)))
    fours = (groups / scales[..., None]).astype(ml_dtypes.float4_e2m1fn).reshape(weights.shape)
    codes = fours.view(np.uint8) & 15
    parts = {"weight": torch.from_numpy((codes[:, ::2] | codes[:, 1::2] << 4).view(np.int8))}
    parts["scale"] = torch.from_numpy(scales.astype(np.float32)).to(torch.float8_e8m0fnu)
    return parts, fours.astype(np.float64) * scales.repeat(32, 1)


def nvfp4(reciprocal: bool):
    """Four-bit floats by MLX's own rounding, e4m3 scales by torch, and a scale of the whole."""

    def make(weights: NDArray[np.float32], rng: np.random.Generator) -> Made:
        import ml_dtypes

        n, k = weights.shape
        whole = np.float32(np.abs(weights).max() / (6 * 448))
        blocks = weights.reshape(n, k // 16, 16)
        scales = torch.from_numpy(np.abs(blocks).max(-1) / 6 / whole).to(torch.float8_e4m3fn)
        steps = scales.double().numpy() * np.float64(whole)
        with np.errstate(divide="ignore", invalid="ignore"):
            scaled = np.where(steps[..., None] > 0, blocks / steps[..., None], 0).astype(np.float32)
        fours = scaled.reshape(n, k).astype(ml_dtypes.float4_e2m1fn)
        codes = fours.view(np.uint8)
        packed = torch.from_numpy((codes[:, ::2] | codes[:, 1::2] << 4).astype(np.uint8))
        if reciprocal:
            inverse = np.float32(1.0 / whole)
            parts = {
                "weight_packed": packed,
                "weight_scale": scales,
                "weight_global_scale": torch.tensor([float(inverse)]),
                "input_global_scale": torch.tensor([1.0]),
            }
            steps = scales.double().numpy() / np.float64(inverse)
        else:
            parts = {
                "weight": packed,
                "weight_scale": scales,
                "weight_scale_2": torch.tensor(float(whole)),
                "input_scale": torch.tensor(1.0),
            }
        return parts, fours.astype(np.float64) * np.repeat(steps, 16, 1)

    return make


def mxfp4(weights: NDArray[np.float32], rng: np.random.Generator) -> Made:
    """Codes and scales by MLX; values by MLX's own dequantization."""
    import mlx.core as mx  # type: ignore[import-not-found,unused-ignore]

    packed, scales = mx.quantize(mx.array(weights), group_size=32, bits=4, mode="mxfp4")
    values = np.array(mx.dequantize(packed, scales, group_size=32, bits=4, mode="mxfp4").astype(mx.float32))
    parts = {
        "weight_packed": torch.from_numpy(np.array(packed).view(np.uint8).copy()),
        "weight_scale": torch.from_numpy(np.array(scales).copy()),
    }
    return parts, values.astype(np.float64)


def mxfp8(weights: NDArray[np.float32], rng: np.random.Generator) -> Made:
    """Codes, scales and values by MLX, in compressed-tensors' parts."""
    import mlx.core as mx  # type: ignore[import-not-found,unused-ignore]

    packed, scales = mx.quantize(mx.array(weights), group_size=32, bits=8, mode="mxfp8")
    values = np.array(mx.dequantize(packed, scales, group_size=32, bits=8, mode="mxfp8").astype(mx.float32))
    codes = torch.from_numpy(np.array(packed).view(np.uint8).copy()).view(torch.float8_e4m3fn)
    return {"weight": codes, "weight_scale": torch.from_numpy(np.array(scales).copy())}, values.astype(np.float64)


def bitsandbytes4(kind: str, nested: bool, block: int = 64):
    """Packed by bitsandbytes on the CPU; values by its own dequantization, in float32."""

    def make(weights: NDArray[np.float32], rng: np.random.Generator) -> Made:
        from bitsandbytes import functional as bnb  # type: ignore[import-untyped,unused-ignore]

        given = torch.from_numpy(np.ascontiguousarray(weights))
        packed, state = bnb.quantize_4bit(given, blocksize=block, compress_statistics=nested, quant_type=kind)
        parts = {"weight": packed}
        parts |= {f"weight.{key}": value for key, value in state.as_dict(packed=True).items()}
        values = bnb.dequantize_4bit(packed, state).float().numpy()
        return parts, values.astype(np.float64)

    return make


def bitsandbytes8(weights: NDArray[np.float32], rng: np.random.Generator) -> Made:
    largest = np.abs(weights).max(1).astype(np.float32)
    codes = np.rint(weights * 127 / largest[:, None]).astype(np.int8)
    parts = {"weight": codes, "SCB": largest, "weight_format": np.zeros(1, np.uint8)}
    return _tensors(parts), codes.astype(np.float64) * largest[:, None].astype(np.float64) / 127


def mlx(bits: int, group: int, mode: str = "affine") -> Scheme:
    """Quantized by MLX; values in float64 from its codes, checked against its own dequantization."""

    def make(weights: NDArray[np.float32], rng: np.random.Generator) -> Made:
        import mlx.core as mx  # type: ignore[import-not-found,unused-ignore]

        parts = dict(
            zip(
                ("weight", "scales", "biases"),
                mx.quantize(mx.array(weights), group_size=group, bits=bits, mode=mode),
                strict=False,
            )
        )
        values = np.array(mx.dequantize(*parts.values(), group_size=group, bits=bits, mode=mode).astype(mx.float32))
        arrays = {name: np.array(value) for name, value in parts.items()}
        wide = values.astype(np.float64)
        if mode == "affine":  # its own float32 rounds twice
            stream = np.unpackbits(arrays["weight"].view(np.uint8), axis=1, bitorder="little")
            codes = (stream.reshape(*weights.shape, bits).astype(np.int64) << np.arange(bits)).sum(-1)
            steps, offsets = (np.repeat(arrays[part].astype(np.float64), group, 1) for part in ("scales", "biases"))
            wide = codes * steps + offsets
            assert np.allclose(wide, values, rtol=0, atol=np.abs(values).max() * 2.0**-22)
        return _tensors(arrays), wide

    return Scheme({"group_size": group, "bits": bits, "mode": mode}, make, key="quantization")


def _tensors(parts: dict[str, Any]) -> Arrays:
    return {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in parts.items()}


_FP8 = {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic"}
_BNB = {"quant_method": "bitsandbytes", "load_in_4bit": True}

SCHEMES: dict[str, Scheme] = {
    "awq-g64": awq(64),
    "awq-g128": awq(128),
    "awq-gemv-g64": awq(64, "gemv"),
    "gptq-4-v1": gptq(4, 64),
    "gptq-4-v2": gptq(4, 32, v2=True),
    "gptq-4-sym": gptq(4, 128, symmetric=True),
    "gptq-8-v1": gptq(8, 64),
    "gptq-3-v1": gptq(3, 64),
    "gptq-2-v1": gptq(2, 64),
    "gptq-4-act": gptq(4, 64, act_order=True),
    "ct-int4-sym": compressed(4, 32, symmetric=True),
    "ct-int4-asym": compressed(4, 64, symmetric=False, scale=torch.float16),
    "ct-int4-channel": compressed(4, None, symmetric=True, scale=torch.float16),
    "ct-int4-act": Scheme(_ct("pack-quantized", 4, "int", False, "group", 64, actorder="group"), compressed_act_order),
    "ct-int8-pack": compressed(8, 64, symmetric=True, scale=torch.float16),
    "ct-int3-dense": compressed(3, 64, symmetric=True, scale=torch.float16),
    "ct-int3-asym": compressed(3, 64, symmetric=False, scale=torch.float16),
    "ct-int6-asym": compressed(6, 64, symmetric=False, scale=torch.float16),
    "ct-int3-padded": padded(3),
    "ct-int5-padded": padded(5),
    "ct-int6-dense": compressed(6, 64, symmetric=True, scale=torch.float16),
    "ct-int8": Scheme(_ct("int-quantized", 8, "int", True, "channel"), compressed_int8),
    "ct-int8-asym": Scheme(_ct("int-quantized", 8, "int", False, "channel"), compressed_int8_asymmetric),
    "ct-fp8": Scheme(_ct("float-quantized", 8, "float", True, "tensor"), float8(None, "weight_scale")),
    "ct-fp8-channel": Scheme(
        _ct("float-quantized", 8, "float", True, "channel"), float8(None, "weight_scale", channel=True)
    ),
    "ct-nvfp4": Scheme(_ct("nvfp4-pack-quantized", 4, "float", True, "tensor_group", 16), nvfp4(True)),
    "ct-mxfp4": Scheme(_ct("mxfp4-pack-quantized", 4, "float", True, "group", 32), mxfp4),
    "ct-fp8-block": Scheme(
        _ct("float-quantized", 8, "float", True, "block", block_structure=[128, 128]),
        float8((128, 128), "weight_scale"),
    ),
    "fp8-block": Scheme({**_FP8, "weight_block_size": [128, 128]}, float8((128, 128), "weight_scale_inv")),
    "fp8-ragged": Scheme({**_FP8, "weight_block_size": [96, 96]}, float8((96, 96), "weight_scale_inv")),
    "fp8-ue8m0": Scheme({**_FP8, "weight_block_size": [128, 128]}, float8((128, 128), "weight_scale_inv", power=True)),
    "deepseek4-fp8": Scheme({**_FP8, "scale_fmt": "ue8m0", "weight_block_size": [128, 128]}, deepseek_eight),
    "deepseek4-fp4": Scheme({**_FP8, "scale_fmt": "ue8m0", "weight_block_size": [128, 128]}, deepseek_four),
    "modelopt-fp8": Scheme({"quant_method": "modelopt", "quant_algo": "FP8"}, float8(None, "weight_scale")),
    "modelopt-nvfp4": Scheme({"quant_method": "modelopt", "quant_algo": "NVFP4"}, nvfp4(False)),
    "bnb-nf4": Scheme({**_BNB, "bnb_4bit_quant_type": "nf4"}, bitsandbytes4("nf4", nested=False)),
    "bnb-nf4-nested": Scheme({**_BNB, "bnb_4bit_use_double_quant": True}, bitsandbytes4("nf4", nested=True)),
    "bnb-fp4": Scheme({**_BNB, "bnb_4bit_quant_type": "fp4"}, bitsandbytes4("fp4", nested=False)),
    "bnb-int8": Scheme({"quant_method": "bitsandbytes", "load_in_8bit": True}, bitsandbytes8),
    **{f"mlx-{bits}": mlx(bits, 64) for bits in (2, 3, 4, 5, 6, 8)},
    "mlx-mxfp4": mlx(4, 32, "mxfp4"),
    "mlx-mxfp8": mlx(8, 32, "mxfp8"),
    "mlx-nvfp4": mlx(4, 16, "nvfp4"),
    "ct-mxfp8": Scheme(_ct("mxfp8-quantized", 8, "float", True, "group", 32), mxfp8),
    "fbgemm-fp8": Scheme(
        {"quant_method": "fbgemm_fp8", "activation_scale_ub": 1200.0, "modules_to_not_convert": ["lm_head"]},
        float8(None, "weight_scale", channel=True),
    ),
}


def linear(name: str) -> bool:
    """Whether a tensor of a Llama is a weight that is quantized."""
    return name.endswith("_proj.weight")


def of_module(tensors: Arrays, module: str) -> Arrays:
    """The parts of a module, by the ends of their names."""
    own = f"{module}."
    return {name.removeprefix(own): part for name, part in tensors.items() if name.startswith(own)}


def write(scheme: Scheme, source: Any, folder: Any, *, layers: int = 2, seed: int = 0) -> dict[str, Values]:
    """A quantized copy of a checkpoint folder of `layers` layers; the values of its quantized weights by name."""
    import shutil
    from pathlib import Path

    from safetensors.torch import load_file, save_file

    source, folder = Path(source), Path(folder)
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    tensors: Arrays = {}
    values: dict[str, Values] = {}
    for path in sorted(source.glob("*.safetensors")):
        for name, tensor in load_file(path).items():
            number = name.split(".layers.")[1].split(".")[0] if ".layers." in name else "0"
            if int(number) >= layers:
                continue
            if not linear(name):
                tensors[name] = tensor
                continue
            parts, values[name] = scheme.make(tensor.float().numpy(), rng)
            module = name.removesuffix(".weight")
            tensors |= {f"{module}.{part}": value.contiguous() for part, value in parts.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((source / "config.json").read_text())
    config |= {"num_hidden_layers": layers, scheme.key: scheme.config}
    (folder / "config.json").write_text(json.dumps(config))
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        if (source / name).exists():
            shutil.copy(source / name, folder / name)
    return values
