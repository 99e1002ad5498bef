"""AWQ and GPTQ as the code of others packs, reads and runs them; by hand, in an environment that has gptqmodel.

    PYTHONPATH=src:tests python tests/gptq_awq_oracles.py AUTOAWQ

gptqmodel 7.7.0 builds nothing, but asks for a newer torch than the other tests (`pip install --no-deps`, then what it
misses); optimum 2.3 is what transformers loads GPTQ with. AUTOAWQ: the unpacked sources of autoawq 0.2.9, whose files
are imported without its packages, since these import what current transformers lacks.

readers: the checkpoints of tests/schemes.py by these, in float64. cells: every cell of docs/transcoding.md that comes
from or goes to AWQ or GPTQ, decoded by these. loaders: the largest difference of logits between the dense network and
a folder in transformers and in gptqmodel's own loader, with gptqmodel's CPU kernels.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

import cells as decoders
import modelfmt
import schemes
import test_loaders
import test_transcode_cells
from modelfmt.routes import matrix
from schemes import Arrays, Values

GOLDEN = Path(__file__).parent / "data" / "golden"


def autoawq(name: str) -> Any:
    """A module of autoawq, by its own text: awq.utils.packing_utils .."""
    root = next(Path(path) for path in sys.path if Path(path, "awq/utils/packing_utils.py").is_file())
    parent = name
    while "." in parent:
        parent = parent.rpartition(".")[0]
        if parent not in sys.modules:
            sys.modules[parent] = package = ModuleType(parent)
            package.__path__ = [str(root.joinpath(*parent.split(".")))]
    return import_module(name)


def gptq_module(bits: int, group: int, shape: tuple[int, int]) -> Any:
    """gptqmodel's portable layer, [out, in]."""
    from gptqmodel.nn_modules.qlinear.torch import TorchLinear

    own = {"bits": bits, "group_size": group, "sym": False, "desc_act": False}
    return TorchLinear(**own, in_features=shape[1], out_features=shape[0], register_buffers=True)


def read_gptq(parts: Arrays, config: dict[str, Any], module: str, shape: tuple[int, int]) -> Values:
    """gptqmodel's dequantize_weight, with scales of float64."""
    from gptqmodel.nn_modules.qlinear import PackableQuantLinear
    from gptqmodel.utils.model import convert_gptq_v1_to_v2_format_module

    bits = parts["qweight"].shape[0] * 32 // shape[1]
    layer = gptq_module(bits, shape[1] // parts["scales"].shape[0], shape)
    layer.load_state_dict(parts)
    if config["quantization_config"]["checkpoint_format"] == "gptq":
        convert_gptq_v1_to_v2_format_module(layer, bits=bits, pack_dtype=torch.int32)
    layer.scales = layer.scales.double()
    return PackableQuantLinear.dequantize_weight(layer).T.numpy()  # its own is compiled


def read_awq(parts: Arrays, config: dict[str, Any], module: str, shape: tuple[int, int]) -> Values:
    """autoawq's dequantize_gemm and gptqmodel's, with scales of float64."""
    from gptqmodel.quantization.awq.utils.packing_utils import dequantize_gemm

    given = (parts["qweight"], parts["qzeros"], parts["scales"].double(), 4, shape[1] // parts["scales"].shape[0])
    found = dequantize_gemm(*given)
    assert torch.equal(found, autoawq("awq.utils.packing_utils").dequantize_gemm(*given))
    return found.T.numpy()


ORACLES: dict[str, Callable[[Arrays, dict[str, Any], str, tuple[int, int]], Values]] = {
    "gptq": read_gptq,
    "awq": read_awq,
}


def readers(folder: Path) -> Iterator[str]:
    for name, scheme in schemes.SCHEMES.items():
        method = scheme.config.get("quant_method")
        if method not in ORACLES or scheme.config.get("version") == "gemv":
            continue
        values = schemes.write(scheme, GOLDEN / "checkpoints/llama3-big", folder / name, layers=1)
        tensors = load_file(folder / name / "model.safetensors")
        with modelfmt.open(folder / name) as model:
            for tensor, expected in values.items():
                parts = schemes.of_module(tensors, tensor.removesuffix(".weight"))
                theirs = ORACLES[method](parts, {"quantization_config": scheme.config}, "", expected.shape)  # type: ignore[arg-type]
                assert np.array_equal(theirs, expected), (name, tensor)
                assert np.array_equal(model[tensor].numpy(), theirs.astype(np.float32)), (name, tensor)
        yield f"{name}: {len(values)} matrices, difference 0"


def cells(folder: Path) -> Iterator[str]:
    decoders.ORACLES |= ORACLES
    bases = test_transcode_cells.made_bases(GOLDEN, folder)
    for number, row in enumerate(matrix.matrix()):
        ours = {"from": row["from"]} | {to: text for to, text in row.items() if to in ORACLES and "exact" in text}
        if len(ours) == 1:
            continue
        seen = test_transcode_cells.check_row(ours, bases, folder / str(number))
        assert all(one.error == 0 for one in seen)
        yield f"{row['from']} to {' '.join(one.target for one in seen)}: difference 0"


QUANTIZED = {"gptq": ("int4", "int8"), "awq": ("int4",)}
MOVED = {
    "awq": ("gptq-4-v1", "ct-int4-asym", "awq-g64", "awq-gemv-g64"),
    "gptq": ("awq-g64", "gptq-4-act", "gptq-3-v1", "gptq-2-v1", "gptq-8-v1", "ct-int4-sym", "ct-int4-act"),
}  # fmt: skip


def loaders(folder: Path) -> Iterator[str]:
    """transformers computes in float32 with values rounded to float16; gptqmodel's loader computes in float16, and
    stands beside what that alone costs the dense network."""
    plain = test_loaders.made_plain(GOLDEN, folder / "plain")
    for name, out in test_loaders.made_folders(plain, folder, QUANTIZED, MOVED).items():
        network = test_loaders.with_values(test_loaders.loaded(plain), out)
        exact = test_loaders.logits(network)
        rounded = test_loaders.logits(network.half().float())
        alone = (test_loaders.logits(network.half()) - exact).abs().max()
        network, kind = in_transformers(out)
        apart = (test_loaders.logits(network) - rounded).abs().max()
        assert apart <= 1e-3, name
        yield f"{name}, transformers, {kind}: {apart:.1e}"
        network, kind = in_gptqmodel(out)
        apart = (test_loaders.logits(network) - exact).abs().max()
        yield f"{name}, gptqmodel in float16, {kind}: {apart:.1e}, float16 alone {alone:.1e}"


def kernel(network: Any) -> str:
    (kind,) = {type(layer).__name__ for layer in network.modules() if hasattr(layer, "qweight")}
    return kind


def in_transformers(folder: Path) -> tuple[Any, str]:
    network = test_loaders.loaded(folder)
    return network, kernel(network)


def in_gptqmodel(folder: Path) -> tuple[Any, str]:
    from gptqmodel import BACKEND, GPTQModel

    network = GPTQModel.load(str(folder), backend=BACKEND.TORCH, device="cpu", dtype=torch.float16).model
    return network, kernel(network)


def main() -> None:
    sys.path.append(sys.argv[1])
    for part in (readers, cells, loaders):
        with tempfile.TemporaryDirectory() as name:
            for line in part(Path(name)):
                print(f"{part.__name__}: {line}", flush=True)


if __name__ == "__main__":
    main()
