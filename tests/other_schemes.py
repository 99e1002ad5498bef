"""Makes tests/data/schemes: small checkpoints as HQQ, torchao, Quark, gptqmodel, autoawq and transformers write them,
beside the values that they mean. Run it where those are installed: hqq 0.2.8, torchao 0.18, amd-quark 0.13, gptqmodel
7.7.0, autoawq's sources.

    PYTHONPATH=AUTOAWQ python tests/other_schemes.py [NAME OF A FUNCTION ..]

A folder has config.json, model.safetensors with one module, and values.npy: float32 [out, in], rounded once, from the
other program's own unpacking and its formula in float64; where it dequantizes on a CPU, that is compared, too. AWQ and
GPTQ (gptqmodel 7.7.0) are codes, scales and zeros that went through their packers, the same ones for each width.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

DATA = Path(__file__).parent / "data" / "schemes"
NAME = "model.layers.0.mlp.up_proj"
K = 64
Arrays = dict[str, torch.Tensor]


def save(
    name: str, parts: Arrays, values: torch.Tensor, config: dict[str, Any], metadata: dict[str, str] | None = None
):
    folder = DATA / name
    folder.mkdir(parents=True, exist_ok=True)
    save_file({key: value.contiguous() for key, value in parts.items()}, folder / "model.safetensors", metadata)
    np.save(folder / "values.npy", values.double().numpy().astype(np.float32))
    text = json.dumps({"model_type": "llama", "quantization_config": config}, indent=1)
    (folder / "config.json").write_text(f"{text}\n")


def weights(n: int = 32, k: int = K) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(7).standard_normal((n, k)).astype(np.float32) * 0.02)


def hqq() -> None:
    from hqq.core.quantize import BaseQuantizeConfig, HQQLinear, Quantizer

    for bits, group, axis in ((4, 32, 1), (3, 64, 1), (2, 32, 1), (1, 16, 1), (8, 64, 1), (4, 16, 0), (3, 32, 0)):
        linear = torch.nn.Linear(K, 32, bias=False)
        linear.weight.data = weights()
        own = BaseQuantizeConfig(nbits=bits, group_size=group, axis=axis)
        made = HQQLinear(linear, own, compute_dtype=torch.float16, device="cpu")
        rows = Quantizer.unpack[made.meta["packing"]](made.W_q, dtype=torch.float64)
        rows = rows[: group if axis == 0 else 32 * K // group]
        values = ((rows - made.meta["zero"].double()) * made.meta["scale"].double()).reshape(32, K)
        assert torch.allclose(values, made.dequantize().double(), atol=1e-3)
        parts = {f"{NAME}.{key}": value for key, value in made.state_dict().items() if isinstance(value, torch.Tensor)}
        config = {"quant_method": "hqq", "quant_config": {"weight_quant_params": own["weight_quant_params"]}}
        save(f"hqq-{bits}-axis{axis}", parts, values, config)


def torchao() -> None:
    from torchao.prototype.safetensors.safetensors_support import flatten_tensor_state_dict
    from torchao.quantization import (
        Float8WeightOnlyConfig,
        Int8WeightOnlyConfig,
        IntxWeightOnlyConfig,
        PerAxis,
        PerGroup,
        quantize_,
    )
    from torchao.quantization.quantize_.workflows import Int4Tensor

    configs = {
        "int8": Int8WeightOnlyConfig(),
        "int4-group": IntxWeightOnlyConfig(weight_dtype=torch.int4, granularity=PerGroup(32)),
        "int6-row": IntxWeightOnlyConfig(weight_dtype=torch.int6, granularity=PerAxis(0)),
        "float8": Float8WeightOnlyConfig(),
    }
    for name, config in configs.items():
        model = torch.nn.Sequential(torch.nn.Linear(K, 32, bias=False))
        model[0].weight.data = weights()
        quantize_(model, config)
        made = model[0].weight
        scale = made.scale.double()
        zero = 0 if getattr(made, "zero_point", None) is None else made.zero_point.double()
        wide = K // scale.shape[-1] if scale.ndim == 2 else K
        spread = [
            part.repeat_interleave(wide, 1) if torch.is_tensor(part) and part.ndim == 2 else part
            for part in (scale, zero)
        ]
        values = (made.qdata.double() - spread[1]) * spread[0]
        assert torch.allclose(values, made.dequantize().double(), atol=1e-6), name
        _torchao(f"torchao-{name}", made, values, flatten_tensor_state_dict)
    codes = torch.from_numpy(np.random.default_rng(3).integers(-8, 8, (32, K)).astype(np.int8))
    scale, zero = (torch.rand(K // 32, 32).to(torch.bfloat16) * 0.01 for _ in range(2))
    packed = (codes[:, ::2] & 15) | (codes[:, 1::2] << 4)  # mslk's pack_int4, which wants a GPU
    made = Int4Tensor(packed, scale, zero, [1, 32], torch.Size([32, K]))
    spread = [part.double().T.repeat_interleave(32, 1) for part in (scale, zero)]
    _torchao("torchao-int4-plain", made, codes.double() * spread[0] + spread[1], flatten_tensor_state_dict)


def torchao_small() -> None:
    """MX and NVFP4, scales in order and swizzled: more rows than a tile of scales, columns that fill none."""
    from torchao.prototype.mx_formats.mx_tensor import MXTensor
    from torchao.prototype.mx_formats.nvfp4_tensor import NVFP4Tensor
    from torchao.prototype.mx_formats.utils import from_blocked
    from torchao.prototype.safetensors.safetensors_support import flatten_tensor_state_dict

    given = weights(136, 96).to(torch.bfloat16)
    kinds = {"mxfp8": torch.float8_e4m3fn, "mxfp8-e5m2": torch.float8_e5m2, "mxfp4": torch.float4_e2m1fn_x2}
    made = {
        f"{kind}{'-swizzled' * swizzled}": MXTensor.to_mx(given, dtype, 32, is_swizzled_scales=swizzled)
        for kind, dtype in kinds.items()
        for swizzled in (False, True)
        if not (swizzled and "mxfp8" in kind)
    }
    whole = torch.tensor(0.0000123)
    for swizzled in (False, True):
        for name, scale in (("nvfp4", whole), ("nvfp4-alone", None))[: 1 + swizzled]:
            own = NVFP4Tensor.to_nvfp4(given, per_tensor_scale=scale, is_swizzled_scales=swizzled)
            made[f"{name}{'-swizzled' * swizzled}"] = own
    for name, tensor in made.items():
        group = 16 if "nvfp4" in name else 32
        scale = tensor.scale
        if "swizzled" in name:
            scale = from_blocked(scale.flatten(), 136, 96 // group)
        steps = scale.double() * (1 if getattr(tensor, "per_tensor_scale", None) is None else whole.double())
        codes = tensor.qdata.double() if "mxfp8" in name else _fours(tensor.qdata)
        values = codes * steps.repeat_interleave(group, 1)
        theirs = tensor.dequantize(torch.float32).double()
        assert torch.allclose(values, theirs, rtol=1e-6, atol=0), name
        _torchao(f"torchao-{name}", tensor, values, flatten_tensor_state_dict)


def _fours(packed: torch.Tensor) -> torch.Tensor:
    from torchao.prototype.mx_formats.kernels import f4_unpacked_to_f32, unpack_uint4

    return f4_unpacked_to_f32(unpack_uint4(packed.view(torch.uint8))).double()


def quanto() -> None:
    """What its save_pretrained writes: the state of the layers and the map of their types."""
    from optimum.quanto import freeze, qfloat8_e4m3fn, qfloat8_e5m2, qint8, quantization_map, quantize

    for kind in (qint8, qfloat8_e4m3fn, qfloat8_e5m2):
        network = torch.nn.ModuleDict()
        place = network
        for part in NAME.split(".")[:-1]:
            place[part] = torch.nn.ModuleDict()
            place = place[part]
        place["up_proj"] = linear = torch.nn.Linear(K, 32, bias=False)
        linear.weight.data = weights()
        quantize(network, weights=kind)
        freeze(network)
        made = network.get_submodule(NAME).weight
        values = made._data.double() * made._scale.double()
        assert torch.allclose(values, made.dequantize().double(), atol=1e-6)
        save(f"quanto-{kind.name}", dict(network.state_dict()), values, {})
        folder = DATA / f"quanto-{kind.name}"
        (folder / "config.json").write_text(json.dumps({"model_type": "llama"}, indent=1) + "\n")
        (folder / "quanto_qmap.json").write_text(json.dumps(quantization_map(network), indent=1) + "\n")


def _torchao(name: str, made: Any, values: torch.Tensor, flatten: Any) -> None:
    parts, metadata = flatten({f"{NAME}.weight": made, "model.norm.weight": torch.ones(8)})
    save(name, parts, values, {"quant_method": "torchao"}, metadata)


def quark() -> None:
    from quark.torch.utils.pack import create_pack_method

    rng = np.random.default_rng(5)
    for kind, method in (("int4", "reorder"), ("uint4", "reorder"), ("uint4", "order")):
        packer = create_pack_method("per_group", kind)
        low, high = (-8, 8) if kind == "int4" else (0, 16)
        codes = torch.from_numpy(rng.integers(low, high, (32, K)).astype(np.int32))
        zeros = torch.from_numpy(rng.integers(0, 16, (32, K // 32)).astype(np.int32)) if kind == "uint4" else None
        scale = torch.rand(32, K // 32).half() * 0.01
        reorder = method == "reorder"
        parts = {"weight": packer.pack(codes, reorder), "weight_scale": scale.T}
        if zeros is not None:
            parts["weight_zero_point"] = packer.pack(zeros, reorder)
            assert torch.equal(packer.unpack(parts["weight_zero_point"], reorder).int(), zeros)
        assert torch.equal(packer.unpack(parts["weight"], reorder).int(), codes)
        shifted = codes if zeros is None else codes - zeros.repeat_interleave(32, 1)
        values = shifted.double() * scale.double().repeat_interleave(32, 1)
        spec = {"dtype": kind, "qscheme": "per_group", "group_size": 32, "ch_axis": -1, "symmetric": kind == "int4"}
        _quark(f"quark-{kind}-{method}", parts, values, spec, method)
    scale = torch.rand(32) * 0.01
    codes = torch.from_numpy(rng.integers(-128, 128, (32, K)).astype(np.int8))
    spec = {"dtype": "int8", "qscheme": "per_channel", "ch_axis": 0, "symmetric": True}
    _quark("quark-int8", {"weight": codes, "weight_scale": scale}, codes.double() * scale.double()[:, None], spec)
    eight = (weights() / 0.01).to(torch.float8_e4m3fn)
    spec = {"dtype": "fp8_e4m3", "qscheme": "per_tensor", "symmetric": True}
    parts = {"weight": eight, "weight_scale": torch.tensor(0.01), "input_scale": torch.tensor(1.0)}
    _quark("quark-fp8", parts, eight.double() * float(parts["weight_scale"].double()), spec)
    packer = create_pack_method("per_group", "fp4")
    table = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6], dtype=torch.float64)
    nibbles = torch.from_numpy(rng.integers(0, 16, (32, K)))
    packed = packer.pack(table[nibbles].float(), True)
    unpacked = packer.unpack(packed, True).double()
    assert torch.equal(unpacked, table[nibbles])
    exponents = torch.from_numpy(rng.integers(115, 125, (32, K // 32)).astype(np.uint8))
    values = unpacked * torch.exp2(exponents.double() - 127).repeat_interleave(32, 1)
    spec = {"dtype": "fp4", "qscheme": "per_group", "group_size": 32, "ch_axis": -1, "scale_format": "e8m0"}
    _quark("quark-fp4", {"weight": packed, "weight_scale": exponents}, values, spec)
    for kind, low, high in (("int2", -2, 2), ("uint2", 0, 4), ("int3", -4, 4), ("int8", -128, 128)):
        packer = create_pack_method("per_group", kind)
        codes = torch.from_numpy(rng.integers(low, high, (32, K)).astype(np.int8))
        scale = torch.rand(32, K // 32).half() * 0.01
        parts = {"weight": packer.pack(codes, True).contiguous(), "weight_scale": scale.T}
        shifted = codes.double()
        if kind == "uint2":
            zeros = torch.from_numpy(rng.integers(0, 4, (32, K // 32)).astype(np.int8))
            parts["weight_zero_point"] = packer.pack(zeros, True)
            shifted -= zeros.double().repeat_interleave(32, 1)
        assert torch.equal(packer.unpack(parts["weight"], True).int(), codes.int()), kind
        values = shifted * scale.double().repeat_interleave(32, 1)
        spec = {"dtype": kind, "qscheme": "per_group", "group_size": 32, "ch_axis": -1, "symmetric": kind != "uint2"}
        _quark(f"quark-{kind}-group", parts, values, spec)


def _quark(name: str, parts: Arrays, values: torch.Tensor, spec: dict[str, Any], method: str = "reorder") -> None:
    config = {
        "quant_method": "quark",
        "global_quant_config": {"weight": spec, "input_tensors": None},
        "layer_quant_config": {},
        "exclude": ["lm_head"],
        "export": {"pack_method": method, "weight_format": "real_quantized"},
    }
    save(name, {f"{NAME}.{key}": value for key, value in parts.items()}, values, config)


def bitnet() -> None:
    from transformers.integrations.bitnet import pack_weights

    codes = torch.from_numpy(np.random.default_rng(9).integers(-1, 2, (32, K))).float()
    packed, scale = pack_weights(codes.clone()), torch.tensor([3.25])
    read = codes.double()  # what was packed: unpack_weights is compiled, which takes a compiler
    for kind, values in (("bitlinear", read / scale.double()), ("autobitlinear", read * scale.double())):
        config = {"quant_method": "bitnet", "linear_class": kind, "quantization_mode": "offline"}
        save(f"bitnet-{kind}", {f"{NAME}.weight": packed, f"{NAME}.weight_scale": scale}, values, config)


def gemv_fast() -> None:
    found = next(Path(path, "awq/modules/linear/gemv_fast.py") for path in sys.path if Path(path, "awq").is_dir())
    text = found.read_text().replace("from awq.utils.module import try_import", "try_import = lambda name: (None, '')")
    spec = importlib.util.spec_from_loader("gemv_fast", loader=None)
    module = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
    exec(compile(text, str(found), "exec"), vars(module))
    rng = np.random.default_rng(11)
    codes = torch.from_numpy(rng.integers(0, 16, (32, K)).astype(np.int32))
    zeros = torch.from_numpy(rng.integers(0, 16, (32, 2)).astype(np.int32))
    scale = torch.rand(32, 2).half() * 0.01
    linear = torch.nn.Linear(K, 32, bias=False)
    linear.weight.data = ((codes - zeros.repeat_interleave(32, 1)) * scale.float().repeat_interleave(32, 1)).float()
    made = module.WQLinear_GEMVFast.from_linear(linear, 4, 32, scales=scale.float(), zeros=zeros)
    offset = -(scale * zeros.float()).half().double()
    values = codes.double() * scale.double().repeat_interleave(32, 1) + offset.repeat_interleave(32, 1)
    config = {"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": True, "version": "gemv_fast"}
    save("awq-gemv-fast", {f"{NAME}.{key}": value for key, value in made.state_dict().items()}, values, config)


def packed(bits: int, group: int) -> tuple[torch.nn.Linear, torch.Tensor, torch.Tensor, torch.Tensor]:
    """A layer whose weights are codes under scales and zeros, as these packers want it: also scales, zeros [out,
    groups] and values. Zeros are at both ends; a scale is negative, one subnormal."""
    rng, top = np.random.default_rng(13 + bits), (1 << bits) - 1
    codes = torch.from_numpy(rng.integers(0, top + 1, (32, K)))
    zeros = torch.from_numpy(rng.integers(0, top + 1, (32, K // group)))
    zeros[0], zeros[1], zeros[-1, -1] = 0, top, 0
    scales = torch.from_numpy(rng.uniform(0.001, 0.01, zeros.shape)).half()
    scales[2, 0], scales[4, 0] = 2.0**-16, -scales[4, 0]
    values = (codes - zeros.repeat_interleave(group, 1)).double() * scales.double().repeat_interleave(group, 1)
    linear = torch.nn.Linear(K, 32, bias=False)
    linear.weight.data = values.float()
    return linear, scales, zeros, values


def gptq() -> None:
    from gptqmodel.quantization import QuantizeConfig
    from gptqmodel.utils.model import convert_gptq_v2_to_v1_format_module

    from gptq_awq_oracles import gptq_module

    for bits, form in [(bits, form) for bits in (2, 3, 4, 8) for form in ("gptq", "gptq_v2")]:
        linear, scales, zeros, values = packed(bits, 32)
        layer = gptq_module(bits, 32, (32, K))
        layer.pack_original(linear, scales.float(), zeros.float(), layer.g_idx)
        if form == "gptq":
            convert_gptq_v2_to_v1_format_module(layer, QuantizeConfig(bits=bits, group_size=32))
        own = {"quant_method": "gptq", "bits": bits, "group_size": 32, "desc_act": False, "sym": False}
        parts = {f"{NAME}.{key}": value for key, value in layer.state_dict().items()}
        save(f"{form}-{bits}", parts, values, own | {"checkpoint_format": form, "pack_dtype": "int32"})


def awq() -> None:
    from gptq_awq_oracles import autoawq

    for version, name in (("gemm", "WQLinear_GEMM"), ("gemv", "WQLinear_GEMV")):
        linear, scales, zeros, values = packed(4, 32)
        given = {"scales": scales, "zeros": zeros}
        if version == "gemm":
            given = {key: part.T.contiguous() for key, part in given.items()}
        layer = getattr(autoawq(f"awq.modules.linear.{version}"), name).from_linear(linear, 4, 32, **given)
        own = {"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": True, "version": version}
        save(f"awq-{version}", {f"{NAME}.{key}": part for key, part in layer.state_dict().items()}, values, own)


if __name__ == "__main__":
    torch.manual_seed(0)
    for make in (hqq, torchao, torchao_small, quark, quanto, bitnet, gemv_fast, gptq, awq):
        if not sys.argv[1:] or make.__name__ in sys.argv[1:]:
            make()
